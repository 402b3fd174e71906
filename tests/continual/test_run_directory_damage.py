"""Files of a run, an export and a patch are damaged, as `tests.damage` does by the hundred."""

from __future__ import annotations

from experiments.report import write
from tests.damage import damage_all, prepare


def test_no_damage_is_silent(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(write, "draw_pictures", lambda *_, **__: {})  # for time
    prepare(finished, tmp_path)
    told = damage_all(tmp_path, flips=4, truncations=3, told=lambda _: None)
    assert told == {"flip": 4, "truncation": 3, "silent": 0, "of": []}
