"""One cell of the grid of a sweep: a method with its settings and a seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from smf_jax.configuration import Configuration
from smf_jax.sparse.selection import budget_size

DEFAULT_GRANULARITY = "per_step"
BATCH_ORDERS = ("shuffled", "facts")

Own = TypeVar("Own", bound=Configuration)


@dataclass(frozen=True)
class Trial:
    """One cell of the grid: a method with its settings and a seed.

    `slots` (the budget), `rule` and `granularity` are None for a method that selects no rows, and
    `slots` also for the rule `all`, which has no budget. `varied` are settings of the method, by
    the names of their flags in sorted order, in which it differs from what the run was told.
    """

    method: str
    slots: int | None
    rule: str | None
    granularity: str | None
    optimizer: str
    learning_rate: float
    seed: int
    batch_order: str
    varied: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Trial:
        """The trial of a row of results, or of what was saved with a checkpoint.

        Rows of versions that varied no settings have no key of that name.
        """
        told = {field.name: row[field.name] for field in fields(cls) if field.name != "varied"}
        return cls(**told, varied=tuple(sorted(row.get("varied", {}).items())))

    def to_row(self) -> dict[str, Any]:
        """What `from_row` reads: the fields by name."""
        told = {field.name: getattr(self, field.name) for field in fields(self)}
        return told | {"varied": dict(self.varied)}

    def own(self, told: Own) -> Own:
        """The settings of its method, from those that the run was told."""
        return told.with_values(**dict(self.varied))

    @property
    def is_sparse(self) -> bool:
        """Whether it selects rows."""
        return self.rule is not None

    @property
    def id(self) -> str:
        """The name of the trial in results and on disk, as in `smf-tfidf-sgd-t64-lr30-s0`."""
        return f"{self.setting}-s{self.seed}"

    @property
    def setting(self) -> str:
        """The id less its seed: what a mean over seeds is taken of."""
        return f"{self.sweep}-lr{shortest(self.learning_rate)}"

    @property
    def sweep(self) -> str:
        """The setting less its learning rate: the points of one curve of the frontier."""
        unusual = self.granularity if self.granularity != DEFAULT_GRANULARITY else None
        order = self.batch_order if self.batch_order != default_order(self.is_sparse) else None
        rows = None if self.slots is None else f"t{self.slots}"
        parts = (self.method, self.rule, unusual, self.optimizer, rows, order, *self.varied_words)
        return "-".join(filter(None, parts))

    @property
    def varied_words(self) -> list[str]:
        """What is varied, as in `rank32`, `targets_mlp`, `train_alpha` or `no_leaky`."""
        words = []
        for flag, value in self.varied:
            name = flag.removeprefix(f"{self.method}_")
            if isinstance(value, bool):
                words.append(name if value else f"no_{name}")
            elif isinstance(value, str):
                words.append(f"{name}_{value}")
            else:
                words.append(f"{name}{shortest(value)}")
        return words

    @property
    def group(self) -> tuple[Any, ...]:
        """The static key: trials of one group run in one compiled program.

        A budget counts by its size step, whatever else is in the grid, so that a trial's numbers
        depend neither on its neighbours nor on its shard.
        """
        size = None if self.slots is None else budget_size(self.slots)
        return (self.method, self.rule, self.granularity, self.optimizer, size, *self.varied)


def default_order(is_sparse: bool) -> str:
    """How a method's batches are dealt where nothing is said.

    Each at its best: a few facts in all of their paraphrases show which rows are theirs (as in
    2510.15103, where a batch is 64 paraphrases of one fact); dense updates want every batch to
    speak of all facts.
    """
    return "facts" if is_sparse else "shuffled"


def shortest(number: float) -> str:
    """Write a number in six digits where they suffice, in full otherwise."""
    short = f"{number:g}"
    return short if float(short) == number else repr(number)


def by_group(trials: Sequence[Trial]) -> list[list[Trial]]:
    """The trials of each static shape, which share one compiled program."""
    groups: dict[object, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(trial.group, []).append(trial)
    return [groups[key] for key in sorted(groups, key=repr)]


def shard(trials: Sequence[Trial], part: str) -> tuple[Trial, ...]:
    """One machine's share of the trials: `i/n`, from 0, as job arrays number their tasks.

    The trials are dealt out in turn, so that every share has its part of each method; a machine
    beyond the last trial gets none. Raises ValueError if `part` is malformed or out of range.
    """
    index, slash, count = part.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ValueError(
            f"--shard={part}: not a share; give i/n with i from 0 to n - 1, as in --shard=0/4"
        )
    return tuple(trials[int(index) :: int(count)])
