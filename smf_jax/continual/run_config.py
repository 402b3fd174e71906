"""``config.json`` of a run: what it was told, and whether another configuration goes on with it."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax
import jax
import optax

from smf_jax.checkpoints.files import write_text
from smf_jax.checkpoints.sealed_json import seal, unseal
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.inputs import Inputs, changed_inputs, follow_moves
from smf_jax.version import __version__

CONFIG = "config.json"
# Flags that say where and how a run goes, not what it computes.
NOT_COMPARED = frozenset(
    (
        "out",
        "resume",
        "overwrite",
        "shard",
        "mesh",
        "table_layout",
        "distributed",
        "coordinator",
        "processes",
        "process",
        "launcher",
        "jobs",
        "job_options",
        "base_cache",
        "eval_batch_size",
        "probe_rows",  # its name until 0.2
        "recount_batches",
        "profile",
        "save_every",
        "keep_checkpoints",
        "track",
        "dry_run",
        "calibrate",
        "download",
        "versions",
        "python",
        "inputs",  # compared by what they hold
    )
)
# What runs did before there was a setting, where its default is something else.
EARLIER: dict[str, Any] = {"memory_init": "normal", "background_formats": "none"}


def write_config(run: Path, config: SweepConfig, inputs: Inputs) -> None:
    """Tells a run's directory what it is."""
    versions = {each.__name__: each.__version__ for each in (jax, flax, optax)}
    told = {
        **config.resolved().values(),
        "versions": {"smf_jax": __version__, **versions},
        "python": platform.python_version(),
        "inputs": inputs,
    }
    write_text(run / CONFIG, json.dumps(seal(told), indent=2, sort_keys=True) + "\n")


def stored_config(run: Path) -> dict[str, Any] | None:
    """What the run in a directory was told, by flag; ``None`` if what is there is no run."""
    try:
        config = unseal((run / CONFIG).read_bytes(), str(run / CONFIG))
    except OSError:
        return None
    # A model's directory has a file of this name, too.
    return config if {"methods", "versions"} <= config.keys() else None


def read_config(run: Path) -> SweepConfig:
    """What the run in a directory was told; raises FileNotFoundError if there is none."""
    stored = stored_config(run)
    if stored is None:
        raise FileNotFoundError(
            f"--run={run} is no run of a sweep; {run / CONFIG} does not tell of one"
        )
    known = SweepConfig().values()
    told = {name: each for name, each in stored.items() if name in known}
    try:
        return SweepConfig.of(**{**EARLIER, **told}).resolved()
    except (TypeError, AttributeError):  # a value of another type, by hand: each has a digest
        raise ValueError(f"{run / CONFIG}: a value of another type; restore a copy") from None


def at_its_beginning(config: SweepConfig, stored: Mapping[str, Any]) -> SweepConfig:
    """The configuration that goes on with a run.

    Settings that did not exist when it began are as they were then, unless they are given.
    """
    given, default = config.values(), SweepConfig().values()
    missing = [n for n in EARLIER if n not in stored and given[n] == default[n]]
    return config.with_values(**{name: EARLIER[name] for name in missing})


def require_same(run: Path, config: SweepConfig, inputs: Inputs, how: str) -> None:
    """Refuses a configuration that does not go on with the run there; ``how`` is the flag's."""
    # A setting that came with a later version was at its default before, and an earlier one
    # recorded no inputs, and float32 where no dtype was told.
    stored, now = stored_config(run) or {}, config.resolved().values()
    began: Inputs = stored.get("inputs", {})
    before = {**stored, **read_config(run).values()}  # with paths expanded
    before = follow_moves(before, began, inputs)
    before, now = ({**told, "dtype": told["dtype"] or "float32"} for told in (before, now))
    differing = sorted(
        name for name in {*before, *now} - NOT_COMPARED if before.get(name) != now.get(name)
    )
    told = ", ".join(
        f"--{name} was {before.get(name)!r}, is {now.get(name)!r}" for name in differing
    )
    problems = [f"with other flags: {told}"] if differing else []
    if changed := changed_inputs(began, inputs):
        remedy = "restore these files, or give another --out"
        problems.append(f"with other content than it began with: {', '.join(changed)}; {remedy}")
    if problems:
        raise ValueError(f"{how} of {run} {'; '.join(problems)}")
