"""Optimizers that all ways of stepping rows are held to, and a row alone to compare them with."""

from __future__ import annotations

import jax
import numpy as np
import optax

from smf_jax.sparse.optimizers import OPTIMIZERS, OptimizerConfig

RATE = 0.3

# As users build them: at a rate of their own, some out of several parts.
OPTAX = {
    name: optax.chain(OptimizerConfig(name, weight_decay=0.1).transformation(), optax.scale(RATE))
    for name in OPTIMIZERS
} | {
    "elementwise clip and a schedule": optax.chain(
        optax.clip(0.5), optax.adamw(optax.cosine_decay_schedule(RATE, 6), weight_decay=0.1)
    ),
    "hyperparameters in the state": optax.inject_hyperparams(optax.adam)(learning_rate=RATE),
}


class Alone:
    """An optimizer for each row, in a loop over rows that knows nothing of the others."""

    def __init__(self, optimizer: optax.GradientTransformation) -> None:
        self.init, self.update = optimizer.init, jax.jit(optimizer.update)
        self.states: dict[int, optax.OptState] = {}

    def step(self, values: np.ndarray, slots: np.ndarray, gradients: np.ndarray) -> None:
        """Steps the rows of ``slots`` in place; ``gradients`` are theirs, in their order."""
        for slot, gradient in zip(slots.tolist(), gradients, strict=True):
            row = values[slot].copy()
            state = self.states[slot] if slot in self.states else self.init(row)
            update, self.states[slot] = self.update(gradient, state, row)
            values[slot] = row + np.asarray(update)
