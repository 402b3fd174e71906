"""An ablation from a file: the sweeps that it lists, runs and reports on."""

from __future__ import annotations

import json
import runpy
import sys
from contextlib import contextmanager

import numpy as np
import pytest
from matplotlib.image import imread

from experiments import dry_run
from experiments.ablate import AblateConfig, lay_out, main
from experiments.cli import parse
from experiments.configs import base_recipe
from experiments.report import ablation
from experiments.report.ablation import write_ablation
from smf_jax.continual import devices
from smf_jax.continual.ablation import Cell
from smf_jax.continual.config import SweepConfig
from tests.experiments.report.tiny import parse as parse_table
from tests.tiny_sweep import TINY_SWEEP, rows_of

GRID = """
[settings]
methods = "smf"
lr = "30"
slots = "16,64"
{settings}
[cross]
slots = ["16", "64"]
[chain]
rule = ["tf"]
"""


@pytest.fixture
def file(tmp_path, sweeper):
    own = {"methods", "lr", "slots"}
    told = {**TINY_SWEEP, "base": str(sweeper.base), "optimizer": "sgd"}
    lines = [f"{name} = {json.dumps(value)}" for name, value in told.items() if name not in own]
    path = tmp_path / "grid.toml"
    path.write_text(GRID.format(settings="\n".join(lines)))
    return path


def test_a_dry_run_lists_sweeps_trials_and_groups(file, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(AblateConfig((str(file),), out=str(out), dry_run=True, json=True)) == 0
    told = json.loads(capsys.readouterr().out)
    assert [each["sweep"] for each in told] == ["unchanged", "slots16", "slots64", "ruletf"]
    assert [len(each["trials"]) for each in told] == [2, 1, 1, 2]
    assert [each["groups"] for each in told] == [1, 1, 1, 1]
    assert main(AblateConfig((str(file),), dry_run=True)) == 0
    said = capsys.readouterr().out
    assert said.endswith("4 sweeps, 6 trials, 4 groups that compile a step each\n")
    assert "slots16: smf-tfidf-sgd-t16-lr30-s0\n" in said
    assert not out.exists()


def test_several_processes_are_joined_before_they_lock_or_ask_for_a_device(
    file, tmp_path, monkeypatch, capsys
):
    joined, lock = [], tmp_path / ".out.lock"

    @contextmanager
    def as_one_program(told, out):
        assert not lock.exists(), "the first of them alone has it, which is not known before"
        joined.append((told.coordinator, told.process, out))
        yield str(tmp_path / "own")

    def asked(*_):
        assert joined and lock.exists()
        raise ValueError("asked")

    monkeypatch.setattr(devices, "as_one_program", as_one_program)
    monkeypatch.setattr(dry_run, "check_all", asked)
    flags = ["--coordinator=host:1", "--processes=2", "--process=1", f"--out={tmp_path}/out"]
    monkeypatch.setattr(sys, "argv", ["ablate", str(file), *flags])
    monkeypatch.delitem(sys.modules, "experiments.ablate")
    with pytest.raises(SystemExit):  # by the command, as a person has it
        runpy.run_module("experiments.ablate", run_name="__main__", alter_sys=True)
    assert capsys.readouterr().err == "error: asked\n"
    assert joined == [("host:1", 1, f"{tmp_path}/out")] and not (tmp_path / "out").exists()


def test_a_file_does_not_say_which_process_runs_it(file):
    file.write_text(file.read_text().replace("[settings]", "[settings]\ndistributed = true"))
    with pytest.raises(ValueError, match="unchanged: distributed is set .* give --distributed"):
        lay_out(AblateConfig((str(file),)))


def test_the_sweeps_run_and_are_reported_on_as_one(file, tmp_path, sweeper, capsys):
    out = tmp_path / "out"
    told = AblateConfig((str(file),), out=str(out))
    assert main(told, sweeper.tools) == 0
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    own = {path.name: rows_of(path) for path in out.iterdir() if (path / "config.json").is_file()}
    assert len(rows) == sum(map(len, own.values())) == 12
    assert set(own) == {"unchanged", "slots16", "slots64", "ruletf"}
    varied = {row["trial"]: row["varied"] for row in rows}
    assert varied["smf-tfidf-sgd-t16-slots_16-lr30-s0"] == {"slots": "16"}
    assert varied["smf-tf-sgd-t64-rule_tf-lr30-s0"] == {"rule": "tf"}
    for row in rows:
        (name,) = [f"{flag}{value}" for flag, value in row["varied"].items()] or ["unchanged"]
        (same,) = [
            each
            for each in own[name]
            if (each["task"], each["slots"]) == (row["task"], row["slots"])
        ]
        assert all(same[key] == row[key] for key in ("unseen", "known", "text_loss", "rule"))
    report = (out / "report.md").read_text()
    assert "smf-tfidf-sgd-t16-slots_16-lr30" in report and "(axes.png)" in report
    picture = imread(out / "axes.png")
    assert picture.shape[1] == 1600 and picture.std() > 0.01
    before = {path: path.read_bytes() for path in out.glob("*/results.jsonl")}
    with pytest.raises(FileExistsError, match="exists; give another directory, or --resume"):
        main(told, sweeper.tools)
    assert main(AblateConfig((str(file),), out=str(out), resume=True), sweeper.tools) == 0
    assert {path: path.read_bytes() for path in before} == before
    np.testing.assert_array_equal(imread(out / "axes.png"), picture)
    # A grid of before there was a flag, or with another way to save, is the same.
    kept = json.loads((out / "ablation.json").read_text())
    for each in kept:
        del each["save_every"]
    (out / "ablation.json").write_text(json.dumps(kept))
    file.write_text(file.read_text().replace("[cross]", "save_every = 2\n[cross]"))
    assert main(AblateConfig((str(file),), out=str(out), resume=True), sweeper.tools) == 0
    file.write_text(file.read_text().replace('["16", "64"]', '["16", "32"]'))
    with pytest.raises(ValueError, match="is of another grid"):
        main(AblateConfig((str(file),), out=str(out), resume=True), sweeper.tools)


def test_of_seeds_alone_there_is_a_table_and_no_picture(tmp_path, make_rows, monkeypatch):
    cells = [Cell({"seeds": str(seed)}, SweepConfig.of()) for seed in range(2)]
    rows = {cell.name: make_rows(seed=seed) for seed, cell in enumerate(cells)}
    monkeypatch.setattr(ablation, "_rows_of", lambda run, cell: rows[run.name])
    assert parse_table(write_ablation(tmp_path, cells))[2][1] == "2", "one setting of two seeds"
    assert (tmp_path / "report.md").is_file() and not (tmp_path / ablation.PICTURE).exists()


def test_a_wrong_grid_is_refused_before_anything_runs(file, tmp_path):
    file.write_text(file.read_text().replace('["16", "64"]', '["16", "none"]'))
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="--slots=none: .* is not a budget"):
        main(AblateConfig((str(file),), out=str(out)))
    assert not out.exists()
    with pytest.raises(ValueError, match="0 files given, expected one grid file"):
        main(AblateConfig())
    with pytest.raises(FileNotFoundError):
        main(AblateConfig((str(tmp_path / "none.toml"),)))


