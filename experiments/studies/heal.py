"""What a retrofit costs and what healing gives back: the loss on texts, by mode and seed.

Each is healed with the same budget, beside the base (2604.05248, table 2; 2605.03229, table 1).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Any

import numpy as np

from experiments.cli import run
from experiments.report.tables import markdown_table
from smf_jax.bases.base import Base, load_base
from smf_jax.bases.retrofit_config import RetrofitCommandConfig
from smf_jax.bases.retrofitting import check_retrofit, retrofit_base
from smf_jax.bases.text_windows import text_windows
from smf_jax.checkpoints.files import write_text
from smf_jax.configuration import Configuration, part, setting
from smf_jax.continual.grid import one_of, parse_list, seed
from smf_jax.data.batching import Batch
from smf_jax.data.readers import Reader
from smf_jax.errors import require_writable
from smf_jax.evaluation.probe import Probe, ProbeContext, ProbeOptions
from smf_jax.evaluation.probes.registry import read_probes
from smf_jax.evaluation.scorer import Scorer
from smf_jax.models.decoder import Decoder
from smf_jax.paths import as_path
from smf_jax.progress import say

STAGES = ("base", "fresh", "healed")
ROWS = 32  # of a probe that run at once


@dataclass(frozen=True)
class StudySection(Configuration):
    """What is compared."""

    modes: str = setting("add,replace", "modes of the retrofit, each by itself")
    seeds: str = setting("0,1,2", "seeds of initial values and of the order of batches")
    probes: str = setting("", "what is measured, as in NAME=TEXTFILE,… (docs/probes.md)")
    probe_limit: int = setting(200, "windows of 128 tokens of each", least=1)


@dataclass(frozen=True)
class HealStudyConfig(Configuration):
    """What ``experiments.studies.heal`` is told."""

    study: StudySection = part(StudySection(), "Study")
    retrofit: RetrofitCommandConfig = part(
        RetrofitCommandConfig().with_values(out="runs/heal", memory_init="normal")
    )


def study(
    config: RetrofitCommandConfig,
    base: Base,
    windows: Batch,
    probes: Mapping[str, Probe],
    runs: list[tuple[str, int]],
) -> Iterator[dict[str, Any]]:
    """One row for every mode, seed and text: before, right after the retrofit, and healed."""
    scorer = cache(lambda config: Scorer(Decoder(config), ROWS))  # modes compile, seeds do not

    def measure(model: Base) -> dict[str, float]:
        found = {name: p.measure(scorer(model.config), model.params) for name, p in probes.items()}
        return {name: next(iter(values.values())) for name, values in found.items()}

    before = measure(base)
    for mode, number in runs:
        told = replace(config.retrofit, retrofit=mode)
        fresh = measure(retrofit_base(replace(told, heal_steps=0), base, windows, number))
        healed = measure(retrofit_base(told, base, windows, number))
        for name in probes:
            row = {"mode": mode, "seed": number, "text": name, "base": before[name]}
            yield {**row, "fresh": fresh[name], "healed": healed[name]}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown, a line for every mode and text: means over the seeds."""
    lines = []
    for mode, text in dict.fromkeys((row["mode"], row["text"]) for row in rows):
        of_both = [row for row in rows if (row["mode"], row["text"]) == (mode, text)]
        stages = np.array([[row[stage] for row in of_both] for stage in STAGES])
        means = [f"{values.mean():.3f}" for values in stages]
        rise = stages[2] - stages[0]
        spread = f"{rise.mean():+.3f} ({rise.min():+.3f} to {rise.max():+.3f})"
        lines.append((mode, text, *means, spread))
    return markdown_table(("mode", "text", *STAGES, "healed - base"), lines)


def main(config: HealStudyConfig) -> int:
    """Runs the study; writes ``losses.json`` and prints the table."""
    told, study_of = config.retrofit, config.study
    require_writable(told.run.out, "out")
    target = as_path(told.run.out) / "losses.json"
    if target.exists() and not told.run.overwrite:
        raise FileExistsError(f"--out={told.run.out} holds a study; choose another or --overwrite")
    if not told.retrofit.resolved().heal_steps:
        raise ValueError("--heal_steps=0: expected at least 1")
    modes = parse_list(study_of.modes, "modes", one_of(("add", "replace")))
    runs = list(product(modes, parse_list(study_of.seeds, "seeds", seed)))
    base = load_base(told.source.base, "base", told.source.dtype)
    texts, reader = told.text.heal_texts, Reader(**told.data.values())
    for mode in modes:
        check_retrofit(replace(told.retrofit, retrofit=mode), base, bool(texts), "--heal_texts")
    options = ProbeOptions(study_of.probe_limit)
    using = ProbeContext(reader, base.tokenizer, base.config.max_positions, options)
    probes = read_probes(study_of.probes, using).whole()
    if not probes:
        raise ValueError("--probes is empty; name texts to measure, as in wikitext2=FILE")
    windows = text_windows(reader.texts(texts, "heal_texts"), base, told.text, "heal")
    rows = []
    for row in study(told, base, windows, probes, runs):
        rows.append(row)
        losses = ", ".join(f"{row[stage]:.3f} {stage}" for stage in STAGES)
        say(f"{row['mode']} seed {row['seed']}, {row['text']}: {losses}")
    write_text(target, json.dumps({"flags": config.values(), "losses": rows}, indent=1))
    say(f"\n{table(rows)}\n\n{target}")
    return 0


if __name__ == "__main__":
    run(
        main,
        HealStudyConfig,
        "set the losses of healed retrofits beside the base's",
        "python -m experiments.studies.heal --base=DIR --heal_texts=text.jsonl "
        "--probes=wikitext2=wiki.txt --out=runs/heal",
    )
