"""One training step of a trial: sparse rows of the memories, or dense leaves.

The sparse step never differentiates a table. Zeros are added to what each memory layer read; the
loss is differentiated with respect to them, which yields the cotangent of every read and
back-propagates nothing below the lowest memory. Slots are then counted, the best selected, their
rows' gradient made from slots, weights and cotangents, and the rows written into the donated
table. Guards act on the slot ids: a step that is not finite writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from smf_jax.data.batching import Batch
from smf_jax.memory.layer import PERTURBATIONS, READS
from smf_jax.models.decoder import Decoder
from smf_jax.shapes import SlotCounts, SlotIds, Table
from smf_jax.sparse.row_store import RowStep, RowStore, step_rows, write_step
from smf_jax.sparse.rows import ReadTrace, row_gradient
from smf_jax.sparse.selection import Granularity, Rule, select_slots
from smf_jax.sparse.update_rule import UpdateRule
from smf_jax.sparse.usage import PoolUsage, count_accesses
from smf_jax.training.loss import all_finite, weighted_loss
from smf_jax.training.state import Flat, unflatten

LogitsFn = Callable[[Flat, Array, Array], Array]


class Settings(NamedTuple):
    """What may differ between trials of one compilation.

    Attributes:
      learning_rate: before the schedule.
      budget: ``top_t``, rows a step may change in each pool; unused by dense steps.
      seed: of the trial's own randomness (rule ``random``, initial adapters).
    """

    learning_rate: Float[Array, ""]
    budget: Int[Array, ""]
    seed: Int[Array, ""]


class StepMetrics(NamedTuple):
    """Of one step, computed from the state before its update.

    Attributes:
      loss: the weighted loss of the batch.
      selected: rows written, over all pools; 0 for dense steps.
    """

    loss: Float[Array, ""]
    selected: Int[Array, ""]


@dataclass(frozen=True)
class SparseChoices:
    """Static choices of a sparse step.

    Attributes:
      rule: how slots are ranked.
      granularity: ``per_step``: every batch ranks its own; ``per_task``: slots are given.
      size: static number of places ``s`` for selected rows.
      update: how a row's gradient becomes its update.
      train_alpha: whether the scales of additive blocks train too (``+S``, 2605.03229).
    """

    rule: Rule = "tfidf"
    granularity: Granularity = "per_step"
    size: int = 64
    update: UpdateRule = UpdateRule()
    train_alpha: bool = False


class SparseState(NamedTuple):
    """What a sparse step changes.

    Attributes:
      tables: ``(N, v)`` by pool path.
      stores: row state by pool path, ``None`` for stateless rules.
      scalars: trained ``α`` by path; empty unless `SparseChoices.train_alpha`.
      scalar_statistics: their optax state.
      task_slots: ``per_task`` only: the slots of this task by pool path, else ``None``.
      written: ``(N,)`` bool by pool path, rows written since the task began.
      step: steps since the optimizer started.
      failed_step: first step whose loss or rows were not finite, or that wanted more row state
        than a store holds, or -1.
    """

    tables: dict[str, Table]
    stores: dict[str, RowStore | None]
    scalars: Flat
    scalar_statistics: Any
    task_slots: dict[str, SlotIds] | None
    written: dict[str, Bool[Array, " N"]]
    step: Int[Array, ""]
    failed_step: Int[Array, ""]


class DenseState(NamedTuple):
    """What a dense step changes.

    Attributes:
      leaves: the trained leaves, or adapters, by path.
      statistics: their optax state.
      step: steps since the optimizer started.
      failed_step: first step whose loss, gradient or result was not finite, or -1.
    """

    leaves: Flat
    statistics: Any
    step: Int[Array, ""]
    failed_step: Int[Array, ""]


def pool_path(pool: int) -> str:
    """Path of the table of a pool."""
    return f"memory/pool_{pool}/values"


def read_counts(model: Decoder, params: Flat, batch: Batch) -> dict[str, SlotCounts]:
    """Accesses of every pool by one batch, ``(N,)`` int32 by pool path; a forward pass."""
    _placement(model)
    _, collections = model.apply(
        {"params": unflatten(params)}, batch.tokens, batch.valid, mutable=[READS]
    )
    return _count(model, _reads(model, collections), batch.valid)


def sparse_step(
    model: Decoder,
    choices: SparseChoices,
    frozen: Flat,
    usage: Mapping[str, PoolUsage] | None,
    state: SparseState,
    batch: Batch,
    settings: Settings,
) -> tuple[SparseState, StepMetrics]:
    """One step of sparse memory finetuning (2510.15103, section 3).

    Args:
      model: a decoder with memories.
      choices: static choices.
      frozen: every leaf that is not in the state, by path.
      usage: background statistics by pool path, or ``None`` for rules without.
      state: before the step.
      batch: ``(b, t)`` fields.
      settings: of the trial.

    Returns:
      The state after the step, and the metrics before it.
    """
    update = choices.update
    loss, traces, counts, scalar_gradients = _differentiate_reads(model, frozen, state, batch)
    selected = {
        pool: _slots_of_step(choices, counts[pool], pool, usage, state, settings)
        for pool in state.tables
    }
    gradients = {
        pool: row_gradient(traces[pool], slots, counts[pool].shape[0])
        for pool, slots in selected.items()
    }
    clipped, clipped_scalars = update.clipped((gradients, scalar_gradients))
    rate = update.rate(settings.learning_rate, state.step)
    steps = {
        pool: step_rows(table, state.stores[pool], selected[pool], clipped[pool], update, rate)
        for pool, table in state.tables.items()
    }
    scalars, statistics = _step_leaves(
        update, clipped_scalars, state.scalars, state.scalar_statistics, rate
    )
    accepted = (
        all_finite((loss, gradients, scalar_gradients, scalars))
        & _can_be_written(state.tables, steps)
        & (state.failed_step < 0)
    )
    after, count = _write(state, steps, accepted)
    after = after._replace(
        scalars=optax.tree.where(accepted, scalars, state.scalars),
        scalar_statistics=optax.tree.where(accepted, statistics, state.scalar_statistics),
        step=state.step + 1,
        failed_step=_latch(state.failed_step, state.step, accepted),
    )
    return after, StepMetrics(loss, count)


def dense_step(
    logits: LogitsFn,
    update: UpdateRule,
    frozen: Flat,
    state: DenseState,
    batch: Batch,
    settings: Settings,
) -> tuple[DenseState, StepMetrics]:
    """One step that trains whole leaves: full finetuning, replay, LoRA, pretraining, healing.

    Args:
      logits: ``(leaves by path, tokens, valid) -> (b, t, vocabulary)``; is given the frozen and
        the trained leaves together.
      update: the update rule.
      frozen: every leaf that is not in the state, by path.
      state: before the step.
      batch: ``(b, t)`` fields.
      settings: of the trial.

    Returns:
      The state after the step, and the metrics before it.
    """

    def loss_of(leaves: Flat) -> Array:
        return weighted_loss(
            logits({**frozen, **leaves}, batch.tokens, batch.valid), batch.targets, batch.weights
        )

    loss, gradients = jax.value_and_grad(loss_of)(state.leaves)
    rate = update.rate(settings.learning_rate, state.step)
    leaves, statistics = _step_leaves(
        update, update.clipped(gradients), state.leaves, state.statistics, rate
    )
    accepted = all_finite((loss, gradients, leaves)) & (state.failed_step < 0)
    after = DenseState(
        leaves=optax.tree.where(accepted, leaves, state.leaves),
        statistics=optax.tree.where(accepted, statistics, state.statistics),
        step=state.step + 1,
        failed_step=_latch(state.failed_step, state.step, accepted),
    )
    return after, StepMetrics(loss, jnp.zeros((), jnp.int32))


def _differentiate_reads(
    model: Decoder, frozen: Flat, state: SparseState, batch: Batch
) -> tuple[Array, dict[str, list[ReadTrace]], dict[str, SlotCounts], Flat]:
    """Loss, the traces of every pool's reads, accesses, and the gradient of the scalars."""

    def variables(scalars: Flat) -> dict[str, Any]:
        return {"params": unflatten({**frozen, **state.tables, **scalars})}

    def loss_of(perturbations: Any, scalars: Flat) -> tuple[Array, Any]:
        logits, collections = model.apply(
            {**variables(scalars), PERTURBATIONS: perturbations},
            batch.tokens,
            batch.valid,
            mutable=[READS],
        )
        return weighted_loss(logits, batch.targets, batch.weights), collections

    perturbations = _zero_perturbations(model, variables(state.scalars), batch)
    (loss, collections), (cotangents, scalar_gradients) = jax.value_and_grad(
        loss_of, argnums=(0, 1), has_aux=True
    )(perturbations, state.scalars)
    reads = _reads(model, collections)
    traces: dict[str, list[ReadTrace]] = {}
    for layer, read in reads.items():
        cotangent = cotangents["memory"][f"layer_{layer}"]["read"]
        slots, weights = _flat(read.slots), _flat(read.weights)
        pool = pool_path(_placement(model).pool_of(layer))
        traces.setdefault(pool, []).append(ReadTrace(slots, weights, _flat(cotangent)))
    return loss, traces, _count(model, reads, batch.valid), scalar_gradients


