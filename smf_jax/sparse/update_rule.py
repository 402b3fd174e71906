"""Update rules in three stages: clip, statistics, schedule; on a whole tree or row by row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

Optimizer = Literal["sgd", "momentum", "adam", "adamw"]
Schedule = Literal["constant", "cosine"]
OPTIMIZERS: tuple[str, ...] = get_args(Optimizer)


@dataclass(frozen=True)
class UpdateRule:
    """How gradients become updates.

    The three stages act at three scopes, which is why an ordinary optax chain would not do for
    rows: the clip sees all selected rows of all pools, the statistics (moments, step count,
    decay) belong to one row and wait unchanged while it is not selected, the schedule follows the
    global step. The learning rate itself is an argument of each step, so that trials that differ
    in it share a compilation.

    Attributes:
      optimizer: ``sgd``, ``momentum``, ``adam`` or ``adamw``.
      clip: largest global norm, or ``None``.
      schedule: ``constant``, or ``cosine`` to zero over `schedule_steps` after the warm-up.
      warmup_steps: linear warm-up from zero.
      schedule_steps: length of the cosine, warm-up included.
      momentum: decay of the trace of ``momentum``.
      b1: decay of the first moment of ``adam`` and ``adamw``.
      b2: decay of the second moment.
      eps: added to the root of the second moment.
      weight_decay: decoupled decay of ``adamw``.
    """

    optimizer: Optimizer = "sgd"
    clip: float | None = None
    schedule: Schedule = "constant"
    warmup_steps: int = 0
    schedule_steps: int = 0
    momentum: float = 0.9
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(
                f"optimizer={self.optimizer!r} is unknown; choose from {', '.join(OPTIMIZERS)}"
            )
        if self.schedule not in get_args(Schedule):
            raise ValueError(
                f"schedule={self.schedule!r} is unknown; choose from {get_args(Schedule)}"
            )
        if self.schedule == "cosine" and self.schedule_steps <= self.warmup_steps:
            raise ValueError(
                f"schedule='cosine' over schedule_steps={self.schedule_steps} leaves no step "
                f"after warmup_steps={self.warmup_steps}; raise schedule_steps"
            )

    def transformation(self) -> optax.GradientTransformation:
        """The second stage, for one row or for a whole tree; no learning rate in it."""
        if self.optimizer == "sgd":
            return optax.identity()
        if self.optimizer == "momentum":
            return optax.trace(decay=self.momentum)
        moments = optax.scale_by_adam(b1=self.b1, b2=self.b2, eps=self.eps)
        if self.optimizer == "adam":
            return moments
        return optax.chain(moments, optax.add_decayed_weights(self.weight_decay))

    def init_each(self, rows: Array) -> Any:
        """The second stage's state of many rows, each with one of its own, stacked."""
        return jax.vmap(self.transformation().init)(rows)

    def step_each(self, gradients: Array, states: Any, rows: Array) -> tuple[Array, Any]:
        """The second stage of many rows, each by itself: their updates and their next states."""
        step: Any = jax.vmap(self.transformation().update)
        return step(gradients, states, rows)

    def clipped(self, gradients: Any) -> Any:
        """The first stage: scales all leaves so that their global norm is at most `clip`."""
        if self.clip is None:
            return gradients
        norm = optax.tree.norm(gradients)
        scale = jnp.minimum(1.0, self.clip / jnp.maximum(norm, 1e-30))
        return jax.tree.map(lambda leaf: leaf * scale.astype(leaf.dtype), gradients)

    def rate(self, learning_rate: Array | float, step: Int[Array, ""]) -> Float[Array, ""]:
        """The third stage: the learning rate at a global step, counted from zero."""
        rate = jnp.asarray(learning_rate)
        factor = jnp.ones((), rate.dtype)
        if self.warmup_steps:
            factor = jnp.minimum(1, (step + 1).astype(rate.dtype) / self.warmup_steps)
        if self.schedule == "cosine":
            steps_left = self.schedule_steps - self.warmup_steps
            progress = (step - self.warmup_steps).astype(rate.dtype) / steps_left
            factor = factor * (1 + jnp.cos(jnp.pi * jnp.clip(progress, 0, 1))) / 2
        return rate * factor
