"""Does a real model fit this machine: loads it, puts memories in, takes steps, reports as JSON.

``python -m benchmarks.real_size --base=DIR --preset=goyal2026`` retrofits blocks 6, 12 and 18 with
the memory that 2604.05248 and 2605.03229 put into Qwen2.5-0.5B and takes three steps of 4 × 128
random tokens. It tells seconds and the most memory held, after each part and in all.
"""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.cli import run
from experiments.configs.presets import preset_values
from smf_jax.continual.base import DTYPES, abstract_params_of
from smf_jax.continual.config import MemoryFlags
from smf_jax.continual.flags import flag
from smf_jax.continual.grid import METHODS, OPTIMIZERS, parse_list, parse_scoped
from smf_jax.data.batching import Batch
from smf_jax.errors import blame_flag, require_least, require_positive
from smf_jax.interop.huggingface.checkpoint import CONFIG, load_huggingface
from smf_jax.interop.huggingface.config import read_config
from smf_jax.models.config import ModelConfig
from smf_jax.models.decoder import Decoder
from smf_jax.models.retrofit import retrofit
from smf_jax.params import Params, count_parameters, flatten, pool_path
from smf_jax.sparse.selection import RULES, RULES_WITH_BACKGROUND, budget_size
from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.sparse.usage import add_batch, no_usage
from smf_jax.training.reads import read_counts
from smf_jax.training.sparse_config import SparseConfig
from smf_jax.training.sparse_trainer import sparse_trainer
from smf_jax.training.step import Settings, Shared
from smf_jax.training.trainers import Trainer

_GIB = 2**30


@dataclass(frozen=True)
class RealSizeFlags(MemoryFlags):
    """Flags of ``benchmarks.real_size``; the memory's are those of 2604.05248 and 2605.03229."""

    preset: str = flag("Preset", "", "the memory and the steps of a paper: goyal2026, smf-icml2026")
    base: str = flag("Base", "", "directory of a Hugging Face checkpoint")
    dtype: str = flag("Base", "float32", f"compute dtype: {' or '.join(DTYPES)}")
    param_dtype: str = flag(
        "Base", "stored", f"of the frozen weights: {', '.join(DTYPES)}, or stored, as in the files"
    )
    retrofit: str = flag("Retrofit", "add", "add (beside the feed-forward) or replace")
    layers: str = flag("Retrofit", "6,12,18", "blocks to retrofit, from 0")
    reads: int = flag("Retrofit", 16, "reads per head k")
    key_width: int = flag("Retrofit", 256, "key width kd, both halves together")
    qk_norm: bool = flag("Retrofit", False, "RMS norm on query halves and keys")
    # Nothing is healed here.
    heal_steps: int = 0
    heal_learning_rate: float = 0.0
    heal_batch_size: int = 1
    heal_loss: str = "text"
    heal_routing: bool = False
    whiten_queries: bool = False
    rule: str = flag("Steps", "kl_df", f"how slots are ranked: any of {', '.join(RULES)}")
    granularity: str = flag("Steps", "per_step", "per_step or per_micro_batch")
    micro_batches: int = flag("Steps", 1, "parts of a batch that run one after another")
    optimizer: str = flag("Steps", "adamw", f"any of {', '.join(OPTIMIZERS)}")
    learning_rate: float = flag("Steps", 5e-4, "rate of the rows")
    budget: int = flag("Steps", 512, "rows that a step may change in each layer's table")
    batch_size: int = flag("Steps", 4, "rows of a batch")
    length: int = flag("Steps", 128, "tokens of a row")
    steps: int = flag("Steps", 3, "steps; the first one compiles")
    background_batches: int = flag("Steps", 3, "batches of random text that slots are ranked by")
    seed: int = flag("Steps", 0, "seed of the memory and of the tokens")
    memory_limit_gib: float = flag("Output", 12.0, "exit with 1 if more memory was held than this")
    out: str = flag("Output", "", "file for the report; it is printed in any case")

    def preset_values(self) -> dict[str, Any]:
        """What the preset sets for method smf, by flag; a flag that is given wins."""
        whole = dict(preset_values(self.preset, "full", "sweep"))
        if "retrofit" not in whole:
            if whole:
                raise ValueError(
                    f"--preset={self.preset} has its memory from the start; choose one that "
                    "retrofits, such as goyal2026"
                )
            return {}
        for name, kind in (("rule", str), ("optimizer", str), ("granularity", str)):
            if name in whole:
                whole[name] = parse_scoped(whole[name], name, METHODS, kind)["smf"][0]
        whole["budget"] = max(parse_list(whole["slots"], "slots", int))
        whole["learning_rate"] = parse_scoped(whole["lr"], "lr", METHODS, float)["smf"][0]
        if whole.get("granularity") == "per_micro_batch":
            whole.setdefault("micro_batches", 2)
        own = {each.name for each in fields(self) if "group" in each.metadata} - {"batch_size"}
        return {name: value for name, value in whole.items() if name in own}


