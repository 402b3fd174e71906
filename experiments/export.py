"""Writes a model for others: ``python -m experiments.export --base=DIR --out=DIR``.

With ``--run`` it is what a trial of a sweep has come to: the base with the patches of the tasks so
far beside it, or, for methods without patches, with what they trained in it. `load_exported` reads
the directory back bit for bit; docs/serving.md tells how to use it, here and in PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from experiments.cli import run
from smf_jax.configuration import Configuration, setting
from smf_jax.continual.base import Base, load_base
from smf_jax.continual.methods import METHODS
from smf_jax.continual.run_directory import BASE, RunDirectory
from smf_jax.continual.trial import Trial
from smf_jax.errors import require_writable
from smf_jax.interop.export.card import CardFacts, licence_of
from smf_jax.interop.export.model import export_model
from smf_jax.interop.huggingface.checkpoint import CONFIG as MODEL_CONFIG
from smf_jax.params import count_parameters
from smf_jax.progress import say
from smf_jax.sparse.patch import Patch
from smf_jax.sparse.patch_sets import stack_patches

# Columns of a run's results that a card tells.
_SCORES = ("seen", "unseen", "stream_seen", "stream_unseen", "known", "known_base")
_SCORES += ("text_loss", "text_loss_base")
_IN, _OUT = "Input", "Output"


@dataclass(frozen=True)
class ExportConfig(Configuration):
    """What ``experiments.export`` is told."""

    base: str = setting(
        "",
        "directory of a Hugging Face checkpoint or of a base; empty: that of --run",
        heading=_IN,
    )
    dtype: Literal["float32", "bfloat16"] = setting(
        "float32", "compute dtype of a Hugging Face base", heading=_IN
    )
    run: str = setting("", "directory of a sweep whose trial is exported", heading=_IN)
    trial: str = setting("", "the trial; may be left out where the run has only one", heading=_IN)
    task: int | None = setting(
        None, "the last task that counts, from 0; the latest if empty", heading=_IN
    )
    stack: bool = setting(False, "all patches joined into one", heading=_OUT)
    name: str = setting("", "of the model, for its card; that of --out if empty", heading=_OUT)
    licence: str = setting(
        "", "an identifier such as apache-2.0; empty: the base's own", heading=_OUT
    )
    base_model: str = setting(
        "", "name of the base on a hub, such as Qwen/Qwen2.5-0.5B", heading=_OUT
    )
    shard_mb: int = setting(5000, "megabytes of weights in a file", heading=_OUT, least=1)
    out: str = setting("", "directory to write; must not exist", heading=_OUT)


@dataclass(frozen=True)
class Exported:
    """What is exported.

    Attributes:
      base: with what was trained in place of its own, for methods without patches.
      patches: in order.
      home: directory of the base.
      about: lines on the training.
      scores: measured after the last task.
    """

    base: Base
    patches: list[Patch]
    home: Path
    about: list[str]
    scores: dict[str, Any]


def find_model(config: ExportConfig) -> Exported:
    """Reads what is to be exported.

    Raises:
      FileNotFoundError: a run, a trial, a task or the base is not there.
      ValueError: a flag is missing, or names a trial that the run does not have.
    """
    if not config.run:
        if not config.base:
            raise ValueError("--base and --run are empty; name a base, or a sweep, to export")
        if config.trial or config.task is not None:
            given = f"--trial={config.trial}" if config.trial else f"--task={config.task}"
            raise ValueError(f"{given} needs --run, the sweep that it belongs to")
        base = load_base(config.base, "base", config.dtype)
        return Exported(base, [], Path(config.base), [], {})
    run = RunDirectory(config.run)
    told = run.config()
    trial, task = run.find_trial(config.trial, config.task)
    home = Path(config.base or run.path / BASE)
    base = load_base(str(home), "base", config.dtype)
    params = run.load_model(trial, task, base.params, base.fingerprint())
    patches = []
    if METHODS[trial.method].artefact == "patch":
        patches = run.load_patches(trial, task + 1)
    else:
        base = replace(base, params=params)
    about = [
        f"Stream: {told.stream.stream or 'world'}, {task + 1} tasks of "
        f"{told.stream.facts_per_task} facts, {told.training.steps_per_task} steps each.",
        f"Trial `{trial.id}`: method {trial.method}, {trial.optimizer}, rate "
        f"{trial.learning_rate:g}, seed {trial.seed}.",
    ]
    return Exported(base, patches, home, about, _scores(run, trial, task))


def _scores(run: RunDirectory, trial: Trial, task: int) -> dict[str, Any]:
    """What was measured after the last task, for the card."""
    rows = [row for row in run.rows() if (row["trial"], row["task"]) == (trial.id, task)]
    row = rows[-1] if rows else {}
    return {name: f"{row[name]:.4f}" for name in _SCORES if row.get(name) is not None}


def write(config: ExportConfig, found: Exported) -> None:
    """Writes the directory."""
    base, patches = found.base, found.patches
    if config.stack and patches:
        patches = [stack_patches(patches)]
    # The built-in world comes with this package.
    own = licence_of(found.home) if base.recipe is None else "apache-2.0"
    facts = CardFacts(
        name=config.name or Path(config.out).name,
        origin=base.origin,
        licence=config.licence or own,
        base_model=config.base_model,
        trained_on=found.about,
        scores=found.scores,
    )
    export_model(
        config.out,
        base.config,
        base.params,
        patches,
        facts=facts,
        tokenizer=base.tokenizer,
        # A Hugging Face directory has files of its own.
        companions=found.home if (found.home / MODEL_CONFIG).is_file() else None,
        shard_bytes=config.shard_mb * 10**6,
    )
    rows = sum(patch.rows for patch in patches)
    say(
        f"{config.out}: {count_parameters(base.params):,} parameters, {len(patches)} patches of "
        f"{rows:,} rows"
    )


def main(config: ExportConfig) -> int:
    """Exports to ``--out``."""
    if not config.out:
        raise ValueError("--out is empty; name the directory to write")
    require_writable(config.out, "out")
    if Path(config.out).exists():
        raise FileExistsError(f"--out={config.out} exists; choose another directory or remove it")
    write(config, find_model(config))
    return 0


if __name__ == "__main__":
    run(
        main,
        ExportConfig,
        "experiments.export",
        "write a model, its memory and its patches for others to read",
        "python -m experiments.export --run=runs/world --trial=ID --out=exported/mine",
    )
