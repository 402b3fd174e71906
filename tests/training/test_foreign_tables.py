"""Tables of models that know nothing of this library, against gradients of the whole table."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.checkpoints.manifest import fingerprint
from smf_jax.data.batching import Batch
from smf_jax.losses import weighted_loss
from smf_jax.memory.ngrams import ngram_slots, recent_tokens
from smf_jax.models.decoder import Decoder, plain_logits
from smf_jax.params import flatten
from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.sparse.patch import apply_patch, revert_patch
from smf_jax.sparse.rows import row_gradient
from smf_jax.training.background import measure_background
from smf_jax.training.foreign_tables import check_index, foreign_tables, token_ids
from smf_jax.training.reads import differentiate_reads
from smf_jax.training.sparse_config import SparseConfig
from smf_jax.training.sparse_trainer import sparse_trainer
from smf_jax.training.step import Shared
from smf_jax.training.teach import teach
from tests.models.tiny import PLAIN, random_params
from tests.training import tiny

SLOTS, WIDTH, ROW, HEADS = 500, 16, 4, 2
ENGRAM, EMBEDDING = "engram/table", "embedder/embedding"
RNG = np.random.default_rng(0)


def engram_slots(tokens, valid):
    """``(b, t, r)``, as the model computes them too."""
    return ngram_slots(recent_tokens(tokens, valid, 3).tokens, HEADS, SLOTS).reshape(
        *tokens.shape, -1
    )


@jax.jit
def mixed(x):
    return jax.nn.gelu(x)


def engram_logits(params, tokens, valid):
    """Rows side by side, gated by the hidden state, in functions inside of functions."""
    x = jnp.take(params["embed"], tokens, axis=0)

    def block(table, x):
        e = table.astype(jnp.float32)[engram_slots(tokens, valid)]
        e = e.reshape(*tokens.shape, -1)
        gate = jax.nn.sigmoid(jnp.sum(x * (e @ params["key"]), axis=2, keepdims=True))
        return x + gate * mixed(e @ params["value"])

    return jax.checkpoint(block)(params[ENGRAM], x) @ params["head"]


def engram_params():
    shapes = {
        "embed": (PLAIN.vocabulary, WIDTH),
        ENGRAM: (SLOTS, ROW),
        "key": (HEADS * 2 * ROW, WIDTH),
        "value": (HEADS * 2 * ROW, WIDTH),
        "head": (WIDTH, PLAIN.vocabulary),
    }
    return {p: jnp.asarray(RNG.standard_normal(s), jnp.float32) for p, s in shapes.items()}


def gradients(model, params, batch, path):
    """The rows' by the reads of the model, all of them."""

    @jax.jit
    def found(params):
        traces = differentiate_reads(model, params, {}, batch).traces[path]
        size = params[path].shape[0]
        return row_gradient(traces, jnp.arange(size), size)

    return found(params)


def of_whole_table(logits, params, batch, path):
    @jax.jit
    @jax.grad
    def loss(table):
        out = logits({**params, path: table}, batch.tokens, batch.valid)
        return weighted_loss(out, batch.targets, batch.weights)

    return loss(params[path])


def test_rows_of_an_engram_have_the_gradient_of_the_whole_table():
    params, batch = engram_params(), tiny.batch()
    model = foreign_tables(engram_logits, {ENGRAM: engram_slots})
    found = gradients(model, params, batch, ENGRAM)
    truth = of_whole_table(engram_logits, params, batch, ENGRAM)
    np.testing.assert_allclose(found, truth, rtol=1e-5, atol=1e-7)
    assert (np.abs(truth).max(axis=1) > 0).sum() > 20


def test_what_pads_read_is_not_trained_in_a_model_that_does_not_mask_them():
    tokens = jnp.asarray([[7, 7, 1, 2], [3, 4, 5, 6]])
    valid = jnp.asarray([[0, 0, 1, 1], [1, 1, 1, 1]])
    batch = Batch(tokens, (tokens + 1) % 8, valid.astype(jnp.float32), valid)
    draw = np.random.default_rng(0).standard_normal
    params = {
        "table": jnp.asarray(draw((8, 4)), jnp.float32),
        "head": jnp.asarray(draw((4, 8)), "f4"),
    }

    def logits(params, tokens, valid):
        return jnp.cumsum(params["table"][tokens], axis=1) @ params["head"]

    def of_tokens_alone(params, tokens, valid):
        read = params["table"][tokens]
        read = jnp.where(valid[..., None] != 0, read, jax.lax.stop_gradient(read))
        return jnp.cumsum(read, axis=1) @ params["head"]

    found = gradients(foreign_tables(logits, {"table": token_ids}), params, batch, "table")
    truth = of_whole_table(of_tokens_alone, params, batch, "table")
    np.testing.assert_allclose(found, truth, rtol=1e-5, atol=1e-6)
    moved = np.flatnonzero(np.abs(np.asarray(found)).max(axis=1))
    np.testing.assert_array_equal(moved, np.arange(1, 7))