def _zero_perturbations(model: Decoder, variables: dict[str, Any], batch: Batch) -> Any:
    """Zeros for the reads of this very batch, one for each memory layer.

    A perturbation of another shape would broadcast silently, so none is ever kept: shapes come
    from an abstract run of the batch at hand.
    """
    _, shapes = jax.eval_shape(
        lambda variables: model.apply(
            variables, batch.tokens, batch.valid, mutable=[PERTURBATIONS]
        ),
        variables,
    )
    placement = _placement(model)
    expected = {
        f"layer_{layer}": {"read": (*batch.tokens.shape, placement.memory.value_width)}
        for layer in placement.layers
    }
    shapes = shapes.get(PERTURBATIONS, {})
    found = jax.tree.map(lambda leaf: leaf.shape, shapes)
    if found != {"memory": expected}:
        raise ValueError(
            f"the model perturbs {found}, expected exactly one read for each memory layer: "
            f"{expected}; a lifted transform (nn.scan over blocks) drops them"
        )
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def _slots_of_step(
    choices: SparseChoices,
    counts: SlotCounts,
    pool: str,
    usage: Mapping[str, PoolUsage] | None,
    state: SparseState,
    settings: Settings,
) -> SlotIds:
    """The slots that this step may write."""
    if choices.granularity == "per_step":
        return select_for(choices, counts, None if usage is None else usage[pool], state, settings)
    if state.task_slots is None:
        raise ValueError("granularity='per_task': select the task's slots before its first step")
    # A selected row that this batch did not read has no gradient and does not advance.
    slots = state.task_slots[pool]
    read = counts.at[slots].get(mode="fill", fill_value=0) > 0
    return jnp.where(read, slots, counts.shape[0])


