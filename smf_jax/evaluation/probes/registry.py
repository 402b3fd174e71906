"""The kinds of probes, and the reading of ``--probes``, which names them.

A new kind is a file beside this one and its place in `KINDS`; docs/probes.md describes them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from smf_jax.data.batching import Batch
from smf_jax.data.files import holds_records, read_records
from smf_jax.data.questions import USUAL, Fields, asks
from smf_jax.data.readers import SCHEMES, existing
from smf_jax.errors import blame_flag
from smf_jax.evaluation.probe import Metric, Probe, ProbeContext, ProbeKind
from smf_jax.evaluation.probes.change import KL, KL_PROMPTS, SAME
from smf_jax.evaluation.probes.exact import EXACT, ExactProbe
from smf_jax.evaluation.probes.known import KNOWN
from smf_jax.evaluation.probes.multiple_choice import HELLASWAG, MEDMCQA
from smf_jax.evaluation.probes.open import F1
from smf_jax.evaluation.probes.text import GSM8K, PPL, PROBABILITY, TEXT, LossProbe
from smf_jax.paths import as_path, expand

KINDS: Mapping[str, ProbeKind] = {
    kind.name: kind
    for kind in (
        *(EXACT, TEXT, F1, KNOWN, GSM8K, HELLASWAG, MEDMCQA, PPL),
        *(PROBABILITY, SAME, KL, KL_PROMPTS),
    )
}


class Probes(NamedTuple):
    """All probes beside the stream, by name."""

    questions: dict[str, ExactProbe]  # of facts, measured by exact match in one forward pass
    texts: dict[str, Batch]  # windows of text, measured by their loss
    named: dict[str, Probe]  # all others

    def whole(self) -> dict[str, Probe]:
        """All of them as probes of a whole model."""
        read = {name: LossProbe(windows, "windows") for name, windows in self.texts.items()}
        return {**self.questions, **read, **self.named}


class Item(NamedTuple):
    """One item of ``--probes``: ``NAME=KIND:SOURCE``, or ``NAME=SOURCE`` of kind exact or text."""

    name: str
    kind: str
    source: str


def parse_probes(text: str, fields: Fields = USUAL) -> tuple[Item, ...]:
    """Reads ``nq=f1:nq.jsonl,known=questions.jsonl``; a ValueError names the item that is amiss."""
    items: dict[str, Item] = {}
    for item in filter(None, text.split(",")):
        name, equals, source = item.partition("=")
        if not equals or not re.fullmatch(r"[\w.-]+", name) or not source or name in items:
            raise ValueError(
                f"--probes={text}: {item!r} should be NAME=FILE or NAME=KIND:FILE with a name of "
                "its own, of letters, digits, '.', '-' and '_', as in "
                f"nq=nq.jsonl,wikitext=ppl:wiki.txt; the kinds are {', '.join(KINDS)}"
            )
        items[name] = Item(name, *_kind(text, item, source, fields))
    return tuple(items.values())


def asks_base(items: Iterable[Item]) -> bool:
    """Whether the untouched model has to be asked before it is known what the probes are."""
    return any(item.kind == KNOWN.name for item in items)


def _kind(text: str, item: str, source: str, fields: Fields) -> tuple[str, str]:
    """The kind of an item, and the rest of its source."""
    kind, colon, rest = source.partition(":")
    with blame_flag("--probes: "):
        if not colon or kind in SCHEMES or rest.startswith("//") or os.path.exists(source):
            source = expand(source)
            return ("exact" if _asks(source, fields) else "text"), source
        if kind in KINDS and rest:
            return kind, expand(rest)
    told = "names no file" if kind in KINDS else f"kind {kind!r} is unknown"
    raise ValueError(
        f"--probes={text}: {item!r}: {told}; give NAME=KIND:FILE with one of the kinds "
        f"{', '.join(KINDS)}"
    )


def _asks(source: str, fields: Fields) -> bool:
    """Whether a source is a file of questions."""
    if not holds_records(as_path(source)):
        return False
    with blame_flag("--probes: "):
        _, record = next(read_records(existing(source, "probes")), (0, {}))
        return asks(record, fields)


def read_probes(text: str, using: ProbeContext) -> Probes:
    """Reads and encodes the probes of ``--probes``; a ValueError names the item, file and line."""
    probes = Probes({}, {}, {})
    for item in parse_probes(text, using.reader.fields):
        with _naming(item):
            probe = KINDS[item.kind].read(item.source, using)
        if isinstance(probe, ExactProbe):
            probes.questions[item.name] = probe
        elif item.kind == "text" and isinstance(probe, LossProbe):
            probes.texts[item.name] = probe.batch
        else:
            probes.named[item.name] = probe
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


def find_metrics(keys: Iterable[str], text: str = "") -> dict[str, Metric]:
    """The metric behind each ``NAME_METRIC`` of a run; a name that is not known is left out.

    The kind of each NAME is that of ``text``, the run's ``--probes``, whose files may be gone. A
    NAME that it lacks is of the first kind that measures all that the keys say of it.
    """
    items = (item.partition("=") for item in text.split(","))
    kinds = {name: source.partition(":")[0] for name, _, source in items}
    known = {metric.name for kind in KINDS.values() for metric in kind.metrics}
    probes: dict[str, dict[str, str]] = {}
    for key in keys:
        # The longest name: `acc_norm` and not another probe's `norm`.
        metric = max((m for m in known if key.endswith(f"_{m}")), key=len, default="")
        if metric:
            probes.setdefault(key.removesuffix(f"_{metric}"), {})[metric] = key
    found = {}
    for name, measured in probes.items():
        candidates = [KINDS[kinds[name]]] if kinds.get(name) in KINDS else KINDS.values()
        by_name = ({metric.name: metric for metric in kind.metrics} for kind in candidates)
        metrics = next((each for each in by_name if measured.keys() <= each.keys()), {})
        found |= {key: metrics[metric] for metric, key in measured.items() if metric in metrics}
    return found
