"""Compiled steps of a server: a batch that is decoded a few tokens at a time, and scored texts.

As `smf_jax.models.generate`, but what was decoded can be sent while the rest is not there yet, and
log-probabilities come with it. Letters: ``b`` rows, ``c`` tokens of a chunk, ``a`` alternatives.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from smf_jax.models.attention import Cache, empty_cache
from smf_jax.models.decoder import Decoder
from smf_jax.models.layers import Hidden, Tokens, Valid
from smf_jax.params import unflatten

_SCORED_AT_ONCE = 64  # places of a row whose logits exist at once


class Told(NamedTuple):
    """Tokens with what the model said of them."""

    tokens: Int[Array, "b c"]
    log_probability: Float[Array, "b c"]  # nats
    others: Int[Array, "b c a"]  # the likeliest tokens, the first of them first
    other_log_probability: Float[Array, "b c a"]


class Rows(NamedTuple):
    """What the rows of a batch are decoded by."""

    limit: Int[Array, " b"]  # tokens at most; 0 for a row that only fills the batch
    temperature: Float[Array, " b"]  # 0: the likeliest token
    key: Array  # ``(b,)``, of `jax.random`: a row's draws do not depend on its neighbours


class State(NamedTuple):
    """A batch after ``step`` tokens; ``latest`` is the last of them, not yet in the cache."""

    step: Int[Array, ""]
    latest: Int[Array, " b"]
    ended: Bool[Array, " b"]
    cache: Cache


@partial(jax.jit, static_argnames=("model", "places", "others"))
def start(
    model: Decoder,
    params: Mapping[str, Any],
    tokens: Tokens,
    valid: Valid,
    ends: Bool[Array, " vocabulary"],
    rows: Rows,
    places: int,
    others: int,
) -> tuple[State, Told]:
    """Reads prompts, padded on the left, and decodes the first token of each.

    ``places`` is what the cache has room for, prompts included, ``others`` the alternatives told.
    """
    apply: Any = partial(model.apply, {"params": unflatten(params)})
    cache = empty_cache(model.config, tokens.shape[0], places)
    x, cache = apply(tokens, valid, cache, method="extend")
    told = _choose(apply, x[:, -1:], jnp.zeros((), jnp.int32), rows, others)
    latest = told.tokens[:, 0]
    ended = ends[latest] | (rows.limit <= 1)
    return State(jnp.ones((), jnp.int32), latest, ended, cache), told


@partial(jax.jit, static_argnames=("model", "chunk", "others"), donate_argnames="state")
def go_on(
    model: Decoder,
    params: Mapping[str, Any],
    state: State,
    gone: Bool[Array, " b"],
    ends: Bool[Array, " vocabulary"],
    rows: Rows,
    chunk: int,
    others: int,
) -> tuple[State, Told]:
    """Decodes ``chunk`` tokens more, or fewer where all rows have ended.

    Rows that are ``gone`` end before. What a row is told behind its end means nothing.
    """
    apply: Any = partial(model.apply, {"params": unflatten(params)})
    batch = state.latest.shape[0]
    kind = jnp.promote_types(jnp.float32, model.config.dtype)
    empty = Told(
        jnp.zeros((batch, chunk), jnp.int32),
        jnp.zeros((batch, chunk), kind),
        jnp.zeros((batch, chunk, others), jnp.int32),
        jnp.zeros((batch, chunk, others), kind),
    )

    def unfinished(carried: tuple[Array, State, Told]) -> Array:
        return (carried[0] < chunk) & ~jnp.all(carried[1].ended)

    def advance(carried: tuple[Array, State, Told]) -> tuple[Array, State, Told]:
        place, now, so_far = carried
        latest = now.latest[:, None]
        x, cache = apply(latest, jnp.ones(latest.shape, bool), now.cache, method="extend")
        told = _choose(apply, x, now.step, rows, others)
        so_far = Told(*(a.at[:, place].set(new[:, 0]) for a, new in zip(so_far, told, strict=True)))
        step, token = now.step + 1, told.tokens[:, 0]
        ended = now.ended | ends[token] | (step >= rows.limit)
        return place + 1, State(step, token, ended, cache), so_far

    begin = state._replace(ended=state.ended | gone)
    _, state, told = jax.lax.while_loop(
        unfinished, advance, (jnp.zeros((), jnp.int32), begin, empty)
    )
    return state, told


def _choose(apply: Any, x: Hidden, step: Array, rows: Rows, others: int) -> Told:
    """The next token of every row ``(b, 1, d)``."""
    logits = apply(x, method="logits")[:, 0]
    of_step = jax.vmap(jax.random.fold_in, (0, None))(rows.key, step)
    heat = jnp.where(rows.temperature > 0, rows.temperature, 1)[:, None].astype(logits.dtype)
    drawn = jax.vmap(jax.random.categorical)(of_step, logits / heat)
    token = jnp.where(rows.temperature > 0, drawn, jnp.argmax(logits, axis=-1)).astype(jnp.int32)
    logs = jax.nn.log_softmax(logits, axis=-1)
    chosen = jnp.take_along_axis(logs, token[:, None], axis=1)
    best, ids = _best(logs, others)
    return Told(token[:, None], chosen, ids[:, None], best[:, None])


def _best(logs: Array, others: int) -> tuple[Array, Array]:
    """The largest of ``(rows, vocabulary)`` and their places, each ``(rows, others)``."""
    if others == 1:  # in less time
        return jnp.max(logs, 1, keepdims=True), jnp.argmax(logs, 1, keepdims=True).astype(jnp.int32)
    best, ids = jax.lax.top_k(logs, others)
    return best, ids.astype(jnp.int32)


@partial(jax.jit, static_argnames=("model", "others"))
def score(
    model: Decoder,
    params: Mapping[str, Any],
    tokens: Tokens,
    targets: Tokens,
    valid: Valid,
    others: int,
) -> Told:
    """What a model says of the ``targets`` ``(b, t)`` that follow each of ``tokens``."""
    apply: Any = partial(model.apply, {"params": unflatten(params)})
    batch, length = tokens.shape
    x = apply(tokens, valid, method="features")
    size = _SCORED_AT_ONCE if length % _SCORED_AT_ONCE == 0 else length

    def pieces(array: Array) -> Array:
        return jnp.moveaxis(array.reshape(batch, -1, size, *array.shape[2:]), 1, 0)

    def of_piece(piece: tuple[Array, Array]) -> tuple[Array, Array, Array]:
        logs = jax.nn.log_softmax(apply(piece[0], method="logits"), axis=-1)
        chosen = jnp.take_along_axis(logs, piece[1][:, :, None], axis=2)[:, :, 0]
        best, ids = _best(logs.reshape(batch * size, -1), others)
        return chosen, ids.reshape(batch, size, others), best.reshape(batch, size, others)

    def joined(array: Array) -> Array:
        return jnp.moveaxis(array, 0, 1).reshape(batch, length, *array.shape[3:])

    chosen, ids, best = jax.lax.map(of_piece, (pieces(x), pieces(targets)))
    return Told(targets, joined(chosen), joined(ids), joined(best))
