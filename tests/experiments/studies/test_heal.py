"""The study of healing: one row a mode, seed and text, the base's own losses beside them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.studies import heal as heal_study
from experiments.studies.heal import HealStudyConfig, main, table
from smf_jax.bases.base import load_base
from smf_jax.data.batching import pack_texts
from smf_jax.evaluation.likelihood import loss_sum, mean_loss
from smf_jax.models.decoder import plain_logits
from tests.tiny_sweep import on_devices, write_lines


@pytest.fixture(scope="module")
def given(plain_checkpoint, tmp_path_factory):
    place = tmp_path_factory.mktemp("study")
    texts = [{"text": f"Thing {n} stands beside thing {n + 1}."} for n in range(99)]
    written = write_lines(place / "texts.jsonl", *texts)
    return dict(
        keys_per_half=8,
        memory_heads=2,
        reads=3,
        key_width=8,
        base=str(plain_checkpoint),
        layers="1",
        heal_steps=4,
        heal_learning_rate=0.05,
        heal_texts=str(written),
        heal_length=16,
        heal_batch_size=4,
        probes=f"things={written}",
        probe_limit=6,
        seeds="0,1",
        out=str(place / "out"),
    )


def test_every_mode_and_seed_is_measured_before_and_after(given, capsys):
    with on_devices(1):
        assert main(HealStudyConfig.of(**given)) == 0
    told = json.loads((Path(given["out"]) / "losses.json").read_text())
    rows = told["losses"]
    assert [(row["mode"], row["seed"]) for row in rows] == [
        (mode, seed) for mode in ("add", "replace") for seed in (0, 1)
    ]
    base = load_base(given["base"], "base")
    texts = [
        json.loads(line)["text"] for line in Path(given["heal_texts"]).read_text().splitlines()
    ]
    length = min(128, base.config.max_positions)
    windows = pack_texts(base.tokenizer, texts, length, 6 * length)
    logits = plain_logits(base.model)(base.params, windows.tokens, windows.valid)
    expected = mean_loss([loss_sum(logits, windows)])
    for row in rows:
        assert row["base"] == pytest.approx(expected, rel=1e-6)
        assert row["healed"] < row["fresh"], "healing on this very text lowers its loss"
    assert len({row["healed"] for row in rows}) == 4
    assert table(rows) in capsys.readouterr().out
    with pytest.raises(FileExistsError, match="--out=.* holds a study"):
        main(HealStudyConfig.of(**given))


def test_the_table_has_means_and_the_range_of_the_rise():
    rows = [
        {"mode": "add", "seed": s, "text": "w", "base": 2.0, "fresh": 2.5, "healed": h}
        for s, h in enumerate((1.5, 2.5))
    ]
    cells = [cell.strip() for cell in table(rows).splitlines()[-1].strip("|").split("|")]
    assert cells == ["add", "w", "2.000", "2.500", "2.000", "+0.000 (-0.500 to +0.500)"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(probes=""), "--probes is empty"),
        (dict(probes="things"), "--probes=things: 'things' should be NAME=FILE"),
        (
            dict(modes="add,none"),
            "--modes=add,none: 'none' is not known; choose from add, replace",
        ),
        (dict(heal_steps=0), "--heal_steps=0: expected at least 1"),
        (dict(seeds="x"), "--seeds=x"),
        (dict(heal_texts=""), "--heal_steps=4 needs text"),
    ],
)
def test_bad_input_is_refused_before_any_compute(given, tmp_path, monkeypatch, changes, message):
    monkeypatch.setattr(heal_study, "retrofit_base", None)
    monkeypatch.setattr(heal_study, "Scorer", None)
    with pytest.raises(ValueError, match=message):
        main(HealStudyConfig.of(**{**given, "out": str(tmp_path / "out"), **changes}))
