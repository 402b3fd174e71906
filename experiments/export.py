"""Writes a base, or with ``--run`` what a trial has come to, for others (docs/serving.md).

The base has the patches of the tasks beside it or, for methods without patches, in it what was
trained. `load_exported` reads the directory back bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.cli import run
from smf_jax.bases.base import Base, load_base
from smf_jax.bases.sections import DTYPE_HELP, Dtype
from smf_jax.configuration import Configuration, PathText, part, setting
from smf_jax.continual.methods import METHODS
from smf_jax.continual.run_base import load_run_base
from smf_jax.continual.run_directory import RunDirectory
from smf_jax.errors import require_writable
from smf_jax.interop.export.card import CardFacts, licence_of
from smf_jax.interop.export.model import export_model
from smf_jax.interop.gguf.package import locate_base
from smf_jax.interop.huggingface.checkpoint import CONFIG as MODEL_CONFIG
from smf_jax.paths import as_path, is_whole
from smf_jax.progress import say
from smf_jax.sparse.patch import Patch
from smf_jax.sparse.patch_sets import stack_patches

# Columns of a run's results that a card tells.
_SCORES = ("seen", "unseen", "stream_seen", "stream_unseen", "known", "known_base")
_SCORES += ("text_loss", "text_loss_base")


@dataclass(frozen=True)
class InputSection(Configuration):
    """What is exported."""

    base: PathText = setting(
        "",
        "directory of a Hugging Face checkpoint or of a base, GGUF file, or package:NAME with one; "
        "empty: that of --run",
    )
    dtype: Dtype = setting(None, DTYPE_HELP)
    run: PathText = setting("", "directory of a sweep whose trial is exported")
    trial: str = setting("", "the trial; may be left out where the run has only one")
    task: int | None = setting(None, "the last task that counts, from 0; the latest if empty")


@dataclass(frozen=True)
class OutputSection(Configuration):
    """Where it goes, and what is told of it."""

    stack: bool = setting(False, "all patches joined into one")
    name: str = setting("", "of the model, for its card; that of --out if empty")
    licence: str = setting("", "an identifier such as apache-2.0; empty: the base's own")
    base_model: str = setting("", "name of the base on a hub, such as Qwen/Qwen2.5-0.5B")
    shard_mb: int = setting(5000, "megabytes of weights in a file", least=1)
    out: PathText = setting("", "directory to write; must not exist")


@dataclass(frozen=True)
class ExportConfig(Configuration):
    """What ``experiments.export`` is told."""

    source: InputSection = part(InputSection(), "Input")
    target: OutputSection = part(OutputSection(), "Output")


def find_model(config: InputSection) -> tuple[Base, list[Patch], Path, dict[str, Any]]:
    """Reads the base, its patches in order, its directory, and what a card tells of the training.

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
        return base, [], locate_base(config.base), {"trained_on": [], "scores": {}}
    run = RunDirectory(config.run)
    told = run.config()
    trial, task = run.find_trial(config.trial, config.task)
    base, home = load_run_base(run, config.base)
    params = run.load_model(trial, task, base.params, base.fingerprint())
    patches = []
    if METHODS[trial.method].artefact == "patch":
        patches = run.load_patches(trial, task + 1)
    else:
        base = replace(base, params=params)
    cast = base.cast(config.dtype)
    if patches and config.dtype and cast.fingerprint() != base.fingerprint():
        raise ValueError(
            f"--dtype={config.dtype}: the patches of {trial.id} fit its base of "
            f"{base.size()} only; leave the flag out"
        )
    trained_on = [
        f"Stream: {told.stream.stream or 'world'}, {task + 1} tasks of "
        f"{told.stream.facts_per_task} facts, {told.training.steps_per_task} steps each.",
        f"Trial `{trial.id}`: method {trial.method}, {trial.optimizer}, rate "
        f"{trial.learning_rate:g}, seed {trial.seed}.",
    ]
    rows = [row for row in run.rows() if (row["trial"], row["task"]) == (trial.id, task)]
    row = rows[-1] if rows else {}
    scores = {name: f"{row[name]:.4f}" for name in _SCORES if row.get(name) is not None}
    return cast, patches, home, {"trained_on": trained_on, "scores": scores}


def main(config: ExportConfig) -> int:
    """Exports to ``--out``."""
    told, out = config.target, config.target.out
    if not out:
        raise ValueError("--out is empty; name the directory to write")
    require_writable(out, "out")
    if is_whole(target := as_path(out)):
        raise FileExistsError(f"--out={out} exists; choose another directory or remove it")
    base, patches, home, training = find_model(config.source)
    if told.stack and patches:
        patches = [stack_patches(patches)]
    # The built-in world comes with this package.
    own = licence_of(home) if base.recipe is None else "apache-2.0"
    about = {"name": told.name or target.name, "licence": told.licence or own}
    facts = CardFacts(origin=base.origin, base_model=told.base_model, **about, **training)
    export_model(
        out,
        base.config,
        base.params,
        patches,
        facts=facts,
        tokenizer=base.tokenizer,
        # A Hugging Face directory has files of its own.
        companions=home if (home / MODEL_CONFIG).is_file() else None,
        shard_bytes=told.shard_mb * 10**6,
    )
    rows = sum(patch.rows for patch in patches)
    say(f"{out}: {base.size()}, {len(patches)} patches of {rows:,} rows")
    return 0


if __name__ == "__main__":
    run(
        main,
        ExportConfig,
        "write a model, its memory and its patches for others to read",
        "python -m experiments.export --run=runs/world --trial=ID --out=exported/mine",
    )
