"""Writes a model for others: ``python -m experiments.export --base=DIR --out=DIR``.

With ``--run`` it is what a trial of a sweep has come to: the base with the patches of the tasks so
far beside it, or, for methods without patches, with what they trained in it. `load_exported` reads
the directory back bit for bit; docs/serving.md tells how to use it, here and in PyTorch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from smf_jax.continual.flags import flag

from experiments.cli import run
from smf_jax import checkpoints
from smf_jax.continual.base import DTYPES, Base, load_base
from smf_jax.continual.methods import apply_trained
from smf_jax.continual.run_directory import BASE, CONFIG, TRIALS, RunDirectory
from smf_jax.errors import blame_flag, require_least, require_writable
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


@dataclass(frozen=True)
class ExportFlags:
    """Flags of ``experiments.export``."""

    base: str = flag(
        "Input", "", "directory of a Hugging Face checkpoint or of a base; empty: that of --run"
    )
    dtype: str = flag("Input", "float32", "compute dtype of a Hugging Face base")
    run: str = flag("Input", "", "directory of a sweep whose trial is exported")
    trial: str = flag("Input", "", "the trial; may be left out where the run has only one")
    task: int | None = flag("Input", None, "the last task that counts, from 0; the latest if empty")
    stack: bool = flag("Output", False, "all patches joined into one")
    name: str = flag("Output", "", "of the model, for its card; that of --out if empty")
    licence: str = flag("Output", "", "an identifier such as apache-2.0; empty: the base's own")
    base_model: str = flag("Output", "", "name of the base on a hub, such as Qwen/Qwen2.5-0.5B")
    shard_mb: int = flag("Output", 5000, "megabytes of weights in a file")
    out: str = flag("Output", "", "directory to write; must not exist")


@dataclass(frozen=True)
class Outcome:
    """What is exported.

    Attributes:
      base: with what was trained in place of its leaves, for methods without patches.
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


def gather(flags: ExportFlags) -> Outcome:
    """Reads what is to be exported.

    Raises:
      FileNotFoundError: a run, a trial, a task or the base is not there.
      ValueError: a flag is missing, or names a trial that the run does not have.
    """
    if not flags.run:
        if not flags.base:
            raise ValueError("--base and --run are empty; name a base, or a sweep, to export")
        if flags.trial or flags.task is not None:
            given = f"--trial={flags.trial}" if flags.trial else f"--task={flags.task}"
            raise ValueError(f"{given} needs --run, the sweep that it belongs to")
        return Outcome(load_base(flags.base, "base", flags.dtype), [], Path(flags.base), [], {})
    home = Path(flags.base or Path(flags.run) / BASE)
    settings = _settings(Path(flags.run))
    path = _last_task(flags)
    base = load_base(str(home), "base", flags.dtype)
    metadata = checkpoints.read_metadata(path)
    if metadata["base"] != base.fingerprint():
        raise ValueError(
            f"--base={home} is not the base of {path} ({metadata['base'][:12]}); give that one"
        )
    patches = []
    if metadata["kind"] == "patch":
        paths = [path.parent / f"task_{task:02d}" for task in range(metadata["task"] + 1)]
        patches = [Patch.from_arrays(*checkpoints.load(each)) for each in paths]
    else:
        trained: Any = checkpoints.load(path)[0]
        base = replace(base, params=apply_trained(base.params, trained, settings["lora_alpha"]))
    about = [
        f"Stream: {settings.get('stream') or 'world'}, {metadata['task'] + 1} tasks of "
        f"{settings['facts_per_task']} facts, {settings['steps_per_task']} steps each.",
        f"Trial `{metadata['trial']}`: method {metadata['method']}, {metadata['optimizer']}, rate "
        f"{metadata['learning_rate']:g}, seed {metadata['seed']}.",
    ]
    return Outcome(base, patches, home, about, _scores(flags.run, metadata))


def _settings(path: Path) -> dict[str, Any]:
    """The flags of a sweep."""
    file = path / CONFIG
    if not file.is_file():
        raise FileNotFoundError(f"--run={path} is no run of a sweep: it has no {CONFIG}")
    with blame_flag(f"--run={path}: {CONFIG}: "):
        return json.loads(file.read_text(encoding="utf-8"))


def _last_task(flags: ExportFlags) -> Path:
    """The checkpoint after the last task that counts."""
    trials = {path.name: path for path in sorted(Path(flags.run, TRIALS).glob("*"))}
    if not flags.trial and len(trials) != 1:
        raise ValueError(
            f"--run={flags.run} has {len(trials)} trials; name one with --trial: "
            + ", ".join(trials)
        )
    name = flags.trial or next(iter(trials))
    if name not in trials:
        raise ValueError(f"--trial={name} is not in --run={flags.run}; it has {', '.join(trials)}")
    saved = {int(path.name.partition("_")[2]): path for path in trials[name].glob("task_??")}
    saved = {task: path for task, path in saved.items() if checkpoints.is_complete(path)}
    task = max(saved, default=-1) if flags.task is None else flags.task
    if task not in saved:
        raise FileNotFoundError(
            f"--task={task} of --trial={name} has no checkpoint; there are those of tasks "
            f"{sorted(saved)}"
        )
    return saved[task]


def _scores(run_path: str, metadata: dict[str, Any]) -> dict[str, Any]:
    """What was measured after the last task, for the card."""
    rows = [
        row
        for row in RunDirectory(run_path).rows()
        if (row["trial"], row["task"]) == (metadata["trial"], metadata["task"])
    ]
    row = rows[-1] if rows else {}
    return {name: f"{row[name]:.4f}" for name in _SCORES if row.get(name) is not None}


def write(flags: ExportFlags, found: Outcome) -> None:
    """Writes the directory."""
    base, patches = found.base, found.patches
    if flags.stack and patches:
        patches = [stack_patches(patches)]
    # The built-in world comes with this package.
    own = licence_of(found.home) if base.recipe is None else "apache-2.0"
    facts = CardFacts(
        name=flags.name or Path(flags.out).name,
        origin=base.origin,
        licence=flags.licence or own,
        base_model=flags.base_model,
        trained_on=found.about,
        scores=found.scores,
    )
    export_model(
        flags.out,
        base.config,
        base.params,
        patches,
        facts=facts,
        tokenizer=base.tokenizer,
        # A Hugging Face directory has files of its own.
        companions=found.home if (found.home / MODEL_CONFIG).is_file() else None,
        shard_bytes=flags.shard_mb * 10**6,
    )
    rows = sum(patch.rows for patch in patches)
    say(
        f"{flags.out}: {count_parameters(base.params):,} parameters, {len(patches)} patches of "
        f"{rows:,} rows"
    )


def main(flags: ExportFlags) -> int:
    """Exports to ``--out``."""
    if not flags.out:
        raise ValueError("--out is empty; name the directory to write")
    if flags.dtype not in DTYPES:
        raise ValueError(f"--dtype={flags.dtype} is unknown; choose from {', '.join(DTYPES)}")
    require_least(flags, 1, "shard_mb")
    require_writable(flags.out, "out")
    if Path(flags.out).exists():
        raise FileExistsError(f"--out={flags.out} exists; choose another directory or remove it")
    write(flags, gather(flags))
    return 0


if __name__ == "__main__":
    run(
        main,
        ExportFlags,
        "experiments.export",
        "write a model, its memory and its patches for others to read",
        "python -m experiments.export --run=runs/world --trial=ID --out=exported/mine",
    )
