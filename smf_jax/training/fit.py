"""Training one model on one list of batches: pretraining a base, healing a retrofit."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from smf_jax import interrupts
from smf_jax.data.batching import Batch
from smf_jax.mesh import DATA
from smf_jax.params import Params
from smf_jax.sharding import replicate, split_over
from smf_jax.training.step import Settings, Shared
from smf_jax.training.trainers import State, Trainer


class Fitted(NamedTuple):
    """All params, trained and frozen, and the ``(steps,)`` loss of every step before its update."""

    params: Params
    losses: np.ndarray


def fit(
    trainer: Trainer[State],
    params: Params,
    batches: Batch,
    learning_rate: float,
    mesh: Mesh,
    progress: Callable[[int], None] = lambda _: None,
) -> Fitted:
    """Trains on ``(steps, b, t)`` batches, each split over the devices of a mesh of axis ``data``.

    The trainer is one of whole params, which are copied, not taken over; the learning rate is that
    before the schedule. ``progress`` is called with the number of steps done.

    Raises:
      ValueError: if the devices do not divide a batch.
      FloatingPointError: if a loss or gradient was not finite, naming the first such step.
    """
    steps, rows = batches.tokens.shape[:2]
    if rows % mesh.size:
        raise ValueError(
            f"batch of {rows} rows over {mesh.size} devices: choose a batch size that is a "
            "multiple of the devices"
        )
    settings = Settings(jnp.asarray(learning_rate), jnp.asarray(1), jnp.asarray(0))
    shared = Shared(replicate(trainer.frozen(params), mesh))
    state = jax.tree.map(jnp.copy, replicate(trainer.begin(params, settings), mesh))
    step = jax.jit(trainer.step, donate_argnums=1)
    losses = []
    for index in range(steps):
        interrupts.check()
        batch = split_over(Batch(*(field[index] for field in batches)), mesh, DATA)
        state, metrics = step(shared, state, batch, settings)
        losses.append(metrics.loss)
        if index % 10 == 9 or index + 1 == steps:
            # Ten steps are under way at a time: the bar tells the truth and no step waits.
            metrics.loss.block_until_ready()
            progress(index + 1)
    failed = int(state.failed_step)
    if failed >= 0:
        raise FloatingPointError(
            f"step {failed} of {steps}: loss or gradient is not finite; lower the learning rate "
            f"({learning_rate}) or check the data. Nothing was written from that step on"
        )
    trained = {**shared.frozen, **trainer.trained(state)}
    return Fitted({path: trained[path] for path in sorted(trained)}, np.asarray(losses))
