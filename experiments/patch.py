"""Patches as files: taken out of a run, looked at, joined, put into an exported model or taken out.

A patch file is safetensors with a JSON header: slots, old rows and new rows of each table.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from experiments.cli import run
from smf_jax.configuration import Configuration, PathText, setting
from smf_jax.continual.methods import METHODS
from smf_jax.continual.run_directory import RunDirectory
from smf_jax.errors import require_writable
from smf_jax.interop.export.patched import add_patch, remove_patch
from smf_jax.interop.export.patches import load_patch, save_patch
from smf_jax.paths import as_path, is_whole
from smf_jax.progress import say
from smf_jax.sparse.patch import Patch, shared_places
from smf_jax.sparse.patch_sets import MergePolicy, compare_patches, merge_patches, stack_patches
from smf_jax.sparse.patch_text import describe_patch, patch_text


@dataclass(frozen=True)
class PatchConfig(Configuration):
    """What to do with which patches."""

    arguments: tuple[str, ...] = ()  # the verb and what it is for
    run: PathText = setting("", "extract: directory of the sweep that taught the patch")
    trial: str = setting("", "extract: the trial; may be left out where the run has only one")
    task: int | None = setting(None, "extract: the task, from 0; empty: all of them, joined")
    policy: MergePolicy = setting(
        "refuse", "merge: whose rows count where patches disagree: refuse, first, last or mean"
    )
    out: PathText = setting("", "extract, stack, merge: the file to write; must not exist")
    json: bool = setting(False, "show, diff: print JSON instead of text")


def extract(config: PatchConfig) -> None:
    """Writes what a task of a trial taught, or all of its tasks, as one file."""
    if not config.run:
        raise ValueError("--run is empty: name the sweep whose patch is taken out")
    taught = RunDirectory(config.run)
    trial, task = taught.find_trial(config.trial, config.task)
    if METHODS[trial.method].artefact != "patch":
        raise ValueError(
            f"--trial={trial.id}: method {trial.method} changes whole leaves and leaves no patch; "
            "export the model by python -m experiments.export"
        )
    patches = taught.load_patches(trial, task + 1)
    _write(config, patches[-1] if config.task is not None else stack_patches(patches))


def show(config: PatchConfig, *files: str) -> None:
    """Prints what each file holds."""
    found = [{"file": file, **describe_patch(load_patch(file))} for file in files]
    texts = (f"{each['file']}: {patch_text(each)}" for each in found)
    print(json.dumps(found) if config.json else "\n".join(texts))


def diff(config: PatchConfig, first: str, second: str) -> None:
    """Prints the slots that two patches share, and where they disagree."""
    a, b = load_patch(first), load_patch(second)
    overlaps = {path: each._asdict() for path, each in compare_patches(a, b).items()}
    found = {"pools": overlaps, "disagree": shared_places(a, b, disagreeing=True)}
    if config.json:
        print(json.dumps(found))
        return
    for path, each in overlaps.items():
        print(f"{path}: {each['first']:,} and {each['second']:,} slots, {each['shared']:,} in both")
    print(f"disagree on {'; '.join(found['disagree']) or 'nothing'}")


def stack(config: PatchConfig, *files: str) -> None:
    """Joins patches, each made after the one before it."""
    _write(config, stack_patches([load_patch(file) for file in files]))


def merge(config: PatchConfig, *files: str) -> None:
    """Joins patches that were made side by side."""
    _write(config, merge_patches([load_patch(file) for file in files], config.policy))


def apply(config: PatchConfig, model: str, *files: str) -> None:
    """Puts patches after those of an exported model."""
    del config
    for file in files:
        add_patch(as_path(model), load_patch(file))
        say(f"{model}: {file} applied")


def revert(config: PatchConfig, model: str, *names: str) -> None:
    """Takes patches of an exported model back, by task or state."""
    del config
    for name in names:
        patch = remove_patch(as_path(model), name)
        say(f"{model}: {patch.task} taken back, {patch.rows:,} rows are as before it")


# By verb, what it does and how many arguments it takes at least and at most.
VERBS: dict[str, tuple[Callable[..., None], str, int, int | None]] = {
    "extract": (extract, "--run=DIR --trial=ID --out=FILE", 0, 0),
    "show": (show, "FILE…", 1, None),
    "diff": (diff, "FILE FILE", 2, 2),
    "stack": (stack, "FILE FILE… --out=FILE", 2, None),
    "merge": (merge, "FILE FILE… --out=FILE", 2, None),
    "apply": (apply, "MODEL FILE…", 2, None),
    "revert": (revert, "MODEL TASK…", 2, None),
}


def main(config: PatchConfig) -> int:
    """Does what the verb says."""
    verb, *rest = config.arguments or ("",)
    if verb not in VERBS:
        raise ValueError(f"{verb!r} is no verb; choose from {', '.join(VERBS)}")
    act, usage, least, most = VERBS[verb]
    if len(rest) < least or (most is not None and len(rest) > most):
        given = f"{verb}: {len(rest)} arguments given"
        raise ValueError(f"{given}; python -m experiments.patch {verb} {usage}")
    act(config, *rest)
    return 0


def _write(config: PatchConfig, patch: Patch) -> None:
    if not config.out:
        raise ValueError("--out is empty: name the file to write")
    require_writable(config.out, "out")
    if is_whole(as_path(config.out)):
        raise FileExistsError(f"--out={config.out} exists; choose another name or remove it")
    save_patch(config.out, patch)
    say(f"{config.out}: {patch.task}, {patch.rows:,} rows")


if __name__ == "__main__":
    run(
        main,
        PatchConfig,
        "take patches out of a run, show, join, apply and revert them",
        "python -m experiments.patch VERB … (" + ", ".join(VERBS) + ")",
        positional="arguments",
    )
