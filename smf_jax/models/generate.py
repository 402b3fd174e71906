"""Decoding a batch of prompts, greedy or sampled, jitted, with a cache of keys and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, DTypeLike, Float, Int

from smf_jax.models.attention import Cache, empty_cache
from smf_jax.models.config import ModelConfig
from smf_jax.models.decoder import Decoder
from smf_jax.models.layers import Hidden, Tokens, Valid
from smf_jax.params import flatten, is_quantised, memory_part, unflatten

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
    """Prompts of different lengths, none empty, as ``(tokens, valid)``, both ``(b, t)``.

    They end together: the shorter ones begin with ``pad``. The length is a multiple, so that
    few shapes are compiled.
    """
    lengths = [len(sequence) for sequence in sequences]
    if not lengths:
        raise ValueError("sequences=[] holds no prompt; give at least one")
    if 0 in lengths:
        prompt = f"prompt {lengths.index(0)}"
        raise ValueError(f"{prompt} is empty; a decode starts from at least one token, such as bos")
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
    *,
    temperature: float = 0.0,
    key: Array | None = None,
    prefix: Sequence[int] = (),
) -> Generated:
    """Continues every prompt token by token, with the likeliest one or with one drawn.

    At temperature 0 that equals choosing ``argmax`` of the whole model's logits anew for every
    token; above it is drawn from ``softmax(logits / temperature)``, with one key, or one for each
    row ``(b,)``, so that a row's draws do not depend on its neighbours. The work ends as soon as
    every row has met a token of ``stop``, which it then repeats. Calls of equal shapes share one
    compilation, whatever the stop tokens, their number and the temperature above 0. ``params`` are
    nested or by path; prompts are padded on the left, where ``valid`` is false. Tokens of
    ``prefix`` stand before every prompt and are computed once for all rows. Returns int32.

    Raises:
      ValueError: ``steps`` below 1, shapes that differ, a prompt padded on the right, a stop token
        outside of the vocabulary, a temperature below 0 or above it without a key, or more tokens
        than the model takes.
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
    keys = _row_keys(temperature, key, prompts.shape[0])
    ends = _stop_mask(stop, model.config.vocabulary)
    flat = flatten(params)
    heat = None if keys is None else jnp.asarray(temperature, jnp.float32)
    shared = np.asarray(prefix, np.int32)
    return _decode(model, flat, shared, prompts, valid, steps, ends, heat, keys)


def trim(tokens: Sequence[int], stop: Sequence[int]) -> list[int]:
    """A row of `generate` up to the token that ended it, which is left out."""
    ends = frozenset(stop)
    end = next((place for place, token in enumerate(tokens) if int(token) in ends), len(tokens))
    return [int(token) for token in tokens[:end]]


def _row_keys(temperature: float, key: Array | None, rows: int) -> Array | None:
    """A key for each row, ``None`` where nothing is drawn."""
    if not temperature >= 0:
        raise ValueError(f"temperature={temperature} must be 0 (greedy) or above")
    if temperature == 0:
        return None
    if key is None:
        raise ValueError(
            f"temperature={temperature} draws tokens and key=None; give a key of jax.random, or "
            "temperature=0"
        )
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or key.shape not in ((), (rows,)):
        raise ValueError(
            f"key is {key.dtype}{list(key.shape)}; expected one of jax.random.key(seed), or one "
            f"for each of {rows} rows"
        )
    return key if key.shape else jax.random.split(key, rows)


def _stop_mask(stop: Sequence[int], vocabulary: int) -> np.ndarray:
    """Which tokens end a row, ``(vocabulary,)``: one shape for any number of them."""
    ids = np.array(stop, np.int64)
    if outside := ids[(ids < 0) | (ids >= vocabulary)].tolist():
        raise ValueError(
            f"stop={outside} are no tokens of this model, whose vocabulary has {vocabulary}"
        )
    mask = np.zeros(vocabulary, bool)
    mask[ids] = True
    return mask


def widened(path: str, leaf: Any, dtype: DTypeLike) -> Any:
    """A leaf in the dtype of the computation if it is narrower: once, and not for every token.

    Tables, of which only few rows are read, and quantised matrices stay as they are.
    """
    part = memory_part(path)
    is_table = part is not None and part.kind == "pool"
    narrow = leaf.dtype.itemsize < jnp.dtype(dtype).itemsize
    return leaf.astype(dtype) if narrow and not is_table and not is_quantised(path) else leaf


def _filled_cache(
    config: ModelConfig, apply: Any, prefix: Int[Array, " p"], batch: int, places: int
) -> Cache:
    """A cache that starts with the prefix in every row, and has so many places left."""
    count = prefix.shape[0]
    cache = empty_cache(config, 1 if count else batch, count + places)
    if not count:
        return cache
    _, cache = apply(prefix[None], jnp.ones((1, count), bool), cache, method="extend")
    rows = lambda x: jnp.broadcast_to(x, (batch, *x.shape[1:]))  # noqa: E731
    keys, values = (tuple(map(rows, each)) for each in (cache.keys, cache.values))
    return Cache(keys, values, rows(cache.valid), cache.length, rows(cache.before))


@partial(jax.jit, static_argnames=("model", "steps"))
def _decode(
    model: Decoder,
    flat: Mapping[str, Array],
    prefix: Int[Array, " p"],
    prompts: Tokens,
    valid: Valid,
    steps: int,
    ends: Bool[Array, " vocabulary"],
    temperature: Float[Array, ""] | None,
    keys: Array | None,
) -> Generated:
    wide = {path: widened(path, leaf, model.config.dtype) for path, leaf in flat.items()}
    apply: Any = partial(model.apply, {"params": unflatten(wide)})

    def choose(x: Hidden, step: int | Array) -> Int[Array, " b"]:
        logits = apply(x[:, -1:], method="logits")[:, 0]
        if keys is None or temperature is None:
            return jnp.argmax(logits, axis=-1).astype(jnp.int32)
        of_step = jax.vmap(jax.random.fold_in, (0, None))(keys, step)
        return jax.vmap(jax.random.categorical)(of_step, logits / temperature).astype(jnp.int32)

    def unfinished(state: _State) -> Array:
        return (state.step < steps) & ~jnp.all(state.ended)

    def advance(state: _State) -> _State:
        latest = state.latest[:, None]
        x, cache = apply(latest, jnp.ones(latest.shape, bool), state.cache, method="extend")
        token = jnp.where(state.ended, state.latest, choose(x, state.step))
        tokens = state.tokens.at[:, state.step].set(token)
        return _State(state.step + 1, token, state.ended | ends[token], tokens, cache)

    batch, length = prompts.shape
    cache = _filled_cache(model.config, apply, prefix, batch, length + steps)
    x, cache = apply(prompts, valid, cache, method="extend")
    first = choose(x, 0)
    tokens = jnp.broadcast_to(first[:, None], (batch, steps))
    start = _State(jnp.ones((), jnp.int32), first, ends[first], tokens, cache)
    end = jax.lax.while_loop(unfinished, advance, start)
    return jnp.where(jnp.arange(steps)[None] < end.step, end.tokens, end.latest[:, None])
