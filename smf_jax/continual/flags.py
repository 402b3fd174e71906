"""Fields of a configuration that are flags of a command."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def flag(group: str, default: Any, help: str) -> Any:
    """A field of a configuration that is a flag.

    Args:
      group: the heading it stands under in ``--help``.
      default: its value where the flag is not given.
      help: what it does, its unit and its choices.
    """
    return field(default=default, metadata={"group": group, "help": help})
