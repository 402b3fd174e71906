"""The shell of every command: flags, help, errors and exit statuses."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass

import pytest

from experiments.cli import help_text, parse, run
from experiments.compare import CompareConfig
from smf_jax.continual.config import PretrainFlags, RetrofitFlags, SweepFlags
from smf_jax.continual.flags import flag
from smf_jax.errors import blame_flag, require_least, require_positive, require_writable


@dataclass(frozen=True)
class Shared:
    common: str = flag("Shared", "x", "what several commands have")


@dataclass(frozen=True)
class Flags(Shared):
    name: str = flag("Who", "", "the name")
    count: int = flag("Who", 3, "how many")
    share: float = flag("How", 0.5, "of the whole")
    loud: bool = flag("How", False, "or not")
    limit: int | None = flag("How", None, "at most")
    rest: tuple[str, ...] = ()


def test_flags_are_read_in_every_form():
    given = ["--name=a b", "--count", "-2", "--share=1e-3", "--loud", "--limit=7", "more"]
    found, rest = parse(Flags, given)
    assert found == Flags(name="a b", count=-2, share=1e-3, loud=True, limit=7)
    assert rest == ["more"]
    assert parse(Flags, []) == (Flags(), [])
    assert parse(Flags, ["--noloud"])[0] == parse(Flags, ["--loud=false"])[0] == Flags()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--cuont=3", "cuont.*--help lists the flags"),
        ("--count=three", "--count=three.*--help lists the flags"),
        ("--loud=maybe", "--loud=maybe"),
        ("--rest=a", "rest"),
    ],
)
def test_a_bad_flag_is_named(argument, message):
    with pytest.raises(ValueError, match=message):
        parse(Flags, [argument])


def test_help_groups_and_explains_every_flag_its_own_first():
    text = help_text(Flags, "experiments.flags", "does it", "python -m experiments.flags")
    lines = text.splitlines()
    assert lines[0] == "python -m experiments.flags: does it"
    headings = [line for line in lines[3:] if line and not line.startswith(" ")]
    assert headings == ["Who:", "How:", "Shared:"]
    assert "how many [3]" in text
    assert "the name\n" in text  # no default to show
    assert "--rest" not in text


@pytest.mark.parametrize("flags", [SweepFlags, PretrainFlags, RetrofitFlags, CompareConfig])
def test_help_fits_a_terminal_and_explains_everything(flags):
    text = help_text(flags, "experiments.x", "does it", "an example")
    assert max(map(len, text.splitlines())) <= 100
    for name in (line[4:] for line in text.splitlines() if line.startswith("  --")):
        assert text.count(f"  --{name}\n      ") == 1


def exit_of(monkeypatch, capsys, main, *arguments: str, positional: str | None = None):
    """Status, standard output and standard error of a command."""
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    with pytest.raises(SystemExit) as left:
        run(main, Flags, "experiments.flags", "does it", "an example", positional)
    return left.value.code, *capsys.readouterr()


def test_the_status_is_that_of_main(monkeypatch, capsys):
    assert exit_of(monkeypatch, capsys, lambda flags: flags.count, "--count=0") == (0, "", "")
    assert exit_of(monkeypatch, capsys, lambda flags: flags.count, "--count=1") == (1, "", "")
    seen = []
    exit_of(monkeypatch, capsys, seen.append, "a", "b", positional="rest")
    assert seen == [Flags(rest=("a", "b"))]


@pytest.mark.parametrize("error", [ValueError, FileNotFoundError, PermissionError, OSError])
def test_bad_input_is_one_line_and_status_2(monkeypatch, capsys, error):
    def main(flags):
        raise error(f"--count={flags.count}: expected less")

    found = exit_of(monkeypatch, capsys, main)
    assert found == (2, "", "error: --count=3: expected less\n")
    monkeypatch.setenv("SMF_JAX_TRACEBACK", "1")
    assert "Traceback" in exit_of(monkeypatch, capsys, main)[2]


def test_arguments_that_are_no_flags_are_refused(monkeypatch, capsys):
    status, _, told = exit_of(monkeypatch, capsys, lambda flags: 0, "10")
    assert (status, told) == (2, "error: '10' is not a flag; --help lists them\n")


def test_training_that_is_not_finite_has_status_1(monkeypatch, capsys):
    def main(flags):
        raise FloatingPointError("step 3: loss is not finite")

    assert exit_of(monkeypatch, capsys, main) == (1, "", "failed: step 3: loss is not finite\n")


def test_a_fault_of_ours_is_no_error_of_the_user(monkeypatch):
    def main(flags):
        raise KeyError("lost")

    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(KeyError):
        run(main, Flags, "experiments.flags", "does it", "an example")


@pytest.mark.parametrize("argument", ["--help", "-h"])
@pytest.mark.parametrize("command", ["sweep", "pretrain", "retrofit", "compare"])
def test_help_of_every_command_needs_nothing_else(monkeypatch, capsys, command, argument):
    module = importlib.import_module(f"experiments.{command}")
    flags = {"sweep": SweepFlags, "pretrain": PretrainFlags, "retrofit": RetrofitFlags}
    monkeypatch.setattr(sys, "argv", [command, "--nonsense", argument])
    with pytest.raises(SystemExit) as left:
        run(module.main, flags.get(command, CompareConfig), command, "does it", "an example")
    assert left.value.code == 0
    assert capsys.readouterr().out.startswith(f"python -m {command}: ")


def test_an_error_is_told_with_its_flag_once():
    with pytest.raises(ValueError, match=r"^--reads=9 exceeds 4$"), blame_flag("--"):
        raise ValueError("reads=9 exceeds 4")
    with (
        pytest.raises(FileNotFoundError, match=r"^--base=a: a: not there$"),
        blame_flag("--base=a: "),
    ):
        raise FileNotFoundError("a: not there")
    with (
        pytest.raises(ValueError, match=r"^--stream: line 2$"),
        blame_flag("--probes: "),
        blame_flag("--stream: "),
    ):
        raise ValueError("line 2")


def test_bounds_refuse_by_name_and_nan_too():
    require_least(Flags(), 3, "count")
    require_positive(Flags(), "count", "share")
    with pytest.raises(ValueError, match="--count=3: expected at least 4"):
        require_least(Flags(), 4, "count")
    with pytest.raises(ValueError, match="--share=nan: expected at least 0"):
        require_least(Flags(share=float("nan")), 0, "share")
    with pytest.raises(ValueError, match="--share=0.0: expected a number above 0"):
        require_positive(Flags(share=0.0), "share")


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    require_writable(str(tmp_path / "a" / "b"), "out")
    require_writable("a/b", "out")
    with pytest.raises(ValueError, match="--out=.*file/a: .*file is no directory"):
        require_writable(str(tmp_path / "file" / "a"), "out")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
