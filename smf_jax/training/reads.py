"""The reads of a model's memories: their accesses, their traces, the loss's gradient at them.

The table is never differentiated. Zeros are added to what each memory layer read; the loss is
differentiated with respect to them, which yields the cotangent of every read and back-propagates
nothing below the lowest memory.
"""

from __future__ import annotations

from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from smf_jax.data.batching import Batch
from smf_jax.losses import at_scored, weighted_loss
from smf_jax.memory.layer import Read
from smf_jax.mesh import DATA, parts_along, sum_over
from smf_jax.models.decoder import Decoder
from smf_jax.params import Params
from smf_jax.shapes import SlotCounts
from smf_jax.sparse.rows import ReadTrace
from smf_jax.sparse.usage import count_accesses
from smf_jax.training.memory_model import MemoryModel, Perturbations, Reads, as_memory_model

_ADVICE = (
    "name every layer in tables, and mind that a lifted transform (nn.scan over blocks) drops them"
)


def read_counts(
    model: Decoder | MemoryModel, params: Params, batch: Batch
) -> dict[str, SlotCounts]:
    """Accesses of every table by one batch, ``(N,)`` int32 by its path; a forward pass."""
    model = as_memory_model(model)
    _, reads = model.apply(params, batch.tokens, batch.valid, {})
    _check_reads(model, reads)
    counts: dict[str, SlotCounts] = {}
    for table, layers in model.tables.items():
        valid, size = batch.valid.reshape(-1) != 0, len(params[table])
        each = [count_accesses(flat(reads[layer].slots), valid, size) for layer in layers]
        counts[table] = reduce(jnp.add, each)
    return counts


class ReadGradients(NamedTuple):
    """The loss of a batch, by pool path the reads of every layer, by path the scalars' gradient."""

    loss: Float[Array, ""]
    traces: dict[str, list[ReadTrace]]
    scalars: Params


def differentiate_reads(
    model: MemoryModel,
    params: Params,
    scalars: Params,
    batch: Batch,
    parts: int = 1,
    scored: int | None = None,
) -> ReadGradients:
    """Differentiates the loss of a batch with respect to every read, and to the trained scalars.

    ``params`` are all others. Micro-batches, as many as ``parts``, are run one after another: the
    loss of each is weighted by its share of the batch's weights, so that the split is seen in
    rounding only. At most ``scored`` targets of a row have weight, if given. Where devices along
    ``data`` share a batch, each is given its own rows: the loss and the gradient of the scalars are
    those of all, the traces a device's own.
    """

    def of_part(part: Batch) -> ReadGradients:
        def loss_of(perturbations: Perturbations, scalars: Params) -> tuple[Array, Reads]:
            given = {**params, **scalars}
            asked, places = at_scored(part, part.weights, scored)
            where = () if places is None else (places,)
            logits, reads = model.apply(given, part.tokens, part.valid, perturbations, *where)
            return weighted_loss(logits, asked.targets, asked.weights), reads

        zeros = _zero_perturbations(model, {**params, **scalars}, part)
        differentiate = jax.value_and_grad(loss_of, argnums=(0, 1), has_aux=True)
        (loss, reads), (cotangents, of_scalars) = differentiate(zeros, scalars)
        _check_reads(model, reads)
        traces = {
            table: [trace_of(reads[one], cotangents[one]) for one in layers]
            for table, layers in model.tables.items()
        }
        return ReadGradients(loss, traces, of_scalars)

    if parts == 1 and parts_along(DATA) == 1:
        return of_part(batch)
    total = sum_over(DATA, jnp.sum(batch.weights))

    def weighted(_: None, part: Batch) -> tuple[None, ReadGradients]:
        found = of_part(part)
        share = jnp.sum(part.weights) / jnp.maximum(total, jnp.finfo(total.dtype).tiny)
        traces = {
            pool: [t._replace(cotangent=share.astype(t.cotangent.dtype) * t.cotangent) for t in of]
            for pool, of in found.traces.items()
        }
        scaled = jax.tree.map(lambda leaf: share.astype(leaf.dtype) * leaf, found.scalars)
        return None, ReadGradients(share * found.loss, traces, scaled)

    _, found = jax.lax.scan(weighted, None, micro_batches(batch, parts))
    loss, of_scalars = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), (found.loss, found.scalars))
    loss, of_scalars = sum_over(DATA, (loss, of_scalars))
    traces = jax.tree.map(lambda leaf: leaf.reshape(-1, leaf.shape[-1]), found.traces)
    return ReadGradients(loss, traces, of_scalars)


def micro_batches(batch: Batch, parts: int) -> Batch:
    """``(b, t)`` fields as ``(parts, b / parts, t)``; an error if the parts do not divide ``b``."""
    rows = batch.tokens.shape[0]
    if rows % parts:
        raise ValueError(
            f"micro_batches={parts} do not divide a batch of {rows} rows; choose a divisor of it"
        )
    return Batch(*(field.reshape(parts, rows // parts, *field.shape[1:]) for field in batch))


def _zero_perturbations(model: MemoryModel, params: Params, batch: Batch) -> Perturbations:
    """Zeros for the reads of this very batch, one for each memory layer."""
    # One of another shape would broadcast silently, so none is ever kept: shapes come from an
    # abstract run of the batch at hand.
    shapes = model.perturbations(params, batch.tokens, batch.valid)
    expected = {
        layer: (*batch.tokens.shape, params[table].shape[1])
        for table, layers in model.tables.items()
        for layer in layers
    }
    found = {layer: leaf.shape for layer, leaf in shapes.items()}
    # Of rows that are not summed, one perturbation for each.
    if {layer: (*shape[:2], *shape[2:][-1:]) for layer, shape in found.items()} != expected:
        raise ValueError(
            f"the model perturbs {found}, expected exactly one read for each memory layer: "
            f"{expected}; {_ADVICE}"
        )
    return {layer: jnp.zeros(leaf.shape, leaf.dtype) for layer, leaf in shapes.items()}


def _check_reads(model: MemoryModel, reads: Reads) -> None:
    if set(reads) != set(model.layers):
        raise ValueError(
            f"the model sows reads of {sorted(reads)}, expected {sorted(model.layers)}; {_ADVICE}"
        )


def trace_of(read: Read, cotangent: Float[Array, "b t *r v"]) -> ReadTrace:
    """The trace of one layer's read, given the cotangent of its sum or of each of its ``r`` rows.

    Rows that are not summed are so many tokens that read one row each.
    """
    slots, weights = flat(read.slots), flat(read.weights)
    if cotangent.ndim == 3:
        return ReadTrace(slots, weights, flat(cotangent))
    each = (slots.size, 1)
    cotangent = cotangent.reshape(slots.size, cotangent.shape[-1])
    return ReadTrace(slots.reshape(each), weights.reshape(each), cotangent)


def flat(array: Array) -> Array:
    """``(b, t, …)`` to ``(b·t, everything else)``."""
    return array.reshape(array.shape[0] * array.shape[1], -1)
