"""Retrofitting a base: memories put into a pretrained decoder, and healed on text."""

from __future__ import annotations

import dataclasses
from typing import get_args

import jax
import numpy as np

from smf_jax.continual.base import Base, abstract_params_of, data_mesh
from smf_jax.continual.config import MemoryFlags, RetrofitFlags
from smf_jax.data.batching import Batch, pack_texts, sample_batches
from smf_jax.data.readers import Reader
from smf_jax.errors import blame_flag, require_least, require_positive
from smf_jax.models.retrofit import retrofit
from smf_jax.params import Params, count_parameters, flatten, unflatten
from smf_jax.progress import progress_bar, say
from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.training.fit import fit
from smf_jax.training.healing import HealingLoss, healing_trainer, heals, removed_params
from smf_jax.training.whitening import whiten_queries

# Tokens of text that queries are whitened on.
WHITENING_TOKENS = 8192


def check_retrofit(flags: MemoryFlags, base: Base, has_text: bool) -> Base:
    """The outline of what `retrofit_base` will make; nothing is computed.

    Args:
      flags: the memory and the healing.
      base: the base, or an outline of it.
      has_text: whether there is text to heal on.

    Raises:
      ValueError: if the base has memories, the memory does not fit it, or text is missing.
    """
    require_least(flags, 0, "heal_steps")
    require_least(flags, 1, "heal_batch_size")
    require_positive(flags, "heal_learning_rate")
    if flags.heal_loss not in get_args(HealingLoss):
        known = " or ".join(get_args(HealingLoss))
        raise ValueError(f"--heal_loss={flags.heal_loss} is unknown; choose {known}")
    if flags.heal_loss == "distill" and flags.retrofit != "replace":
        raise ValueError(
            f"--heal_loss=distill with --retrofit={flags.retrofit}: it teaches a memory what the "
            "feed-forward in its place computed; give --retrofit=replace or --heal_loss=text"
        )
    if flags.whiten_queries and has_text and not flags.query_bias:
        raise ValueError(
            "--whiten_queries with --noquery_bias: whitening moves the queries' mean into their "
            "bias; give --nowhiten_queries or --query_bias"
        )
    if base.config.memory is not None:
        raise ValueError(
            f"--retrofit={flags.retrofit}: the base ({base.origin}) has memories in layers "
            f"{base.config.memory.layers} already; leave the flag out"
        )
    if flags.heal_steps and not has_text:
        text = "--heal_texts" if isinstance(flags, RetrofitFlags) else "--background"
        raise ValueError(
            f"--heal_steps={flags.heal_steps} needs text; give {text}=FILE, or --heal_steps=0"
        )
    config = base.config.with_memory(flags.placement(base.config.width, base.config.layers))
    return dataclasses.replace(base, config=config, params=abstract_params_of(config))


def retrofit_base(flags: MemoryFlags, base: Base, windows: Batch | None, seed: int = 0) -> Base:
    """A base with fresh memories in it, healed on text with only the memories training.

    Args:
      flags: the memory and the healing.
      base: without memories.
      windows: text to heal on, ``(windows, t)``; may be ``None`` only if nothing is healed.
      seed: of initial values and of the order of batches.

    Raises:
      ValueError: if the base has memories, or there is no text to heal on.
    """
    check_retrofit(flags, base, windows is not None)
    placement = flags.placement(base.config.width, base.config.layers)
    config, tree = retrofit(base.config, unflatten(base.params), placement, jax.random.key(seed))
    made = dataclasses.replace(
        base, config=config, params=flatten(tree), origin=f"{base.origin}, {flags.retrofit}"
    )
    new = count_parameters([leaf for path, leaf in made.params.items() if heals(path, True)])
    say(f"retrofit: {new:,} memory parameters in layers {placement.layers}")
    if windows is None:
        return made
    made = _whiten(flags, made, windows)
    if not flags.heal_steps:
        return made
    removed = removed_params(config, base.params)
    return _whiten(flags, _heal(flags, made, removed, windows, seed), windows)


def _whiten(flags: MemoryFlags, base: Base, windows: Batch) -> Base:
    """The base with white queries, if the flags want them."""
    if not flags.whiten_queries:
        return base
    rows = min(len(windows.tokens), max(1, WHITENING_TOKENS // windows.tokens.shape[1]))
    spread = np.linspace(0, len(windows.tokens) - 1, rows).astype(int)
    some = Batch(*(field[spread] for field in windows))
    return dataclasses.replace(base, params=whiten_queries(base.model, base.params, some))


def heal_windows(flags: RetrofitFlags, base: Base) -> Batch:
    """The windows of ``--heal_texts``."""
    reader = Reader(flags.data_dir, flags.download)
    texts = reader.texts(flags.heal_texts, "heal_texts")
    with blame_flag(f"--heal_texts={flags.heal_texts}: "):
        return pack_texts(base.tokenizer, texts, flags.heal_length, flags.heal_tokens)


def _heal(flags: MemoryFlags, base: Base, removed: Params, windows: Batch, seed: int) -> Base:
    """The base with its memory healed; ``removed`` are the feed-forwards that it lost."""
    steps = flags.heal_steps
    optimizer = OptimizerConfig(
        "adamw",
        clip=1.0,
        schedule="cosine",
        # 2604.05248 warms up for 100 of its 1,250 steps.
        warmup_steps=min(100, max(1, steps // 10)),
        schedule_steps=steps + 1,
    )
    loss: HealingLoss = flags.heal_loss  # pyright: ignore[reportAssignmentType]
    trainer = healing_trainer(base.model, optimizer, loss, flags.heal_routing)
    params = base.params | removed if loss == "distill" else base.params
    rng = np.random.default_rng([seed, 2])
    batches = sample_batches(windows, steps, flags.heal_batch_size, rng)
    with progress_bar(steps, "heal") as progress:
        mesh = data_mesh(flags.heal_batch_size)
        fitted = fit(trainer, params, batches, flags.heal_learning_rate, mesh, progress)
    tenth = max(1, steps // 10)
    first, last = fitted.losses[:tenth].mean(), fitted.losses[-tenth:].mean()
    name = "loss" if loss == "text" else "squared error"
    say(f"healing: {name} {first:.4g} in the first tenth of {steps} steps, {last:.4g} in the last")
    healed = {path: leaf for path, leaf in fitted.params.items() if path in base.params}
    return dataclasses.replace(base, params=healed)
