"""The probes that ``--probes`` names: what each kind reads, how it asks, what it measures.

docs/probes.md writes down every format.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from smf_jax.data.batching import Batch, needed_length, pack_texts
from smf_jax.data.facts import Fact, first_paraphrases
from smf_jax.data.files import read_records
from smf_jax.data.multiple_choice import Choice, read_hellaswag, read_medmcqa
from smf_jax.data.readers import Reader, existing
from smf_jax.data.tokenizer import Tokenizer
from smf_jax.errors import blame_flag
from smf_jax.evaluation.probes.exact import Probe, answer_probe, exact_match
from smf_jax.evaluation.probes.multiple_choice import choice_probe
from smf_jax.evaluation.probes.open import PROMPT, open_probe
from smf_jax.evaluation.probes.text import LossProbe, answer_loss_probe, perplexity_probe
from smf_jax.evaluation.scorer import Scorer
from smf_jax.params import Params

QUESTION_ENDINGS = tuple(
    kind + packed for kind in (".jsonl", ".csv") for packed in ("", ".gz", ".xz", ".bz2")
)
# Tokens of a window where the model takes so many (S26).
WINDOW = 1024
# More characters than a token has, so that a long file is not read to its end.
_CHARACTERS = 32


class NamedProbe(Protocol):
    """A probe that is measured on the leaves of a whole model."""

    def measure(self, scorer: Scorer, params: Params) -> dict[str, float]:
        """Scores by metric; the first is the one to look at."""
        ...

    @property
    def about(self) -> dict[str, int]:
        """What to tell beside the scores, such as how many items there are."""
        ...


class Probes(NamedTuple):
    """All probes beside the stream, by name.

    Attributes:
      questions: of facts, measured by exact match in one forward pass.
      texts: windows of text, measured by their loss.
      named: all others.
    """

    questions: dict[str, Probe]
    texts: dict[str, Batch]
    named: dict[str, NamedProbe]

    def whole(self) -> dict[str, NamedProbe]:
        """All of them as probes of a whole model."""
        asked = {name: ExactProbe(probe) for name, probe in self.questions.items()}
        read = {name: LossProbe(text, False, "windows") for name, text in self.texts.items()}
        return {**asked, **read, **self.named}


@dataclass(frozen=True)
class ExactProbe:
    """Questions, measured by exact match in one forward pass.

    Attributes:
      probe: the questions and their accepted answers.
    """

    probe: Probe

    def measure(self, scorer: Scorer, params: Params) -> dict[str, float]:
        """Share of the questions whose answer is decoded greedily, word for word."""
        return {"exact": exact_match(self.probe, scorer.score(params, self.probe.batch).greedy)}

    @property
    def about(self) -> dict[str, int]:
        """What to tell beside the scores."""
        return {"items": self.probe.questions}


class Item(NamedTuple):
    """One item of ``--probes``: ``NAME=KIND:SOURCE``, or ``NAME=SOURCE`` of kind exact or text."""

    name: str
    kind: str
    source: str


@dataclass(frozen=True)
class ProbeOptions:
    """What the probes of a command share.

    Attributes:
      limit: questions, items or windows of a probe; ``None`` for all.
      shots: examples shown before each question of kind ``f1``.
      answer_tokens: tokens of an answer of kind ``f1`` at most.
      chat: whether kind ``f1`` asks by the tokenizer's chat template.
      window: tokens of a window of kind ``ppl``; 0 for 1,024, or what the model takes if less.
      stride: tokens from one window to the next; 0 for half a window.
    """

    limit: int | None = 500
    shots: int = 0
    answer_tokens: int = 32
    chat: bool = False
    window: int = 0
    stride: int = 0

    @classmethod
    def of(cls, flags: Any) -> ProbeOptions:
        """The options that the flags of a command give."""
        return cls(
            limit=flags.probe_limit or None,
            shots=flags.probe_shots,
            answer_tokens=flags.probe_answer_tokens,
            chat=flags.probe_chat,
            window=flags.ppl_window,
            stride=flags.ppl_stride,
        )


class ProbeContext(NamedTuple):
    """What reading and encoding a probe needs.

    Attributes:
      reader: of the command.
      tokenizer: of the model.
      positions: the longest sequence that the model takes.
      options: what the probes of a command share.
    """

    reader: Reader
    tokenizer: Tokenizer
    positions: int
    options: ProbeOptions


def parse_probes(text: str) -> tuple[Item, ...]:
    """Reads ``nq=f1:nq.jsonl,wikitext=ppl:wiki.txt,known=questions.jsonl``.

    Raises:
      ValueError: naming the item that has another form, a name twice, or an unknown kind.
    """
    items: dict[str, Item] = {}
    for item in filter(None, text.split(",")):
        name, equals, source = item.partition("=")
        if not equals or not re.fullmatch(r"[\w.-]+", name) or not source or name in items:
            raise ValueError(
                f"--probes={text}: {item!r} should be NAME=FILE or NAME=KIND:FILE with a name of "
                "its own, of letters, digits, '.', '-' and '_', as in "
                f"nq=nq.jsonl,wikitext=ppl:wiki.txt; the kinds are {', '.join(KINDS)}"
            )
        items[name] = Item(name, *_kind(text, item, source))
    return tuple(items.values())


def _kind(text: str, item: str, source: str) -> tuple[str, str]:
    """The kind of an item, and the rest of its source."""
    kind, colon, rest = source.partition(":")
    if not colon or kind == "tfds" or Path(source).exists():
        return ("exact" if _asks(source) else "text"), source
    if kind in KINDS and rest:
        return kind, rest
    told = "names no file" if kind in KINDS else f"kind {kind!r} is unknown"
    raise ValueError(
        f"--probes={text}: {item!r}: {told}; give NAME=KIND:FILE with one of the kinds "
        f"{', '.join(KINDS)}"
    )


def read_probes(text: str, using: ProbeContext) -> Probes:
    """Reads and encodes the probes that ``--probes`` names.

    Args:
      text: the value of the flag.
      using: what reading and encoding need.

    Raises:
      ValueError: naming the item, and the file and line where one is malformed.
    """
    probes = Probes({}, {}, {})
    for item in parse_probes(text):
        with _naming(item):
            probe = KINDS[item.kind](item.source, using)
        place = {"exact": probes.questions, "text": probes.texts}.get(item.kind, probes.named)
        place[item.name] = probe
    return probes


@contextmanager
def _naming(item: Item) -> Iterator[None]:
    """Puts the item before an error that names no other flag."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        text = str(error).removeprefix("--probes: ")
        if text.startswith("--"):
            raise
        where = f"{item.name}={item.kind}" + ("" if item.source in text else f":{item.source}")
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(f"--probes: {where}: {text}") from error


