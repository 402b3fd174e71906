"""L2 to init in a sweep: held near the base, and the more so the stronger."""

from __future__ import annotations

import numpy as np
import pytest

from smf_jax.bases.base import load_base
from smf_jax.continual.config import SweepConfig
from tests.tiny_sweep import checkpoints_of, rows_of

ONE = dict(methods="l2_init", lr="1e-2", optimizer="adam", tasks=1)
TRIAL = "l2_init-adam-lr0.01-s0"


def test_the_stronger_the_nearer_to_the_base(sweeper, tiny_base, tmp_path):
    base = load_base(str(tiny_base), "base").params
    far = []
    for strength in (0.0, 3.0):
        out = tmp_path / f"l2-{strength:g}"
        assert sweeper(out, l2_init_strength=strength, **ONE) == 0
        trained = sweeper.trained[out.name, TRIAL, 0]
        far.append(sum(float(np.sum(np.square(trained[p] - base[p]))) for p in base))
        (row,) = rows_of(out)
        assert row["method"] == "l2_init" and row["failed_step"] is None
        (manifest,) = checkpoints_of(out).values()
        assert manifest[0].keys() == base.keys() and manifest[1]["kind"] == "leaves"
    assert 0 < far[1] < 0.5 * far[0]


def test_a_strength_below_zero_is_refused():
    with pytest.raises(ValueError, match="--l2_init_strength=-1.0: expected at least 0"):
        SweepConfig.of(l2_init_strength=-1.0)
