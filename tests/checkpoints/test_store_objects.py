"""Checkpoints in an object store: read as they were saved, and never taken for whole in part."""

from __future__ import annotations

import numpy as np
import pytest

from smf_jax import checkpoints

URL = "gs://bucket/run/task_00"


def test_a_checkpoint_in_a_store_is_as_on_a_disk(store):
    arrays = {"a/b": np.arange(5, dtype=np.float32), "empty": np.zeros((0, 2))}
    fingerprint = checkpoints.save(URL, arrays, {"x": 1})
    found, about = checkpoints.load(URL, arrays)
    assert (about, np.array_equal(found["a/b"], arrays["a/b"])) == ({"x": 1}, True)
    assert checkpoints.read_manifest(URL).fingerprint == fingerprint
    assert checkpoints.read_metadata(URL) == {"x": 1}
    with pytest.raises(FileExistsError, match=f"checkpoint {URL} exists"):
        checkpoints.save(URL, arrays, {})
    checkpoints.save(URL, arrays, {"x": 2}, overwrite=True)
    assert checkpoints.read_metadata(URL) == {"x": 2}
    with pytest.raises(ValueError, match=f"checkpoint {URL}: 1 leaves differ"):
        checkpoints.load(URL, {"a/b": arrays["a/b"]})
    with pytest.raises(FileNotFoundError, match="checkpoint gs://bucket/other does not exist"):
        checkpoints.load("gs://bucket/other")


def test_what_was_sent_in_part_is_no_checkpoint(store):
    arrays = {"a": np.arange(5)}
    store.fails_at = 3
    with pytest.raises(OSError, match="network is gone"):
        checkpoints.save(URL, arrays, {})
    store.fails_at = None
    assert store.objects and not checkpoints.is_complete(URL)
    with pytest.raises(ValueError, match=f"{URL} is not a complete checkpoint"):
        checkpoints.load(URL)
    checkpoints.save(URL, arrays, {})
    assert checkpoints.is_complete(URL)
    for name in store.below(f"{URL}/arrays"):
        store.objects[name] = bytes(len(store.objects[name]))
    with pytest.raises(ValueError, match=f"checkpoint {URL}: damaged leaves"):
        checkpoints.load(URL)