@dataclass
class Report:
    """What was measured, part by part."""

    parts: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        """Notes the seconds of what runs inside, and the most memory held until its end.

        Seconds of all cores too, which other programs on the machine change little.
        """
        began, cpu_began = time.monotonic(), time.process_time()
        yield
        self.parts[name] = {
            "seconds": round(time.monotonic() - began, 2),
            "cpu_seconds": round(time.process_time() - cpu_began, 2),
            "peak_gib": round(peak_bytes() / _GIB, 2),
        }


def peak_bytes() -> int:
    """The most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def random_batch(config: ModelConfig, rows: int, length: int, rng: np.random.Generator) -> Batch:
    """Rows of random tokens, every one of them a target."""
    ids = rng.integers(0, config.vocabulary, (rows, length + 1)).astype(np.int32)
    shape = (rows, length)
    return Batch(ids[:, :-1], ids[:, 1:], np.ones(shape, np.float32), np.ones(shape, bool))


def check(flags: RealSizeFlags) -> None:
    """Refuses what could only fail after minutes.

    Raises:
      FileNotFoundError: no checkpoint is there.
      ValueError: naming the flag.
    """
    if flags.retrofit not in ("add", "replace"):
        raise ValueError(f"--retrofit={flags.retrofit} is unknown; choose add or replace")
    for name, config in (
        ("dtype", DTYPES),
        ("param_dtype", (*DTYPES, "stored")),
        ("rule", RULES),
        ("optimizer", OPTIMIZERS),
        ("granularity", ("per_step", "per_micro_batch")),
    ):
        if getattr(flags, name) not in config:
            raise ValueError(
                f"--{name}={getattr(flags, name)} is unknown; choose from {', '.join(config)}"
            )
    counts = ("budget", "batch_size", "length", "steps", "background_batches", "micro_batches")
    require_least(flags, 1, *counts)
    if flags.batch_size % flags.micro_batches:
        raise ValueError(
            f"--micro_batches={flags.micro_batches} does not divide --batch_size="
            f"{flags.batch_size}; change one of them"
        )
    if (flags.granularity == "per_micro_batch") and flags.micro_batches == 1:
        raise ValueError(
            "--granularity=per_micro_batch and --micro_batches=1 exclude each other; give 2 or more"
        )
    require_positive(flags, "learning_rate", "memory_limit_gib")
    with blame_flag(f"--base={flags.base}: "):
        config = read_config(Path(flags.base) / CONFIG)
    flags.placement(config.width, config.layers)


def measure(flags: RealSizeFlags) -> dict[str, Any]:
    """Loads, retrofits, steps; returns the report."""
    report = Report()
    with report.timing("load"):
        config, tree = load_huggingface(flags.base, flags.dtype, flags.param_dtype)  # pyright: ignore
        jax.block_until_ready(tree)
    placement = flags.placement(config.width, config.layers)
    with report.timing("retrofit"):
        config, tree = retrofit(config, tree, placement, jax.random.key(flags.seed))
        params = jax.block_until_ready(flatten(tree))
    del tree
    memory = [leaf for path, leaf in params.items() if path.startswith("memory/")]
    numbers = {"parameters": count_parameters(params), "memory": count_parameters(memory)}
    rng = np.random.default_rng(flags.seed)
    usage = None
    if flags.rule in RULES_WITH_BACKGROUND:
        with report.timing("background"):
            usage = jax.block_until_ready(_background(flags, Decoder(config), params, rng))
    losses, rows = _steps(flags, report, config, params, usage, rng)
    return {
        "preset": flags.preset or None,
        "dtype": flags.dtype,
        "param_dtype": flags.param_dtype,
        **numbers,
        "parts": report.parts,
        "losses": losses,
        "rows_written": rows,
        "peak_gib": round(peak_bytes() / _GIB, 2),
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "device": jax.local_devices()[0].device_kind,
    }


def _background(flags: RealSizeFlags, model: Decoder, params: Params, rng: Any) -> Any:
    placement = model.config.memory
    assert placement is not None
    count = jax.jit(partial(read_counts, model))
    usage = {pool_path(pool): no_usage(placement.memory.slots) for pool in placement.pools}
    for _ in range(flags.background_batches):
        batch = random_batch(model.config, flags.batch_size, flags.length, rng)
        counts = count(params, batch)
        usage = {pool: add_batch(usage[pool], counts[pool]) for pool in usage}
    return usage


def _trainer(flags: RealSizeFlags, config: ModelConfig) -> Trainer:
    slots = abstract_params_of(config)
    table_slots = next(leaf.shape[0] for path, leaf in slots.items() if path.endswith("/values"))
    size = min(budget_size(flags.budget), table_slots)
    update = OptimizerConfig(flags.optimizer, clip=1.0)  # pyright: ignore[reportArgumentType]
    sparse = SparseConfig(
        rule=flags.rule,  # pyright: ignore[reportArgumentType]
        granularity=flags.granularity,  # pyright: ignore[reportArgumentType]
        micro_batches=flags.micro_batches,
        size=size,
        optimizer=update,
    )
    capacity = min(table_slots, flags.steps * sparse.places)
    return sparse_trainer(Decoder(config), sparse, capacity)


def _steps(
    flags: RealSizeFlags, report: Report, config: ModelConfig, params: Params, usage: Any, rng: Any
) -> tuple[list[float], list[int]]:
    trainer = _trainer(flags, config)
    settings = Settings(
        jnp.asarray(flags.learning_rate, jnp.float32),
        jnp.asarray(flags.budget, jnp.int32),
        jnp.asarray(flags.seed, jnp.uint32),
    )
    state = trainer.begin(params, settings)
    shared = Shared(trainer.frozen(params), usage)
    params.clear()  # the tables are the state's, which each step takes over
    step = jax.jit(trainer.step, donate_argnums=1)
    losses, rows = [], []
    for number in range(flags.steps):
        batch = random_batch(config, flags.batch_size, flags.length, rng)
        with report.timing(f"step {number + 1}"):
            state, metrics = jax.block_until_ready(step(shared, state, batch, settings))
        losses.append(round(float(metrics.loss), 5))
        rows.append(int(metrics.selected))
    if int(state.failed_step) >= 0:
        raise FloatingPointError(f"step {int(state.failed_step)} was not finite; losses {losses}")
    return losses, rows


def main(flags: RealSizeFlags) -> int:
    """Prints the report."""
    check(flags)
    report = measure(flags)
    text = json.dumps(report, indent=2)
    print(text)
    if flags.out:
        Path(flags.out).write_text(text + "\n")
    return int(report["peak_gib"] > flags.memory_limit_gib)


if __name__ == "__main__":
    run(
        main,
        RealSizeFlags,
        "benchmarks.real_size",
        "load a real model, put memories in, take a few steps; report seconds and memory",
        "python -m benchmarks.real_size --base=/tmp/qwen_random --preset=goyal2026",
    )
