"""The grid of a sweep: from the text of the flags to the list of trials.

An axis is given as `10,30`, for every method that has it, or scoped to methods as
`smf:10,30/full:3e-5,1e-4`. A method that a flag leaves out takes its default, and an axis that a
method lacks collapses, so that no trial is listed twice. Any setting of a method is a further axis
by `--vary`, as `lora_rank:8,32/kl_weight:0.1,1`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any, TypeVar

from smf_jax.configuration import Configuration, flags_of
from smf_jax.continual.methods import METHODS
from smf_jax.continual.sections import GridConfig
from smf_jax.continual.trial import BATCH_ORDERS, DEFAULT_GRANULARITY, Trial, default_order
from smf_jax.progress import say
from smf_jax.sparse.optimizers import OPTIMIZERS
from smf_jax.sparse.rules import RULES
from smf_jax.sparse.selection import GRANULARITIES

T = TypeVar("T")
Scoped = Mapping[str, Sequence[T]]

DEFAULT_SLOTS = (64, 512)
DEFAULT_RULE = "tfidf"


def default_settings(method: str) -> Configuration:
    """The settings of a method where nothing is said."""
    return METHODS[method].config()


def grid(
    config: GridConfig, own: Callable[[str], Configuration] = default_settings
) -> tuple[Trial, ...]:
    """Lays out every trial of a sweep, each once; a ValueError names the flag that is wrong.

    The same flags give the same list: methods as given, and for each its rules, granularities,
    optimizers, batch orders, varied settings, budgets, rates and seeds, the seeds running fastest.
    `own` has the settings of a method, by its name.
    """
    methods = parse_list(config.methods, "methods", one_of(tuple(METHODS)))
    seeds = parse_list(config.seeds, "seeds", seed)
    slots = parse_scoped(config.slots, "slots", methods, budget)
    rules = parse_scoped(config.rule, "rule", methods, one_of(tuple(RULES)))
    granularities = parse_scoped(config.granularity, "granularity", methods, one_of(GRANULARITIES))
    optimizers = parse_scoped(config.optimizer, "optimizer", methods, one_of(tuple(OPTIMIZERS)))
    orders = parse_scoped(config.batch_order, "batch_order", methods, one_of(BATCH_ORDERS))
    rates = parse_scoped(config.lr, "lr", methods, rate)
    varied = parse_varied(config.vary, methods, own)
    trials = []
    for name in methods:
        method = METHODS[name]
        sparse = method.is_sparse
        for rule, granularity, optimizer, order, settings in product(
            rules.get(name, (DEFAULT_RULE,)) if sparse else (None,),
            granularities.get(name, (DEFAULT_GRANULARITY,)) if sparse else (None,),
            optimizers.get(name, (method.optimizer,)),
            orders.get(name, (default_order(sparse),)),
            varied.get(name, ((),)),
        ):
            budgeted = rule is not None and RULES[rule].has_budget
            for rows, learning_rate, number in product(
                slots.get(name, DEFAULT_SLOTS) if budgeted else (None,),
                rates.get(name) or _default_rates(name, optimizer),
                seeds,
            ):
                axes = (rows, rule, granularity, optimizer, learning_rate, number, order)
                trials.append(Trial(name, *axes, settings))
    return tuple(dict.fromkeys(trials))


def _default_rates(method: str, optimizer: str) -> Sequence[float]:
    """A method's default rates; raises ValueError for an optimizer that has none with it."""
    rates = METHODS[method].learning_rates
    if optimizer not in rates:
        raise ValueError(
            f"--optimizer={optimizer} has no rates of its own with method {method}; give them, as "
            f"in --lr={method}:1e-3"
        )
    return rates[optimizer]


