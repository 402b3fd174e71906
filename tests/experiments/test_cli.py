"""The shell of every command: flags, help, errors and exit statuses."""

from __future__ import annotations

import os
import re
import runpy
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from experiments.cli import first_page, help_text, parse, run
from experiments.compare import CompareConfig
from smf_jax import interrupts
from smf_jax.bases.pretrain_config import PretrainConfig
from smf_jax.bases.retrofit_config import RetrofitCommandConfig
from smf_jax.configuration import Configuration, flags_of, setting
from smf_jax.continual.config import SweepConfig

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Flags(Configuration):
    name: str = setting("", "the name", heading="Who", first=True)
    count: int = setting(3, "how many", heading="Who", first=True)
    share: float = setting(0.5, "of the whole", heading="How")
    loud: bool = setting(False, "or not", heading="How")
    limit: int | None = setting(None, "at most", heading="How")
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


def test_the_full_help_groups_and_explains_every_flag():
    text = help_text(Flags, "does it", "python -m experiments.flags")
    lines = text.splitlines()
    assert lines[0] == "python -m experiments.flags: does it"
    headings = [line for line in lines[3:] if line and not line.startswith(" ")]
    assert headings == ["Who:", "How:"]
    assert "how many [3]" in text
    assert "the name\n" in text  # no default to show
    assert "--rest" not in text


COMMANDS = [SweepConfig, PretrainConfig, RetrofitCommandConfig, CompareConfig]


@pytest.mark.parametrize("config", COMMANDS)
def test_help_fits_a_terminal_and_explains_everything(config):
    text = help_text(config, "does it", "an example")
    assert max(map(len, text.splitlines())) <= 100
    names = [line[4:] for line in text.splitlines() if line.startswith("  --")]
    assert names and set(names) == flags_of(config()).keys()
    for name in names:
        assert text.count(f"  --{name}\n      ") == 1


@pytest.mark.parametrize("config", COMMANDS)
def test_the_first_page_of_help_fits_a_screen_and_names_the_rest(config):
    page = first_page(config, "does it", "an example")
    assert max(map(len, page.splitlines())) <= 100
    assert len(page.splitlines()) <= 30
    chosen = [flag for flag in flags_of(config()).values() if flag.first]
    for flag in chosen:
        assert f"  --{flag.name} " in page
    assert not chosen or f"--helpfull explains all {len(flags_of(config()))} flags" in page


@pytest.fixture(autouse=True)
def signals():
    """Those of the tests are as they were after a command has run in this process."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    wakes = signal.set_wakeup_fd(-1)
    yield
    signal.set_wakeup_fd(wakes)
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def exit_of(monkeypatch, capsys, main, *arguments: str, positional: str | None = None):
    """Status, standard output and standard error of a command."""
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    with pytest.raises(SystemExit) as left:
        run(main, Flags, "does it", "an example", positional)
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
    _, _, stderr = exit_of(monkeypatch, capsys, main)
    assert "Traceback" in stderr


def test_a_stop_that_was_swallowed_is_no_success(monkeypatch, capsys):
    monkeypatch.setattr(interrupts, "_pending", None)
    monkeypatch.setattr(interrupts, "leave", lambda stopped: sys.exit(str(stopped)))
    status, *_ = exit_of(
        monkeypatch, capsys, lambda flags: interrupts.stop(interrupts.Stopped(2, "a"))
    )
    assert status == "stopped by SIGINT: a"


@dataclass(frozen=True)
class Writes(Configuration):
    out: str = setting("", "where it goes")


def test_two_commands_do_not_write_one_place(monkeypatch, capsys, tmp_path):
    out = tmp_path / "bases" / "mine"
    monkeypatch.setattr(sys, "argv", ["command", f"--out={out}"])

    def command(main):
        with pytest.raises(SystemExit) as left:
            run(main, Writes, "does it", "an example")
        return left.value.code

    assert command(lambda _: command(None)) == 2
    told = f"error: --out={out} is being written by process {os.getpid()} on .*\n"
    assert re.fullmatch(told, capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


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
        run(main, Flags, "does it", "an example")


COMMANDS = ("sweep", "pretrain", "retrofit", "compare", "evaluate", "export", "check_golden")
COMMANDS += ("patch", "ablate", "benchmark", "report/__main__", "studies/heal")


@pytest.mark.parametrize("argument", ["--help", "-h", "--helpfull"])
@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_needs_nothing_else(command, argument, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [command, "--nonsense", argument])
    with pytest.raises(SystemExit) as exited:
        runpy.run_path(str(ROOT / "experiments" / f"{command}.py"), run_name="__main__")
    out, err = capsys.readouterr()
    assert (exited.value.code, err) == (0, "")
    path = command.removesuffix("/__main__").replace("/", ".")
    module = "benchmarks" if command == "benchmark" else f"experiments.{path}"
    assert out.startswith(f"python -m {module}: ")


def test_a_command_is_a_process_of_its_own():
    found = subprocess.run(
        [sys.executable, "-m", "experiments.sweep", "--nonsense", "--help"],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.startswith("python -m experiments.sweep: ")
