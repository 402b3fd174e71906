"""The thin shell of every command: flags from a frozen dataclass, grouped help, one-line errors."""

from __future__ import annotations

import inspect
import os
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import MISSING, Field, fields, replace
from typing import Any, NoReturn, TypeVar

from absl import flags

from experiments.configs.presets import preset_values
from smf_jax.continual.config import PretrainFlags, SweepFlags

Config = TypeVar("Config")

_DEFINE: dict[str, Callable[..., Any]] = {
    "bool": flags.DEFINE_bool,
    "int": flags.DEFINE_integer,
    "float": flags.DEFINE_float,
    "str": flags.DEFINE_string,
}


def _flag_fields(config: type[Any]) -> list[Field[Any]]:
    return [each for each in fields(config) if "group" in each.metadata]


def parse(config: type[Config], arguments: Sequence[str]) -> tuple[Config, list[str]]:
    """Reads a configuration from command-line arguments.

    Args:
      config: a frozen dataclass of `flag` fields; annotations are ``bool``, ``int``, ``float`` or
        ``str``, the last three also ``| None``. Other fields keep their defaults.
      arguments: without the program's name.

    Returns:
      The configuration, and the arguments that are no flags.

    Raises:
      ValueError: for an unknown flag or a value of the wrong type, naming it.
    """
    values = flags.FlagValues()
    flagged = _flag_fields(config)
    for each in flagged:
        kind = str(each.type).partition(" ")[0]
        _DEFINE[kind](each.name, each.default, each.metadata["help"], flag_values=values)
    try:
        rest = values(["command", *arguments])[1:]
    except flags.Error as error:
        raise ValueError(f"{error}; --help lists the flags") from None
    parsed = config(**{each.name: values[each.name].value for each in flagged})
    return _with_preset(parsed, {each.name for each in flagged if values[each.name].present}), rest


def _with_preset(parsed: Config, given: set[str]) -> Config:
    """The configuration with the values of its preset, if it has one, where no flag was given."""
    if isinstance(parsed, (SweepFlags, PretrainFlags)):
        command = "pretrain" if isinstance(parsed, PretrainFlags) else "sweep"
        of_preset = preset_values(parsed.preset, parsed.scale, command)
    else:
        of_preset = getattr(parsed, "preset_values", dict)()
    return replace(
        parsed, **{name: value for name, value in of_preset.items() if name not in given}
    )


def help_text(config: type[Any], module: str, summary: str, example: str) -> str:
    """The text of ``--help``: every flag under its group, with its default."""
    groups: dict[str, list[Field[Any]]] = {}
    # What a command adds comes before what it shares with others.
    own = inspect.get_annotations(config)
    for each in sorted(_flag_fields(config), key=lambda each: each.name not in own):
        groups.setdefault(each.metadata["group"], []).append(each)
    lines = [f"python -m {module}: {summary}", "", f"  {example}"]
    for group, members in groups.items():
        lines += ["", f"{group}:"]
        for each in members:
            default = each.default
            shown = "" if default in (None, "", MISSING) else f" [{default}]"
            text = textwrap.fill(
                each.metadata["help"] + shown, 96, initial_indent=" " * 6, subsequent_indent=" " * 6
            )
            lines += [f"  --{each.name}", text]
    return "\n".join(lines)


def run(
    main: Callable[[Any], int],
    config: type[Any],
    module: str,
    summary: str,
    example: str,
    positional: str | None = None,
) -> None:
    """Runs a command and exits: 0 when done, 1 when training failed, 2 on bad input.

    A `ValueError` or what the file system refuses is the user's to mend and is told in one line;
    ``SMF_JAX_TRACEBACK=1`` shows where it came from. Anything else is a fault of ours and is
    raised as it is.

    Args:
      main: the command.
      config: its flags.
      module: how it is called, such as ``experiments.sweep``.
      summary: what it does, in a line.
      example: a call.
      positional: the field that takes the arguments without a flag's name as a tuple, if any.
    """
    arguments = sys.argv[1:]
    if any(argument in ("-h", "--help", "-help") for argument in arguments):
        _print_and_exit(help_text(config, module, summary, example))
    try:
        parsed, rest = parse(config, arguments)
        if rest and positional is None:
            raise ValueError(f"{rest[0]!r} is not a flag; --help lists them")
        if positional is not None:
            parsed = replace(parsed, **{positional: tuple(rest)})
        sys.exit(main(parsed))
    except (ValueError, OSError) as error:
        if os.environ.get("SMF_JAX_TRACEBACK"):
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except FloatingPointError as error:
        print(f"failed: {error}", file=sys.stderr)
        sys.exit(1)


def _print_and_exit(text: str) -> NoReturn:
    with suppress(BrokenPipeError):  # --help | head
        print(text)
        sys.stdout.flush()
        sys.exit(0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)
