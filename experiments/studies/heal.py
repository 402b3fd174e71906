"""What a retrofit costs and what healing gives back: the loss on texts, by mode and seed.

``python -m experiments.studies.heal --base=DIR --heal_texts=FILE --probes=wikitext2=FILE
--out=runs/heal`` retrofits the base with every mode and seed, heals each with the same budget, and
sets the losses beside the base's own (2604.05248, table 2; 2605.03229, table 1).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
from smf_jax.continual.flags import flag

from experiments.cli import run
from smf_jax.continual.base import Base, load_base
from smf_jax.continual.config import RetrofitFlags
from smf_jax.continual.grid import parse_list, seed
from smf_jax.continual.retrofitting import check_retrofit, heal_windows, retrofit_base
from smf_jax.data.batching import Batch, pack_texts
from smf_jax.data.readers import Reader
from smf_jax.errors import blame_flag, require_least, require_writable
from smf_jax.evaluation.likelihood import LossSum, loss_sum, mean_loss
from smf_jax.evaluation.probes.exact import in_chunks
from smf_jax.models.config import ModelConfig
from smf_jax.models.decoder import Decoder, plain_logits
from smf_jax.params import Params
from smf_jax.progress import say

MODES = ("add", "replace")
# Rows of a probe that run at once.
ROWS = 32


@dataclass(frozen=True)
class HealStudyFlags(RetrofitFlags):
    """Flags of ``experiments.studies.heal``."""

    retrofit: str = flag("Study", "add,replace", "modes, each by itself")
    seeds: str = flag("Study", "0,1,2", "seeds of initial values and of the order of batches")
    probes: str = flag("Study", "", "texts whose loss is measured, as NAME=FILE,…")
    probe_length: int = flag("Study", 128, "tokens of a window of them")
    probe_tokens: int = flag("Study", 25_600, "tokens of each that are read")
    out: str = flag("Output", "runs/heal", "directory of losses.json; must not hold one")


@cache
def losses_of(config: ModelConfig) -> Callable[[Params, Batch], LossSum]:
    """Sums the losses of a batch; compiled once for a model, whatever its leaves."""
    logits = plain_logits(Decoder(config))

    @jax.jit
    def losses(params: Params, batch: Batch) -> LossSum:
        return loss_sum(logits(params, batch.tokens, batch.valid), batch)

    return losses


def measure(base: Base, probes: Mapping[str, Batch]) -> dict[str, float]:
    """Loss of every text, nats a token."""
    losses = losses_of(base.config)
    return {
        name: mean_loss(
            jax.device_get(in_chunks(lambda chunk: losses(base.params, chunk), windows, ROWS))
        )
        for name, windows in probes.items()
    }


def read_probes(flags: HealStudyFlags, base: Base) -> dict[str, Batch]:
    """The windows of ``--probes``."""
    reader, probes = Reader(flags.data_dir, flags.download), {}
    for item in filter(None, flags.probes.split(",")):
        name, equals, source = item.partition("=")
        if not equals or not name or not source or name in probes:
            raise ValueError(
                f"--probes={flags.probes}: {item!r} should be NAME=FILE with a name of its own"
            )
        texts = reader.texts(source, "probes")
        with blame_flag(f"--probes={source}: "):
            probes[name] = pack_texts(base.tokenizer, texts, flags.probe_length, flags.probe_tokens)
    if not probes:
        raise ValueError("--probes is empty; name texts to measure, as in wikitext2=FILE")
    return probes


def study(
    flags: HealStudyFlags, base: Base, windows: Batch, probes: Mapping[str, Batch]
) -> Iterator[dict[str, Any]]:
    """One row for every mode and seed: losses before, right after the retrofit, and healed."""
    before = measure(base, probes)
    for mode in parse_list(flags.retrofit, "retrofit", str):
        for number in parse_list(flags.seeds, "seeds", seed):
            told = replace(flags, retrofit=mode, seed=number)
            fresh = retrofit_base(replace(told, heal_steps=0), base, windows, number)
            healed = retrofit_base(told, base, windows, number)
            for name, loss in measure(healed, probes).items():
                row = {"mode": mode, "seed": number, "text": name, "base": before[name]}
                yield {**row, "fresh": measure(fresh, {name: probes[name]})[name], "healed": loss}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown, a line for every mode and text: means over the seeds."""
    lines = ["| mode | text | base | fresh | healed | healed - base |", "|---|---|--:|--:|--:|--:|"]
    for mode, text in dict.fromkeys((row["mode"], row["text"]) for row in rows):
        of_both = [row for row in rows if (row["mode"], row["text"]) == (mode, text)]
        base, fresh, healed = (
            np.asarray([row[name] for row in of_both]) for name in ("base", "fresh", "healed")
        )
        rise = healed - base
        lines.append(
            f"| {mode} | {text} | {base.mean():.3f} | {fresh.mean():.3f} | {healed.mean():.3f} | "
            f"{rise.mean():+.3f} ({rise.min():+.3f} to {rise.max():+.3f}) |"
        )
    return "\n".join(lines)


def main(flags: HealStudyFlags) -> int:
    """Runs the study; writes ``losses.json`` and prints the table."""
    require_writable(flags.out, "out")
    target = Path(flags.out) / "losses.json"
    if target.exists() and not flags.overwrite:
        raise FileExistsError(f"--out={flags.out} holds a study; choose another or --overwrite")
    require_least(flags, 1, "heal_length", "heal_tokens", "heal_steps", "probe_length")
    modes = parse_list(flags.retrofit, "retrofit", str)
    if not set(modes) <= set(MODES):
        raise ValueError(f"--retrofit={flags.retrofit}: choose from {', '.join(MODES)}")
    base = load_base(flags.base, "base", flags.dtype)
    for mode in modes:
        check_retrofit(replace(flags, retrofit=mode), base, bool(flags.heal_texts))
    probes = read_probes(flags, base)
    rows = []
    for row in study(flags, base, heal_windows(flags, base), probes):
        rows.append(row)
        say(
            f"{row['mode']} seed {row['seed']}, {row['text']}: {row['base']:.3f} base, "
            f"{row['fresh']:.3f} fresh, {row['healed']:.3f} healed"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps({"flags": asdict(flags), "losses": rows}, indent=1))
    say(f"\n{table(rows)}\n\n{target}")
    return 0


if __name__ == "__main__":
    run(
        main,
        HealStudyFlags,
        "experiments.studies.heal",
        "set the losses of healed retrofits beside the base's",
        "python -m experiments.studies.heal --base=DIR --heal_texts=text.jsonl "
        "--probes=wikitext2=wiki.txt --out=runs/heal",
    )
