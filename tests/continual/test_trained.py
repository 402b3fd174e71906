"""The model of a trial from its checkpoints: as trained, or a clear refusal."""

from __future__ import annotations

import shutil

import jax
import numpy as np
import pytest

from smf_jax.continual.base import load_base
from smf_jax.continual.methods import apply_trained
from smf_jax.continual.run_directory import RunDirectory
from smf_jax.continual.trained import find_trial, read_config, trained_params
from smf_jax.models.lora import init_lora
from smf_jax.params import unflatten

SMF, FULL, LORA = "smf-tfidf-sgd-t64-lr30-s0", "full-adamw-lr0.01-s0", "lora-sgd-lr0.3-s0"


@pytest.fixture(scope="module")
def base(finished):
    return load_base(str(finished / "base"), "base")


def leaves_of(run, base, name, task=-1):
    trial, task = find_trial(run, name, task)
    base_fingerprint = base.fingerprint()
    return trained_params(RunDirectory(str(run)), trial, task, base.params, base_fingerprint, 16.0)


@pytest.mark.parametrize("name", [SMF, FULL])
@pytest.mark.parametrize("task", [0, 1])
def test_the_leaves_are_those_that_were_trained_bit_for_bit(finished, sweeper, base, name, task):
    found = leaves_of(finished, base, name, task)
    trained = sweeper.trained[finished.name, name, task]
    assert found.keys() == base.params.keys()
    for path, leaf in found.items():
        expected = np.asarray(trained.get(path, base.params[path]))
        assert np.asarray(leaf).tobytes() == expected.tobytes(), path


def test_the_last_task_is_taken_where_none_is_named(finished, base):
    last, first, second = (leaves_of(finished, base, SMF, task) for task in (-1, 0, 1))
    pool = "memory/pool_0/values"
    np.testing.assert_array_equal(last[pool], second[pool])
    assert not np.array_equal(last[pool], first[pool])


def test_adapters_are_merged(finished, sweeper, base):
    found = leaves_of(finished, base, LORA)
    adapters = sweeper.trained[finished.name, LORA, 1]
    module = "layers_0/attention/query"
    a, b = (np.asarray(adapters[f"{module}/{half}"], np.float64) for half in "ab")
    kernel = np.asarray(base.params[f"{module}/kernel"], np.float64)
    merged = kernel + a @ b * (16 / 8)
    np.testing.assert_allclose(found[f"{module}/kernel"], merged, rtol=1e-5, atol=1e-7)
    assert found["memory/pool_0/values"] is base.params["memory/pool_0/values"]
    assert found.keys() == base.params.keys()


def test_whole_leaves_are_told_from_adapters_by_their_paths(base):
    changed = {"embedder/embedding": base.params["embedder/embedding"] + 1}
    found = apply_trained(base.params, changed, 16.0)
    assert found["embedder/embedding"] is changed["embedder/embedding"]
    adapters = init_lora(unflatten(base.params), 2, ("query",), jax.random.key(0))
    assert apply_trained(base.params, adapters, 16.0).keys() == base.params.keys()


def test_what_a_run_lacks_is_named(finished, tmp_path):
    with pytest.raises(FileNotFoundError, match="--trial=none: .* has no such trial; it has .*smf"):
        find_trial(finished, "none", -1)
    with pytest.raises(FileNotFoundError, match="--task=7: trial .* no checkpoint .* tasks 0, 1"):
        find_trial(finished, SMF, 7)
    with pytest.raises(FileNotFoundError, match="--run=.* is no run of a sweep"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(FileNotFoundError, match="is no run of a sweep"):
        read_config(tmp_path)
    assert read_config(finished)["lora_alpha"] == 16.0


def test_a_checkpoint_of_another_base_is_refused(finished, base):
    trial, task = find_trial(finished, FULL, -1)
    base_fingerprint = base.fingerprint()[:12]
    with pytest.raises(ValueError, match=f"checkpoint .* belongs to base {base_fingerprint}"):
        trained_params(RunDirectory(str(finished)), trial, task, base.params, "f" * 64, 16.0)


def test_a_trial_whose_checkpoints_are_gone_is_named(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished / "trials" / SMF, run / "trials" / SMF)
    for task in (0, 1):
        shutil.rmtree(run / "trials" / SMF / f"task_{task:02d}")
    with pytest.raises(FileNotFoundError, match="it has tasks none"):
        find_trial(run, SMF, -1)
