"""Healing: what it trains, and that distillation teaches a memory the feed-forward it replaced."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.mesh import DATA, device_mesh
from smf_jax.models.config import MemoryPlacement
from smf_jax.models.decoder import Decoder
from smf_jax.params import flatten, unflatten
from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.training.fit import fit
from smf_jax.training.healing import (
    distillation_loss,
    healing_trainer,
    heals,
    removed_params,
)
from smf_jax.training.step import Shared
from tests.models.tiny import random_params
from tests.training import tiny

PLAIN = replace(tiny.PLAIN, layers=2)
BEFORE = flatten(random_params(PLAIN))
ADAM = OptimizerConfig("adam")
ROUTING = {"query/kernel", "query/bias", "query_norm/scale", "keys"}


def replaced(layers=(0, 1), **choices):
    """A model whose feed-forwards are memories, and its leaves."""
    memory = replace(tiny.MEMORY, **choices)
    config = PLAIN.with_memory(MemoryPlacement(layers, "replace", memory))
    fresh = {path: leaf for path, leaf in flatten(random_params(config, 1)).items()}
    return config, {path: BEFORE.get(path, leaf) for path, leaf in fresh.items()}


@pytest.mark.parametrize("routing", [False, True])
def test_healing_trains_the_memory_and_its_routing_only_if_told(routing):
    config, params = replaced()
    trainer = healing_trainer(Decoder(config), ADAM, train_routing=routing)
    state = trainer.begin(params, tiny.settings())
    memory = {path for path in params if path.startswith("memory/")}
    of_routing = {f"memory/layer_{i}/{leaf}" for i in (0, 1) for leaf in ROUTING}
    assert of_routing < memory
    expected = memory if routing else memory - of_routing
    assert state.params.keys() == trainer.trained(state).keys() == expected
    assert trainer.frozen(params).keys() == params.keys() - expected
    assert not heals("layers_0/feed_forward/gate/kernel", routing)
    assert heals("memory/layer_0/alpha", routing) and heals("memory/pool_0/values", routing)


def feed_forward(layer, x):
    """The feed-forward of a block, in NumPy."""
    gate, up, down = (
        np.asarray(BEFORE[f"layers_{layer}/feed_forward/{name}/kernel"], np.float64)
        for name in ("gate", "up", "down")
    )
    gated = x @ gate
    return (gated / (1 + np.exp(-gated)) * (x @ up)) @ down


def caught(config, params, batch, method):
    """What a method of every block returned."""
    _, found = jax.jit(
        lambda params: Decoder(config).apply(
            {"params": unflatten(params)},
            batch.tokens,
            batch.valid,
            capture_intermediates=lambda _, name: name == method,
            mutable=["intermediates"],
        )
    )(params)
    return [found["intermediates"][f"layers_{i}"][method][0] for i in range(config.layers)]


@pytest.mark.parametrize("remat", [False, True])
def test_distillation_is_the_squared_error_to_each_removed_feed_forward(remat):
    config, params = replaced()
    config, batch = replace(config, remat=remat), tiny.batch()
    held = params | removed_params(config, BEFORE)
    assert held.keys() - params.keys() == {p for p in BEFORE if "/feed_forward/" in p}
    loss, batch_stats = jax.jit(distillation_loss(Decoder(config)))(held, batch)
    inputs = caught(PLAIN, BEFORE, batch, "normalise")
    errors = []
    for layer, x in enumerate(inputs):
        alone = config.with_memory(MemoryPlacement((layer,), "replace", tiny.MEMORY))
        part = {"pool": held[f"memory/pool_{layer}/values"]}
        part |= {p: leaf for p, leaf in held.items() if p.startswith(f"memory/layer_{layer}/")}
        y = of_memory(alone, layer, part, x, batch)
        wanted = feed_forward(layer, np.asarray(x, np.float64))
        errors.append(np.square(y - wanted)[batch.valid].mean())
    assert batch_stats == {}
    np.testing.assert_allclose(loss, np.mean(errors), rtol=1e-5)
    spoilt = batch._replace(tokens=np.where(batch.valid, batch.tokens, 7))
    assert jax.jit(distillation_loss(Decoder(config)))(held, spoilt)[0] == loss, "pads count"


def of_memory(config, layer, params, x, batch):
    """One memory on its own, on an input that is given."""
    from smf_jax.memory.layer import MemoryLayer

    own = {path.removeprefix(f"memory/layer_{layer}/"): leaf for path, leaf in params.items()}
    values = own.pop("pool")
    module = MemoryLayer(config.memory.memory, config.width)
    return np.asarray(module.apply({"params": unflatten(own)}, x, values, batch.valid))


def test_distillation_brings_the_memory_closer_and_moves_nothing_else():
    config, params = replaced(layers=(1,))
    held = params | removed_params(config, BEFORE)
    trainer = healing_trainer(Decoder(config), ADAM, "distill", train_routing=True)
    batches = jax.tree.map(lambda *fields: np.stack(fields), *[tiny.batch(rows=8)] * 30)
    fitted = fit(trainer, held, batches, 0.02, device_mesh(DATA, jax.devices()[:1]))
    assert fitted.losses[-1] < 0.5 * fitted.losses[0]
    assert fitted.params.keys() == held.keys()
    moved = {p for p, leaf in fitted.params.items() if not np.array_equal(leaf, held[p])}
    assert moved == {p for p in params if p.startswith("memory/")}


def test_query_batch_norm_follows_the_text_that_heals():
    config, params = replaced(layers=(0,), query_norm="batch")
    params = {p: jnp.abs(leaf) if p.endswith("/variance") else leaf for p, leaf in params.items()}
    norm = "memory/layer_0/query_norm"
    batch_stats = {f"{norm}/mean", f"{norm}/variance"}
    held = params | removed_params(config, BEFORE)
    for loss in ("text", "distill"):
        trainer = healing_trainer(Decoder(config), ADAM, loss)
        state = trainer.begin(held, tiny.settings())
        assert state.batch_stats.keys() == batch_stats and not batch_stats & state.params.keys()
        shared = Shared(trainer.frozen(held))
        after, _ = jax.jit(trainer.step)(shared, state, tiny.batch(), tiny.settings(0.0))
        for path in batch_stats:
            assert not np.allclose(after.batch_stats[path], held[path], atol=1e-4), (loss, path)
        assert trainer.trained(after).keys() >= batch_stats
        resumed = trainer.resume(state, trainer.trained(after))
        jax.tree.map(np.testing.assert_array_equal, resumed.batch_stats, after.batch_stats)


@pytest.mark.parametrize(
    ("config", "loss", "complaint"),
    [
        (
            tiny.model_config(mode="add"),
            "distill",
            "loss='distill' with mode='add'.*mode='replace', or",
        ),
        (PLAIN, "distill", "loss='distill' with mode='none'"),
        (tiny.model_config(mode="add"), "mse", "loss='mse' is unknown; choose from"),
    ],
)
def test_losses_that_do_not_fit_are_refused(config, loss, complaint):
    with pytest.raises(ValueError, match=complaint):
        healing_trainer(Decoder(config), ADAM, loss)
