"""Running statistics of query BatchNorm: who moves them, and that nobody else does."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.memory.norms import MOMENTUM
from smf_jax.models.config import MemoryPlacement
from smf_jax.models.decoder import Decoder, plain_logits, upstream_of_reads
from smf_jax.models.retrofit import retrofit
from smf_jax.params import flatten, is_batch_stats, unflatten
from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.training.batch_norm import training_loss
from smf_jax.training.dense_step import text_loss
from smf_jax.training.reads import read_counts
from smf_jax.training.sparse_config import SparseConfig
from smf_jax.training.sparse_trainer import sparse_trainer
from smf_jax.training.step import Shared
from smf_jax.training.trainers import dense_trainer, lora_trainer
from tests.training import tiny

MEMORY = replace(tiny.MEMORY, query_norm="batch")
CONFIG = tiny.PLAIN.with_memory(MemoryPlacement((0, 1), "add", MEMORY))
MODEL = Decoder(CONFIG)
RUNNING = {f"memory/layer_{i}/query_norm/{name}" for i in (0, 1) for name in ("mean", "variance")}
ADAM = OptimizerConfig("adam")


@pytest.fixture(scope="module")
def params():
    flat = tiny.params(CONFIG)
    return {p: jnp.abs(leaf) if p.endswith("/variance") else leaf for p, leaf in flat.items()}


def projected(params, batch, layer):
    """Queries of a layer before their norm, ``(b, t, q)``, under the statistics of the batch."""
    _, found = jax.jit(
        lambda params: MODEL.apply(
            {"params": unflatten(params)},
            batch.tokens,
            batch.valid,
            capture_intermediates=lambda module, _: module.name == "query",
            mutable=["intermediates", "statistics"],
        )
    )(params)
    queries = found["intermediates"]["memory"][f"layer_{layer}"]["query"]["__call__"][0]
    return np.asarray(queries, np.float64).reshape(*batch.valid.shape, -1)


def test_training_uses_the_statistics_of_the_batch_and_moves_the_running_ones(params):
    batch = tiny.batch()
    loss, after = jax.jit(training_loss(MODEL))(params, batch)
    plain, nothing = jax.jit(text_loss(plain_logits(MODEL)))(params, batch)
    assert nothing == {} and abs(float(loss - plain)) > 1e-4
    assert after.keys() == RUNNING == {path for path in params if is_batch_stats(path)}
    for layer in (0, 1):
        tokens = projected(params, batch, layer)[batch.valid]
        of_batch = {"mean": tokens.mean(0), "variance": tokens.var(0, ddof=1)}
        for name, statistic in of_batch.items():
            path = f"memory/layer_{layer}/query_norm/{name}"
            expected = (1 - MOMENTUM) * np.asarray(params[path]) + MOMENTUM * statistic
            np.testing.assert_allclose(after[path], expected, rtol=1e-4, atol=1e-5)


def test_pads_change_neither_the_loss_nor_the_statistics(params):
    batch = tiny.batch()
    assert not batch.valid.all()
    other = batch._replace(tokens=np.where(batch.valid, batch.tokens, 11))
    loss = jax.jit(training_loss(MODEL))
    jax.tree.map(np.testing.assert_array_equal, loss(params, batch), loss(params, other))


def test_without_batch_norm_training_is_as_ever():
    config = tiny.model_config(mode="add")
    given, batch = tiny.params(config), tiny.batch()
    trained = jax.jit(training_loss(Decoder(config)))(given, batch)
    plain = jax.jit(text_loss(plain_logits(Decoder(config))))(given, batch)
    np.testing.assert_allclose(trained[0], plain[0], rtol=1e-6)
    assert trained[1] == plain[1] == {}


TRAINERS = {
    "smf": lambda: sparse_trainer(MODEL, SparseConfig(optimizer=ADAM), 64),
    "full": lambda: dense_trainer(MODEL, ADAM),
    "lora": lambda: lora_trainer(MODEL, ADAM, 2, 4.0, ("query", "value")),
}


@pytest.mark.parametrize("method", TRAINERS)
def test_finetuning_keeps_the_running_statistics_to_the_bit(method, params):
    trainer = TRAINERS[method]()
    frozen = trainer.frozen(params)
    assert frozen.keys() >= RUNNING
    state = trainer.begin(params, tiny.settings(0.1))
    assert not RUNNING & trainer.trained(state).keys()
    usage = tiny.usage(CONFIG) if method == "smf" else None
    after, metrics = jax.jit(trainer.step)(
        Shared(frozen, usage), state, tiny.batch(), tiny.settings(0.1)
    )
    assert np.isfinite(metrics.loss) and not RUNNING & trainer.trained(after).keys()
    moved = trainer.trained(after)
    assert any(np.any(leaf != trainer.trained(state)[path]) for path, leaf in moved.items())


def test_pretraining_trains_all_but_the_running_statistics_which_follow(params):
    trainer = dense_trainer(MODEL, ADAM, loss=training_loss(MODEL))
    state = trainer.begin(params, tiny.settings())
    assert state.batch_stats.keys() == RUNNING and state.params.keys() == params.keys() - RUNNING
    assert trainer.frozen(params) == {}
    after, _ = jax.jit(trainer.step)(Shared({}), state, tiny.batch(), tiny.settings(0.0))
    moved = {path for path in RUNNING if np.any(after.batch_stats[path] != params[path])}
    assert moved == RUNNING
    spoilt, _ = jax.jit(trainer.step)(
        Shared({}), after, tiny.spoilt(tiny.batch()), tiny.settings(0.1)
    )
    tiny.same_but_for(spoilt, after, "step", "failed_step")


def test_the_running_statistics_decide_what_is_read_and_belong_to_the_base(params):
    assert all(upstream_of_reads(CONFIG, path) for path in RUNNING)
    counts = jax.jit(lambda params: read_counts(MODEL, params, tiny.batch()))
    other = {
        p: leaf + 1 if p.endswith("_0/query_norm/mean") else leaf for p, leaf in params.items()
    }
    before, after = counts(params), counts(other)
    assert any(np.any(before[pool] != after[pool]) for pool in before)


def test_a_retrofit_starts_from_neutral_statistics():
    assert CONFIG.memory is not None
    _, params = retrofit(tiny.PLAIN, {}, CONFIG.memory, jax.random.key(0))
    flat = flatten(params)
    for path in RUNNING:
        assert np.all(np.asarray(flat[path]) == path.endswith("variance"))
