"""White queries: a memory whose table general text uses evenly.

Where hidden states vary along few directions, few keys win, and texts that have nothing in common
share slots: what one teaches, the other forgets. Whitening is the same cure as PKM's BatchNorm of
queries (1907.05242, section 3.2, table 2), with the covariance in it, folded into the projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from smf_jax.data.batching import Batch
from smf_jax.models.decoder import Decoder
from smf_jax.params import Params, is_pool, memory_layer_path, unflatten
from smf_jax.tables import ImplicitTable, written_rows

# Rows of text that are run at a time.
ROWS = 64
# Directions that hardly vary are not blown up: eigenvalues are raised by this share of the largest.
FLOOR = 1e-3


def whiten_queries(model: Decoder, params: Params, batch: Batch) -> Params:
    """Changes the query projections so that queries are white on a batch of general text.

    Per head and half, ``q ← (q - μ) C^-½`` with the mean and covariance of its ``c`` dimensions
    over the valid tokens. Memory layers are treated from the lowest to the highest, since what the
    lower ones read moves the queries of the higher ones, or side by side while nothing is read; the
    queries of all tokens of such a pass are held. All params are returned, query kernels
    and biases new, the given ones unchanged. No memory, no queries or no query bias of them is a
    ValueError.
    """
    placement = model.config.memory
    if placement is None:
        raise ValueError("the model has no memory, so it has no queries to whiten")
    if placement.memory.is_hashed:
        raise ValueError("router='ngram' has no queries to whiten: slots are hashes of token ids")
    if not placement.memory.query_bias:
        raise ValueError("query_bias=False: whitening moves the queries' mean into their bias")
    half = placement.memory.key_width // 2
    params = dict(params)
    for layers in _independent(placement.layers, params):
        queries = _projected(model, params, batch, layers)
        for layer in layers:
            path = f"{memory_layer_path(layer)}/query"
            mean, covariance = _moments(queries[layer], batch, half)
            whitener = _inverse_root(covariance)
            kernel, bias = params[f"{path}/kernel"], params[f"{path}/bias"]
            groups = kernel.reshape(kernel.shape[0], -1, half)
            new_kernel = jnp.einsum("dgc,gce->dge", groups, whitener).reshape(kernel.shape)
            new_bias = jnp.einsum("gc,gce->ge", bias.reshape(-1, half) - mean, whitener)
            params[f"{path}/kernel"] = new_kernel.astype(kernel.dtype)
            params[f"{path}/bias"] = new_bias.reshape(bias.shape).astype(bias.dtype)
            if placement.memory.query_norm == "batch":
                # Running statistics of queries that were not white would undo it.
                for name, start in (("mean", jnp.zeros_like), ("variance", jnp.ones_like)):
                    params[f"{path}_norm/{name}"] = start(params[f"{path}_norm/{name}"])
    return params


def _independent(layers: Sequence[int], params: Params) -> list[tuple[int, ...]]:
    """Layers, which ascend, in the order of treatment: those in one part hang on no other of it.

    They are all of them where no table has a row yet, as what is read is zero.
    """
    tables = [leaf for path, leaf in params.items() if is_pool(path)]
    if all(isinstance(each, ImplicitTable) and not written_rows(each)[0].size for each in tables):
        return [tuple(layers)]
    return [(layer,) for layer in layers]


def _projected(
    model: Decoder, params: Params, batch: Batch, layers: Sequence[int]
) -> dict[int, list[Array]]:
    """By layer the queries of the tokens, before any norm, ``(rows·t, q)`` for some of the rows."""
    found: dict[int, list[Array]] = {layer: [] for layer in layers}
    paths = {f"{memory_layer_path(layer)}/query": layer for layer in layers}
    caught: dict[int, Array] = {}

    def catch(next_function: Any, arguments: Any, options: Any, context: Any) -> Any:
        out = next_function(*arguments, **options)
        if (layer := paths.get("/".join(context.module.path))) is not None:
            caught[layer] = out
        return out

    @jax.jit
    def project(params: Params, batch: Batch) -> dict[int, Array]:
        caught.clear()
        with nn.intercept_methods(catch):
            model.apply({"params": unflatten(params)}, batch.tokens, batch.valid)
        return dict(caught)

    rows, length = batch.tokens.shape
    for start in range(0, rows, ROWS):
        # Without those of the rows that fill up the last ones.
        own = min(ROWS, rows - start) * length
        for layer, queries in project(params, _chunk(batch, start)).items():
            found[layer].append(queries[:own])
    return found


def _moments(
    queries: Sequence[Array], batch: Batch, half: int
) -> tuple[Float[Array, "g c"], Float[Array, "g c c"]]:
    """Mean and covariance of the queries of the valid tokens; the second is about the first."""
    valid = np.asarray(batch.valid).reshape(-1) != 0
    ends = np.cumsum([len(each) for each in queries])
    masks = np.split(valid, ends[:-1])
    tokens = max(1, int(valid.sum()))

    def total(mean: Array) -> tuple[Array, Array]:
        of_chunks = [_sums(*of, mean) for of in zip(queries, masks, strict=True)]
        return jax.tree.map(lambda *each: sum(each), *of_chunks)

    mean = total(jnp.zeros((queries[0].shape[-1] // half, half)))[0] / tokens
    return mean, total(mean)[1] / tokens


@jax.jit
def _sums(
    queries: Float[Array, "t q"], valid: Bool[Array, " t"], mean: Float[Array, "g c"]
) -> tuple[Float[Array, "g c"], Float[Array, "g c c"]]:
    """Sums of what queries are beside a mean, and of its products."""
    beside = queries.reshape(-1, *mean.shape).astype(mean.dtype) - mean[None]
    beside = jnp.where(jnp.expand_dims(valid, (1, 2)), beside, 0)
    return jnp.sum(beside, axis=0), jnp.einsum("tgc,tge->gce", beside, beside)


def _chunk(batch: Batch, start: int) -> Batch:
    """`ROWS` rows of a batch, the last ones filled up with pads."""
    rows = [np.asarray(field[start : start + ROWS]) for field in batch]
    return Batch(*(np.pad(field, ((0, ROWS - len(field)), (0, 0))) for field in rows))


def _inverse_root(covariance: Float[Array, "g c c"]) -> Float[Array, "g c c"]:
    """``C^-½`` of every group of dimensions."""
    values, vectors = jnp.linalg.eigh(covariance)
    values = values + FLOOR * jnp.max(values, axis=-1, keepdims=True)
    return jnp.einsum("gce,gfe->gcf", vectors / jnp.sqrt(values)[:, None, :], vectors)
