"""The trainer of sparse memory finetuning: rows of the memories' tables, and ``α`` if told so."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from smf_jax.data.batching import Batch
from smf_jax.models.decoder import Decoder
from smf_jax.params import Params, split
from smf_jax.shapes import SlotIds
from smf_jax.sparse.row_optimizer import create_store, empty_store
from smf_jax.sparse.rules import RULES
from smf_jax.tables import is_implicit, rows_moved, with_room
from smf_jax.training.memory_grads import Context, History, select_for_task
from smf_jax.training.memory_model import MemoryModel, as_memory_model
from smf_jax.training.reads import read_counts
from smf_jax.training.sparse_config import SparseConfig
from smf_jax.training.sparse_snapshot import put_sparse_state, take_sparse_state
from smf_jax.training.sparse_step import SparseState, going_on, sparse_step
from smf_jax.training.step import Settings, Shared
from smf_jax.training.trainers import Trainer


def sparse_trainer(
    model: Decoder | MemoryModel,
    config: SparseConfig,
    capacity: int,
    keep_optimizer_state: bool = False,
) -> Trainer[SparseState]:
    """Sparse memory finetuning: the rows of the memories' tables, and ``α`` if told so.

    A pool's optimizer state has room for ``capacity`` rows and outlives a task only if it is kept.
    A rule that needs a background has it from `Shared.usage`. A model without memory is an error.
    """
    model = as_memory_model(model)
    below = model.below_memory
    plan = _Plan(model, config, capacity, keep_optimizer_state)
    return Trainer(
        begin=plan.begin,
        begin_task=plan.begin_task,
        step=partial(sparse_step, model, config),
        logits=lambda shared, state, *asked: going_on(model, shared.lower).logits(
            {**shared.frozen, **_trained(state)}, *asked
        ),
        trained=_trained,
        resume=_resume,
        frozen=plan.frozen,
        grow=plan.grow,
        take=take_sparse_state,
        put=put_sparse_state,
        lower=below and (lambda shared, batch: below(shared.frozen, batch.tokens, batch.valid)),
    )


@dataclass(frozen=True)
class _Plan:
    """What is static of a trainer; its methods are the trainer's pure functions."""

    model: MemoryModel
    config: SparseConfig
    capacity: int
    keep_optimizer_state: bool

    def begin(self, base: Params, settings: Settings) -> SparseState:
        """Before the first task: the base's tables, nothing selected, nothing written."""
        config, optimizer = self.config, self.config.optimizer.transformation()
        _require_size(config, settings, max(len(base[pool]) for pool in self.model.tables))
        rows_only = config.mask == "update"
        tables = {pool: base[pool] for pool in self.model.tables}
        if not rows_only and any(map(is_implicit, tables.values())):
            raise ValueError(
                "mask='gradient' moves every row of a table, and this one holds those written only "
                "(it started at zero); choose mask='update'"
            )
        scalars = {path: leaf for path, leaf in base.items() if self._is_scalar(path)}
        stores, no_slots, written, history = {}, {}, {}, {}
        for pool, table in tables.items():
            # Where the update is not masked, moments are dense and stand with the scalars'.
            stores[pool] = create_store(optimizer, table, self.capacity) if rows_only else None
            no_slots[pool] = jnp.full(min(config.size, len(table)), len(table), jnp.int32)
            written[pool] = jnp.zeros(len(table), bool)
            history[pool] = History.of(jnp.zeros(len(table), bool))
        return SparseState(
            tables=tables,
            stores=stores,
            scalars=scalars,
            scalar_opt_state=optimizer.init(scalars if rows_only else {**scalars, **tables}),
            task_slots=no_slots if config.granularity == "per_task" else None,
            written=written,
            step=jnp.zeros((), jnp.int32),
            failed_step=jnp.full((), -1, jnp.int32),
            history=history if config.protect_written else None,
        )

    def begin_task(
        self, shared: Shared, state: SparseState, examples: Batch, settings: Settings
    ) -> SparseState:
        """Nothing written yet; slots of the task where it selects; the optimizer starts again."""
        written = jax.tree.map(jnp.zeros_like, state.written)
        history = state.history and {
            pool: History.of(past.written | state.written[pool])
            for pool, past in state.history.items()
        }
        state = state._replace(written=written, history=history)
        if not self.keep_optimizer_state:
            params = state.scalars if self.config.mask == "update" else _trained(state)
            state = state._replace(
                stores={pool: empty_store(store) for pool, store in state.stores.items()},
                scalar_opt_state=self.config.optimizer.transformation().init(params),
                step=jnp.zeros_like(state.step),
            )
        if self.config.granularity == "per_task":
            # At step 0, as after a resume: what is drawn goes by the step.
            slots = self._task_slots(shared, state, examples, settings)
            state = state._replace(task_slots=slots)
        return state

    def grow(self, state: SparseState, steps: int) -> SparseState:
        """The state, of one trial or of several, with room for all that so many steps can write."""
        wanted = steps * self.config.places
        tables = {pool: with_room(table, wanted) for pool, table in state.tables.items()}
        same = all(table is state.tables[pool] for pool, table in tables.items())
        return state if same else state._replace(tables=tables)

    def _task_slots(
        self, shared: Shared, state: SparseState, examples: Batch, settings: Settings
    ) -> dict[str, SlotIds]:
        """Probes the task once, counting the reads of all of its examples."""
        params = {**shared.frozen, **_trained(state)}

        def add(counts: dict[str, Array], chunk: Batch) -> tuple[dict[str, Array], None]:
            return jax.tree.map(jnp.add, counts, read_counts(self.model, params, chunk)), None

        start = {pool: jnp.zeros(params[pool].shape[0], jnp.int32) for pool in self.model.tables}
        counts, _ = jax.lax.scan(add, start, examples)
        context = Context(shared.usage, state.history, None, settings, state.step)
        return select_for_task(self.config, counts, context)

    def frozen(self, base: Params) -> Params:
        """All params but tables and trained scalars."""
        return split(base, lambda path: path in self.model.tables or self._is_scalar(path))[1]

    def _is_scalar(self, path: str) -> bool:
        layer, _, leaf = path.rpartition("/")
        return self.config.train_alpha and leaf == "alpha" and layer in self.model.layers


def _require_size(config: SparseConfig, settings: Settings, table_slots: int) -> None:
    """Refuses a budget, where it is known, that the static size cuts: one of less than a table."""
    budget = settings.budget
    if not RULES[config.rule].has_budget or isinstance(budget, Tracer):
        return
    if np.ndim(budget) == 0 and int(budget) > config.size < table_slots:
        raise ValueError(
            f"budget={int(budget)} rows is more than size={config.size} of SparseConfig holds; "
            "give size=budget_size(budget)"
        )


def _trained(state: SparseState) -> Params:
    return {**state.tables, **state.scalars}


def _resume(state: SparseState, params: Params) -> SparseState:
    # What earlier tasks wrote are the rows that differ from the base's.
    history = state.history and {
        pool: History.of(rows_moved(table, params[pool])) for pool, table in state.tables.items()
    }
    return state._replace(
        history=history,
        tables={pool: params[pool] for pool in state.tables},
        scalars={path: params[path] for path in state.scalars},
    )
