"""A sweep on a base in four bits that was rounded on text, from the command that makes it on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments import evaluate, quantise
from experiments.evaluate import EvaluateConfig
from smf_jax.bases.base import load_base
from smf_jax.bases.quantise_config import QuantiseConfig
from smf_jax.params import count_parameters, is_memory
from tests.continual.same_runs import assert_goes_on
from tests.tiny_sweep import added_at_zero, of_two_tasks, rows_of, write_lines


@pytest.fixture(scope="module")
def flags(plain_checkpoint, tmp_path_factory) -> dict[str, Any]:
    """Of a sweep whose base is rounded, with a probe that asks the untouched one."""
    place = tmp_path_factory.mktemp("files")
    given = added_at_zero(plain_checkpoint, place)
    told = dict(base=str(plain_checkpoint), round_texts=given["background"])
    sizes = dict(round_length=16, round_tokens=256, base_precision="nf4")
    assert quantise.main(QuantiseConfig.of(**told, **sizes, out=str(place / "rounded"))) == 0
    asked = [{"question": f"Where is thing {n}?", "answers": ["here"]} for n in range(3)]
    return given | dict(
        **of_two_tasks(base=str(place / "rounded")),
        probes=f"where=f1:{write_lines(place / 'where.jsonl', *asked)}",
        probe_answer_tokens=2,
    )


@pytest.fixture(scope="module")
def run(sweeper, flags, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "rounded"
    assert sweeper(out, **flags) == 0
    return out


def test_what_it_trains_is_a_share_of_the_numbers_that_the_base_stands_for(run, plain_checkpoint):
    made = load_base(str(run / "base"), "base")
    assert made.config.precision == "nf4"
    memory = count_parameters([leaf for path, leaf in made.params.items() if is_memory(path)])
    every = load_base(str(plain_checkpoint), "base").parameters() + memory
    for row in rows_of(run):
        assert row["trainable_share"] == pytest.approx(row["trainable_parameters"] / every)


def test_a_killed_run_goes_on_bit_for_bit(sweeper, flags, run, tmp_path):
    assert_goes_on(sweeper, flags, run, tmp_path / "run")


def test_the_command_measures_what_the_sweep_measured(run, flags, tmp_path):
    row, out = rows_of(run)[-1], tmp_path / "a.json"
    told = dict(run=str(run), trial=row["trial"], probes=flags["probes"], probe_answer_tokens=2)
    assert evaluate.main(EvaluateConfig.of(**told, out=str(out))) == 0
    found = json.loads(out.read_text())
    assert found["probes"]["where"]["scores"]["f1"] == row["probe_where_f1"]
    about = found["model"]
    assert about["precision"] == "nf4" and "rounded to nf4 on 16 windows" in about["origin"]
