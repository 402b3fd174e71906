"""The trainer of O-LoRA: adapters of their own for every task, held orthogonal to earlier ones."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from smf_jax.data.batching import Batch
from smf_jax.models.decoder import Decoder, plain_logits
from smf_jax.models.lora import apply_lora, init_lora
from smf_jax.params import Params, split, unflatten
from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.training.dense_step import DenseState, dense_step, text_loss
from smf_jax.training.step import Settings, Shared, StepMetrics
from smf_jax.training.trainers import Trainer, batch_rows_at_once

TASKS = "tasks"
# The axis along which the ranks of a half stand.
_RANKS = {"a": 1, "b": 0}


class OLoraState(NamedTuple):
    """What a step changes, and what earlier tasks have left."""

    dense: DenseState  # of the task's own adapters, by path
    earlier: Params  # those of all tasks before, side by side; zeros for those to come
    begun: Int[Array, ""]  # tasks

    @property
    def params(self) -> Params:
        """What trains."""
        return self.dense.params

    @property
    def opt_state(self) -> tuple[Any, Params]:
        """All that is held beside what trains."""
        return self.dense.opt_state, self.earlier

    @property
    def failed_step(self) -> Int[Array, "..."]:
        """The first step that was not accepted, or -1."""
        return self.dense.failed_step


def olora_trainer(
    model: Decoder,
    optimizer: OptimizerConfig,
    rank: int,
    alpha: float,
    targets: tuple[str, ...],
    strength: float,
    tasks: int,
    *,
    scored: int | None = None,
) -> Trainer[OLoraState]:
    """O-LoRA (2310.14152): ``W + α/r Σ_i A_i B_i``, of which only those of the last task train.

    Task t minimises ``L + strength · Σ_{i<t} ‖A_iᵀ A_t‖²`` (`overlap`), so that it reads directions
    that no earlier task reads; with more than ``in / r`` tasks there are none left, and the price
    only spreads them. Adapters are ``A`` ``(in, r)`` and ``B`` ``(r, out)`` of each map that
    ``targets`` names, with room for those of so many ``tasks`` from the start. ``scored`` is that
    of `text_loss`.
    """
    inner, plain = optimizer.transformation(), plain_logits(model)
    others = max(1, tasks - 1)

    def logits(
        params: Params, tokens: Array, valid: Array, places: Array | None = None, /
    ) -> Array:
        adapters, base = split(params, lambda path: path.endswith(("/a", "/b")))
        # Adapters act with alpha over all of their ranks.
        with apply_lora(adapters, alpha * (others + 1)):
            return plain(base, tokens, valid, places)

    def fresh(base: Params, settings: Settings) -> DenseState:
        adapters = init_lora(unflatten(base), rank, targets, jax.random.key(settings.seed))
        return DenseState(
            adapters,
            inner.init(adapters),
            jnp.zeros((), jnp.int32),
            jnp.full((), -1, jnp.int32),
            {},
        )

    def begin(base: Params, settings: Settings) -> OLoraState:
        dense = fresh(base, settings)
        earlier = {
            path: jnp.zeros_like(jnp.concatenate([leaf] * others, axis=_RANKS[path[-1]]))
            for path, leaf in dense.params.items()
        }
        return OLoraState(dense, earlier, jnp.zeros((), jnp.int32))

    def begin_task(
        shared: Shared, state: OLoraState, examples: Batch, settings: Settings
    ) -> OLoraState:
        del examples
        # The seed is another one for each task.
        new = fresh(shared.frozen, settings)._replace(failed_step=state.failed_step)
        place = jnp.maximum(state.begun - 1, 0) * rank
        earlier = {
            path: jax.lax.dynamic_update_slice_in_dim(kept, leaf, place, _RANKS[path[-1]])
            for (path, kept), leaf in zip(state.earlier.items(), state.params.values(), strict=True)
        }
        first = OLoraState(new._replace(params=state.params), state.earlier, state.begun + 1)
        later = OLoraState(new, earlier, state.begun + 1)
        return jax.tree.map(lambda one, other: jnp.where(state.begun > 0, other, one), first, later)

    def step(
        shared: Shared, state: OLoraState, batch: Batch, settings: Settings
    ) -> tuple[OLoraState, StepMetrics]:
        minimised = text_loss(logits, scored)

        def loss(params: Params, part: Batch) -> tuple[Array, Params]:
            own = {path: params[path] for path in state.params}
            value, nothing = minimised({**params, **joined(state.earlier, own)}, part)
            return value + strength * overlap(state.earlier, own), nothing

        rows = batch_rows_at_once(model, scored, batch)
        dense, metrics = dense_step(
            loss, optimizer, shared.frozen, state.dense, batch, settings, rows
        )
        return state._replace(dense=dense), metrics

    def trained(state: OLoraState) -> Params:
        return joined(state.earlier, state.params)

    def resume(state: OLoraState, saved: Params) -> OLoraState:
        def part(path: str, start: int, end: int) -> Array:
            axis = _RANKS[path[-1]]
            return jax.lax.slice_in_dim(jnp.asarray(saved[path]), start, end, axis=axis)

        end = rank * others
        own = {path: part(path, end, end + rank) for path in state.params}
        earlier = {path: part(path, 0, end) for path in state.earlier}
        return OLoraState(state.dense._replace(params=own), earlier, jnp.asarray(saved[TASKS]))

    return Trainer(
        begin=begin,
        begin_task=begin_task,
        step=step,
        logits=lambda shared, state, *asked: logits({**shared.frozen, **trained(state)}, *asked),
        trained=trained,
        resume=resume,
        frozen=dict,
        carried=lambda state: {TASKS: state.begun},
    )


def joined(earlier: Params, own: Params) -> Params:
    """Adapters of all tasks side by side, the task's own last: ``A`` ``(in, T r)`` and ``B``."""
    return {
        path: jnp.concatenate([earlier[path], leaf], axis=_RANKS[path[-1]])
        for path, leaf in own.items()
    }


def overlap(earlier: Params, own: Params) -> Float[Array, ""]:
    """``Σ_i ‖A_iᵀ A‖²`` over all maps: squared products of every earlier column with every own."""
    total = jnp.zeros((), jnp.float32)
    for path, leaf in own.items():
        if path.endswith("/a"):
            products = jnp.einsum("ie,ir->er", earlier[path], leaf)
            total += jnp.sum(jnp.square(products).astype(jnp.float32))
    return total
