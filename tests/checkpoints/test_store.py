from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from orbax.checkpoint import v1 as ocp

from smf_jax import checkpoints
from smf_jax.checkpoints.manifest import fingerprint


def make_arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "memory/pool_1/values": rng.normal(size=(96, 32)).astype(np.float32),
        "layers_0/feed_forward/up/kernel": rng.normal(size=(24, 40)).astype(ml_dtypes.bfloat16),
        "counts": rng.integers(0, 1 << 30, 500, dtype=np.int32),
    }


def assert_bit_identical(got: dict, want: dict) -> None:
    assert got.keys() == want.keys()
    for name in want:
        have, expected = np.asarray(got[name]), np.asarray(want[name])
        assert (have.shape, have.dtype) == (expected.shape, expected.dtype), name
        assert have.tobytes() == expected.tobytes(), name


def start(command: list[str]) -> subprocess.Popen:
    root = Path(checkpoints.__file__).parents[2]
    return subprocess.Popen(command, cwd=root, env={**os.environ, "JAX_PLATFORMS": "cpu"})


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    checkpoints.save(tmp_path / "saved", make_arrays(), {"step": 1})
    return tmp_path / "saved"


# --- what is saved is loaded -------------------------------------------------------------------


def test_round_trip_is_bit_exact_for_every_kind_of_leaf(tmp_path):
    arrays = {
        "float32": np.array([[1.5, -0.0, np.inf], [np.nan, 1e-45, 3.0]], np.float32),
        "nested/bfloat16": jnp.arange(7, dtype=jnp.bfloat16) / 3,
        "nested/deeper/int32": jnp.arange(-5, 5, dtype=jnp.int32),
        "int64": np.array([2**62 + 1]),
        "bool": np.array([True, False]),
        "scalar/jax": jnp.float32(0.01),
        "scalar/bfloat16": np.asarray(0.5, ml_dtypes.bfloat16),
        "scalar/int32": np.int32(-7),
        "empty": np.zeros((0, 4), np.float32),
        "transposed": np.arange(6.0).reshape(2, 3).T,
    }
    checkpoints.save(tmp_path / "x", arrays, {})
    got, _ = checkpoints.load(tmp_path / "x")
    assert_bit_identical(got, arrays)
    assert all(type(array) is np.ndarray for array in got.values())


def test_leaf_of_many_blocks_and_chunks_round_trips(tmp_path):
    table = np.random.default_rng(0).integers(0, 255, (40 << 20) + 3, dtype=np.uint8)
    saved_as = checkpoints.save(tmp_path / "x", {"table": table}, {})
    got, _ = checkpoints.load(tmp_path / "x")
    assert_bit_identical(got, {"table": table})
    table[-1] ^= 1
    assert fingerprint({"table": table}) != saved_as


def test_metadata_comes_back_without_the_arrays(saved):
    metadata = {"kind": "base", "list": [1, 2.5, None, True], "nested": {"text": "α"}}
    checkpoints.save(saved.parent / "x", make_arrays(), metadata)
    shutil.rmtree(saved.parent / "x" / "arrays" / "ocdbt.process_0")
    assert checkpoints.read_metadata(saved.parent / "x") == metadata


def test_checkpoint_without_arrays_holds_its_metadata(tmp_path):
    for arrays in ({}, {"pool/slots": np.zeros(0, np.int32)}):
        checkpoints.save(tmp_path / "x", arrays, {"rows": 0}, overwrite=True)
        got, metadata = checkpoints.load(tmp_path / "x")
        assert_bit_identical(got, arrays)
        assert metadata == {"rows": 0}


def test_relative_paths_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoints.save("here", make_arrays(), {})
    assert_bit_identical(checkpoints.load("here")[0], make_arrays())


def test_plain_orbax_reads_the_parameter_tree(saved):
    tree = ocp.load(saved)
    values = tree["memory"]["pool_1"]["values"]
    assert values.tobytes() == make_arrays()["memory/pool_1/values"].tobytes()


