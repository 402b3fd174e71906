"""Event files, read back record by record."""

from __future__ import annotations

import struct
import sys
from typing import Any

import pytest

from smf_jax.continual.trackers.tensorboard import TensorBoard

EVENTS = pytest.importorskip("tensorboardX.proto.event_pb2")


def points(directory) -> dict[tuple[str, int], Any]:
    found = {}
    for file in directory.glob("events.*"):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = EVENTS.Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    found[value.tag, event.step] = value.simple_value
                else:
                    found[value.tag, event.step] = value.tensor.string_val[0].decode()
    return found


def test_curves_and_settings_are_in_the_files(tmp_path):
    for start in (0, 2):  # and go on in the same place
        tracker = TensorBoard()
        tracker.start(tmp_path, "a-s0", {"trial": "a-s0", "seed": 0})
        tracker.log_scalars(start, {"loss": 1.5 + start})
        tracker.log_scalars(start + 1, {"loss": 0.25})
        tracker.log_row(start + 1, {"trial": "a-s0", "seed": 0, "unseen": 0.75, "known": None})
        tracker.finish()
    found = points(tmp_path / "tensorboard" / "a-s0")
    assert found.pop(("config/text_summary", 0)).strip().endswith("}")
    assert found == {
        ("loss", 0): 1.5,
        ("loss", 1): 0.25,
        ("task/unseen", 1): 0.75,
        ("loss", 2): 3.5,
        ("loss", 3): 0.25,
        ("task/unseen", 3): 0.75,
    }
    assert not {"torch", "tensorflow"} & sys.modules.keys()


def test_a_sweep_leaves_them_beside_its_own_files(sweeper, tmp_path):
    out = tmp_path / "run"
    assert sweeper(out, methods="full", lr="1e-3", optimizer="", track="tensorboard") == 0
    (trial,) = (out / "tensorboard").iterdir()
    found = points(trial)
    assert sorted(step for name, step in found if name == "loss") == list(range(12))
    assert ("task/unseen", 11) in found
