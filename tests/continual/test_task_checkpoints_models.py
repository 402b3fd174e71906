"""The model of a trial from its checkpoints: as trained, or a clear refusal."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict

import numpy as np
import pytest

from smf_jax import checkpoints
from smf_jax.bases.base import load_base
from smf_jax.continual.methods.lora import LoraConfig
from smf_jax.continual.run_directory import RunDirectory

SMF, FULL, LORA = "smf-tfidf-sgd-t64-lr30-s0", "full-adamw-lr0.01-s0", "lora-sgd-lr0.3-s0"


@pytest.fixture(scope="module")
def base(finished):
    return load_base(str(finished / "base"), "base")


def model_of(path, base, name, task=None):
    run = RunDirectory(str(path))
    return run.load_model(*run.find_trial(name, task), base.params, base.fingerprint())


@pytest.mark.parametrize("name", [SMF, FULL])
@pytest.mark.parametrize("task", [0, 1])
def test_the_leaves_are_those_that_were_trained_bit_for_bit(finished, sweeper, base, name, task):
    found = model_of(finished, base, name, task)
    trained = sweeper.trained[finished.name, name, task]
    assert found.keys() == base.params.keys()
    for path, leaf in found.items():
        expected = np.asarray(trained.get(path, base.params[path]))
        assert np.asarray(leaf).tobytes() == expected.tobytes(), path


def test_the_last_task_is_taken_where_none_is_named(finished, base):
    last, first, second = (model_of(finished, base, SMF, task) for task in (None, 0, 1))
    pool = "memory/pool_0/values"
    np.testing.assert_array_equal(last[pool], second[pool])
    assert not np.array_equal(last[pool], first[pool])


def test_adapters_are_merged(finished, sweeper, base):
    found = model_of(finished, base, LORA)
    adapters = sweeper.trained[finished.name, LORA, 1]
    module = "layers_0/attention/query"
    a, b = (np.asarray(adapters[f"{module}/{half}"], np.float64) for half in "ab")
    kernel = np.asarray(base.params[f"{module}/kernel"], np.float64)
    merged = kernel + a @ b * (16 / 8)
    np.testing.assert_allclose(found[f"{module}/kernel"], merged, rtol=1e-5, atol=1e-7)
    assert found["memory/pool_0/values"] is base.params["memory/pool_0/values"]
    assert found.keys() == base.params.keys()


def test_what_decides_a_model_is_in_its_checkpoint(finished, base, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    before = model_of(run, base, LORA)
    told = json.loads((run / "config.json").read_text()) | {"lora_alpha": 17.0}
    (run / "config.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=r"config.json: changed since it was written.*remove"):
        RunDirectory(str(run)).config()
    del told["sha256"]
    (run / "config.json").write_text(json.dumps(told))
    kernel = "layers_0/attention/query/kernel"
    np.testing.assert_array_equal(model_of(run, base, LORA)[kernel], before[kernel])
    task = run / "trials" / LORA / "task_01"
    arrays, about = checkpoints.load(task)
    assert about.pop("settings") == {**asdict(LoraConfig()), "targets": "query,key,value,output"}
    checkpoints.save(task, arrays, about, overwrite=True)  # as an earlier version did
    assert not np.array_equal(model_of(run, base, LORA)[kernel], before[kernel])


def test_what_a_run_lacks_is_named(finished, tmp_path):
    run = RunDirectory(str(finished))
    with pytest.raises(FileNotFoundError, match="--trial=none: .* has no such trial; it has .*smf"):
        run.find_trial("none")
    with pytest.raises(FileNotFoundError, match="--task=7: trial .* no checkpoint .* tasks 0, 1"):
        run.find_trial(SMF, 7)
    with pytest.raises(ValueError, match="has 6 trials; name one with --trial: full-"):
        run.find_trial("")
    with pytest.raises(FileNotFoundError, match="--run=.* is no run of a sweep"):
        RunDirectory(str(tmp_path)).config()
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(FileNotFoundError, match="is no run of a sweep"):
        RunDirectory(str(tmp_path)).config()
    assert run.config().own("lora").alpha == 16.0


def test_a_checkpoint_of_another_base_is_refused(finished, base):
    run = RunDirectory(str(finished))
    trial, task = run.find_trial(FULL)
    with pytest.raises(
        ValueError, match=f"checkpoint .* belongs to base {base.fingerprint()[:12]}"
    ):
        run.load_model(trial, task, base.params, "f" * 64)


def test_a_trial_whose_checkpoints_are_gone_is_named(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished / "trials" / SMF, run / "trials" / SMF)
    for task in (0, 1):
        shutil.rmtree(run / "trials" / SMF / f"task_{task:02d}")
    with pytest.raises(FileNotFoundError, match="it has tasks none"):
        RunDirectory(str(run)).find_trial(SMF)