def _asks(source: str) -> bool:
    """Whether a source is a file of questions."""
    if not source.endswith(QUESTION_ENDINGS):
        return False
    with blame_flag("--probes: "):
        records = islice(read_records(existing(source, "probes")), 1)
        record = next((record for _, record in records), {})
    return not {"question", "problem"}.isdisjoint(record)


def asked_once(tokenizer: Tokenizer, facts: tuple[Fact, ...]) -> Probe:
    """Every fact asked in one paraphrase that it was not taught in."""
    once = first_paraphrases(facts, "held_out", 1)
    length = needed_length(tokenizer, [paraphrase for fact in once for paraphrase in fact.held_out])
    return answer_probe(tokenizer, once, "held_out", length)


def _exact(source: str, using: ProbeContext) -> Probe:
    return asked_once(
        using.tokenizer, using.reader.questions(source, "probes")[: using.options.limit]
    )


def _text(source: str, using: ProbeContext) -> Batch:
    window = min(128, using.positions)
    texts = using.reader.texts(source, "probes")
    limit = None if using.options.limit is None else using.options.limit * window
    return pack_texts(using.tokenizer, texts, window, limit)


def _f1(source: str, using: ProbeContext) -> NamedProbe:
    limit = None if using.options.limit is None else using.options.shots + using.options.limit
    questions = using.reader.open_questions(source, "probes")[:limit]
    return open_probe(
        using.tokenizer,
        questions,
        using.positions,
        using.options.shots,
        using.options.answer_tokens,
        using.options.chat,
    )


def _gsm8k(source: str, using: ProbeContext) -> NamedProbe:
    questions = using.reader.open_questions(source, "probes")[: using.options.limit]
    pairs = [(PROMPT.format(question.text), f" {question.answers[0]}") for question in questions]
    return answer_loss_probe(using.tokenizer, pairs, using.positions)


def _choices(read: Callable[[Path], tuple[Choice, ...]]) -> Callable[..., NamedProbe]:
    def build(source: str, using: ProbeContext) -> NamedProbe:
        items = read(existing(source, "probes"))[: using.options.limit]
        return choice_probe(using.tokenizer, items, using.positions)

    return build


def _ppl(source: str, using: ProbeContext) -> NamedProbe:
    positions = using.positions
    window = using.options.window or min(WINDOW, positions)
    if window > positions:
        raise ValueError(
            f"--ppl_window={window} is more than the model's {positions} positions; lower it"
        )
    stride = using.options.stride or window // 2
    with blame_flag(f"--ppl_window={window}, --ppl_stride={stride}: "):
        limit = (
            -1
            if using.options.limit is None
            else _CHARACTERS * (window + using.options.limit * stride)
        )
        text = using.reader.whole_text(source, "probes", limit)
        return perplexity_probe(using.tokenizer, text, window, stride, using.options.limit)


KINDS: Mapping[str, Callable[[str, ProbeContext], Any]] = {
    "exact": _exact,
    "text": _text,
    "f1": _f1,
    "gsm8k": _gsm8k,
    "hellaswag": _choices(read_hellaswag),
    "medmcqa": _choices(read_medmcqa),
    "ppl": _ppl,
}
