"""The trainer of O-LoRA: adapters of their own for every task, held orthogonal to earlier ones."""

from __future__ import annotations

from dataclasses import dataclass
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
    plan = _Plan(model, optimizer, rank, alpha, targets, strength, max(1, tasks - 1), scored)
    return Trainer(
        begin=plan.begin,
        begin_task=plan.begin_task,
        step=plan.step,
        logits=lambda shared, state, *asked: plan.logits(
            {**shared.frozen, **_trained(state)}, *asked
        ),
        trained=_trained,
        resume=plan.resume,
        frozen=dict,
        carried=lambda state: {TASKS: state.begun},
    )


@dataclass(frozen=True)
class _Plan:
    """The functions of the trainer; ``earlier`` tasks have room beside a task's own adapters."""

    model: Decoder
    optimizer: OptimizerConfig
    rank: int
    alpha: float
    targets: tuple[str, ...]
    strength: float
    earlier: int
    scored: int | None

    def logits(
        self, params: Params, tokens: Array, valid: Array, places: Array | None = None, /
    ) -> Array:
        adapters, base = split(params, lambda path: path.endswith(("/a", "/b")))
        # Adapters act with alpha over all of their ranks.
        with apply_lora(adapters, self.alpha * (self.earlier + 1)):
            return plain_logits(self.model)(base, tokens, valid, places)

    def _fresh(self, base: Params, settings: Settings) -> DenseState:
        key = jax.random.key(settings.seed)
        adapters = init_lora(unflatten(base), self.rank, self.targets, key)
        return DenseState.start(adapters, self.optimizer.transformation())

    def begin(self, base: Params, settings: Settings) -> OLoraState:
        dense = self._fresh(base, settings)
        earlier = {
            path: jnp.zeros_like(jnp.concatenate([leaf] * self.earlier, axis=_RANKS[path[-1]]))
            for path, leaf in dense.params.items()
        }
        return OLoraState(dense, earlier, jnp.zeros((), jnp.int32))

    def begin_task(
        self, shared: Shared, state: OLoraState, examples: Batch, settings: Settings
    ) -> OLoraState:
        del examples
        # The seed is another one for each task.
        new = self._fresh(shared.frozen, settings)._replace(failed_step=state.failed_step)
        place = jnp.maximum(state.begun - 1, 0) * self.rank
        earlier = {
            path: jax.lax.dynamic_update_slice_in_dim(kept, leaf, place, _RANKS[path[-1]])
            for (path, kept), leaf in zip(state.earlier.items(), state.params.values(), strict=True)
        }
        first = OLoraState(new._replace(params=state.params), state.earlier, state.begun + 1)
        later = OLoraState(new, earlier, state.begun + 1)
        return jax.tree.map(lambda one, other: jnp.where(state.begun > 0, other, one), first, later)

    def step(
        self, shared: Shared, state: OLoraState, batch: Batch, settings: Settings
    ) -> tuple[OLoraState, StepMetrics]:
        minimised = text_loss(self.logits, self.scored)

        def loss(params: Params, part: Batch) -> tuple[Array, Params]:
            own = {path: params[path] for path in state.params}
            value, nothing = minimised({**params, **joined(state.earlier, own)}, part)
            return value + self.strength * overlap(state.earlier, own), nothing

        rows = batch_rows_at_once(self.model, self.scored, batch)
        dense, metrics = dense_step(
            loss, self.optimizer, shared.frozen, state.dense, batch, settings, rows
        )
        return state._replace(dense=dense), metrics

    def resume(self, state: OLoraState, saved: Params) -> OLoraState:
        def part(path: str, start: int, end: int) -> Array:
            axis = _RANKS[path[-1]]
            return jax.lax.slice_in_dim(jnp.asarray(saved[path]), start, end, axis=axis)

        end = self.rank * self.earlier
        own = {path: part(path, end, end + self.rank) for path in state.params}
        earlier = {path: part(path, 0, end) for path in state.earlier}
        return OLoraState(state.dense._replace(params=own), earlier, jnp.asarray(saved[TASKS]))


def _trained(state: OLoraState) -> Params:
    return joined(state.earlier, state.params)


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
