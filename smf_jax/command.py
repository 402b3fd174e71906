"""The thin shell of every command: flags from a configuration, help, one-line errors.

The commands of ``experiments`` know presets too; see `experiments.cli`.
"""

from __future__ import annotations

import os
import sys
import textwrap
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from typing import Any, NoReturn, TypeVar

from absl import flags

from smf_jax import interrupts
from smf_jax.checkpoints.run_lock import Lock, lock_of, locked
from smf_jax.configuration import Configuration, Flag, flags_of
from smf_jax.errors import blame_flag
from smf_jax.paths import as_path, is_remote
from smf_jax.processes import leave

Config = TypeVar("Config", bound=Configuration)

_DEFINE: dict[type, Any] = {bool: flags.DEFINE_bool, int: flags.DEFINE_integer}
_DEFINE |= {float: flags.DEFINE_float, str: flags.DEFINE_string}
WIDTH = 100


Start = Callable[[type[Any], Mapping[str, Any]], Any]


def defaults(config: type[Config], given: Mapping[str, Any]) -> Config:
    """The configuration that flags are put into, where there are no presets."""
    del given
    return config()


def parse(
    config: type[Config], arguments: Sequence[str], start: Start = defaults
) -> tuple[Config, list[str]]:
    """Reads a configuration from flags, and what is no flag.

    ``start`` makes the one that the flags given, by name, are put into.

    Raises:
      ValueError: for an unknown flag, a value of the wrong type or out of bounds, naming it.
    """
    values = flags.FlagValues()
    known = flags_of(config())
    for name, each in known.items():
        _DEFINE[each.kind](name, each.default, each.help, flag_values=values)
    try:
        rest = values(["command", *arguments])[1:]
    except flags.Error as error:
        raise ValueError(f"{error}; --help lists the flags") from None
    given = {name: values[name].value for name in known if values[name].present}
    made = start(config, given).with_values(**given)
    for name, each in flags_of(made).items():
        if each.is_path and is_remote(each.default):
            with blame_flag(f"--{name}="):
                as_path(each.default)
    return made, rest


def first_page(config: type[Configuration], summary: str, example: str) -> str:
    """The text of ``--help``: the flags that most people need, a line each."""
    known = flags_of(config())
    chosen = [each for each in known.values() if each.first]
    if not chosen:
        return help_text(config, summary, example)
    column = 6 + max(len(each.name) for each in chosen)
    lines = [*_head(summary, example), ""]
    for each in chosen:
        text = textwrap.shorten(each.help + _default(each), WIDTH - column, placeholder=" …")
        lines.append(f"  --{each.name}".ljust(column) + text)
    return "\n".join([*lines, "", f"--helpfull explains all {len(known)} flags, in groups"])


def help_text(config: type[Configuration], summary: str, example: str) -> str:
    """The text of ``--helpfull``: every flag under its heading, with its default and choices."""
    groups: dict[str, list[Flag]] = {}
    for each in flags_of(config()).values():
        groups.setdefault(each.heading or "Flags", []).append(each)
    lines = _head(summary, example)
    for heading, members in groups.items():
        lines += ["", f"{heading}:"]
        for each in members:
            text = textwrap.fill(each.help + _default(each), 90)
            lines += [f"  --{each.name}", textwrap.indent(text, " " * 6)]
    return "\n".join(lines)


def _head(summary: str, example: str) -> list[str]:
    words = example.split()
    command = words[:3] if words[0] == "python" else words[:2]
    return [f"{' '.join(command)}: {summary}", "", f"  {example}"]


def _default(flag: Flag) -> str:
    return "" if flag.default in (None, "") else f" [{flag.default}]"


def run(
    main: Callable[[Any], int],
    config: type[Configuration],
    summary: str,
    example: str,
    positional: str | None = None,
    *,
    arguments: Sequence[str] | None = None,
    start: Start = defaults,
    locks: bool = True,
) -> None:
    """Runs a command and exits: 0 when done, 1 when training failed, 2 on bad input.

    A `ValueError` or what the file system refuses is the user's to mend and is told in one line,
    with ``SMF_JAX_TRACEBACK=1`` also where it came from; anything else is our fault and is raised.
    ``positional`` names the field that takes the arguments that are no flags; ``arguments`` are
    those of the process if not given. A command that ``locks`` has the lock of its ``--out``.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    resumes, again = "resume" in config().values(), "no file is half written; run the command again"
    interrupts.listen("what is done is kept; go on with --resume" if resumes else again)
    for page, asked in ((help_text, {"--helpfull"}), (first_page, {"-h", "--help", "-help"})):
        if asked.intersection(arguments):
            _print_and_exit(page(config, summary, example))
    try:
        parsed, rest = parse(config, arguments, start)
        told: Any = parsed
        if positional is not None:
            told = replace(told, **{positional: tuple(rest)})
        elif rest:
            raise ValueError(f"{rest[0]!r} is not a flag; --help lists them")
        with writing(told) if locks else nullcontext():
            status = main(told)
        interrupts.finish()
        sys.exit(status)
    except interrupts.Stopped as stopped:
        interrupts.leave(stopped)
    except (ValueError, OSError) as error:
        if os.environ.get("SMF_JAX_TRACEBACK"):
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        leave(2)
    except FloatingPointError as error:
        print(f"failed: {error}", file=sys.stderr)
        leave(1)


def writing(config: Configuration) -> AbstractContextManager[Lock | None]:
    """The lock of a command's ``--out``; shares of a sweep have locks of their own.

    Of several processes that run as one the first has it, once they are joined.
    """
    told, out = config.values(), as_path(config.values().get("out", ""))
    if "shard" in told or told.get("dry_run") or not out.name or is_remote(out):
        return nullcontext()
    lock = lock_of(out)
    above = next(each for each in lock.parents if each.exists())
    if os.access(above, os.W_OK | os.X_OK):  # or the command refuses it by its flag
        return locked(lock, f"--out={out}")
    return nullcontext()


def _print_and_exit(text: str) -> NoReturn:
    with suppress(BrokenPipeError):  # --help | head
        print(text, flush=True)
        sys.exit(0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)
