"""The trainer of sparse high-rank adapters: a fixed mask of weights, kept as places and numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from smf_jax.data.batching import Batch
from smf_jax.models.decoder import Decoder, plain_logits
from smf_jax.models.shira import ENTRIES, PLACES, apply_entries, init_places
from smf_jax.params import Params, split
from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.training.dense_step import DenseState, dense_step, text_loss
from smf_jax.training.step import Settings, Shared, StepMetrics
from smf_jax.training.trainers import Trainer, batch_rows_at_once


class ShiraState(NamedTuple):
    """What a step changes, and where the numbers stand."""

    dense: DenseState  # of the entries, by ``MODULE/entries``
    places: Params  # ``MODULE/places``, as of `init_places`

    @property
    def params(self) -> Params:
        """What trains."""
        return self.dense.params

    @property
    def opt_state(self) -> tuple[Any, Params]:
        """All that is held beside what trains."""
        return self.dense.opt_state, self.places

    @property
    def failed_step(self) -> Int[Array, "..."]:
        """The first step that was not accepted, or -1."""
        return self.dense.failed_step


def shira_trainer(
    model: Decoder,
    optimizer: OptimizerConfig,
    targets: tuple[str, ...],
    share: float,
    count: int = 0,
    keep_optimizer_state: bool = False,
    *,
    scored: int | None = None,
) -> Trainer[ShiraState]:
    """SHiRA (2406.13175, section 3): ``W + S`` with S zero outside of a random mask ("SHiRA-Rand").

    The trial's seed draws the mask before the first task. The entries of S start at zero and are
    float32 at least, as are their moments; no mask is ever as large as a map. ``share`` and
    ``count`` are those of `entries_of_maps`, ``scored`` that of `text_loss`.
    """
    inner, plain = optimizer.transformation(), plain_logits(model)

    def logits(params: Params, tokens: Array, valid: Array, at: Array | None = None, /) -> Array:
        entries, base = split(params, lambda path: path.endswith((f"/{ENTRIES}", f"/{PLACES}")))
        return plain(apply_entries(base, entries), tokens, valid, at)

    minimised = text_loss(logits, scored)

    def begin(base: Params, settings: Settings) -> ShiraState:
        key = jax.random.key(settings.seed)
        places = init_places(base, targets, share, count, key)
        entries = {}
        for path, drawn in places.items():
            module = path.rpartition("/")[0]
            dtype = jnp.promote_types(jnp.float32, base[f"{module}/kernel"].dtype)
            entries[f"{module}/{ENTRIES}"] = jnp.zeros(drawn.shape, dtype)
        return ShiraState(DenseState.start(entries, inner), places)

    def begin_task(
        shared: Shared, state: ShiraState, examples: Batch, settings: Settings
    ) -> ShiraState:
        del shared, examples, settings
        return state if keep_optimizer_state else state._replace(dense=state.dense.restarted(inner))

    def step(
        shared: Shared, state: ShiraState, batch: Batch, settings: Settings
    ) -> tuple[ShiraState, StepMetrics]:
        frozen, rows = {**shared.frozen, **state.places}, batch_rows_at_once(model, scored, batch)
        dense, metrics = dense_step(
            minimised, optimizer, frozen, state.dense, batch, settings, rows
        )
        return state._replace(dense=dense), metrics

    def trained(state: ShiraState) -> Params:
        return {**state.dense.params, **state.places}

    def resume(state: ShiraState, saved: Params) -> ShiraState:
        entries = {path: saved[path] for path in state.dense.params}
        places = {path: saved[path] for path in state.places}
        return ShiraState(state.dense._replace(params=entries), places)

    return Trainer(
        begin=begin,
        begin_task=begin_task,
        step=step,
        logits=lambda shared, state, *asked: logits({**shared.frozen, **trained(state)}, *asked),
        trained=trained,
        resume=resume,
        frozen=dict,
    )
