"""A base in four bits, rounded so that text goes through it as through the float model."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from smf_jax.bases.base import Base
from smf_jax.data.batching import Batch, in_chunks
from smf_jax.errors import blame_flag, require_memory
from smf_jax.models.decoder import Decoder
from smf_jax.models.layers import Hidden, Linear
from smf_jax.models.quantised import is_matrix, quantised_leaf
from smf_jax.models.rounding import FourBit, round_matrix
from smf_jax.params import Params, block_of, unflatten
from smf_jax.progress import progress_bar, say

# Windows of text that are run at a time.
ROWS = 8


def quantise_base(base: Base, precision: FourBit, windows: Batch) -> Base:
    """The base with its matrices in four bits, rounded on text ``(windows, t)``.

    Every matrix of a block is rounded for what is multiplied with it in the float model (GPTQ,
    2210.17323, which measures it behind the blocks that are rounded already: worse here, see
    docs/models.md). Embedding and head are int8; memories, norms and biases stay. The float model
    is held meanwhile, what enters a block and what leaves it for all of the text, and of one block
    the second moments of all inputs, float32.

    ValueError if the base is held in few bits already, a number of it is not finite, or the text is
    more than this machine can hold.
    """
    base.require_float(precision)
    count, length = windows.tokens.shape
    held_twice = 2 * windows.tokens.size * base.config.width * jnp.dtype(base.config.dtype).itemsize
    require_memory(held_twice, f"--round_tokens={windows.tokens.size}")
    how = f"rounded to {precision} on {count:,} windows of {length} tokens"
    say(how)
    model, params = base.model, base.params
    held: dict[str, Any] = {}
    for path, leaf in params.items():
        if not is_matrix(path):
            held[path] = leaf
        elif block_of(path) is None:
            rows = _rows(path, leaf)
            held |= quantised_leaf(path, precision, rows.shape, partial(_between, rows))
    parts = in_chunks(lambda part: Batch(*map(jnp.asarray, part)), windows, ROWS)
    embed = jax.jit(partial(_embed, model))
    hidden = [embed(params, part) for part in parts]
    with progress_bar(base.config.layers, f"rounding to {precision}", "block") as progress:
        for block in range(base.config.layers):
            moments, hidden = _through(model, block, params, hidden, parts)
            for path, own in moments.items():
                with blame_flag(f"{path}: "):
                    codes, scales = round_matrix(precision, _rows(path, params[path]), own)
                module = path.rpartition("/")[0]
                held |= {f"{module}/codes": codes, f"{module}/scales": scales}
            progress(block + 1)
    config = dataclasses.replace(base.config, precision=precision)
    leaves = jax.tree.map(jnp.asarray, dict(sorted(held.items())))
    origin = f"{base.origin}, {how}"
    return dataclasses.replace(base, config=config, params=leaves, origin=origin)


def _through(
    model: Decoder, block: int, params: Params, hidden: list[Hidden], parts: list[Batch]
) -> tuple[dict[str, np.ndarray], list[Hidden]]:
    """``Σ x xᵀ`` of what is multiplied with each matrix of a block, by path; what leaves the block.

    ``hidden`` enters it. Sums are over valid tokens, ``(i, i)`` float32.
    """

    @jax.jit
    def add(sums: Params, params: Params, x: Hidden, part: Batch) -> tuple[Params, Hidden]:
        valid = part.valid.reshape(-1, 1) != 0

        def catch(next_function: Any, arguments: Any, options: Any, context: Any) -> Any:
            path = "/".join(context.module.path) + "/kernel"
            if isinstance(context.module, Linear) and is_matrix(path):
                flat = jnp.where(valid, arguments[0].reshape(len(valid), -1), 0)
                square = jnp.einsum("ti,tj->ij", flat, flat, preferred_element_type=jnp.float32)
                found[path] = square + sums[path] if sums else square
            return next_function(*arguments, **options)

        found: dict[str, Array] = {}
        blocks = range(block, block + 1)
        arguments = (x, part.tokens, part.valid, None, blocks)
        with nn.intercept_methods(catch):
            out: Any = model.apply(
                {"params": unflatten(params)}, *arguments, method=Decoder.through
            )
        return found, out

    start, _ = jax.eval_shape(add, {}, params, hidden[0], parts[0])
    sums: Params = {path: jnp.zeros(leaf.shape, leaf.dtype) for path, leaf in start.items()}
    outputs = []
    for x, part in zip(hidden, parts, strict=True):
        sums, out = add(sums, params, x, part)
        outputs.append(out)
    return {path: np.asarray(square) for path, square in sums.items()}, outputs


def _embed(model: Decoder, params: Params, part: Batch) -> Hidden:
    leaves = {"params": unflatten(params)}
    found: Any = model.apply(leaves, part.tokens, part.valid, method=Decoder.embed)
    return found


def _rows(path: str, leaf: Array) -> np.ndarray:
    """A matrix by rows, an output or a token to each, float32."""
    return np.asarray(leaf.T if path.endswith("/kernel") else leaf, np.float32)


def _between(rows: np.ndarray, first: int, end: int) -> np.ndarray:
    return rows[first:end]
