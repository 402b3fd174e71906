"""Runs probes on a base, or on what a trial of a run has made of it.

``python -m experiments.evaluate --base=DIR --probes=nq=f1:nq.jsonl --out=base.json`` measures a
base; with ``--run=runs/world --trial=ID`` in place of ``--base`` it measures the model after the
trial's last task: base and patches, trained leaves or adapters.
"""

from __future__ import annotations

import importlib.util
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax

import smf_jax
from experiments.cli import run
from experiments.report.tables import markdown_table
from smf_jax.continual.base import Base, load_base
from smf_jax.continual.flags import flag
from smf_jax.continual.run_directory import BASE, RunDirectory
from smf_jax.continual.trained import find_trial, read_config, trained_params
from smf_jax.data.readers import Reader
from smf_jax.errors import blame_flag, require_least, require_writable
from smf_jax.evaluation.probe import ProbeContext, ProbeOptions, run_probes
from smf_jax.evaluation.probes.registry import KINDS, Item, parse_probes, read_probes
from smf_jax.evaluation.scorer import Scorer
from smf_jax.params import Params, count_parameters
from smf_jax.progress import say

_MODEL, _PROBES, _OUT = "The model", "The probes", "Output"


@dataclass(frozen=True)
class EvaluateFlags:
    """Flags of ``experiments.evaluate``."""

    base: str = flag(_MODEL, "", "directory: Hugging Face or a base; empty: that of --run")
    run: str = flag(_MODEL, "", "directory of a run, for its base and its trials")
    trial: str = flag(_MODEL, "", "id of a trial of the run; empty: the base alone")
    task: int = flag(_MODEL, -1, "the last task that the trial's model was taught, from 0; -1: all")
    dtype: str = flag(_MODEL, "float32", "compute dtype of a Hugging Face base")
    probes: str = flag(
        _PROBES,
        "",
        f"NAME=FILE or NAME=KIND:FILE,… with the kinds {', '.join(KINDS)} (docs/probes.md)",
    )
    probe_limit: int = flag(_PROBES, 500, "questions, items or windows of a probe; 0 for all")
    probe_shots: int = flag(_PROBES, 0, "examples before each question of kind f1")
    probe_answer_tokens: int = flag(_PROBES, 32, "tokens of an answer of kind f1, at most")
    probe_chat: bool = flag(_PROBES, False, "kind f1 asks by the tokenizer's chat template")
    ppl_window: int = flag(
        _PROBES, 0, "tokens of a window of kind ppl; 0: 1,024, or what the model takes"
    )
    ppl_stride: int = flag(_PROBES, 0, "tokens between windows; 0: half of a window")
    eval_batch_size: int = flag(_PROBES, 128, "rows that run at once")
    harness: str = flag(
        _PROBES,
        "",
        "tasks of lm-evaluation-harness, as in hellaswag,nq_open; --probe_limit holds for them too",
    )
    harness_path: str = flag(_PROBES, "", "directory with YAML files of further tasks")
    data_dir: str = flag(_PROBES, "", "where prepared tensorflow-datasets lie")
    download: bool = flag(_PROBES, False, "prepare sets that are not; uses the network")
    out: str = flag(_OUT, "", "JSON file to write; must not exist")
    overwrite: bool = flag(_OUT, False, "replace the file at --out")


