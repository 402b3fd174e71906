"""The grid of a sweep: from the text of the flags to the list of trials.

An axis is given as `10,30`, for every method that has it, or scoped to methods as
`smf:10,30/full:3e-5,1e-4`. A method that a flag leaves out takes its default, and an axis that a
method lacks collapses, so that no trial is listed twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeVar

from smf_jax.sparse.optimizers import OPTIMIZERS as OPTIMIZERS
from smf_jax.sparse.rules import RULES
from smf_jax.sparse.selection import budget_size

T = TypeVar("T")

METHODS = ("smf", "full", "lora", "replay")

DEFAULT_SLOTS = (64, 512)
DEFAULT_RULE = "tfidf"
DEFAULT_GRANULARITY = "per_step"
BATCH_ORDERS = ("shuffled", "facts")
# Each at its best: a few facts in all of their paraphrases show which rows are theirs (as in
# 2510.15103, where a batch is 64 paraphrases of one fact); dense updates want every batch to speak
# of all facts.
DEFAULT_BATCH_ORDER = {"smf": "facts", "full": "shuffled", "lora": "shuffled", "replay": "shuffled"}
DEFAULT_OPTIMIZER = {"smf": "sgd", "full": "adamw", "lora": "adamw", "replay": "adamw"}
# From gentle to strong: a method's frontier is its sweep of the rate, not one point of it.
DEFAULT_LEARNING_RATES: dict[str, dict[str, tuple[float, ...]]] = {
    "smf": {"sgd": (60.0, 120.0), "momentum": (3.0,), "adam": (3e-2,), "adamw": (3e-2,)},
    "full": {
        "sgd": (1e-2, 3e-2, 1e-1),
        "momentum": (1e-3, 3e-3, 1e-2),
        "adam": (1e-5, 3e-5, 1e-4),
        "adamw": (3e-5, 1e-4, 3e-4),
    },
    "lora": {
        "sgd": (1e-1, 3e-1, 1.0),
        "momentum": (1e-2, 3e-2, 1e-1),
        "adam": (1e-4, 3e-4, 1e-3),
        "adamw": (3e-4, 1e-3, 3e-3),
    },
}
DEFAULT_LEARNING_RATES["replay"] = DEFAULT_LEARNING_RATES["full"]
# Not measured: these take the rates of the optimizer that their updates are as large as.
_RATES_OF = {
    "nesterov": "momentum",
    "lion": "adam",
    "rmsprop": "adam",
    "adagrad": "adam",
    "adabelief": "adam",
}


@dataclass(frozen=True)
class Trial:
    """One cell of the grid: a method with its settings and a seed.

    `slots`, `rule` and `granularity` are None for a method without a memory to select from, and
    `slots` also for the rule `all`, which has no budget.
    """

    method: str
    slots: int | None
    rule: str | None
    granularity: str | None
    optimizer: str
    learning_rate: float
    seed: int
    batch_order: str

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
        order = self.batch_order if self.batch_order != DEFAULT_BATCH_ORDER[self.method] else None
        rows = None if self.slots is None else f"t{self.slots}"
        parts = (self.method, self.rule, unusual, self.optimizer, rows, order)
        return "-".join(filter(None, parts))

    @property
    def group(self) -> tuple[str, str | None, str | None, str, int | None]:
        """The static key: trials of one group run in one compiled program.

        A budget counts by its size step, whatever else is in the grid, so that a trial's numbers
        depend neither on its neighbours nor on its shard.
        """
        size = None if self.slots is None else budget_size(self.slots)
        return (self.method, self.rule, self.granularity, self.optimizer, size)


def shortest(number: float) -> str:
    """Write a number in six digits where they suffice, in full otherwise."""
    short = f"{number:g}"
    return short if float(short) == number else repr(number)


def budget(text: str) -> int:
    """Read a budget: rows that a step may change."""
    if not text.isdecimal() or int(text) < 1:
        raise ValueError("is not a budget; give whole numbers of rows, 1 or more")
    return int(text)


def rate(text: str) -> float:
    """Read a learning rate."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ValueError("is not a learning rate; give positive numbers, such as 3e-5 or 10")
    return value


def seed(text: str) -> int:
    """Read a seed."""
    if not text.isdecimal() or int(text) >= 2**32:
        raise ValueError("is not a seed; give whole numbers from 0 up to 2**32 - 1")
    return int(text)


def one_of(choices: Sequence[str]) -> Callable[[str], str]:
    """Return the reader of one word out of `choices`."""

    def read(text: str) -> str:
        if text not in choices:
            raise ValueError(f"is not known; choose from {', '.join(choices)}")
        return text

    return read


def parse_list(text: str, flag: str, kind: Callable[[str], T]) -> tuple[T, ...]:
    """Read `a,b,c`: its distinct values, in order.

    Args:
      text: the value of the flag.
      flag: its name without dashes, for the errors.
      kind: reads one value; raises ValueError with what it expects instead.

    Returns:
      The values, each once.

    Raises:
      ValueError: a value is empty or not of the kind.
    """
    return _values(text, f"--{flag}={text}", kind)