def test_a_tied_embedding_is_trained_where_it_is_read():
    config = replace(PLAIN, tied=True)
    params, batch = flatten(random_params(config)), tiny.batch()
    logits = plain_logits(Decoder(config))
    with pytest.raises(ValueError, match=r"also uses the table in .*frozen_uses=\['transpose'\]"):
        gradients(foreign_tables(logits, {EMBEDDING: token_ids}), params, batch, EMBEDDING)
    model = foreign_tables(logits, {EMBEDDING: token_ids}, frozen_uses=["transpose"])
    untied = {**params, "head/kernel": params[EMBEDDING].T}
    alone = plain_logits(Decoder(PLAIN))
    np.testing.assert_allclose(
        gradients(model, params, batch, EMBEDDING),
        of_whole_table(alone, untied, batch, EMBEDDING),
        rtol=1e-4,
        atol=1e-6,
    )


@pytest.fixture(scope="module")
def taught():
    """A background, one task, and the steps of a trainer."""
    params, batch = engram_params(), tiny.batch()
    model = foreign_tables(engram_logits, {ENGRAM: engram_slots})
    background = measure_background(model, params, tiny.batches(4, start=5))
    config = SparseConfig(size=16, optimizer=OptimizerConfig("adam"))
    told: Any = dict(steps=5, learning_rate=0.1, budget=16, config=config, task="one")
    return params, batch, model, teach(model, params, batch, background, **told)


def test_steps_change_selected_rows_and_a_patch_brings_them_back(taught):
    params, batch, model, patch = taught
    assert set(patch.pools) == {ENGRAM} and 16 <= patch.rows <= 80
    after = apply_patch(params, patch, base=fingerprint(params))
    moved = np.flatnonzero(np.any(after[ENGRAM] != params[ENGRAM], axis=1))
    np.testing.assert_array_equal(moved, patch.pools[ENGRAM].slots)
    slots = jax.jit(engram_slots)(batch.tokens, batch.valid)
    read = np.unique(np.asarray(slots)[batch.valid])
    assert set(moved) <= set(read) and len(moved) < len(read)

    @jax.jit
    def loss(params):
        logits = model.logits(params, batch.tokens, batch.valid)
        return weighted_loss(logits, batch.targets, batch.weights)

    assert loss(after) < loss(params) - 0.05
    back = revert_patch(after, patch)
    assert all(np.asarray(back[p]).tobytes() == np.asarray(x).tobytes() for p, x in params.items())


def test_a_step_holds_nothing_of_the_tables_size():
    """Not the gradient, not moments: 64 MiB of table and less than one beside it."""
    rows, width, batch = 2**18, 64, tiny.batch()

    def logits(params, tokens, valid):
        return params["table"][tokens] @ params["head"]

    model = foreign_tables(logits, {"table": token_ids})
    config = SparseConfig(rule="tf", size=16, optimizer=OptimizerConfig("adamw"))
    trainer = sparse_trainer(model, config, 64)
    params: Any = {
        "table": jax.ShapeDtypeStruct((rows, width), jnp.float32),
        "head": jax.ShapeDtypeStruct((width, PLAIN.vocabulary), jnp.float32),
    }
    settings = tiny.settings()
    state = jax.eval_shape(trainer.begin, params, settings)
    step = jax.jit(trainer.step, donate_argnums=1)
    compiled = step.lower(Shared(trainer.frozen(params), None), state, batch, settings).compile()
    analysis: Any = compiled.memory_analysis()
    assert analysis.alias_size_in_bytes >= rows * width * 4
    assert analysis.temp_size_in_bytes < 2**20 + 4 * rows


def other_index(tokens, valid):
    return engram_slots(tokens, valid).at[1, 2, 3].add(1)


def test_another_index_than_the_models_is_told_and_changes_nothing():
    params, batch = engram_params(), tiny.batch()
    assert batch.valid[1, 2]
    check_index(engram_logits, {ENGRAM: engram_slots}, params, batch)
    with pytest.raises(ValueError, match="for token 2 of row 1 the model reads slot"):
        check_index(engram_logits, {ENGRAM: other_index}, params, batch)
    with pytest.raises(
        ValueError, match="gathers 96 rows for a batch, its index function names 24;"
    ):
        check_index(engram_logits, {ENGRAM: token_ids}, params, batch)
    model = foreign_tables(engram_logits, {ENGRAM: other_index})
    config = SparseConfig(rule="tf", size=16)
    with pytest.raises(FloatingPointError, match="step 0 of 1"):
        teach(model, params, batch, None, steps=1, budget=16, config=config)


@pytest.mark.parametrize(
    ("logits", "match"),
    [
        (lambda p, t, v: p["t"][t] + p["t"][t + 1], "in 2 places"),
        (
            lambda p, t, v: jax.nn.one_hot(t, 40) @ p["t"],
            "in 0 places .*other uses: .'dot_general'",
        ),
        (lambda p, t, v: p["t"].T[:, t].T.swapaxes(0, 1), "in 0 places .*'transpose'"),
        (lambda p, t, v: p["t"][t] + p["t"].sum(), "also uses the table in reduce_sum"),
    ],
)
def test_a_table_that_is_read_otherwise_is_refused(logits, match):
    params, batch = {"t": jnp.ones((40, 40))}, tiny.batch()
    with pytest.raises(ValueError, match=match):
        jax.eval_shape(
            partial(differentiate_reads, foreign_tables(logits, {"t": token_ids})),
            params,
            {},
            Batch(*map(jnp.asarray, batch)),
        )


def test_no_table_is_refused():
    with pytest.raises(ValueError, match="name at least one leaf"):
        foreign_tables(engram_logits, {})
