from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.compare import CompareConfig, compare, main, to_text
from smf_jax import checkpoints
from smf_jax.sparse.patch import diff_params

POOL = "memory/pool_1/values"
ALPHA = "memory/layer_1/alpha"
KERNEL = "layers_0/attention/query/kernel"
TASK_SLOTS = ([3, 4, 5], [5, 6], [40])


def make_base() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        POOL: rng.normal(size=(64, 4)).astype(np.float32),
        ALPHA: np.float32(0.25),
        KERNEL: rng.normal(size=(4, 4)).astype(np.float32),
        "embedder/embedding": rng.normal(size=(9, 4)).astype(np.float32),
    }


@pytest.fixture(scope="module")
def trials(tmp_path_factory) -> Path:
    """A run as the sweep leaves it: three patches, trained leaves, adapters."""
    directory = tmp_path_factory.mktemp("run")
    state = make_base()
    base = checkpoints.save(directory / "base" / "leaves", state, {"kind": "base"})
    trials, parent = directory / "trials", base
    for task, slots in enumerate(TASK_SLOTS):
        after = {**state, POOL: state[POOL].copy()}
        after[POOL][slots] += np.array([3, 0, 0, 4], np.float32)  # moves a row by 5
        patch = diff_params(state, after, task=f"task {task}", base=base, parent=parent)
        arrays, metadata = patch.to_arrays()
        names = {"method": "smf", "trial": "smf-s0", "task": task}
        checkpoints.save(trials / "smf-s0" / f"task_{task:02}", arrays, names | metadata)
        state, parent = after, patch.fingerprint
    leaves = {KERNEL: make_base()[KERNEL] + np.float32(1)}
    names = {"kind": "leaves", "base": base, "method": "full", "trial": "full-s0", "task": 0}
    checkpoints.save(trials / "full-s0" / "task_00", leaves, names)
    adapters = {"layers_0/attention/query/a": np.ones((4, 2), np.float32)}
    checkpoints.save(trials / "lora-s0" / "task_00", adapters, names | {"kind": "adapters"})
    return trials


def overlap_of(found) -> dict[str, tuple[int, int]]:
    return {each.task: (each.slots, each.shared) for each in found.overlap}


def test_base_is_identical_to_itself(trials):
    found = compare(trials.parent / "base", trials.parent / "base" / "leaves")
    assert (found.leaves, found.identical, found.changed, found.same_base) == (4, 4, [], True)
    assert found.pools[0].changed == 0


def test_base_against_a_patch_counts_the_slots_of_the_whole_chain(trials):
    found = compare(trials.parent / "base", trials / "smf-s0" / "task_01")
    assert (found.leaves, found.identical) == (4, 3)
    (pool,) = found.pools
    assert pool.slots == [3, 4, 5, 6]
    assert (pool.changed, pool.table_slots) == (4, 64)
    # Slot 5 moved twice.
    assert pool.change_norm_mean == pytest.approx((5 + 5 + 10 + 5) / 4, rel=1e-6)
    assert pool.change_norm_largest == pytest.approx(10, rel=1e-6)
    (leaf,) = found.changed
    assert leaf.path == POOL
    assert leaf.norm == pytest.approx(np.linalg.norm(make_base()[POOL]), rel=1e-6)
    assert leaf.change_norm == pytest.approx((3 * 25 + 100) ** 0.5, rel=1e-6)
    assert leaf.change_largest == pytest.approx(8, rel=1e-6)


def test_neighbouring_tasks_differ_in_what_the_later_one_wrote(trials):
    found = compare(trials / "smf-s0" / "task_00", trials / "smf-s0" / "task_01")
    assert found.pools[0].slots == [5, 6]
    assert overlap_of(found) == {"task_00": (3, 1), "task_01": (2, 2), "task_02": (1, 0)}
    assert {each.trial for each in found.overlap} == {"smf-s0"}


def test_trained_leaves_stand_on_the_base(trials):
    found = compare(trials.parent / "base", trials / "full-s0" / "task_00")
    assert [leaf.path for leaf in found.changed] == [KERNEL]
    assert found.changed[0].change_norm == pytest.approx(4, rel=1e-6)
    assert (found.pools[0].changed, found.overlap) == (0, [])


