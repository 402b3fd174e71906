"""White queries: a memory whose table general text uses evenly.

Product keys split each query in halves and compare them with a few keys. Where a model's hidden
states vary along few directions, so do its queries, few keys win, and texts that have nothing in
common share slots: what one teaches, the other forgets. Whitening the queries on general text is
the same cure as PKM's query BatchNorm (1907.05242, section 3.2 and table 2, where it raised the
used slots of a million from 25.8 to 80.3 %), with the covariance between dimensions in it, folded
into the projection: nothing is left to keep or to update.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from smf_jax.data.batching import Batch
from smf_jax.models.decoder import Decoder
from smf_jax.training.state import Flat, unflatten

# Directions that hardly vary are not blown up: eigenvalues are raised by this share of the largest.
FLOOR = 1e-3


def whiten_queries(model: Decoder, leaves: Flat, batch: Batch) -> Flat:
    """Changes the query projections so that queries are white on a batch of general text.

    Per head and half, ``q ← (q - μ) C^-½`` with the mean and covariance of its ``c`` dimensions
    over the valid tokens. Memory layers are treated from the lowest to the highest, since what the
    lower ones read moves the queries of the higher ones.

    Args:
      model: a decoder with memories, whose queries have biases.
      leaves: its leaves by path; they are not changed.
      batch: ``(b, t)`` fields.

    Returns:
      All leaves, with new query kernels and biases.

    Raises:
      ValueError: if the model has no memory, or its queries have no bias.
    """
    placement = model.config.memory
    if placement is None:
        raise ValueError("the model has no memory, so it has no queries to whiten")
    if not placement.memory.query_bias:
        raise ValueError("query_bias=False: whitening moves the queries' mean into their bias")
    half = placement.memory.key_width // 2
    leaves = dict(leaves)
    for layer in placement.layers:
        path = f"memory/layer_{layer}/query"
        queries = _queries(model, leaves, batch, layer)
        mean, whitener = _whitener(queries.reshape(len(queries), -1, half))
        kernel, bias = leaves[f"{path}/kernel"], leaves[f"{path}/bias"]
        groups = kernel.reshape(kernel.shape[0], -1, half)
        new_kernel = jnp.einsum("dgc,gce->dge", groups, whitener).reshape(kernel.shape)
        new_bias = jnp.einsum("gc,gce->ge", bias.reshape(-1, half) - mean, whitener)
        leaves[f"{path}/kernel"] = new_kernel.astype(kernel.dtype)
        leaves[f"{path}/bias"] = new_bias.reshape(bias.shape).astype(bias.dtype)
    return leaves


def _queries(model: Decoder, leaves: Flat, batch: Batch, layer: int) -> Float[Array, "t q"]:
    """The projected queries of the valid tokens, before any norm."""
    caught: list[Array] = []

    def catch(next_function: Any, arguments: Any, options: Any, context: Any) -> Any:
        out = next_function(*arguments, **options)
        if context.module.path[-3:] == ("memory", f"layer_{layer}", "query"):
            caught.append(out)
        return out

    @jax.jit
    def queries(leaves: Flat) -> Array:
        caught.clear()
        with nn.intercept_methods(catch):
            model.apply({"params": unflatten(leaves)}, batch.tokens, batch.valid)
        return caught[0]

    found = queries(leaves).astype(jnp.float32)
    return found[jnp.asarray(batch.valid).reshape(-1)]


def _whitener(
    queries: Float[Array, "t g c"],
) -> tuple[Float[Array, "g c"], Float[Array, "g c c"]]:
    """Mean and ``C^-½`` of every group of dimensions."""
    mean = jnp.mean(queries, axis=0)
    centred = queries - mean[None]
    covariance = jnp.einsum("tgc,tge->gce", centred, centred) / queries.shape[0]
    values, vectors = jnp.linalg.eigh(covariance)
    values = values + FLOOR * jnp.max(values, axis=-1, keepdims=True)
    return mean, jnp.einsum("gce,gfe->gcf", vectors / jnp.sqrt(values)[:, None, :], vectors)
