"""Any optax optimizer on every row by itself, and the check that its updates allow that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from smf_jax.shapes import Rows

# As large as the matrices whose moments optax begins to factor.
_SHAPE = (128, 128)
# From each beginning the scales of a few steps' gradients: without a gradient nothing but decay is
# left; what bounds a norm shows at a large one. A scale that is not finite is of one row only: it
# reaches the others through anything that is summed over rows, however far off a bound may be.
_BEGINNINGS = ((0.0, 1.0), (1.0, 1e15, 1e-15), (1.0, np.inf), (1.0, np.nan))


class RowOptimizer(NamedTuple):
    """An optax optimizer of ``(s, v)`` rows, their states stacked and extra arguments shared."""

    init: Callable[[Rows], Any]
    update: Callable[..., tuple[Rows, Any]]


def each_row(optimizer: optax.GradientTransformation) -> RowOptimizer:
    """The optimizer on each row by itself: moments, step count and schedule of its own steps."""
    one = optax.with_extra_args_support(optimizer)

    def update(
        gradients: Rows, state: Any, rows: Rows | None, **extra_args: Any
    ) -> tuple[Rows, Any]:
        of_row: Any = partial(one.update, **extra_args)
        return jax.vmap(of_row)(gradients, state, rows)

    return RowOptimizer(jax.vmap(one.init), update)


def check_each_row(
    optimizer: optax.GradientTransformation, extra_args: Mapping[str, Any] | None = None
) -> None:
    """Refuses optimizers that would do something else to rows together than to each alone.

    It is tried on random rows, over a few steps of gradients of very different sizes;
    ``extra_args`` are examples of the extra arguments that its ``update`` needs. A ValueError if
    rows mix, or if the optimizer could not be tried.
    """
    try:
        # Also where a program is being traced: the optimizer itself is no part of it.
        with jax.ensure_compile_time_eval(), jax.debug_nans(False):
            mixes = _mixes(optimizer) if extra_args is None else _try(optimizer, extra_args)
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError) as error:
        raise ValueError(
            "optimizer holds a traced number; build it outside of jit, and give a rate that is "
            "traced as a factor of its updates (schedule=, or scale= of a row store)"
        ) from error
    except TypeError as error:
        raise ValueError(
            f"optimizer could not be tried on random rows: {error}; give examples of the extra "
            "arguments that its update needs as extra_args"
        ) from error
    if mixes:
        raise ValueError(
            "optimizer mixes rows: it updates several rows otherwise than each of them alone, so "
            "that a row would depend on which others are selected. Give max_norm= (clip= of an "
            "OptimizerConfig), which clips over all selected rows of all tables before the "
            "optimizer, in place of clip_by_global_norm; leave out trust ratios, norms of blocks, "
            "factored moments, noise, and masks by rank"
        )


def _try(optimizer: optax.GradientTransformation, extra_args: Mapping[str, Any]) -> bool:
    """Whether any update of random rows together differs from those of each alone."""
    rng = np.random.default_rng(0)
    rows = rng.uniform(0.5, 1.5, _SHAPE).astype(np.float32)
    ways = []
    for way in (optax.with_extra_args_support(optimizer), each_row(optimizer)):
        step = jax.jit(lambda g, state, way=way: way.update(g, state, rows, **extra_args))
        ways.append((way.init, step))
    for scales in _BEGINNINGS:
        states = [init(rows) for init, _ in ways]
        for scale in scales:
            gradients = rng.uniform(0.5, 1.5, _SHAPE).astype(np.float32)
            gradients[: None if np.isfinite(scale) else 1] *= np.float32(scale)
            pairs = [step(gradients, state) for (_, step), state in zip(ways, states, strict=True)]
            (together, apart), states = zip(*pairs, strict=True)
            if not np.allclose(together, apart, rtol=1e-4, atol=0, equal_nan=True):
                return True
    return False


_mixes = lru_cache(maxsize=64)(partial(_try, extra_args={}))
