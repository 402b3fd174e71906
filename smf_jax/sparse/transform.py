"""An optax transform over the whole parameter tree that freezes all but the selected rows.

The plain way to finetune sparsely, for people who bring their own model and gradient, and the
reference that the fast step is tested against. It needs the dense gradient and keeps dense
moments for the tables; `smf_jax.training.sparse_step` does the same work without either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from smf_jax.params import widened
from smf_jax.shapes import SlotIds, Table
from smf_jax.sparse.each_row import check_each_row, each_row
from smf_jax.sparse.optimizers import clip_to_norm
from smf_jax.sparse.rows import where_rows


class SelectedRowsState(NamedTuple):
    """Steps taken, and by table path what belongs to its rows."""

    step: Int[Array, ""]
    opt_state: dict[str, Any]  # the optax state of one row, stacked over the ``N``
    masters: dict[str, Table]  # float32 rows of tables that are narrower, and of no others


def freeze_all_but_rows(
    inner: optax.GradientTransformation,
    tables: Sequence[str],
    *,
    max_norm: float | None = None,
    schedule: optax.Schedule | None = None,
    extra_args: Mapping[str, Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Trains the selected rows of some tables and nothing else, bit for bit.

    The *update* is masked, not only the gradient: with a masked gradient momentum and Adam keep
    moving rows that were selected earlier, and decay moves every row. Here every row has an
    optimizer of its own, whose moments, step count and schedule advance only at the steps that
    select the row.

    Example::

      path = "memory/pool_2/values"
      transform = freeze_all_but_rows(optax.adamw(5e-4), tables=[path], max_norm=1.0)
      state = transform.init(params)
      updates, state = transform.update(gradients, state, params, slots={path: slots})
      params = optax.apply_updates(params, updates)

    The ``tables`` ``(N, v)`` are named by path, joined with ``/``. ``max_norm`` bounds the norm of
    the gradients of all selected rows of all tables, before ``inner`` sees them. A table narrower
    than float32 trains float32 masters, or most updates would round to nothing; updates of it are
    float32, as `optax.apply_updates` takes them. ``schedule`` is the factor of the updates by
    global step, counted from zero, and may be traced; a schedule inside of ``inner`` counts the
    steps of each row. ``extra_args`` are examples of the extra arguments that the ``update`` of
    ``inner`` needs. That of the transformation takes ``slots``: per table path, ``(s,)`` int32
    distinct ids; unused places hold ``N``. Others go to ``inner``.

    Raises:
      ValueError: if ``inner`` mixes rows (`check_each_row`); from ``init``, if a path is not in
        the parameters; from ``update``, if ``slots`` names other tables, or ``params`` is missing.
    """
    check_each_row(inner, extra_args)
    names, each = sorted(set(tables)), each_row(inner)

    def init(params: Any) -> SelectedRowsState:
        values = _tables(params, names)
        wide = widened(values)
        opt_state = {path: each.init(leaf) for path, leaf in wide.items()}
        masters = {path: leaf for path, leaf in wide.items() if leaf.dtype != values[path].dtype}
        return SelectedRowsState(jnp.zeros((), jnp.int32), opt_state, masters)

    def update(
        updates: Any,
        state: SelectedRowsState,
        params: Any = None,
        *,
        slots: Mapping[str, SlotIds],
        **extra: Any,
    ) -> tuple[Any, SelectedRowsState]:
        if params is None:
            raise ValueError("params=None; row rules read the rows: pass the parameters")
        if sorted(slots) != names:
            raise ValueError(f"slots names tables {sorted(slots)}, trained are {names}")
        values, gradients = _by_path(params), _by_path(updates)
        selected = {
            path: jnp.zeros(len(values[path]), bool).at[slots[path]].set(True, mode="drop")
            for path in names
        }
        masked = widened({path: where_rows(selected[path], gradients[path], 0) for path in names})
        masked = clip_to_norm(masked, max_norm)
        scale = 1.0 if schedule is None else jnp.asarray(schedule(state.step))
        new_updates, opt_state, masters = {}, {}, {}
        for path, rows in selected.items():
            exact = _masters(state.masters.get(path), values[path])
            old = state.opt_state[path]
            moved, advanced = each.update(masked[path], old, exact, **extra)
            opt_state[path] = jax.tree.map(partial(where_rows, rows), advanced, old)
            moved = where_rows(rows, scale * moved, _nothing(moved))
            if path in state.masters:
                masters[path] = exact + moved
                moved = where_rows(rows, _rounded(masters[path], values[path]), moved)
            new_updates[path] = moved
        out = jax.tree_util.tree_map_with_path(
            lambda path, leaf: new_updates.get(_join(path), _nothing(leaf)), updates
        )
        return out, SelectedRowsState(state.step + 1, opt_state, masters)

    # ``update`` demands ``slots``, which optax's own signature cannot say.
    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore


def _tables(params: Any, names: Sequence[str]) -> dict[str, Table]:
    values = _by_path(params)
    if missing := [path for path in names if path not in values]:
        raise ValueError(
            f"tables={missing} are not in the parameters; the paths are {sorted(values)}"
        )
    return {path: values[path] for path in names}


def _masters(masters: Table | None, values: Table) -> Table:
    """The float32 rows that a table rounds, anew where somebody else has changed the table."""
    if masters is None:
        return values
    return jnp.where(masters.astype(values.dtype) == values, masters, values)


def _rounded(masters: Table, values: Table) -> Table:
    """What, added to a narrow table, makes it the one that rounds the masters."""
    return masters.astype(values.dtype).astype(masters.dtype) - values


def _nothing(leaf: Array) -> Array:
    # -0.0 is the one addend that keeps every bit: -0.0 + 0.0 would be +0.0.
    return jnp.full_like(leaf, -0.0)


def _join(path: tuple[Any, ...]) -> str:
    return "/".join(str(getattr(entry, "key", getattr(entry, "idx", entry))) for entry in path)


def _by_path(tree: Any) -> dict[str, Array]:
    return {_join(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
