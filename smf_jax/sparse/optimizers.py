"""Optimizers by name, as sweeps need them: bound of the norm, optimizer, rate of a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeVar, get_args

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

Schedule = Literal["constant", "cosine"]
T = TypeVar("T")


@dataclass(frozen=True)
class OptimizerConfig:
    """How gradients become updates, in three stages of three scopes.

    The bound of the norm sees all gradients of a step; the optimizer acts on whole params, or
    in a row store on each row by itself; the schedule follows the global step. The learning rate is
    an argument of each step, so that trials that differ in it share a compilation.
    """

    # A name out of `OPTIMIZERS`; or an optax optimizer of your own, whose updates the learning rate
    # of a step multiplies, so that 1 leaves them as they are.
    optimizer: str | optax.GradientTransformation = "sgd"
    clip: float | None = None  # largest global norm of the gradients, or ``None``
    schedule: Schedule = "constant"  # or ``cosine`` to zero over `schedule_steps` after warm-up
    warmup_steps: int = 0  # linear warm-up from zero
    schedule_steps: int = 0  # length of the cosine, warm-up included
    momentum: float = 0.9  # decay of the trace of ``momentum`` and ``nesterov``
    b1: float = 0.9  # decay of the first moment of ``adam``, ``adamw`` and ``adabelief``
    b2: float = 0.999  # decay of their second moment
    # Added to the root of the second moment of ``adam``, ``adamw`` and ``rmsprop``.
    eps: float = 1e-8
    weight_decay: float = 0.01  # decoupled decay of ``adamw`` and ``lion``

    def __post_init__(self) -> None:
        for name, choices in (("optimizer", OPTIMIZERS), ("schedule", get_args(Schedule))):
            chosen = getattr(self, name)
            if isinstance(chosen, str) and chosen not in choices:
                raise ValueError(f"{name}={chosen!r} is unknown; choose from {', '.join(choices)}")
        if self.schedule == "cosine" and self.schedule_steps <= self.warmup_steps:
            raise ValueError(
                f"schedule='cosine' over schedule_steps={self.schedule_steps} leaves no step "
                f"after warmup_steps={self.warmup_steps}; raise schedule_steps"
            )

    def transformation(self) -> optax.GradientTransformation:
        """The optax optimizer, at a learning rate of 1; one object for equal configurations."""
        return _transformation(self)

    def clipped(self, gradients: T) -> T:
        """The gradients, scaled so that their global norm is at most `clip`."""
        return clip_to_norm(gradients, self.clip)

    def rate(self, learning_rate: Array | float, step: Int[Array, ""]) -> Float[Array, ""]:
        """The learning rate at a global step, counted from zero."""
        rate = jnp.asarray(learning_rate)
        factor = jnp.ones((), rate.dtype)
        if self.warmup_steps:
            factor = jnp.minimum(1, (step + 1).astype(rate.dtype) / self.warmup_steps)
        if self.schedule == "cosine":
            steps_left = self.schedule_steps - self.warmup_steps
            progress = (step - self.warmup_steps).astype(rate.dtype) / steps_left
            factor = factor * (1 + jnp.cos(jnp.pi * jnp.clip(progress, 0, 1))) / 2
        return rate * factor


def _decayed(inner: optax.GradientTransformation, rate: float) -> optax.GradientTransformation:
    return optax.chain(inner, optax.add_decayed_weights(rate))


# By name, from a configuration the direction that an optimizer steps against, no rate in it.
# What the configuration has no field for is as in the paper: lion's decays (2302.06675). Moments
# of adagrad start at zero, not at optax's 0.1: gradients of single rows are far below that.
OPTIMIZERS: dict[str, Callable[[OptimizerConfig], optax.GradientTransformation]] = {
    "sgd": lambda config: optax.identity(),
    "momentum": lambda config: optax.trace(decay=config.momentum),
    "adam": lambda config: optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps),
    "adamw": lambda config: _decayed(OPTIMIZERS["adam"](config), config.weight_decay),
    "nesterov": lambda config: optax.trace(decay=config.momentum, nesterov=True),
    "lion": lambda config: _decayed(optax.scale_by_lion(), config.weight_decay),
    "rmsprop": lambda config: optax.scale_by_rms(eps=config.eps, eps_in_sqrt=False),
    "adagrad": lambda config: optax.scale_by_rss(initial_accumulator_value=0.0, eps=1e-16),
    "adabelief": lambda config: optax.scale_by_belief(b1=config.b1, b2=config.b2),
}


@cache
def _transformation(config: OptimizerConfig) -> optax.GradientTransformation:
    if not isinstance(config.optimizer, str):
        return config.optimizer
    return optax.chain(OPTIMIZERS[config.optimizer](config), optax.scale(-1.0))


def clip_to_norm(gradients: T, max_norm: float | None) -> T:
    """Scales arrays alike to a global norm of at most ``max_norm``; within it all bits are kept."""
    if max_norm is None:
        return gradients
    norm = optax.tree.norm(gradients)
    scale = jnp.minimum(1.0, max_norm / jnp.maximum(norm, 1e-30))
    return jax.tree.map(lambda leaf: leaf * scale.astype(leaf.dtype), gradients)