def select_for(
    choices: SparseChoices,
    counts: SlotCounts,
    usage: PoolUsage | None,
    state: SparseState,
    settings: Settings,
) -> SlotIds:
    """Selects by the choices and settings of a trial; see `select_slots`."""
    return select_slots(
        counts,
        usage,
        rule=choices.rule,
        top_t=settings.budget,
        size=choices.size,
        key=jax.random.fold_in(jax.random.key(settings.seed), state.step),
    )


def _reads(model: Decoder, collections: Mapping[str, Any]) -> dict[int, Any]:
    """The sown read of every memory layer, by layer."""
    placement = _placement(model)
    sown = collections.get(READS, {}).get("memory", {})
    names = {f"layer_{layer}" for layer in placement.layers}
    if sown.keys() != names:
        raise ValueError(f"the model sows reads of {sorted(sown)}, expected {sorted(names)}")
    return {layer: sown[f"layer_{layer}"]["read"] for layer in placement.layers}


def _count(model: Decoder, reads: dict[int, Any], valid: Array) -> dict[str, SlotCounts]:
    """Accesses summed over the layers of each pool."""
    placement = _placement(model)
    counts: dict[str, SlotCounts] = {}
    for layer, read in reads.items():
        pool = pool_path(placement.pool_of(layer))
        of_layer = count_accesses(_flat(read.slots), valid.reshape(-1), placement.memory.slots)
        counts[pool] = counts[pool] + of_layer if pool in counts else of_layer
    return counts


def _placement(model: Decoder) -> Any:
    if model.config.memory is None:
        raise ValueError("the model has no memory: pretrain or retrofit one (model.memory=None)")
    return model.config.memory


def _flat(array: Array) -> Array:
    """``(b, t, …)`` to ``(b·t, everything else)``."""
    return array.reshape(array.shape[0] * array.shape[1], -1)


def _can_be_written(tables: Mapping[str, Table], steps: Mapping[str, RowStep]) -> Array:
    """Whether every new row is finite, as its table will hold it, and every store has room."""
    finite = all_finite([step.rows.astype(tables[pool].dtype) for pool, step in steps.items()])
    return finite & ~jnp.any(jnp.stack([step.overflowed for step in steps.values()]))


def _write(
    state: SparseState, steps: Mapping[str, RowStep], accepted: Array
) -> tuple[SparseState, Int[Array, ""]]:
    """The state with the rows of an accepted step in it, and their number."""
    tables, stores, written = {}, {}, {}
    count = jnp.zeros((), jnp.int32)
    for pool, table in state.tables.items():
        tables[pool], stores[pool] = write_step(table, state.stores[pool], steps[pool], accepted)
        slots = jnp.where(accepted, steps[pool].slots, table.shape[0])
        written[pool] = state.written[pool].at[slots].set(True, mode="drop")
        count += jnp.sum(slots < table.shape[0], dtype=jnp.int32)
    return state._replace(tables=tables, stores=stores, written=written), count


def _step_leaves(
    update: UpdateRule, gradients: Flat, leaves: Flat, statistics: Any, rate: Array
) -> tuple[Flat, Any]:
    """All leaves one step on, and their statistics."""
    moved, advanced = update.statistics().update(gradients, statistics, leaves)
    leaves_after = jax.tree.map(
        lambda leaf, step: leaf - (rate * step).astype(leaf.dtype), leaves, moved
    )
    return leaves_after, advanced


def _latch(failed_step: Array, step: Array, accepted: Array) -> Array:
    return jnp.where((failed_step < 0) & ~accepted, step, failed_step).astype(jnp.int32)
