"""Greedy decoding of a batch of prompts, jitted, with a cache of keys and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Int

from smf_jax.models.attention import Cache, empty_cache
from smf_jax.models.decoder import Decoder
from smf_jax.models.layers import Hidden, Tokens, Valid

Generated = Int[Array, "b steps"]


class _State(NamedTuple):
    """A decode after ``step`` tokens; ``latest`` is the last of them, and not yet in the cache."""

    step: Array
    latest: Int[Array, " b"]
    ended: Bool[Array, " b"]
    tokens: Generated
    cache: Cache


def left_pad(
    sequences: Sequence[Sequence[int]], pad: int, multiple: int = 8
) -> tuple[np.ndarray, np.ndarray]:
    """Prompts of different lengths as one batch that ends together.

    Args:
      sequences: token ids, one sequence a prompt; none empty.
      pad: the token put before the shorter ones.
      multiple: the length is rounded up to a multiple of this, so that few shapes are compiled.

    Returns:
      ``(tokens, valid)``, both ``(b, t)``.
    """
    lengths = [len(sequence) for sequence in sequences]
    if not lengths or min(lengths) == 0:
        empty = lengths.index(0) if lengths else None
        raise ValueError(
            f"prompt {empty} is empty; a decode starts from at least one token, such as bos"
            if lengths
            else "sequences=[] holds no prompt; give at least one"
        )
    length = -(-max(lengths) // multiple) * multiple
    valid = np.arange(length) >= length - np.array(lengths)[:, None]
    tokens = np.full(valid.shape, pad, np.int32)
    tokens[valid] = np.concatenate([np.asarray(sequence, np.int32) for sequence in sequences])
    return tokens, valid


def generate(
    model: Decoder,
    params: Mapping[str, Any],
    prompts: Tokens | np.ndarray,
    valid: Valid | np.ndarray,
    steps: int,
    stop: Sequence[int] = (),
) -> Generated:
    """Continues every prompt with the likeliest token, step by step.

    Equal to choosing ``argmax`` of the whole model's logits anew for every token. The work ends
    as soon as every row has met a stop token.

    Args:
      model: the decoder.
      params: its nested parameters.
      prompts: ``(b, t)``, padded on the left.
      valid: ``(b, t)``, false on pads.
      steps: how many tokens to give back.
      stop: tokens that end a row.

    Returns:
      ``(b, steps)`` int32; a row that ended repeats its stop token.

    Raises:
      ValueError: ``steps`` below 1, shapes that differ, a prompt padded on the right, or more
        tokens than the model takes.
    """
    if steps < 1:
        raise ValueError(f"steps={steps} must be at least 1")
    if prompts.shape != valid.shape or prompts.ndim != 2:
        raise ValueError(
            f"prompts {prompts.shape} and valid {valid.shape} must have one shape (b, t)"
        )
    if not isinstance(valid, Tracer) and not np.asarray(valid)[:, -1].all():
        raise ValueError(
            "valid is false at the end of a prompt; pads belong on the left, see left_pad"
        )
    return _decode(model, params, prompts, valid, steps, np.array(stop, np.int32))


@partial(jax.jit, static_argnames=("model", "steps"))
def _decode(
    model: Decoder,
    params: Mapping[str, Any],
    prompts: Tokens,
    valid: Valid,
    steps: int,
    stop: Int[Array, " stops"],
) -> Generated:
    apply: Any = partial(model.apply, {"params": params})

    def likeliest(x: Hidden) -> Int[Array, " b"]:
        logits = apply(x[:, -1:], method="logits")
        return jnp.argmax(logits[:, 0], axis=-1).astype(jnp.int32)

    def unfinished(state: _State) -> Array:
        return (state.step < steps) & ~jnp.all(state.ended)

    def advance(state: _State) -> _State:
        latest = state.latest[:, None]
        x, cache = apply(latest, jnp.ones(latest.shape, bool), state.cache, method="extend")
        token = jnp.where(state.ended, state.latest, likeliest(x))
        tokens = state.tokens.at[:, state.step].set(token)
        ended = state.ended | jnp.isin(token, stop)
        return _State(state.step + 1, token, ended, tokens, cache)

    batch, length = prompts.shape
    cache = empty_cache(model.config, batch, length + steps)
    x, cache = apply(prompts, valid, cache, method="extend")
    first = likeliest(x)
    tokens = jnp.broadcast_to(first[:, None], (batch, steps))
    start = _State(jnp.ones((), jnp.int32), first, jnp.isin(first, stop), tokens, cache)
    end = jax.lax.while_loop(unfinished, advance, start)
    return jnp.where(jnp.arange(steps)[None] < end.step, end.tokens, end.latest[:, None])
