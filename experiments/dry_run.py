"""What sweeps would run, listed without running them, and how long they would take."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from typing import Any, NamedTuple

import jax

from experiments.configs import base_recipe
from smf_jax.bases.base import Base
from smf_jax.checkpoints.files import write_text
from smf_jax.continual.calibration import NOTE, GroupCost, calibrate
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.grid import grid
from smf_jax.continual.plan import check_settings_of
from smf_jax.continual.stream_data import StreamData
from smf_jax.continual.sweep import Tools, check_sweep
from smf_jax.continual.trial import Trial, by_group, shard
from smf_jax.errors import blame_flag, require_writable
from smf_jax.paths import as_path

MakeTools = Callable[[SweepConfig], Tools | None]
# Sections of a configuration that decide nothing of what is read.
_OWN = ("preset", "grid", "methods", "run", "retrofit")


class Planned(NamedTuple):
    """A sweep that is yet to run."""

    name: str
    changes: dict[str, Any]  # what tells it from others of an ablation, by flag
    config: SweepConfig


def trials_of(config: SweepConfig) -> tuple[Trial, ...]:
    """The trials of a sweep; what its grid says of idle values is said when it runs."""
    with redirect_stdout(io.StringIO()):
        return shard(grid(config.grid, config.own), config.grid.shard)


def check_all(sweeps: Sequence[Planned], tools: MakeTools) -> None:
    """Refuses what any of the sweeps would, before the first computes; ValueError names it."""
    tools = _remembering(tools)
    for each in sweeps:
        with blame_flag(f"{each.name}: "), redirect_stdout(io.StringIO()):
            config = each.config
            check_sweep(config, trials_of(config), base_recipe(config), tools(config) or Tools())


def dry_run(
    sweeps: Sequence[Planned],
    as_json: bool,
    calibrated: str = "",
    tools: MakeTools = lambda _: None,
) -> None:
    """Prints the sweeps, their trials, and how many programs these need.

    With ``calibrated``, the directory that they would go to, steps are timed and hours predicted,
    printed and written beside it.
    """
    found = [_listed(each) for each in sweeps]
    lines = [f"{each['sweep']}: {', '.join(each['trials'])}" for each in found]
    trials, groups = sum(len(each["trials"]) for each in found), sum(e["groups"] for e in found)
    lines += [f"{len(found)} sweeps, {trials} trials, {groups} groups that compile a step each"]
    if not calibrated:
        print(json.dumps(found) if as_json else "\n".join(lines))
        return
    out = as_path(calibrated)
    require_writable(str(out), "out")
    file, costs = as_path(f"{out}.estimate.json"), _costs(sweeps, _remembering(tools))
    estimate = _estimate(costs)
    write_text(file, json.dumps(estimate, indent=1) + "\n")
    lines += [f"{name}: {cost}" for name, each in costs.items() for cost in each]
    lines += [f"in all {estimate['hours']:.3g} h on {estimate['devices']}; {NOTE}", str(file)]
    print(json.dumps(estimate) if as_json else "\n".join(lines))


def _listed(sweep: Planned) -> dict[str, Any]:
    trials = trials_of(sweep.config)
    check_settings_of(sweep.config, trials)
    return {
        "sweep": sweep.name,
        "changes": sweep.changes,
        "trials": [trial.id for trial in trials],
        "groups": len(by_group(trials)),
    }


def _costs(sweeps: Sequence[Planned], tools: MakeTools) -> dict[str, list[GroupCost]]:
    """What the groups of each sweep take, by its name."""
    found = {}
    for each in sweeps:
        with blame_flag(f"{each.name}: "):
            trials, own = trials_of(each.config), tools(each.config) or Tools()
            checked = check_sweep(each.config, trials, base_recipe(each.config), own)
            found[each.name] = calibrate(each.config, trials, checked, own)
    return found


def _estimate(costs: Mapping[str, Sequence[GroupCost]]) -> dict[str, Any]:
    sweeps = [
        {
            "sweep": name,
            "hours": sum(cost.seconds for cost in each) / 3600,
            "groups": [cost.to_json() for cost in each],
        }
        for name, each in costs.items()
    ]
    devices = jax.local_devices()
    return {
        "note": NOTE,
        "devices": f"{len(devices)} {devices[0].device_kind}",
        "hours": sum(cost.seconds for each in costs.values() for cost in each) / 3600,
        "sweeps": sweeps,
    }


def _remembering(tools: MakeTools) -> MakeTools:
    """The tools, which read nothing again that the sweep before has read."""
    kept: dict[str, StreamData] = {}
    bases: dict[tuple[Any, ...], Base] = {}

    def of(config: SweepConfig) -> Tools:
        own = tools(config) or Tools()

        def load_stream_data(told: SweepConfig, base: Any, asking: Any = None) -> StreamData:
            sections = {n: v.values() for n, v in vars(told).items() if n not in _OWN}
            key = repr((sections, base.origin, base.config, asking is None))
            if key not in kept:
                kept.clear()
                kept[key] = own.load_stream_data(told, base, asking)
            return kept[key]

        def load_base(*told: Any) -> Base:
            if told not in bases:
                bases.clear()
                bases[told] = own.load_base(*told)
            return bases[told]

        return replace(own, load_base=load_base, load_stream_data=load_stream_data)

    return of