def parse_scoped(
    text: str, flag: str, methods: Sequence[str], kind: Callable[[str], T]
) -> dict[str, tuple[T, ...]]:
    """Read one axis of the grid: `10,30` for all methods or `smf:10,30/full:3e-5,1e-4`.

    Args:
      text: the value of the flag; empty leaves every method its default.
      flag: its name without dashes, for the errors.
      methods: the methods that a scope may name.
      kind: reads one value; raises ValueError with what it expects instead.

    Returns:
      The values by method; a method left out takes its default.

    Raises:
      ValueError: a value is not of the kind, a method is unknown or named twice, or scoped and
          unscoped values are mixed.
    """
    where = f"--{flag}={text}"
    if not text.strip():
        return {}
    if ":" not in text and "/" not in text:
        return dict.fromkeys(methods, _values(text, where, kind))
    scoped: dict[str, tuple[T, ...]] = {}
    for part in text.split("/"):
        method, colon, values = part.partition(":")
        method = method.strip()
        if not colon:
            raise ValueError(
                f"{where}: {part!r} names no method; scope every part, as in "
                f"--{flag}={methods[0]}:{part or 'VALUE'}, or give one list for all methods"
            )
        if method not in methods:
            raise ValueError(
                f"{where}: method {method!r} is not known; choose from {', '.join(methods)}"
            )
        if method in scoped:
            raise ValueError(
                f"{where}: method {method!r} is named twice; join its values by commas"
            )
        scoped[method] = _values(values, where, kind)
    return scoped


def _values(text: str, where: str, kind: Callable[[str], T]) -> tuple[T, ...]:
    """Read a list of values; `where` is the flag as it was typed."""
    values = []
    for word in text.split(","):
        try:
            values.append(kind(word.strip()))
        except ValueError as error:
            raise ValueError(f"{where}: {word.strip()!r} {error}") from None
    return tuple(dict.fromkeys(values))


def build_grid(
    methods: Sequence[str],
    seeds: Sequence[int],
    *,
    slots: Mapping[str, Sequence[int]] | None = None,
    rules: Mapping[str, Sequence[str]] | None = None,
    granularities: Mapping[str, Sequence[str]] | None = None,
    optimizers: Mapping[str, Sequence[str]] | None = None,
    learning_rates: Mapping[str, Sequence[float]] | None = None,
    batch_orders: Mapping[str, Sequence[str]] | None = None,
) -> tuple[Trial, ...]:
    """Lay out every trial of a sweep, each once.

    The same flags give the same list: methods as given, and for each its rules, granularities,
    optimizers, batch orders, budgets, rates and seeds, the seeds running fastest.

    Args:
      methods: the methods to run.
      seeds: the seeds of each setting.
      slots: budgets by method, as `parse_scoped` returns them; a method left out of this or any
          of the following takes its default.
      rules: selection rules by method.
      granularities: how often rows are selected, by method.
      optimizers: update rules by method.
      learning_rates: learning rates by method; the default is that of the optimizer.
      batch_orders: how a task's examples are dealt into batches, by method.

    Returns:
      The trials, distinct.
    """
    trials = []
    for method in methods:
        sparse = method == "smf"
        for rule, granularity, optimizer, order in product(
            _axis(rules, method, (DEFAULT_RULE,)) if sparse else (None,),
            _axis(granularities, method, (DEFAULT_GRANULARITY,)) if sparse else (None,),
            _axis(optimizers, method, (DEFAULT_OPTIMIZER[method],)),
            _axis(batch_orders, method, (DEFAULT_BATCH_ORDER[method],)),
        ):
            budgeted = rule is not None and RULES[rule].has_budget
            for budget_, rate_, seed_ in product(
                _axis(slots, method, DEFAULT_SLOTS) if budgeted else (None,),
                _axis(learning_rates, method, _default_rates(method, optimizer)),
                seeds,
            ):
                trials.append(
                    Trial(method, budget_, rule, granularity, optimizer, rate_, seed_, order)
                )
    return tuple(dict.fromkeys(trials))


def _axis(
    given: Mapping[str, Sequence[T]] | None, method: str, default: Sequence[T]
) -> Sequence[T]:
    """Return the values of one axis for one method."""
    return default if given is None else given.get(method, default)


def _default_rates(method: str, optimizer: str) -> tuple[float, ...]:
    """Return the learning rates to try where none are given."""
    return DEFAULT_LEARNING_RATES[method][_RATES_OF.get(optimizer, optimizer)]


def check_budgets(trials: Sequence[Trial], table_slots: int) -> None:
    """Refuse budgets that the table cannot hold.

    Raises:
      ValueError: naming the flag, the budgets and the size of the table.
    """
    large = sorted({t.slots for t in trials if t.slots is not None and t.slots > table_slots})
    if large:
        raise ValueError(
            f"--slots={','.join(map(str, large))}: this memory has {table_slots} slots; "
            "give budgets up to that, or a base with a larger memory"
        )


def shard(trials: Sequence[Trial], part: str) -> tuple[Trial, ...]:
    """Return one machine's share of the trials.

    The trials are dealt out in turn, so that every share has its part of each method. A machine
    beyond the last trial gets none.

    Args:
      trials: the whole grid, the same on every machine.
      part: `i/n`, the i-th of n shares, from 0: what job arrays number their tasks by.

    Returns:
      The trials of the share.

    Raises:
      ValueError: `part` is not of that form or out of range.
    """
    index, slash, count = part.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ValueError(
            f"--shard={part}: not a share; give i/n with i from 0 to n - 1, as in --shard=0/4"
        )
    return tuple(trials[int(index) :: int(count)])
