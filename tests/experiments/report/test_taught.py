"""The page of a taught model is drawn from its directory."""

from __future__ import annotations

import shutil

import pytest

from experiments.report.__main__ import ReportConfig, main
from experiments.report.taught import write_taught_page
from tests.taught.tiny import FACTS


def test_a_taught_directory_gets_its_page(taught, tmp_path, capsys, monkeypatch):
    out = shutil.copytree(taught, tmp_path / "model")
    assert main(ReportConfig((str(out),))) == 0
    assert str(out / "report.html") in capsys.readouterr().out
    page = (out / "report.html").read_text()
    assert all(fact["question"] in page for fact in FACTS) and "facts_02" in page
    assert "slots that two tasks share" in page
    monkeypatch.setattr("experiments.report.taught.can_draw", lambda: False)
    with pytest.raises(ValueError, match="needs plotly"):
        write_taught_page(str(out))
