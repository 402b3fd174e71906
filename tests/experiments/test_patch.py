"""Patches as files: each verb of the command, on what a sweep has taught."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiments import patch as command
from experiments.patch import PatchConfig
from smf_jax.bases.base import load_base
from smf_jax.continual.run_directory import RunDirectory
from smf_jax.interop.export.model import export_model, load_exported
from smf_jax.interop.export.patches import load_patch, save_patch
from smf_jax.sparse.patch import apply_patch, make_patch, revert_patch
from tests.tiny_sweep import rows_of

TRIAL = "smf-tfidf-sgd-t16-lr30-s0"


def do(*arguments: object, **flags: object) -> int:
    told = PatchConfig.of(**{n: str(v) if isinstance(v, Path) else v for n, v in flags.items()})
    return command.main(replace(told, arguments=tuple(map(str, arguments))))


@pytest.fixture(scope="module")
def files(finished, tmp_path_factory):
    """The patches of both tasks, and the two joined."""
    out = tmp_path_factory.mktemp("patches")
    told = dict(run=finished, trial=TRIAL)
    for task in (0, 1):
        assert do("extract", **told, task=task, out=out / f"{task}.safetensors") == 0
    assert do("extract", **told, out=out / "both.safetensors") == 0
    return out


def test_a_task_or_all_of_them_are_taken_out_of_a_run(finished, files):
    run, base = RunDirectory(str(finished)), load_base(str(finished / "base"), "base")
    trial, last = run.find_trial(TRIAL)
    patches = [load_patch(files / f"{task}.safetensors") for task in (0, 1)]
    rows = [row["rows_changed"] for row in rows_of(finished) if row["trial"] == TRIAL]
    assert [patch.rows for patch in patches] == rows
    joined = apply_patch(base.params, load_patch(files / "both.safetensors"))
    expected = run.load_model(trial, last, base.params, base.fingerprint())
    for path, leaf in expected.items():
        assert np.asarray(joined[path]).tobytes() == np.asarray(leaf).tobytes(), path


def test_what_a_file_holds_is_shown(files, capsys):
    assert do("show", files / "0.safetensors", files / "both.safetensors") == 0
    text, patch = capsys.readouterr().out, load_patch(files / "0.safetensors")
    assert f"task_00, {patch.rows} rows" in text and "task_00+task_01" in text
    assert f"base {patch.base[:12]}, from {patch.parent[:12]} to {patch.fingerprint[:12]}" in text
    assert do("show", files / "0.safetensors", json=True) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["task"], told["rows"], told["state"]) == ("task_00", patch.rows, patch.fingerprint)
    (pool,) = told["pools"].values()
    (change,) = patch.pools.values()
    moves = np.linalg.norm(np.asarray(change.new, float) - change.old, axis=1)
    assert pool["mean_move"] == pytest.approx(moves.mean()) and moves.mean() > 0


def test_two_patches_are_compared(files, capsys):
    assert do("diff", files / "0.safetensors", files / "1.safetensors", json=True) == 0
    told = json.loads(capsys.readouterr().out)
    slots = [
        set(load_patch(files / f"{task}.safetensors").pools[pool].slots.tolist())
        for task in (0, 1)
        for pool in told["pools"]
    ]
    (overlap,) = told["pools"].values()
    assert overlap == {
        "first": len(slots[0]), "second": len(slots[1]), "shared": len(slots[0] & slots[1])
    }  # fmt: skip
    assert bool(told["disagree"]) == bool(slots[0] & slots[1])
    assert do("diff", files / "0.safetensors", files / "0.safetensors") == 0
    assert capsys.readouterr().out.endswith("disagree on nothing\n")


def test_patches_are_stacked_and_merged_into_a_file(files, tmp_path):
    one, two = (files / f"{task}.safetensors" for task in (0, 1))
    assert do("stack", one, two, out=tmp_path / "stacked.safetensors") == 0
    assert load_patch(tmp_path / "stacked.safetensors").fingerprint == load_patch(two).fingerprint
    first = load_patch(one)
    (pool, change) = next(iter(first.pools.items()))
    moved = change._replace(new=change.new + np.float32(2))
    save_patch(tmp_path / "other", make_patch({pool: moved}, task="other", base=first.base))
    told = ("merge", one, tmp_path / "other")
    with pytest.raises(ValueError, match="patches disagree: 'task_00' and 'other'"):
        do(*told, out=tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    assert do(*told, policy="mean", out=tmp_path / "merged") == 0
    mean = load_patch(tmp_path / "merged").pools[pool]
    np.testing.assert_allclose(mean.new, change.new + 1, rtol=0, atol=1e-6)


def test_patches_are_put_into_an_exported_model_and_taken_out(finished, files, tmp_path, capsys):
    base, model = load_base(str(finished / "base"), "base"), tmp_path / "model"
    export_model(model, base.config, base.params, tokenizer=base.tokenizer)
    before = {
        path: np.asarray(leaf).tobytes() for path, leaf in load_exported(model).params.items()
    }
    one, two = (files / f"{task}.safetensors" for task in (0, 1))
    assert do("apply", model, one, two) == 0
    found, patches = load_exported(model), [load_patch(one), load_patch(two)]
    assert [patch.fingerprint for patch in found.patches] == [p.fingerprint for p in patches]
    assert do("revert", model, "task_01") == 0
    params = revert_patch(found.params, patches[1])
    for path, leaf in load_exported(model).params.items():
        assert np.asarray(leaf).tobytes() == np.asarray(params[path]).tobytes()
    assert do("revert", model, patches[0].fingerprint[:12]) == 0
    after = {path: np.asarray(leaf).tobytes() for path, leaf in load_exported(model).params.items()}
    assert after == before
    assert "task_01 taken back" in capsys.readouterr().out


REFUSED = {
    "'' is no verb; choose from extract, show, diff": ((), {}),
    "'peel' is no verb": (("peel", "a"), {}),
    "diff: 1 arguments given; python -m experiments.patch diff FILE FILE": (("diff", "a"), {}),
    "extract: 1 arguments given; .* --run=DIR --trial=ID": (("extract", "a"), {}),
    "--run is empty: name the sweep": (("extract",), {"out": "x"}),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_done_is_refused_in_a_line(message):
    arguments, flags = REFUSED[message]
    with pytest.raises(ValueError, match=message):
        do(*arguments, **flags)


def test_files_that_are_there_and_methods_without_patches_are_refused(finished, files, tmp_path):
    one = files / "0.safetensors"
    with pytest.raises(FileExistsError, match=r"--out=.* exists; choose another name"):
        do("extract", run=finished, trial=TRIAL, out=one)
    with pytest.raises(ValueError, match="--out is empty: name the file to write"):
        do("extract", run=finished, trial=TRIAL)
    with pytest.raises(ValueError, match="method full changes whole leaves and leaves no patch"):
        do("extract", run=finished, trial="full-adamw-lr0.01-s0", out=tmp_path / "x")
    (tmp_path / "damaged").write_bytes(one.read_bytes()[:-9])
    with pytest.raises(ValueError, match="truncated or damaged"):
        do("show", tmp_path / "damaged")
