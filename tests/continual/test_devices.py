"""Meshes of a sweep, and what they refuse before anything is computed."""

from __future__ import annotations

import jax
import pytest

from smf_jax.continual.devices import DeviceConfig, mesh_for
from smf_jax.mesh import DATA, MEMORY, TRIAL
from tests.tiny_sweep import on_devices


def test_all_devices_stand_along_trial_unless_told():
    assert mesh_for(DeviceConfig(), 20).shape == {TRIAL: 8, DATA: 1, MEMORY: 1}
    assert mesh_for(DeviceConfig(), 3).devices.flatten().tolist() == jax.devices()[:3]


def test_fewer_trials_than_places_take_the_first_devices():
    told = DeviceConfig(mesh="data:2,memory:2")
    assert told.sizes == {TRIAL: 2, DATA: 2, MEMORY: 2}
    mesh = mesh_for(told, 1)
    assert mesh.shape == {TRIAL: 1, DATA: 2, MEMORY: 2}
    assert mesh.devices.flatten().tolist() == jax.devices()[:4]


@pytest.mark.parametrize(
    ("devices", "changes", "message"),
    [
        (8, {"mesh": "data:3"}, "--mesh=data:3: makes up 6 devices and there are 8"),
        (8, {"mesh": "dat:8"}, "'dat:8' is not understood; expected axes once each"),
        (8, {"mesh": "data:2,data:4"}, "'data:4' is not understood"),
        (3, {"mesh": "data:3"}, "--batch_size=16: --mesh=data:3 shares 16 rows among 3 devices"),
        (
            8,
            {"mesh": "data:8", "granularity": "per_micro_batch", "micro_batches": 4},
            "--batch_size=16 in --micro_batches=4: --mesh=data:8 shares 4 rows",
        ),
        (2, {"mesh": "memory:2", "methods": "full"}, "method full trains whole tables"),
        (2, {"mesh": "memory:2", "leaky": True, "slots": "16"}, "method smf trains whole tables"),
        (3, {"mesh": "memory:3"}, "value width 32, which 3 devices do not divide"),
        (3, {"mesh": "memory:3", "table_layout": "rows"}, "slots 256, which 3 devices do not"),
    ],
)
def test_what_a_mesh_cannot_run_is_refused(refused, devices, changes, message):
    with on_devices(devices):
        refused(message, **{"methods": "smf", **changes})


def test_an_axis_of_no_devices_is_refused():
    with pytest.raises(ValueError, match="makes up 0 devices and there are 8"):
        _ = DeviceConfig(mesh="data:0").sizes