def test_sharded_arrays_are_saved_whole_and_loaded_into_other_shardings(tmp_path):
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(AxisType.Auto,))
    rows, columns, whole = (
        NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("rows",), (None, "rows"), ())
    )
    arrays = {"values": make_arrays()["memory/pool_1/values"], "alpha": np.float32(0.5)}
    placed = {
        "values": jax.device_put(arrays["values"], rows),
        "alpha": jax.device_put(arrays["alpha"], whole),
    }
    assert checkpoints.save(tmp_path / "x", placed, {}) == fingerprint(arrays)
    got, _ = checkpoints.load(tmp_path / "x", shardings={"values": columns, "alpha": whole})
    assert_bit_identical(got, arrays)
    assert got["values"].sharding == columns
    assert {shard.data.shape for shard in got["values"].addressable_shards} == {(96, 4)}
    everywhere, _ = checkpoints.load(tmp_path / "x", shardings=whole)
    assert everywhere["values"].sharding == whole
    with pytest.raises(ValueError, match="shardings: none for alpha; give one per leaf"):
        checkpoints.load(tmp_path / "x", shardings={"values": columns})


def test_no_leaf_is_cast_on_its_way_to_a_device(tmp_path):
    checkpoints.save(tmp_path / "x", {"ids": np.array([2**40])}, {})
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with pytest.raises(ValueError, match="'ids': int64 would be cast to int32"):
        checkpoints.load(tmp_path / "x", shardings=sharding)


# One of two processes that hold half a table each.
SAVE_TOGETHER = """
import sys
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from smf_jax import checkpoints
from smf_jax.checkpoints.manifest import fingerprint

path, port, process = sys.argv[1:]
jax.distributed.initialize(f"localhost:{port}", 2, int(process))
mesh = jax.make_mesh((2,), ("rows",), axis_types=(AxisType.Auto,))
halves = NamedSharding(mesh, PartitionSpec("rows"))
table = np.arange(32, dtype=np.float32).reshape(8, 4)
placed = jax.make_array_from_callback(table.shape, halves, lambda index: table[index])
for step in (1, 2):
    checkpoints.save(path, {"table": placed}, {"step": step}, overwrite=step == 2)
loaded, _ = checkpoints.load(path, shardings=halves)
(shard,) = loaded["table"].addressable_shards
assert np.array_equal(shard.data, table[shard.index])
"""


