"""The shell of the commands of this package: that of the library, with presets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from experiments.configs import preset_of
from smf_jax import command
from smf_jax.command import first_page, help_text
from smf_jax.configuration import Configuration, flags_of

__all__ = ["first_page", "help_text", "parse", "run"]

Config = TypeVar("Config", bound=Configuration)


def _preset(config: type[Config], given: Mapping[str, Any]) -> Config:
    """The preset that the flags name, or the defaults."""
    if "preset" not in flags_of(config()):
        return config()
    return preset_of(config, str(given.get("preset", "")), str(given.get("scale", "full")))


def parse(config: type[Config], arguments: Sequence[str]) -> tuple[Config, list[str]]:
    """Reads a configuration from flags, over its preset if it names one, and what is no flag.

    Raises:
      ValueError: for an unknown flag, a value of the wrong type or out of bounds, naming it.
    """
    return command.parse(config, arguments, _preset)


run = partial(command.run, start=_preset)
