"""The example of a stream of facts, on the tiny base."""

from __future__ import annotations

from examples import teach_facts
from tests.tiny_sweep import on_devices


def test_tasks_are_taught_as_patches_and_taken_back(tiny_base, capsys):
    with on_devices(1):
        patches = teach_facts.main(str(tiny_base), tasks=2, facts=3, steps=10)
    assert [patch.parent for patch in patches] == [patches[0].base, patches[0].fingerprint]
    assert all(0 < patch.rows <= 64 * 10 for patch in patches)
    told = capsys.readouterr().out
    assert told.count("learned") == 2
    assert "all taken back, every bit as before: True" in told
