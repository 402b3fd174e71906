"""What a backward pass holds of a batch, estimated from shapes."""

from __future__ import annotations

import jax.numpy as jnp

from smf_jax.models.config import ModelConfig

# Activations that a step of whole params may hold at a time.
MOST_BYTES = 2**29


def row_bytes(config: ModelConfig, length: int, scored: int | None = None) -> int:
    """Bytes that a backward pass holds of a row of ``length`` tokens, within a tenth or so.

    A block keeps some nine vectors of the width of the model, three of the feed-forward's and the
    attention's probabilities; a memory the rows it has read; the head two numbers for each word
    of the vocabulary at the ``scored`` targets (all, if ``None``), float32 at least.
    """
    per_token = 0 if config.remat else 8 * config.width + 3 * config.hidden_width
    numbers = config.layers * (config.width + per_token + config.heads * length)
    if config.memory is not None:
        memory = config.memory.memory
        read = memory.reads_per_token * memory.value_width
        numbers += len(config.memory.layers) * read
    head = 2 * (length if scored is None else scored) * config.vocabulary * 4
    return length * numbers * jnp.dtype(config.dtype).itemsize + head


def rows_at_once(
    config: ModelConfig, rows: int, length: int, scored: int | None = None, most: int = MOST_BYTES
) -> int:
    """The largest divisor of ``rows`` whose activations keep to ``most`` bytes, 1 at least."""
    fitting = max(1, most // row_bytes(config, length, scored))
    return max(size for size in range(1, min(rows, fitting) + 1) if rows % size == 0)