def check(flags: EvaluateFlags) -> tuple[Item, ...]:
    """Refuses flags that make no evaluation; returns the items of ``--probes``."""
    require_least(flags, 0, "probe_limit", "probe_shots", "ppl_window", "ppl_stride")
    require_least(flags, 1, "probe_answer_tokens", "eval_batch_size")
    if not flags.probes and not flags.harness:
        raise ValueError("--probes and --harness are empty; give --probes=nq=f1:nq_open.jsonl, say")
    if flags.harness and importlib.util.find_spec("lm_eval") is None:
        install = 'pip install "smf_jax[lm-eval]"'
        raise ValueError(f"--harness={flags.harness} needs lm-evaluation-harness: {install}")
    if not flags.out:
        raise ValueError("--out is empty; name the JSON file to write")
    if flags.trial and not flags.run:
        raise ValueError(f"--trial={flags.trial} belongs to a run; give --run too")
    if flags.task >= 0 and not flags.trial:
        raise ValueError(f"--task={flags.task} is one of a trial; give --trial too")
    if flags.harness_path and not Path(flags.harness_path).is_dir():
        raise FileNotFoundError(f"--harness_path={flags.harness_path}: no such directory")
    require_writable(flags.out, "out")
    if Path(flags.out).is_dir() or (Path(flags.out).exists() and not flags.overwrite):
        raise FileExistsError(f"--out={flags.out} exists; give another file or --overwrite")
    return parse_probes(flags.probes)


def find_model(flags: EvaluateFlags) -> tuple[Base, Params, dict[str, Any]]:
    """The base, the leaves to measure, and what tells them from others."""
    run = Path(flags.run)
    config = read_config(run) if flags.run else {}
    path = flags.base or (str(run / BASE) if flags.run else "")
    base = load_base(path, "base", flags.dtype)
    base_fingerprint = base.fingerprint()
    about = {"base": path, "fingerprint": base_fingerprint}
    if not flags.trial:
        return base, base.params, about
    trial, task = find_trial(run, flags.trial, flags.task)
    found = (RunDirectory(flags.run), trial, task, base.params, base_fingerprint)
    params = trained_params(*found, config["lora_alpha"])
    return base, params, {**about, "run": flags.run, "trial": trial.id, "task": task}


def run_harness(flags: EvaluateFlags, base: Base, params: Params) -> dict[str, dict[str, Any]]:
    """Runs the tasks of ``--harness``; what needs the harness is imported only here."""
    if not flags.harness:
        return {}
    from smf_jax.evaluation.lm_eval import SmfLM, run_tasks

    model = SmfLM(base.model, params, base.tokenizer, flags.eval_batch_size)
    tasks, limit = flags.harness.split(","), flags.probe_limit or None
    with blame_flag(f"--harness={flags.harness}: "):
        return run_tasks(model, tasks, limit, flags.harness_path or None)


def main(flags: EvaluateFlags) -> int:
    """Measures the probes and writes ``--out``."""
    items = check(flags)
    base, params, about = find_model(flags)
    say(f"base: {base.origin}, {count_parameters(base.params):,} parameters")
    options, reader = ProbeOptions.of(flags), Reader(flags.data_dir, flags.download)
    using = ProbeContext(reader, base.tokenizer, base.config.max_positions, options)
    probes = read_probes(flags.probes, using).whole()
    found = run_probes(Scorer(base.model, flags.eval_batch_size), params, probes)
    result = {
        "model": about,
        "options": asdict(options),
        "probes": {
            name: {"kind": kind, "source": source, **found[name]} for name, kind, source in items
        },
        "harness": run_harness(flags, base, params),
        "versions": {"smf_jax": smf_jax.__version__, "jax": jax.__version__},
    }
    partial = Path(flags.out).with_name(f".{Path(flags.out).name}.{os.getpid()}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    partial.replace(flags.out)
    scores = {name: each["scores"] for name, each in result["probes"].items()}
    lines = [
        (name, metric, f"{value:.4f}")
        for name, of_name in (*scores.items(), *result["harness"].items())
        for metric, value in of_name.items()
        if isinstance(value, (int, float))  # not the "N/A" of the harness
    ]
    say(f"\n{markdown_table(('probe', 'metric', 'score'), lines)}\n\n{flags.out}")
    return 0


if __name__ == "__main__":
    run(
        main,
        EvaluateFlags,
        "experiments.evaluate",
        "run probes on a base, or on what a trial has made of it",
        "python -m experiments.evaluate --run=runs/world --trial=ID --probes=nq=f1:nq.jsonl "
        "--out=nq.json",
    )
