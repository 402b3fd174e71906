"""What the verbs of ``smf`` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from smf_jax.bases.retrofit_config import RetrofitConfig
from smf_jax.bases.sections import BASE_PRECISION_HELP, DTYPE_HELP, BasePrecision, Dtype
from smf_jax.configuration import LIMIT, Configuration, PathText, part, setting
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.sections import QuestionDataConfig
from smf_jax.data.files import RECORD_FILES
from smf_jax.sparse.patch_sets import MergePolicy
from smf_jax.taught.fact_files import FactsAs
from smf_jax.taught.recipe import RECIPE, ROWS

_USUAL = RECIPE.values()


@dataclass(frozen=True)
class FactsSection(Configuration):
    """What FACTS are, and the wordings that they are put into."""

    facts_as: FactsAs = setting(
        "auto",
        "questions, statements (one a line) or documents (their sentences); auto: statements of a "
        ".txt file, documents of a directory, else questions",
        first=True,
    )
    wordings: PathText = setting(
        "",
        "a text file of ways to put a question, one a line, with {} for it, in place of the "
        "built-in ones, two of which are kept for asking; model: questions in the built-in ones, "
        "and as the model itself puts them",
        first=True,
    )
    chat: bool = setting(
        False,
        "train questions also as a user's turn by the model's chat template, and ask them so; "
        "told when DIR is made",
        first=True,
    )


@dataclass(frozen=True)
class TextsSection(Configuration):
    """General text and other questions, that the model is not to lose."""

    background: PathText = setting(
        "",
        "general text that rows are chosen against, a file or a directory: needed the first time, "
        "measured once and kept",
        first=True,
    )
    others: PathText = setting(
        "",
        f"other questions ({RECORD_FILES}) in whose formats the background is measured too, 32 or "
        "more; empty: those of --known that are set aside",
        first=True,
    )
    known: PathText = setting(
        "",
        "questions; those that the untouched model answers are asked before and after",
        first=True,
    )
    probe_limit: int = setting(
        200, "known questions, and windows of general text, that are measured", least=1, most=LIMIT
    )
    probe_shots: int = setting(
        _USUAL["probe_shots"], "examples before each known question", least=0
    )
    probe_answer_tokens: int = setting(
        _USUAL["probe_answer_tokens"], "tokens of an answer to it at most", least=1
    )
    background_batches: int = setting(
        _USUAL["background_batches"], "batches of background", least=1
    )
    background_batch_size: int = setting(
        _USUAL["background_batch_size"], "windows in one of them", least=1
    )


@dataclass(frozen=True)
class TrainingSection(Configuration):
    """How facts are trained."""

    facts_per_task: int = setting(
        _USUAL["facts_per_task"], "facts that are taught together: a patch", first=True, least=1
    )
    steps: int = setting(72, "steps of a task at most", first=True, least=1)
    steps_per_round: int = setting(
        _USUAL["steps_per_task"],
        "steps after which a task's facts are asked; those that are not answered go on",
        least=1,
    )
    mend: bool = setting(
        True,
        "teach what the tasks left or undid once more, in a patch of its own, if that helps",
        first=True,
    )
    minutes: float = setting(
        0.0, "stop at the end of a task before so many are over; 0: no limit", first=True, least=0
    )
    lr: float = setting(float(_USUAL["lr"]), "learning rate of Adam", first=True, above=0)
    slots: int | None = setting(
        None,
        f"rows that a step may change in each table [{ROWS:,} divided by the number of tables]",
        first=True,
        least=1,
    )
    batch_size: int = setting(_USUAL["batch_size"], "wordings in a batch", least=1)
    seed: int = setting(0, "seed of the order of batches", least=0, most=2**32 - 1)


@dataclass(frozen=True)
class TeachConfig(Configuration):
    """What ``smf teach`` is told."""

    arguments: tuple[str, ...] = ()  # MODEL or DIR, and FACTS
    out: PathText = setting(
        "", "directory to make of MODEL; DIR is taught where it is", heading="Model", first=True
    )
    dtype: Dtype = setting(None, DTYPE_HELP, heading="Model")
    base_precision: BasePrecision = setting(None, BASE_PRECISION_HELP, heading="Model")
    facts: FactsSection = part(FactsSection(), "Facts")
    texts: TextsSection = part(TextsSection(), "What is not to be lost")
    training: TrainingSection = part(TrainingSection(), "Training")
    retrofit: RetrofitConfig = part(RECIPE.retrofit, "The memory of a model that has none")
    data: QuestionDataConfig = part(QuestionDataConfig(), "How files are read")

    def making(self) -> dict[str, Any]:
        """What decides the base and its background, by the names of flags."""
        told = self.values()
        names = [*self.retrofit.values(), "dtype", "background", "others", "background_batches"]
        names += ["background_batch_size", "base_precision", "chat"]
        return {name: told[name] for name in names}

    def sweep(self, **changes: Any) -> SweepConfig:
        """The same as settings of the engine; ``changes`` are by the names of its flags."""
        training, texts = self.training, self.texts
        told: dict[str, Any] = {**self.retrofit.values(), **self.data.values()}
        told |= {"slots": str(training.slots), "lr": str(training.lr), "dtype": self.dtype}
        told |= {"base_precision": self.base_precision}
        told |= {"seeds": str(training.seed), "batch_size": training.batch_size}
        told |= {"steps_per_task": training.steps_per_round, "background": texts.background}
        told |= {"facts_per_task": training.facts_per_task, "probe_limit": texts.probe_limit}
        told |= {"probe_shots": texts.probe_shots, "background_questions": texts.others}
        told |= {"probe_answer_tokens": texts.probe_answer_tokens}
        told |= {"background_batches": texts.background_batches}
        told |= {"background_batch_size": texts.background_batch_size}
        return RECIPE.with_values(**{**told, **changes})


@dataclass(frozen=True)
class AskConfig(Configuration):
    """What ``smf ask`` is told."""

    arguments: tuple[str, ...] = ()  # DIR and questions
    file: PathText = setting(
        "",
        f"a file of questions: a line each (.txt), or with their answers ({RECORD_FILES}), which "
        "are then compared",
        first=True,
    )
    without: bool = setting(False, "also what the model says without its patches", first=True)
    plain: bool = setting(
        False, "questions are texts to go on with, in no wording around them", first=True
    )
    chat: bool = setting(
        False, "questions are a user's turns, by the model's chat template", first=True
    )
    max_tokens: int = setting(32, "tokens of an answer at most", first=True, least=1)
    json: bool = setting(False, "print JSON instead of text", first=True)
    data: QuestionDataConfig = part(QuestionDataConfig(), "How files are read")


@dataclass(frozen=True)
class ListConfig(Configuration):
    """What ``smf list`` is told."""

    arguments: tuple[str, ...] = ()  # DIR
    json: bool = setting(False, "print JSON instead of text", first=True)


@dataclass(frozen=True)
class ForgetConfig(Configuration):
    """What ``smf forget`` is told."""

    arguments: tuple[str, ...] = ()  # DIR and patches, or DIR alone with a fact
    fact: str = setting(
        "",
        "the question of one fact, or a part of it, in place of patches: its own rows",
        first=True,
    )


@dataclass(frozen=True)
class MergeConfig(Configuration):
    """What ``smf merge`` is told."""

    arguments: tuple[str, ...] = ()  # DIR and others like it
    policy: MergePolicy = setting(
        "refuse",
        "whose rows count where both wrote: refuse, first (DIR), last or mean; all patches become "
        "one then",
        first=True,
    )


@dataclass(frozen=True)
class ExportConfig(Configuration):
    """What ``smf export`` is told."""

    arguments: tuple[str, ...] = ()  # DIR
    out: PathText = setting("", "directory to write; must not exist", first=True)
    stack: bool = setting(False, "all patches joined into one", first=True)
    name: str = setting("", "of the model, for its card; that of --out if empty", first=True)
    licence: str = setting("", "an identifier such as apache-2.0; empty: not known", first=True)


@dataclass(frozen=True)
class CheckConfig(Configuration):
    """What ``smf check`` is told."""

    arguments: tuple[str, ...] = ()  # DIR
    json: bool = setting(False, "print JSON instead of text", first=True)
