"""How many rows a step of whole params takes at a time."""

from dataclasses import replace

import pytest

from smf_jax.models.activations import row_bytes, rows_at_once
from smf_jax.models.config import ModelConfig

SMALL = ModelConfig("llama", 1000, 32, 2, 2, 1, 16, 64)
# SmolLM2-135M's shape.
REAL = ModelConfig("llama", 49_152, 576, 30, 9, 3, 64, 1536, tied=True)


@pytest.mark.parametrize(
    ("config", "rows", "length", "taken"),
    [
        (SMALL, 32, 40, 32),
        (REAL, 32, 40, 8),
        (REAL, 12, 40, 6),
        (REAL, 7, 40, 7),
        (REAL, 3, 8192, 1),
    ],
)
def test_the_rows_at_a_time_divide_the_batch_and_keep_to_the_bound(config, rows, length, taken):
    found = rows_at_once(config, rows, length)
    assert found == taken and rows % found == 0
    assert found == 1 or found * row_bytes(config, length) <= 2**29


def test_few_targets_and_recomputed_blocks_let_more_rows_in():
    whole = row_bytes(REAL, 40)
    # XLA's program for LoRA at this shape holds 60 MiB a row with all targets scored.
    assert 0.9 < whole / (60 * 2**20) < 1.1
    assert row_bytes(REAL, 40, scored=8) == whole - 2 * 32 * 49_152 * 4
    assert row_bytes(replace(REAL, remat=True), 40) < whole / 2
    assert row_bytes(replace(REAL, dtype="bfloat16"), 40, 0) * 2 == row_bytes(REAL, 40, 0)