def test_processes_save_one_checkpoint_together(tmp_path):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-c", SAVE_TOGETHER, str(tmp_path / "x"), port]
    processes = [start([*command, str(process)]) for process in range(2)]
    try:
        assert [process.wait(timeout=60) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    got, metadata = checkpoints.load(tmp_path / "x")
    assert_bit_identical(got, {"table": np.arange(32, dtype=np.float32).reshape(8, 4)})
    assert metadata == {"step": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


# --- fingerprints ------------------------------------------------------------------------------


def test_fingerprint_is_that_of_the_manifest_and_of_save(tmp_path):
    saved_as = checkpoints.save(tmp_path / "x", make_arrays(), {"any": 1})
    assert saved_as == fingerprint(make_arrays())
    assert saved_as == checkpoints.read_manifest(tmp_path / "x").fingerprint


def test_fingerprint_changes_with_path_shape_dtype_and_any_bit_but_not_with_order():
    rows = np.zeros((2, 3), np.float32)
    flipped = rows.copy()
    flipped[1, 2] = -0.0
    variants = [
        {"a": rows},
        {"b": rows},
        {"a": rows, "b": rows},
        {"a": rows.reshape(3, 2)},
        {"a": rows.astype(np.int32)},
        {"a": flipped},
    ]
    prints = [fingerprint(each) for each in variants]
    assert len(set(prints)) == len(prints)
    assert fingerprint({"b": rows, "a": rows}) == prints[2]
    assert fingerprint({"a": jnp.asarray(rows)}) == prints[0]
    assert fingerprint({"a": rows.astype(">f4")}) == prints[0]


# --- what cannot be saved is refused -----------------------------------------------------------


@pytest.mark.parametrize("name", ["", "a//b", "/a", "a.b"])
def test_name_that_is_no_path_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="not a path"):
        checkpoints.save(tmp_path / "x", {name: np.ones(2)}, {})
    assert not (tmp_path / "x").exists()


def test_path_inside_the_path_of_an_array_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'a/b/c': another array stands"):
        checkpoints.save(tmp_path / "x", {"a/b/c": np.ones(2), "a/b": np.ones(2)}, {})


@pytest.mark.parametrize("array", [np.array(["text"]), np.array([object()]), jax.random.key(0)])
def test_array_without_plain_numbers_is_refused(tmp_path, array):
    with pytest.raises(ValueError, match="array 'a'"):
        checkpoints.save(tmp_path / "x", {"a": array}, {})


@pytest.mark.parametrize("value", [np.float32(1), float("nan"), {1, 2}])
def test_metadata_beyond_json_is_refused(tmp_path, value):
    with pytest.raises(ValueError, match="metadata: "):
        checkpoints.save(tmp_path / "x", make_arrays(), {"value": value})


def test_existing_checkpoint_is_replaced_only_when_asked(saved):
    new = {"other": np.arange(3)}
    with pytest.raises(FileExistsError, match="overwrite=True"):
        checkpoints.save(saved, new, {})
    assert_bit_identical(checkpoints.load(saved)[0], make_arrays())
    checkpoints.save(saved, new, {"step": 2}, overwrite=True)
    got, metadata = checkpoints.load(saved)
    assert_bit_identical(got, new)
    assert metadata == {"step": 2}
    assert [path.name for path in saved.parent.iterdir()] == ["saved"]


def test_directory_that_is_no_checkpoint_is_never_overwritten(tmp_path):
    (tmp_path / "results.jsonl").write_text("precious")
    with pytest.raises(FileExistsError, match="not a checkpoint"):
        checkpoints.save(tmp_path, make_arrays(), {}, overwrite=True)
    assert (tmp_path / "results.jsonl").read_text() == "precious"


def test_full_disk_is_one_error_and_loses_nothing(saved, capfd):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, hard))
    try:
        with pytest.raises(OSError, match=r"could not be saved \(.*Nothing that was saved before"):
            checkpoints.save(saved, {"table": np.ones(1 << 16)}, {}, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_bit_identical(checkpoints.load(saved)[0], make_arrays())
    assert capfd.readouterr().err == ""
    checkpoints.save(saved, {"table": np.ones(1 << 16)}, {}, overwrite=True)


# --- stopped saves -----------------------------------------------------------------------------

# Saves once, then starts a save that never commits, for the parent to kill.
SAVE_WITHOUT_END = """
import sys, time
from etils import epath
import numpy as np
from smf_jax import checkpoints
from smf_jax.checkpoints.manifest import fingerprint

first, second = sys.argv[1:]
checkpoints.save(first, {"table": np.arange(1000)}, {"step": 1})
type(epath.Path(first)).rename = lambda *_: time.sleep(600)
table = np.random.default_rng(0).normal(size=1 << 20)
checkpoints.save(second, {"table": table}, {"step": 2}, overwrite=True)
"""
TABLE_BYTES = 8 << 20


def kill_during_save(first: Path, second: Path, written: int) -> None:
    """Kills a process in its second save, once that has written so many bytes."""
    process = start([sys.executable, "-c", SAVE_WITHOUT_END, str(first), str(second)])
    try:
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
            unfinished = list(second.parent.glob("*.orbax-checkpoint-tmp"))
            if not (checkpoints.is_complete(first) and unfinished):
                continue
            with contextlib.suppress(FileNotFoundError):  # files come and go
                if sum(path.stat().st_size for path in unfinished[0].rglob("*")) >= written:
                    return
        pytest.fail("the second save was never under way")
    finally:
        process.kill()
        process.wait()


def test_save_killed_midway_leaves_the_earlier_one_and_is_refused_itself(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    kill_during_save(first, second, written=1)
    got, metadata = checkpoints.load(first)
    assert_bit_identical(got, {"table": np.arange(1000)})
    assert metadata == {"step": 1}
    assert not checkpoints.is_complete(second)
    with pytest.raises(FileNotFoundError, match="second does not exist; a save to it was interr"):
        checkpoints.load(second)
    (unfinished,) = tmp_path.glob("second*")
    with pytest.raises(ValueError, match="is an unfinished save"):
        checkpoints.load(unfinished)
    checkpoints.save(second, make_arrays(), {})
    assert_bit_identical(checkpoints.load(second)[0], make_arrays())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]


def test_overwrite_killed_before_its_commit_leaves_what_it_was_to_replace(tmp_path):
    path = tmp_path / "only"
    kill_during_save(path, path, written=TABLE_BYTES)
    got, metadata = checkpoints.load(path)
    assert_bit_identical(got, {"table": np.arange(1000)})
    assert metadata == {"step": 1}
    checkpoints.save(path, make_arrays(), {}, overwrite=True)
    assert_bit_identical(checkpoints.load(path)[0], make_arrays())
    assert [path.name for path in tmp_path.iterdir()] == ["only"]


def test_overwrite_killed_between_its_renames_says_where_the_new_one_is(saved):
    saved.rename(saved.with_name("saved.incoming"))
    with pytest.raises(FileNotFoundError, match=r"saved\.incoming holds the new one: rename that"):
        checkpoints.load(saved)


# --- damaged files -----------------------------------------------------------------------------


def file_of(checkpoint: Path, array: np.ndarray) -> tuple[Path, int]:
    """The file that holds the bytes of an array, uncompressed, and where."""
    for path in checkpoint.rglob("*"):
        if path.is_file() and (start := path.read_bytes().find(array.tobytes())) >= 0:
            return path, start
    raise AssertionError("no file holds the array as it is")


@pytest.mark.parametrize("name", make_arrays())
@pytest.mark.parametrize("where", [0.0, 0.5, 1.0])
def test_one_flipped_bit_of_a_leaf_is_refused_naming_that_leaf_alone(saved, name, where, capfd):
    array = make_arrays()[name]
    path, start = file_of(saved, array)
    damaged = bytearray(path.read_bytes())
    damaged[start + int(where * (array.nbytes - 1))] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ValueError) as error:
        checkpoints.load(saved)
    named = [each for each in make_arrays() if f"{each}:" in str(error.value)]
    assert named == [name]
    assert str(saved) in str(error.value)
    assert capfd.readouterr().err == ""