def test_methods_compare_with_each_other(trials):
    found = compare(trials / "smf-s0" / "task_02", trials / "lora-s0" / "task_00")
    assert found.identical == 3
    assert {leaf.path for leaf in found.changed} == {POOL, "adapters/layers_0/attention/query/a"}
    assert overlap_of(found) == {"task_00": (3, 3), "task_01": (2, 2), "task_02": (1, 1)}
    assert "float32[4, 2], in B only" in to_text(found)
    assert "in A only" in to_text(
        compare(trials / "lora-s0" / "task_00", trials / "smf-s0" / "task_02")
    )


def test_text_tells_what_the_numbers_are(trials):
    text = to_text(compare(trials / "smf-s0" / "task_00", trials / "smf-s0" / "task_01"))
    assert "leaves: 3 of 4 bit-identical" in text
    assert f"{POOL}: 2 of 64 slots (3.12%)" in text
    assert "change of a row: norm 5 on average, 5 at most" in text
    (line,) = (line for line in text.splitlines() if "task_00  " in line)
    assert line.split() == ["task_00", "1", "(", "50.0%)", "of", "its", "3", "slots", "task", "0"]


def test_other_bases_are_said_to_be_other(trials, tmp_path):
    other = make_base() | {"embedder/embedding": np.zeros((9, 2), np.float32)}
    checkpoints.save(tmp_path / "base", other, {"kind": "base"})
    found = compare(trials.parent / "base", tmp_path / "base")
    assert not found.same_base
    text = to_text(found)
    assert "the two have different bases" in text
    assert "embedder/embedding  float32[9, 4] against float32[9, 2]" in text


def test_base_elsewhere_has_to_be_named_and_to_be_the_right_one(trials, tmp_path):
    alone = tmp_path / "runs" / "trials" / "full-s0" / "task_00"
    leaves, metadata = checkpoints.load(trials / "full-s0" / "task_00")
    checkpoints.save(alone, leaves, metadata)
    with pytest.raises(FileNotFoundError, match="--base"):
        compare(alone, alone)
    found = compare(alone, trials.parent / "base", base=trials.parent / "base")
    assert found.identical == 3
    checkpoints.save(tmp_path / "base", {"other": np.ones(2)}, {"kind": "base"})
    with pytest.raises(ValueError, match=f"belongs to base {metadata['base'][:12]}"):
        compare(alone, alone, base=tmp_path / "base")


def test_gap_in_the_chain_of_patches_is_refused(trials, tmp_path):
    for name in ("task_00", "task_02"):
        patch, metadata = checkpoints.load(trials / "smf-s0" / name)
        checkpoints.save(tmp_path / "trials" / "smf-s0" / name, patch, metadata)
    with pytest.raises(ValueError, match="restore all patches of the trial"):
        compare(
            tmp_path / "trials" / "smf-s0" / "task_02",
            trials.parent / "base",
            base=trials.parent / "base",
        )


def test_checkpoint_of_another_kind_is_refused(trials, tmp_path):
    checkpoints.save(tmp_path / "background", {"df": np.ones(4)}, {"kind": "background"})
    with pytest.raises(ValueError, match="kind='background', expected a base, a patch"):
        compare(tmp_path / "background", trials.parent / "base")


def test_command_takes_exactly_two_checkpoints():
    with pytest.raises(ValueError, match="1 checkpoints given, expected two"):
        main(CompareConfig(checkpoints=("a",)))


def test_json_is_the_whole_comparison(trials, capsys):
    paths = str(trials / "smf-s0" / "task_00"), str(trials / "smf-s0" / "task_01")
    assert main(CompareConfig(checkpoints=paths, json=True)) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["first"] == paths[0]
    assert found["pools"][0]["slots"] == [5, 6]
    assert found["overlap"][0]["shared"] == 1


def test_command_line(trials):
    command = [sys.executable, "-m", "experiments.compare"]
    paths = [str(trials.parent / "base"), str(trials / "smf-s0" / "task_02")]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command + paths, cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{POOL}: 5 of 64 slots" in done.stdout
