"""An optax transform over the whole parameter tree that freezes all but the selected rows.

The plain way to finetune sparsely, for people who bring their own model and gradient, and the
reference that the fast step is tested against. It needs the dense gradient and keeps dense
moments for the tables; `smf_jax.training.sparse_step` does the same work without either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from smf_jax.shapes import SlotIds
from smf_jax.sparse.rows import where_rows
from smf_jax.sparse.update_rule import UpdateRule


class SelectedRowsState(NamedTuple):
    """State of `freeze_all_but_rows`.

    Attributes:
      step: steps taken.
      opt_state: per table path, the optax state of one row stacked over its ``N`` rows.
    """

    step: Int[Array, ""]
    opt_state: dict[str, Any]


def freeze_all_but_rows(
    rule: UpdateRule, tables: Sequence[str], learning_rate: float | Float[Array, ""]
) -> optax.GradientTransformationExtraArgs:
    """Trains the selected rows of some tables and nothing else, bit for bit.

    The *update* is masked, not only the gradient: with a masked gradient momentum and Adam keep
    moving rows that were selected earlier, and decay moves every row. Here moments, step counts
    and decay advance only for a row that is selected at this step.

    Example::

      transform = freeze_all_but_rows(
          UpdateRule("adamw"), tables=["memory/pool_2/values"], learning_rate=5e-4
      )
      state = transform.init(params)
      updates, state = transform.update(
          gradients, state, params, slots={"memory/pool_2/values": slots}
      )
      params = optax.apply_updates(params, updates)

    Args:
      rule: clip (over all selected rows of all tables), per-row statistics, schedule.
      tables: paths of the ``(N, v)`` leaves whose rows may train, joined with ``/``.
      learning_rate: rate before the schedule.

    Returns:
      A transformation whose ``update`` takes ``slots``: per table path, ``(s,)`` int32 distinct
      ids; unused places hold ``N``.

    Raises:
      ValueError: from ``init``, if a path is not in the parameters; from ``update``, if ``slots``
        names other tables, or ``params`` is missing.
    """
    names = frozenset(tables)

    def init(params: Any) -> SelectedRowsState:
        leaves = _by_path(params)
        if missing := sorted(names - leaves.keys()):
            raise ValueError(
                f"tables={missing} are not in the parameters; the paths are {sorted(leaves)}"
            )
        return SelectedRowsState(
            step=jnp.zeros((), jnp.int32),
            opt_state={path: rule.init_each(leaves[path]) for path in sorted(names)},
        )

    def update(
        updates: Any,
        state: SelectedRowsState,
        params: Any = None,
        *,
        slots: Mapping[str, SlotIds],
        **_: Any,
    ) -> tuple[Any, SelectedRowsState]:
        if params is None:
            raise ValueError("params=None; row rules read the rows: pass the parameters")
        if slots.keys() != names:
            raise ValueError(f"slots names tables {sorted(slots)}, trained are {sorted(names)}")
        values, gradients = _by_path(params), _by_path(updates)
        selected = {path: _mask(slots[path], values[path].shape[0]) for path in names}
        masked = rule.clipped(
            {path: jnp.where(selected[path][:, None], gradients[path], 0) for path in names}
        )
        rate = rule.rate(learning_rate, state.step)
        new_updates, new_statistics = {}, {}
        for path in sorted(names):
            old = state.opt_state[path]
            moved, advanced = rule.step_each(masked[path], old, values[path])
            new_updates[path] = where_rows(selected[path], -rate * moved, _nothing(moved))
            new_statistics[path] = jax.tree.map(
                lambda new, kept, rows=selected[path]: where_rows(rows, new, kept), advanced, old
            )
        out = jax.tree_util.tree_map_with_path(
            lambda path, leaf: new_updates.get(_join(path), _nothing(leaf)), updates
        )
        return out, SelectedRowsState(state.step + 1, new_statistics)

    # ``update`` demands ``slots``, which optax's own signature cannot say.
    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore


def _nothing(leaf: Array) -> Array:
    # -0.0 is the one addend that keeps every bit: -0.0 + 0.0 would be +0.0.
    return jnp.full_like(leaf, -0.0)


def _mask(slots: SlotIds, table_slots: int) -> Bool[Array, " N"]:
    return jnp.zeros(table_slots, bool).at[slots].set(True, mode="drop")


def _join(path: tuple[Any, ...]) -> str:
    return "/".join(str(getattr(entry, "key", getattr(entry, "idx", entry))) for entry in path)


def _by_path(tree: Any) -> dict[str, Array]:
    return {_join(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
