"""Runs probes on a base, or with ``--run`` and ``--trial`` on what a trial has made of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

import jax

from experiments.cli import run
from experiments.report.tables import score_table
from smf_jax.bases.base import Base, load_base
from smf_jax.bases.sections import BASE_PRECISION_HELP, DTYPE_HELP, BasePrecision, Dtype
from smf_jax.checkpoints.files import write_text
from smf_jax.configuration import Configuration, PathText, part, setting
from smf_jax.continual.run_base import ask_untouched, load_run_base, taught_in_run
from smf_jax.continual.run_directory import RunDirectory
from smf_jax.continual.sections import ProbeConfig, QuestionDataConfig
from smf_jax.data.readers import Reader
from smf_jax.errors import require_writable
from smf_jax.evaluation.harness import HarnessConfig
from smf_jax.evaluation.probe import ProbeContext, ProbeOptions, refer_to_base, run_probes
from smf_jax.evaluation.probes.registry import Item, asks_base, parse_probes, read_probes
from smf_jax.evaluation.scorer import Scorer
from smf_jax.params import Params
from smf_jax.paths import as_path
from smf_jax.progress import say
from smf_jax.version import __version__

PROBES = "The probes"


@dataclass(frozen=True)
class ModelSection(Configuration):
    """The model that is measured."""

    base: PathText = setting("", "directory, GGUF or package:NAME; empty: of --run", first=True)
    run: PathText = setting("", "directory of a run, for its base and its trials", first=True)
    trial: str = setting("", "id of a trial of the run; empty: the base alone", first=True)
    task: int = setting(-1, "the last task that the trial's model was taught, from 0; -1: all")
    dtype: Dtype = setting(None, DTYPE_HELP)
    base_precision: BasePrecision = setting(None, BASE_PRECISION_HELP)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trial and not self.run:
            raise ValueError(f"--trial={self.trial} belongs to a run; give --run too")
        if self.base_precision and self.run:
            raise ValueError(
                f"--base_precision={self.base_precision} with --run: its base is as it was taught; "
                "leave the flag out"
            )
        if self.task >= 0 and not self.trial:
            raise ValueError(f"--task={self.task} is one of a trial; give --trial too")


@dataclass(frozen=True)
class EvaluateConfig(Configuration):
    """What ``experiments.evaluate`` is told."""

    model: ModelSection = part(ModelSection(), "The model")
    probes: ProbeConfig = part(ProbeConfig(), PROBES)
    harness: HarnessConfig = part(HarnessConfig(), PROBES)
    data: QuestionDataConfig = part(QuestionDataConfig(), PROBES)
    out: PathText = setting("", "JSON file to write; must not exist", heading="Output", first=True)
    overwrite: bool = setting(False, "replace the file at --out", heading="Output")


def check(config: EvaluateConfig) -> tuple[Item, ...]:
    """Refuses what makes no evaluation; returns the items of ``--probes``."""
    out = config.out
    if not (config.probes.probes or config.harness.harness):
        raise ValueError("--probes and --harness are empty; give --probes=nq=f1:nq_open.jsonl, say")
    config.harness.check_installed()
    if not out:
        raise ValueError("--out is empty; name the JSON file to write")
    require_writable(out, "out")
    if (target := as_path(out)).is_dir() or (target.exists() and not config.overwrite):
        raise FileExistsError(f"--out={out} exists; give another file or --overwrite")
    return parse_probes(config.probes.probes, Reader(**config.data.values()).fields)


def find_model(config: ModelSection) -> tuple[Base, Params, dict[str, Any]]:
    """The base, the parameters to measure, and what tells them from others."""
    if not config.run:
        base = load_base(config.base, "base", config.dtype, config.base_precision)
        return base, base.params, {"base": config.base, "fingerprint": base.fingerprint()}
    run = RunDirectory(config.run)
    base, path = load_run_base(run, config.base)
    params, about = base.params, {"base": str(path), "fingerprint": base.fingerprint()}
    if config.trial:
        trial, task = run.find_trial(config.trial, config.task if config.task >= 0 else None)
        params = run.load_model(trial, task, base.params, about["fingerprint"])
        about |= {"run": config.run, "trial": trial.id, "task": task}
    return base.cast(config.dtype), replace(base, params=params).cast(config.dtype).params, about


def told_of(base: Base) -> dict[str, Any]:
    """What tells how a base is held, for a reader of the file."""
    held = base.config
    return {"dtype": held.dtype, "precision": held.precision, "origin": base.origin}


def main(config: EvaluateConfig) -> int:
    """Measures the probes and writes ``--out``, after each of them anew."""
    items, told, options = check(config), config.probes, ProbeOptions.of(config.probes)
    base, params, model = find_model(config.model)
    say(f"base: {base.origin}, {base.size()}")
    base, reader = told.with_chats(base), Reader(**config.data.values())
    asked = config.model.run, config.model.base, base, told.eval_batch_size
    asking = ask_untouched(*asked) if asks_base(items) else None
    using = ProbeContext(reader, base.tokenizer, base.config.max_positions, options, asking)
    if config.model.run and asks_base(items):
        using = using._replace(taught=taught_in_run(*asked))
    probes = read_probes(told.probes, using).whole()
    scorer = Scorer(base.model, told.eval_batch_size)
    refer_to_base(probes, scorer, base.params)
    rows, limit = told.eval_batch_size, told.probe_limit or None
    harness = config.harness.run(base.model, params, base.tokenizer, rows, limit)
    result: dict[str, Any] = {
        "model": {**model, **told_of(base)},
        "options": {**asdict(options), "chat_template_args": told.chat_template_args},
        "probes": {},
        "harness": {},
        "versions": {"smf_jax": __version__, "jax": jax.__version__},
    }
    write = lambda: write_text(config.out, json.dumps(result, indent=2) + "\n")  # noqa: E731
    for name, kind, source in items:
        found = run_probes(scorer, params, {name: probes[name]})[name]
        result["probes"][name] = {"kind": kind, "source": source, **found}
        write()
    for found in harness:
        result["harness"] |= found
        write()
    scores = [(name, found["scores"]) for name, found in result["probes"].items()]
    say(f"\n{score_table([*scores, *result['harness'].items()])}\n\n{config.out}")
    return 0


if __name__ == "__main__":
    run(
        main,
        EvaluateConfig,
        "run probes on a base, or on what a trial has made of it",
        "python -m experiments.evaluate --base=DIR --probes=nq=f1:nq.jsonl --out=nq.json",
    )
