"""The reads of a model's memories: their accesses, their traces, the loss's gradient at them.

The table is never differentiated. Zeros are added to what each memory layer read; the loss is
differentiated with respect to them, which yields the cotangent of every read and back-propagates
nothing below the lowest memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from smf_jax.data.batching import Batch
from smf_jax.losses import weighted_loss
from smf_jax.memory.layer import PERTURBATIONS, READS
from smf_jax.models.decoder import Decoder
from smf_jax.params import Params, unflatten
from smf_jax.shapes import SlotCounts, Table
from smf_jax.sparse.rows import ReadTrace
from smf_jax.sparse.usage import count_accesses


def pool_path(pool: int) -> str:
    """Path of the table of a pool."""
    return f"memory/pool_{pool}/values"


def read_counts(model: Decoder, params: Params, batch: Batch) -> dict[str, SlotCounts]:
    """Accesses of every pool by one batch, ``(N,)`` int32 by pool path; a forward pass."""
    _placement(model)
    _, collections = model.apply(
        {"params": unflatten(params)}, batch.tokens, batch.valid, mutable=[READS]
    )
    return _count(model, _reads(model, collections), batch.valid)


class ReadGradients(NamedTuple):
    """The loss of a batch and what its gradient is made from.

    Attributes:
      loss: the weighted loss.
      traces: by pool path, the reads of every layer of the pool.
      scalars: gradient of the scalars, by path.
    """

    loss: Float[Array, ""]
    traces: dict[str, list[ReadTrace]]
    scalars: Params


def differentiate_reads(
    model: Decoder, frozen: Params, tables: Mapping[str, Table], scalars: Params, batch: Batch
) -> ReadGradients:
    """Differentiates the loss of a batch with respect to every read, and to the scalars.

    Args:
      model: a decoder with memories.
      frozen: every leaf that is given nowhere else, by path.
      tables: by pool path.
      scalars: trained scalars, by path.
      batch: ``(b, t)`` fields.
    """

    def variables(scalars: Params) -> dict[str, Any]:
        return {"params": unflatten({**frozen, **tables, **scalars})}

    def loss_of(perturbations: Any, scalars: Params) -> tuple[Array, Any]:
        logits, collections = model.apply(
            {**variables(scalars), PERTURBATIONS: perturbations},
            batch.tokens,
            batch.valid,
            mutable=[READS],
        )
        return weighted_loss(logits, batch.targets, batch.weights), collections

    perturbations = _zero_perturbations(model, variables(scalars), batch)
    (loss, collections), (cotangents, scalar_gradients) = jax.value_and_grad(
        loss_of, argnums=(0, 1), has_aux=True
    )(perturbations, scalars)
    reads = _reads(model, collections)
    traces: dict[str, list[ReadTrace]] = {}
    for layer, read in reads.items():
        cotangent = cotangents["memory"][f"layer_{layer}"]["read"]
        slots, weights = _flat(read.slots), _flat(read.weights)
        pool = pool_path(_placement(model).pool_of(layer))
        traces.setdefault(pool, []).append(ReadTrace(slots, weights, _flat(cotangent)))
    return ReadGradients(loss, traces, scalar_gradients)


def accumulate_reads(
    model: Decoder,
    frozen: Params,
    tables: Mapping[str, Table],
    scalars: Params,
    batch: Batch,
    parts: int,
) -> ReadGradients:
    """What `differentiate_reads` gives of a whole batch, a micro-batch at a time.

    The loss of each is weighted by its share of the batch's weights, so that the split is seen in
    rounding only.

    Args:
      model: a decoder with memories.
      frozen: every leaf that is given nowhere else, by path.
      tables: by pool path.
      scalars: trained scalars, by path.
      batch: ``(b, t)`` fields.
      parts: number of micro-batches, which divides ``b``.
    """
    if parts == 1:
        return differentiate_reads(model, frozen, tables, scalars, batch)
    total = jnp.sum(batch.weights)

    def one(_: None, part: Batch) -> tuple[None, ReadGradients]:
        found = differentiate_reads(model, frozen, tables, scalars, part)
        share = jnp.sum(part.weights) / jnp.maximum(total, jnp.finfo(total.dtype).tiny)
        traces = {
            pool: [t._replace(cotangent=share.astype(t.cotangent.dtype) * t.cotangent) for t in of]
            for pool, of in found.traces.items()
        }
        scaled = jax.tree.map(lambda leaf: share.astype(leaf.dtype) * leaf, found.scalars)
        return None, ReadGradients(share * found.loss, traces, scaled)

    _, found = jax.lax.scan(one, None, micro_batches(batch, parts))
    return ReadGradients(
        jnp.sum(found.loss),
        jax.tree.map(lambda leaf: leaf.reshape(-1, leaf.shape[-1]), found.traces),
        jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), found.scalars),
    )


def micro_batches(batch: Batch, parts: int) -> Batch:
    """``(b, t)`` fields as ``(parts, b / parts, t)``.

    Raises:
      ValueError: if the parts do not divide the batch.
    """
    rows = batch.tokens.shape[0]
    if rows % parts:
        raise ValueError(
            f"micro_batches={parts} do not divide a batch of {rows} rows; choose a divisor of it"
        )
    return Batch(*(field.reshape(parts, rows // parts, *field.shape[1:]) for field in batch))


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
