"""Retrofitting a base: memories put into a pretrained decoder, and healed on text."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from smf_jax.bases.base import Base, abstract_params_of, data_mesh
from smf_jax.bases.retrofit_config import (
    SIZES,
    RetrofitConfig,
    check_whitening,
)
from smf_jax.bases.sections import BACKGROUND_BATCH_SIZE
from smf_jax.data.batching import Batch, sample_batches
from smf_jax.errors import blame_flag, require_memory
from smf_jax.models.retrofit import retrofit
from smf_jax.params import Params, count_bytes, count_parameters, flatten, unflatten
from smf_jax.progress import progress_bar, say
from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.sparse.usage import SATURATED, touched_share
from smf_jax.training.background import measure_background
from smf_jax.training.fit import fit
from smf_jax.training.healing import healing_trainer, heals, removed_params
from smf_jax.training.whitening import whiten_queries

# Tokens of text that queries are whitened on.
WHITENING_TOKENS = 8192
# Batches of text by which a table is sized.
SIZING_BATCHES = 4


def check_retrofit(
    config: RetrofitConfig, base: Base, has_text: bool, text_flag: str = "--background"
) -> Base:
    """The shapes of what `retrofit_base` will make; nothing is computed.

    Raises ValueError if the base has memories, the memory does not fit it, or text is missing.
    """
    config = config.resolved()
    if not config.memory.keys_per_half:
        if not has_text:
            raise ValueError(
                f"--keys_per_half=0 fits the table to text, and there is none; give {text_flag}="
                "FILE, or a size such as --keys_per_half=512"
            )
        config = config.sized(SIZES[-1])  # the largest that it may come to
    if config.heal_loss == "distill" and config.retrofit != "replace":
        raise ValueError(
            f"--heal_loss=distill with --retrofit={config.retrofit}: it teaches a memory what the "
            "feed-forward in its place computed; give --retrofit=replace or --heal_loss=text"
        )
    check_whitening(config.whiten_queries and has_text, config.memory)
    if base.config.memory is not None:
        raise ValueError(
            f"--retrofit={config.retrofit}: the base ({base.origin}) has memories in layers "
            f"{base.config.memory.layers} already; leave the flag out"
        )
    if config.heal_steps and config.memory_init == "zero":
        raise ValueError(
            f"--heal_steps={config.heal_steps} with --memory_init=zero: such a retrofit starts as "
            "its base and has nothing to heal; give --heal_steps=0 or --memory_init=normal"
        )
    if config.heal_steps and not has_text:
        raise ValueError(
            f"--heal_steps={config.heal_steps} needs text; give {text_flag}=FILE, or --heal_steps=0"
        )
    model = base.config.with_memory(config.placement(base.config.width, base.config.layers))
    params = abstract_params_of(model)
    told = f"--keys_per_half={config.memory.keys_per_half}"
    require_memory(count_bytes(params), told)
    return dataclasses.replace(base, config=model, params=params)


def retrofit_base(
    config: RetrofitConfig,
    base: Base,
    windows: Batch | None,
    seed: int = 0,
    batch_size: int = BACKGROUND_BATCH_SIZE,
) -> Base:
    """A base with fresh memories in it, healed on text with only the memories training.

    The windows are ``(windows, t)``, ``None`` only if nothing is healed; the seed is that of the
    initial values and of the order of batches; a batch of background has ``batch_size`` windows.
    Raises ValueError as `check_retrofit`.
    """
    check_retrofit(config, base, windows is not None)
    config = config.resolved()
    if windows is None:
        made = _fresh(config, base, seed)
    elif config.memory.keys_per_half:
        made = _whiten(config, _fresh(config, base, seed), windows)
    else:
        made = _fitting(config, base, windows, seed, batch_size)
    new = count_parameters([leaf for path, leaf in made.params.items() if heals(path, True)])
    assert made.config.memory is not None
    say(f"retrofit: {new:,} memory parameters in layers {made.config.memory.layers}")
    if windows is None:
        if config.whiten_queries and not config.memory.is_hashed:
            say("queries stay as they are: there is no text to make them white on")
        return made
    if not config.heal_steps:
        return made
    removed = removed_params(made.config, base.params)
    return _whiten(config, _heal(config, made, removed, windows, seed), windows)


def _fitting(
    config: RetrofitConfig, base: Base, windows: Batch, seed: int, batch_size: int
) -> Base:
    """The base with new memories, queries white, of the smallest fitting of `SIZES`.

    Of the slots of that size few batches of text touch one, on average. Where a batch touches half
    of a table, ranking against a background finds nothing rare.
    """
    rows = _spread(windows, SIZING_BATCHES * batch_size)
    count = max(1, len(rows.tokens) // batch_size)
    taken = [field[: len(field) // count * count] for field in rows]
    batches = Batch(*(field.reshape(count, -1, field.shape[-1]) for field in taken))

    # Queries, which are the same whatever the size: nothing is read of a table that starts at zero,
    # so that none moves the queries of a higher layer.
    assert config.memory_init == "zero"
    white: Params = {}

    def made_of(size: int) -> tuple[Base, float]:
        fresh = _fresh(config.sized(size), base, seed)
        if white:
            made = dataclasses.replace(fresh, params=fresh.params | white)
        else:
            made = _whiten(config, fresh, windows)
            before = fresh.params
            white.update({p: leaf for p, leaf in made.params.items() if leaf is not before[p]})
        pools = measure_background(made.model, made.params, batches).pools
        return made, max(map(touched_share, pools.values()))

    size, *larger = (size for size in SIZES if size >= config.memory.reads_per_head)
    made, share = made_of(size)
    for other in larger:
        if share <= SATURATED:
            break
        # Of a larger table no fewer slots are touched: what that says of it need not be measured.
        if share * size**2 > SATURATED * other**2 and other < larger[-1]:
            continue
        del made  # or two tables would be held at once
        size, (made, share) = other, made_of(other)
    few = "" if share <= SATURATED else ": few are rare, and no larger table is chosen by itself"
    say(f"table: {size:,}² = {size**2:,} slots, of which a batch of text touches {share:.1%}{few}")
    return made


def _spread(windows: Batch, rows: int) -> Batch:
    """So many of the windows, or all, from everywhere."""
    count = min(len(windows.tokens), rows)
    chosen = np.linspace(0, len(windows.tokens) - 1, count).astype(int)
    return Batch(*(field[chosen] for field in windows))


def _fresh(config: RetrofitConfig, base: Base, seed: int) -> Base:
    """The base with new memories, as they start."""
    placement = config.placement(base.config.width, base.config.layers)
    model, tree = retrofit(base.config, unflatten(base.params), placement, jax.random.key(seed))
    origin = f"{base.origin}, {config.retrofit}"
    return dataclasses.replace(base, config=model, params=flatten(tree), origin=origin)


def _whiten(config: RetrofitConfig, base: Base, windows: Batch) -> Base:
    """The base with white queries, if the configuration wants them and the memory has any."""
    if not config.whiten_queries or config.memory.is_hashed:
        return base
    some = _spread(windows, max(1, WHITENING_TOKENS // windows.tokens.shape[1]))
    return dataclasses.replace(base, params=whiten_queries(base.model, base.params, some))


def _heal(config: RetrofitConfig, base: Base, removed: Params, windows: Batch, seed: int) -> Base:
    """The base with its memory healed; ``removed`` are the feed-forwards that it lost."""
    steps = config.heal_steps or 0
    optimizer = OptimizerConfig(
        "adamw",
        clip=1.0,
        schedule="cosine",
        # 2604.05248 warms up for 100 of its 1,250 steps.
        warmup_steps=min(100, max(1, steps // 10)),
        schedule_steps=steps + 1,
    )
    loss = config.heal_loss
    trainer = healing_trainer(base.model, optimizer, loss, config.heal_routing)
    params = base.params | removed if loss == "distill" else base.params
    rng = np.random.default_rng([seed, 2])
    with blame_flag("--heal_"):
        batches = sample_batches(windows, steps, config.heal_batch_size, rng)
    with progress_bar(steps, "heal") as progress:
        mesh = data_mesh(config.heal_batch_size)
        fitted = fit(trainer, params, batches, config.heal_learning_rate, mesh, progress)
    tenth = max(1, steps // 10)
    first, last = fitted.losses[:tenth].mean(), fitted.losses[-tenth:].mean()
    name = "loss" if loss == "text" else "squared error"
    say(f"healing: {name} {first:.4g} in the first tenth of {steps} steps, {last:.4g} in the last")
    healed = {path: leaf for path, leaf in fitted.params.items() if path in base.params}
    return dataclasses.replace(base, params=healed)
