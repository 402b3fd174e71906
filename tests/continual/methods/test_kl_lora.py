"""KL with LoRA in a sweep: adapters as of LoRA, by flags of their own."""

from __future__ import annotations

import pytest

from tests.tiny_sweep import checkpoints_of, rows_of

ONE = dict(methods="kl_lora", lr="1e-2", optimizer="adam", tasks=1, kl_lora_targets="attention")


def test_it_leaves_adapters_of_its_own_rank(sweeper, tmp_path):
    out = tmp_path / "kl_lora"
    assert sweeper(out, kl_lora_rank=3, **ONE) == 0
    (row,) = rows_of(out)
    assert row["method"] == "kl_lora" and row["failed_step"] is None
    ((leaves, about),) = checkpoints_of(out).values()
    assert about["kind"] == "adapters" and about["settings"]["rank"] == 3
    assert {path.split("/")[-2] for path in leaves} == {"query", "key", "value", "output"}
    assert leaves["layers_0/attention/query/a"].shape == (32, 3)


def test_a_rank_that_does_not_fit_is_named_by_its_own_flag(sweeper, tmp_path, capsys):
    with pytest.raises(ValueError, match="--kl_lora_rank=33 does not fit"):
        sweeper(tmp_path / "out", kl_lora_rank=33, **ONE)