def test_a_preset_is_that_of_its_sweeps_and_of_their_base(tmp_path, capsys):
    path = tmp_path / "grid.toml"
    path.write_text(
        'preset = "long-stream"\nscale = "tiny"\n[settings]\nmethods = "smf"\n'
        '[cross]\nslots = ["16"]\n'
    )
    (cell,) = lay_out(AblateConfig((str(path),)))
    assert base_recipe(cell.config) == base_recipe(
        parse(SweepConfig, ["--preset=long-stream", "--scale=tiny"])[0]
    )
    assert main(AblateConfig((str(path),), dry_run=True, json=True)) == 0
    assert json.loads(capsys.readouterr().out)[0]["sweep"] == "slots16"  # nothing else is said


def test_another_grid_or_what_is_no_ablation_is_not_written_over(file, finished):
    before = (finished / "report.md").read_bytes()
    for resume, told in ((False, "exists; give another"), (True, "is of another grid")):
        with pytest.raises((FileExistsError, ValueError), match=told):
            main(AblateConfig((str(file),), out=str(finished), resume=resume))
    assert (finished / "report.md").read_bytes() == before
    assert not (finished / "ablation.json").exists()


def test_an_axis_that_varies_by_itself_too_is_refused(file):
    text = file.read_text().replace('methods = "smf"', 'methods = "lora"\nvary = "lora_rank:2,4"')
    file.write_text(text.replace('slots = ["16", "64"]', "lora_rank = [2, 8]"))
    with pytest.raises(ValueError, match="lora_rank varies by --vary too; give it in one of them"):
        lay_out(AblateConfig((str(file),)))