def damages(content: bytes) -> dict[str, bytes]:
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 0x10
    return {"flipped": bytes(flipped), "cut": content[: len(content) // 2]}


def test_whatever_happens_to_a_file_never_changes_what_is_loaded(saved, capfd):
    """Each damage of each file is refused in a few lines, or was of bytes that nobody reads."""
    refused = 0
    for path in [each for each in saved.rglob("*") if each.is_file() and each.stat().st_size]:
        content = path.read_bytes()
        for damage in damages(content).values():
            path.write_bytes(damage)
            try:
                got, metadata = checkpoints.load(saved)
            except ValueError as error:
                refused += 1
                assert str(saved) in str(error)
                assert len(str(error).splitlines()) < 8
            else:
                assert_bit_identical(got, make_arrays())
                assert metadata == {"step": 1}
            path.write_bytes(content)
    assert refused >= 8
    assert capfd.readouterr().err == ""


def test_many_damaged_leaves_are_not_all_listed(tmp_path):
    arrays = {f"layers_{i}/kernel": np.full(50, i, np.float32) for i in range(30)}
    checkpoints.save(tmp_path / "x", arrays, {})
    (tmp_path / "x" / "arrays" / "manifest.ocdbt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="and more") as error:
        checkpoints.load(tmp_path / "x")
    assert len(str(error.value).splitlines()) < 12


def test_manifest_changed_by_hand_is_refused(saved):
    path = saved / "manifest" / "data.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"metadata": {"step": 2}}))
    with pytest.raises(ValueError, match="does not match its own checksum"):
        checkpoints.read_metadata(saved)
    path.write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(ValueError, match="format 99, this version reads format 1"):
        checkpoints.load(saved)


def test_checkpoint_of_plain_orbax_is_refused(tmp_path):
    ocp.save(tmp_path / "x", {"a": np.ones(3)})
    with pytest.raises(ValueError, match="not a complete checkpoint of smf_jax"):
        checkpoints.load(tmp_path / "x")


def test_directory_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is not a complete checkpoint of smf_jax"):
        checkpoints.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="missing does not exist"):
        checkpoints.load(tmp_path / "missing")


# --- expectations ------------------------------------------------------------------------------


def test_expected_leaves_load(saved):
    expected = {
        name: jax.ShapeDtypeStruct(array.shape, array.dtype)
        for name, array in make_arrays().items()
    }
    assert_bit_identical(checkpoints.load(saved, expected)[0], make_arrays())


def test_every_difference_from_the_expected_leaves_is_listed_before_data_is_read(saved):
    shutil.rmtree(saved / "arrays" / "ocdbt.process_0")
    expected = {
        "memory/pool_1/values": jax.ShapeDtypeStruct((128, 32), jnp.float32),
        "layers_0/feed_forward/up/kernel": jax.ShapeDtypeStruct((24, 40), jnp.float32),
        "head/kernel": jax.ShapeDtypeStruct((32, 8), jnp.float32),
    }
    with pytest.raises(ValueError) as error:
        checkpoints.load(saved, expected)
    assert str(error.value).splitlines()[1:-1] == [
        "  head/kernel: missing",
        "  counts: not expected",
        "  layers_0/feed_forward/up/kernel: bfloat16[24, 40], expected float32[24, 40]",
        "  memory/pool_1/values: float32[96, 32], expected float32[128, 32]",
    ]
