"""What the steps of all methods share: settings, metrics, params one step on, the latch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from smf_jax.params import Params
from smf_jax.sparse.usage import PoolUsage


class Settings(NamedTuple):
    """What may differ between trials of one compilation."""

    learning_rate: Float[Array, ""]  # before the schedule
    budget: Int[Array, ""]  # ``top_t``, rows a step may change in each pool; unused by dense steps
    seed: Int[Array, ""]  # of the trial's own randomness (rule ``random``, initial adapters)


class Shared(NamedTuple):
    """What all trials of a group have in common, and no step changes."""

    frozen: Params  # all params that are in no state, by path
    usage: Mapping[str, PoolUsage] | None = None  # background by pool path, if a rule needs it
    lower: Lower | None = None  # of the batch's rows, where that is kept


class Lower(NamedTuple):
    """Of some rows of tokens, what enters the lowest block that has a memory.

    No step of sparse finetuning changes anything below it, so that it is computed once: for the
    rows of a task, and for those of a probe.
    """

    tokens: Int[Array, "n t"]
    hidden: Float[Array, "n t d"]

    def of(self, tokens: Int[Array, "b t"]) -> Float[Array, "b t d"]:
        """That of some of the rows; NaN for rows that are none, so that their step fails."""
        same = jnp.all(jnp.expand_dims(tokens, 1) == jnp.expand_dims(self.tokens, 0), axis=2)
        found = jnp.expand_dims(jnp.any(same, axis=1), (1, 2))
        return jnp.where(found, self.hidden[jnp.argmax(same, axis=1)], jnp.nan)


class StepMetrics(NamedTuple):
    """The weighted loss before a step's update, and the rows written in all pools (0 if dense)."""

    loss: Float[Array, ""]
    selected: Int[Array, ""]


def step_params(
    optimizer: optax.GradientTransformation,
    gradients: Params,
    params: Params,
    opt_state: optax.OptState,
    scale: Array,
) -> tuple[Params, optax.OptState]:
    """One optax update of a parameter tree, multiplied by ``scale``: new params, new opt_state."""
    updates, opt_state = optimizer.update(gradients, opt_state, params)
    params = jax.tree.map(
        lambda leaf, update: leaf + (scale * update).astype(leaf.dtype), params, updates
    )
    return params, opt_state


def latch(failed_step: Array, step: Array, accepted: Array) -> Array:
    """The first step that was not accepted, or -1."""
    return jnp.where((failed_step < 0) & ~accepted, step, failed_step).astype(jnp.int32)
