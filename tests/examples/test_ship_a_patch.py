"""The example of a patch that is shipped, on the tiny base."""

from __future__ import annotations

from examples import ship_a_patch
from tests.tiny_sweep import on_devices, quick_compilation


def test_a_patch_arrives_and_another_base_refuses_it(tiny_base, tmp_path, capsys):
    with on_devices(1), quick_compilation():
        ship_a_patch.main(str(tiny_base), str(tmp_path))
    told = capsys.readouterr().out
    assert "leaves from Lisbon" in told
    assert "another base: patch 'night train'" in told and "rows differ" in told
    assert (tmp_path / "night_train.safetensors").stat().st_size < 200_000
