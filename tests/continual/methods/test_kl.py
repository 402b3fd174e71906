"""KL in a sweep: what it needs, what it leaves, and that it holds."""

from __future__ import annotations

import pytest

from smf_jax.bases.base import load_base
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.grid import grid
from smf_jax.continual.methods import METHODS
from smf_jax.continual.plan import check_trials
from smf_jax.continual.stream_data import StreamData
from tests.tiny_sweep import TINY_SWEEP, checkpoints_of, rows_of

ONE = dict(methods="kl", lr="1e-2", optimizer="adam", tasks=1)


def test_the_dearer_the_more_is_kept_of_what_the_base_knew(sweeper, tiny_base, tmp_path):
    base, losses = load_base(str(tiny_base), "base").params, []
    for weight in (0.0, 10.0):
        out = tmp_path / f"kl-{weight:g}"
        assert sweeper(out, kl_weight=weight, **ONE) == 0
        (row,) = rows_of(out)
        assert row["method"] == "kl" and row["failed_step"] is None
        losses.append(row["text_loss"] - row["text_loss_base"])
        (manifest,) = checkpoints_of(out).values()
        assert manifest[0].keys() == base.keys() and manifest[1]["kind"] == "leaves"
    assert losses[1] < losses[0]


@pytest.mark.parametrize("name", ["kl", "kl_lora"])
def test_text_fills_its_share_of_a_batch_only_where_it_is_asked_for(name):
    def rows(**changes):
        own = SweepConfig.of(**{f"{name}_{key}": each for key, each in changes.items()}).own(name)
        return METHODS[name].base_rows(own, 16)

    assert (rows(), rows(text_share=0.25), rows(on="text"), rows(on="batch")) == (8, 4, 8, 0)


@pytest.mark.parametrize("name", ["kl", "kl_lora"])
def test_what_does_not_fit_is_refused_by_its_flag(name, tiny_base, monkeypatch):
    with pytest.raises(ValueError, match=f"--{name}_text_share=1.0: expected a share"):
        SweepConfig.of(**{f"{name}_text_share": 1.0})
    with pytest.raises(ValueError, match=f"--{name}_on=facts is unknown; choose from batch, text"):
        SweepConfig.of(**{f"{name}_on": "facts"})
    base, empty = load_base(str(tiny_base), "base"), StreamData((), (), (), (), {}, {}, None)
    given = {**TINY_SWEEP, "methods": name, "lr": "1e-3", "optimizer": "adam"}
    config = SweepConfig.of(**given, **{"kl_lora_targets": "attention"})
    with pytest.raises(ValueError, match=f"{name} holds predictions on general text.*{name}_on"):
        check_trials(config, grid(config.grid), base, empty)
    check_trials(config.with_values(**{f"{name}_on": "batch"}), grid(config.grid), base, empty)
