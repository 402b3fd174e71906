"""The command line: verbs, help, one-line errors, statuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from smf_jax.__main__ import VERBS, main
from smf_jax.command import first_page, help_text
from smf_jax.configuration import flags_of
from tests.experiments.test_cli import signals as signals

ROOT = Path(__file__).resolve().parents[1]


def exit_of(monkeypatch, capsys, *arguments: str) -> tuple[Any, str, str]:
    """Status, standard output and standard error of a command."""
    monkeypatch.setattr(sys, "argv", ["smf", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    out, err = capsys.readouterr()
    return left.value.code, out, err


def test_help_names_every_verb(monkeypatch, capsys):
    for arguments in ([], ["--help"]):
        status, out, err = exit_of(monkeypatch, capsys, *arguments)
        assert (status, err) == (0, "")
        assert all(f"smf {verb} " in out for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_fits_a_screen_and_explains_its_flags(verb, monkeypatch, capsys):
    config, about, example = VERBS[verb][1:]
    status, out, _ = exit_of(monkeypatch, capsys, verb, "--help")
    assert status == 0 and out == first_page(config, about, example) + "\n"
    assert out.startswith(f"smf {verb}: ") and len(out.splitlines()) <= 35
    full = help_text(config, about, example)
    assert max(map(len, full.splitlines())) <= 100
    assert all(f"  --{name}\n" in full for name in flags_of(config()))


def test_an_error_is_one_line_and_names_what_is_amiss(monkeypatch, capsys, tmp_path):
    found = exit_of(monkeypatch, capsys, "learn")
    assert found == (2, "", f"error: 'learn' is no verb; choose from {', '.join(VERBS)}\n")
    found = exit_of(monkeypatch, capsys, "ask", "--nonsense")
    assert found[0] == 2 and "nonsense" in found[2] and found[2].count("\n") == 1
    found = exit_of(monkeypatch, capsys, "list", str(tmp_path / "nothing"))
    assert found[0] == 2 and found[2].count("\n") == 1 and "no such directory" in found[2]


def test_a_taught_model_is_listed(taught, monkeypatch, capsys):
    status, out, _ = exit_of(monkeypatch, capsys, "list", str(taught))
    assert status == 0 and "facts_01" in out


def test_it_is_a_process_of_its_own():
    found = subprocess.run(
        [sys.executable, "-m", "smf_jax", "teach", "--help"],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.startswith("smf teach: ")