def check_budgets(trials: Sequence[Trial], table_slots: int) -> None:
    """Raises ValueError, naming the flag, for budgets that the table cannot hold."""
    large = sorted({t.slots for t in trials if t.slots is not None and t.slots > table_slots})
    if large:
        raise ValueError(
            f"--slots={','.join(map(str, large))}: this memory has {table_slots} slots; "
            "give budgets up to that, or a base with a larger memory"
        )


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
    """Reads `a,b,c`: its distinct values, in order; `flag` is for the errors, without dashes.

    `kind` reads one value, or raises ValueError with what it expects instead, as for an empty one.
    """
    return _values(text, f"--{flag}={text}", kind)


def parse_scoped(
    text: str, flag: str, methods: Sequence[str], kind: Callable[[str], T]
) -> dict[str, tuple[T, ...]]:
    """Reads one axis by method: `10,30` for all methods or `smf:10,30/full:3e-5,1e-4`.

    A method left out takes its default, as all do where the text is empty; a scope of a method
    that is not run is said and left out. `flag` and `kind` are as in `parse_list`.

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
        if method not in METHODS:
            raise ValueError(
                f"{where}: method {method!r} is not known; choose from {', '.join(METHODS)}"
            )
        if method in scoped:
            raise ValueError(
                f"{where}: method {method!r} is named twice; join its values by commas"
            )
        scoped[method] = _values(values, where, kind)
    if idle := [method for method in scoped if method not in methods]:
        # A configuration that several grids share may speak of methods that one of them lacks.
        say(f"{where}: nothing of {', '.join(idle)}, which --methods leaves out, is run")
    return scoped


def parse_varied(
    text: str, methods: Sequence[str], own: Callable[[str], Configuration]
) -> dict[str, tuple[tuple[tuple[str, Any], ...], ...]]:
    """Reads `lora_rank:8,32/kl_weight:0.1,1`: by method, every combination of its settings.

    A combination holds the settings, by flag, that differ from those of `own`, so that the one
    which does not is the trial of a run that varies nothing. Idle methods are as in `parse_scoped`.

    Raises:
      ValueError: no method has the setting, it is named twice, or it cannot have the value.
    """
    owners = {flag: name for name in METHODS for flag in flags_of(own(name))}
    axes: dict[str, dict[str, tuple[Any, ...]]] = {}
    for part in text.split("/") if text.strip() else ():
        flag, colon, values = (word.strip() for word in part.partition(":"))
        where = f"--vary={text}"
        if not colon or flag not in owners:
            raise ValueError(
                f"{where}: {part!r} names no setting of a method; give SETTING:VALUES, as in "
                "lora_rank:8,32; --helpfull lists the settings of each method"
            )
        method = owners[flag]
        if flag in axes.setdefault(method, {}):
            raise ValueError(f"{where}: {flag} is named twice; join its values by commas")
        axes[method][flag] = _values(values, where, partial(_setting, own(method), flag))
    if idle := [method for method in axes if method not in methods]:
        say(f"--vary={text}: nothing of {', '.join(idle)}, which --methods leaves out, is run")
    found = {}
    for method, settings in axes.items():
        told = own(method).values()
        pairs = [[(flag, each) for each in settings[flag]] for flag in sorted(settings)]
        found[method] = tuple(
            tuple((flag, value) for flag, value in combination if value != told[flag])
            for combination in product(*pairs)
        )
    return found


def _setting(own: Configuration, flag: str, text: str) -> Any:
    """Read a value of a method's setting, within its bounds."""
    kind = flags_of(own)[flag].kind
    if kind is bool and text not in ("true", "false"):
        raise ValueError(f"is no value of {flag}; give true or false")
    try:
        value = text == "true" if kind is bool else kind(text)
        own.with_values(**{flag: value})
    except ValueError as error:
        raise ValueError(f"is no value of {flag}, of type {kind.__name__}: {error}") from None
    return value


def _values(text: str, where: str, kind: Callable[[str], T]) -> tuple[T, ...]:
    """Read a list of values; `where` is the flag as it was typed."""
    values = []
    for word in text.split(","):
        try:
            values.append(kind(word.strip()))
        except ValueError as error:
            raise ValueError(f"{where}: {word.strip()!r} {error}") from None
    return tuple(dict.fromkeys(values))
