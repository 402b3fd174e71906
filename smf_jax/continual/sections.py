"""What the commands of the engine can be told, a section for each subject."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from smf_jax.bases.base import Base
from smf_jax.bases.sections import (
    BACKGROUND_BATCH_SIZE,
    BASE_PRECISION_HELP,
    DTYPE_HELP,
    BasePrecision,
    DataConfig,
    Dtype,
)
from smf_jax.configuration import COUNT, LIMIT, SEED, Configuration, PathText, setting
from smf_jax.continual.trackers import TRACKERS
from smf_jax.data.answer_order import AnswerOrder
from smf_jax.data.chat import parse_arguments
from smf_jax.data.files import RECORD_FILES
from smf_jax.data.questions import USUAL
from smf_jax.data.shares import DEV, Split
from smf_jax.errors import blame_flag
from smf_jax.evaluation.probes.registry import KINDS
from smf_jax.sparse.optimizers import OPTIMIZERS
from smf_jax.sparse.rules import RULES
from smf_jax.sparse.selection import GRANULARITIES

CALIBRATE_ALONE = (
    "--calibrate=True: expected with --dry_run, as it predicts what a run would take; give both, "
    "or neither"
)


@dataclass(frozen=True)
class GridConfig(Configuration):
    """The axes of a grid, as text: values for all methods, or scoped to methods."""

    methods: str = setting(
        "smf,full,lora,replay", "methods to run; --helpfull lists them", first=True
    )
    slots: str = setting("64,512", "budgets: rows that a step may change in each pool", first=True)
    lr: str = setting(
        "",
        "learning rates, for all methods (10,30) or by method (smf:10,30/full:3e-5,1e-4); empty: "
        "every method's own",
        first=True,
    )
    rule: str = setting("", f"selection rules: any of {', '.join(RULES)} [tfidf]", first=True)
    granularity: str = setting(
        "",
        f"when slots are selected: any of {', '.join(GRANULARITIES)} [per_step]; "
        "per_micro_batch needs --micro_batches of 2 or more",
    )
    optimizer: str = setting(
        "", f"any of {', '.join(OPTIMIZERS)} [sgd for smf, else adamw]", first=True
    )
    batch_order: str = setting(
        "",
        "how a task's paraphrases are dealt into batches: facts (all of a few facts) or shuffled "
        "[facts for smf, else shuffled]",
    )
    vary: str = setting(
        "",
        "settings of methods as further axes: lora_rank:8,32,72/kl_weight:0.1,1; each of them by "
        "the name of its flag",
    )
    seeds: str = setting("0", "seeds of the order of batches and of fresh parameters", first=True)
    shard: str = setting("0/1", "run the i-th of n shares of the grid, as i/n from 0")


@dataclass(frozen=True)
class BaseConfig(Configuration):
    """The model before the stream."""

    base: PathText = setting(
        "world",
        "world (built in), a directory (Hugging Face, a base), a GGUF file, or package:NAME for "
        "the one in a package",
        first=True,
    )
    base_seed: int = setting(0, "seed of the built-in world and its base", least=0, most=SEED)
    base_cache: PathText = setting(
        "runs/bases", "where built-in bases are kept, and what bases answer, by hash"
    )
    dtype: Dtype = setting(None, DTYPE_HELP)
    base_precision: BasePrecision = setting(None, BASE_PRECISION_HELP)


@dataclass(frozen=True)
class StreamConfig(Configuration):
    """What is taught."""

    stream: PathText = setting(
        "",
        f"what is taught: world, a file of questions ({RECORD_FILES}), or tfds:NAME:SPLIT; empty: "
        "the base's world",
        first=True,
    )
    relation: str = setting("", "only questions of these relations of the file")
    tasks: int = setting(10, "tasks of the stream", first=True, least=1)
    facts_per_task: int = setting(20, "facts of a task", first=True, least=1)
    changed_share: float = setting(0.2, "share of a world task's facts that change a known one")
    stream_seed: int = setting(0, "deals the questions of a file into tasks", most=SEED)
    unknown_only: bool = setting(
        False,
        "take only questions of the file that the base does not answer; it is asked as --probes of "
        "kind known ask, and its answers are kept in --base_cache",
    )


@dataclass(frozen=True)
class QuestionDataConfig(DataConfig):
    """Where data sets lie, and how their questions are read."""

    question_field: str = setting(
        "",
        "where a record's question stands, as in data.question; of several, a,b, the first with "
        f"any counts; empty: {', '.join(USUAL.question)}",
    )
    answers_field: str = setting(
        "",
        "where its answers stand, as in answer.aliases; empty: "
        f"{', '.join(USUAL.answers)}, or the last turn of messages",
    )
    answer_order: AnswerOrder = setting(
        "given",
        "which of several accepted answers is taught and shown: given, the first; typical, the one "
        "most like the others, for lists of aliases in no order",
    )


@dataclass(frozen=True)
class BackgroundConfig(Configuration):
    """General text that slots are ranked against."""

    background: PathText = setting(
        "",
        "general text that slots are ranked against: a file, a directory, tfds:NAME:SPLIT, or a "
        "measured background; empty: what the base was taught",
        first=True,
    )
    background_batches: int = setting(250, "batches of background, B", least=1)
    background_batch_size: int = setting(BACKGROUND_BATCH_SIZE, "windows in one of them", least=1)
    background_formats: Literal["auto", "none", "stream"] = setting(
        "auto",
        "stream: rows of the background are other questions in the stream's wordings, and as "
        "--probe_shots asks them; none: text alone; auto: stream where questions of a file are "
        "taught to a base that is not built in",
    )
    background_format_share: float = setting(0.5, "share of such rows in a batch", above=0)
    background_questions: PathText = setting(
        "",
        f"questions to fill the wordings with ({RECORD_FILES}); empty: a tenth of the stream's "
        "file, which is then never taught",
    )
    recount_batches: int = setting(
        100,
        "batches of background that are counted again after the stream, for slot health and drift; "
        "0 for none",
        least=0,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.background_format_share >= 1:
            raise ValueError(
                f"--background_format_share={self.background_format_share}: expected a share below "
                "1, as every batch holds general text; lower it"
            )


@dataclass(frozen=True)
class ProbeConfig(Configuration):
    """What is measured beside the stream."""

    probes: str = setting(
        "",
        "what is measured beside the stream, as NAME=FILE or NAME=KIND:FILE,…: questions "
        f"({RECORD_FILES}) or text, or by kind (docs/probes.md): {', '.join(KINDS)}; empty: the "
        "world's known facts and neutral text",
        first=True,
    )
    probe_limit: int = setting(
        500, "questions, items or windows of a probe; 0 for all", least=0, most=LIMIT
    )
    split: Split = setting(
        "all",
        "which questions --stream and probes of kind known take, by a hash of the question: dev "
        f"({DEV:.0%}), test, or all",
    )
    probe_shots: int = setting(0, "examples before each question of kinds f1 and known", least=0)
    probe_answer_tokens: int = setting(32, "tokens of an answer of these, at most", least=1)
    probe_chat: bool = setting(False, "both ask by the tokenizer's chat template")
    chat_template_args: str = setting(
        "", "JSON object that the chat template is given, as in '{\"enable_thinking\": false}'"
    )
    in_context: bool = setting(
        False,
        "also ask the base each task with its facts in the prompt: a ceiling, no method; answers "
        "have --probe_answer_tokens at most",
    )
    ppl_window: int = setting(
        0, "tokens of a window of kind ppl; 0: 1,024, or what the model takes", least=0
    )
    ppl_stride: int = setting(0, "tokens between windows; 0: half of a window", least=0)
    eval_batch_size: int = setting(128, "rows of a probe that run at once", least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        with blame_flag(f"--chat_template_args={self.chat_template_args}: "):
            parse_arguments(self.chat_template_args)

    def with_chats(self, base: Base) -> Base:
        """The base, whose chat template is given what the flag says; it needs one then."""
        arguments = parse_arguments(self.chat_template_args)
        with blame_flag(f"--chat_template_args={self.chat_template_args}: "):
            return replace(base, tokenizer=base.tokenizer.with_chat_arguments(arguments))


@dataclass(frozen=True)
class TrainingConfig(Configuration):
    """How a task is trained, by every method."""

    steps_per_task: int = setting(30, "steps of a task", first=True, least=1)
    batch_size: int = setting(40, "paraphrases in a batch", first=True, least=1)
    pack: bool = setting(
        False,
        "several paraphrases to a row, in batches and in probes of facts: as many of them in a "
        "batch, on average, and fewer pads",
    )
    prompt_loss_weight: float = setting(0.1, "weight of the words that are not the answer", least=0)
    clip: float = setting(0.0, "largest global norm of a gradient; 0 for none", least=0)
    schedule: Literal["constant", "cosine"] = setting(
        "constant", "constant, or cosine over the steps of a task"
    )
    warmup_steps: int = setting(0, "steps of linear warm-up of a task", least=0)
    weight_decay: float = setting(0.01, "decoupled decay of adamw", least=0)
    keep_optimizer_state: bool = setting(False, "moments outlive a task")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.schedule == "cosine" and self.warmup_steps >= self.steps_per_task:
            raise ValueError(
                f"--warmup_steps={self.warmup_steps} leaves no step of --schedule=cosine over "
                f"--steps_per_task={self.steps_per_task}; lower it"
            )
        if self.keep_optimizer_state and (self.schedule != "constant" or self.warmup_steps):
            raise ValueError(
                f"--keep_optimizer_state counts steps on from task to task, --schedule="
                f"{self.schedule} and --warmup_steps={self.warmup_steps} are of a task; leave out "
                "one of them"
            )


@dataclass(frozen=True)
class RunConfig(Configuration):
    """Where a run goes, and what it leaves."""

    out: PathText = setting("runs/sweep", "directory of the run; must not exist", first=True)
    resume: bool = setting(False, "go on with the run at --out where it stopped", first=True)
    overwrite: bool = setting(False, "replace the run at --out")
    keep_checkpoints: str = setting(
        "all",
        "all, or of methods without patches only the parameters of the latest tasks: last, or how "
        "many tasks, as in 3",
    )
    save_every: int = setting(
        0,
        "steps after which a trial is saved within a task, for --resume to go on from there; 0: at "
        "the end of a task alone",
        least=0,
    )
    track: str = setting(
        "",
        f"who is told steps and results beside the files: any of {', '.join(TRACKERS)}; offline, "
        "each needs its package",
    )
    dry_run: bool = setting(False, "list trials and compilations, and run nothing")
    calibrate: bool = setting(
        False,
        "with --dry_run: compile and time a step of each group, and predict hours from it; also "
        "written to OUT.estimate.json",
    )
    profile: PathText = setting(
        "", "write a jax.profiler trace of the first task of each group here"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.calibrate and not self.dry_run:
            raise ValueError(CALIBRATE_ALONE)
        told = self.keep_checkpoints
        if told not in ("all", "last") and not (_is_number(told) and 1 <= int(told) <= COUNT):
            raise ValueError(
                f"--keep_checkpoints={told}: expected all, last, or a number of tasks from 1"
            )

    @property
    def checkpoints_kept(self) -> int | None:
        """Of how many tasks a method without patches keeps its parameters; ``None`` for all."""
        if self.keep_checkpoints == "all":
            return None
        return 1 if self.keep_checkpoints == "last" else int(self.keep_checkpoints)


def _is_number(text: str) -> bool:
    """Whether a text is digits alone, as many as a number of anything has."""
    return text.isascii() and text.isdecimal() and len(text) <= len(str(COUNT))
