"""The model that a trial of a run has come to, from the base and the trial's checkpoints."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from smf_jax import checkpoints
from smf_jax.continual.grid import Trial
from smf_jax.continual.methods import apply_trained
from smf_jax.continual.run_directory import CONFIG, TRIALS, RunDirectory
from smf_jax.params import Params
from smf_jax.sparse.patch import apply_patch


def trained_params(
    run: RunDirectory,
    trial: Trial,
    task: int,
    base: Params,
    base_fingerprint: str,
    lora_alpha: float,
) -> Params:
    """The leaves of a trial's model after a task: patches applied, adapters merged.

    Args:
      run: the run.
      trial: one of its trials.
      task: the last that the model was taught, from 0.
      base: leaves of the base by path.
      base_fingerprint: fingerprint of the base.
      lora_alpha: scale of the adapters that the run trained.

    Raises:
      ValueError: if a checkpoint is missing, damaged or of another base.
    """
    path = run.task_path(trial, task)
    about = checkpoints.read_metadata(path)
    if about["base"] != base_fingerprint:
        raise ValueError(
            f"checkpoint {path} belongs to base {about['base'][:12]}, this is base "
            f"{base_fingerprint[:12]}; give the base it was trained from"
        )
    if trial.method == "smf":
        params: dict[str, Any] = dict(base)
        for patch in run.load_patches(trial, task + 1):
            params = apply_patch(params, patch, base=base_fingerprint)
        return params
    trained = {name: jnp.asarray(leaf) for name, leaf in run.load_params(trial, task).items()}
    return apply_trained(base, trained, lora_alpha)


def find_trial(run: Path, name: str, task: int) -> tuple[Trial, int]:
    """The trial of a name, and the task up to which it is asked for.

    Args:
      run: directory of the run.
      name: id of the trial.
      task: from 0; negative for the last one that has a checkpoint.

    Raises:
      FileNotFoundError: if the run has no such trial, or no checkpoint of the task; naming those
        that there are.
    """
    directory = run / TRIALS
    there = sorted(path.name for path in directory.glob("*")) if directory.is_dir() else []
    if name not in there:
        raise FileNotFoundError(
            f"--trial={name}: {run} has no such trial; it has {', '.join(there) or 'none'}"
        )
    saved = {
        int(path.name.removeprefix("task_")): path
        for path in sorted((directory / name).glob("task_*"))
        if checkpoints.is_complete(path)
    }
    chosen = max(saved, default=0) if task < 0 else task
    if chosen not in saved:
        raise FileNotFoundError(
            f"--task={task}: trial {name} has no checkpoint of it; it has tasks "
            f"{', '.join(map(str, sorted(saved))) or 'none'}"
        )
    about = checkpoints.read_metadata(saved[chosen])
    return Trial(**{field.name: about[field.name] for field in fields(Trial)}), chosen


def read_config(run: Path) -> dict[str, Any]:
    """What a run was told.

    Raises:
      FileNotFoundError: if the directory is no run.
    """
    path = run / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = None
    if not isinstance(config, dict) or "methods" not in config:
        raise FileNotFoundError(f"--run={run} is no run of a sweep; {path} does not tell of one")
    return config
