"""Models of one's own in the fast step: what of them is differentiated, and what is refused."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.losses import weighted_loss
from smf_jax.memory.layer import MemoryLayer, MemoryPool
from smf_jax.models.decoder import Decoder, upstream_of_reads
from smf_jax.params import flatten, unflatten
from smf_jax.training.background import measure_background
from smf_jax.training.memory_model import as_memory_model, memory_model
from smf_jax.training.reads import differentiate_reads, read_counts
from tests import oracles
from tests.training import tiny

WIDTH = tiny.MEMORY.value_width
TABLES = {"pool_0/values": ("memory_0",), "pool_1/values": ("memory_1", "memory_2")}


@jax.custom_vjp
def never_differentiated(x):
    return x


def _refuse(residuals, cotangent):
    raise AssertionError("back-propagated below the lowest memory")


never_differentiated.defvjp(lambda x: (x, None), _refuse)


class Own(nn.Module):
    """Takes tokens alone; its second pool is read twice, the last time in a layer under remat."""

    @nn.compact
    def __call__(self, tokens):
        x = never_differentiated(nn.Embed(tiny.PLAIN.vocabulary, WIDTH, name="embed")(tokens))
        pools = [MemoryPool(tiny.MEMORY, name=f"pool_{number}") for number in (0, 1)]
        for block, pool in enumerate((0, 1, 1)):
            layer = nn.remat(MemoryLayer) if block == 2 else MemoryLayer
            x = x + layer(tiny.MEMORY, WIDTH, name=f"memory_{block}")(x, pools[pool]())
        return nn.Dense(tiny.PLAIN.vocabulary, name="head")(x)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, values):
        return x + MemoryLayer(tiny.MEMORY, WIDTH, name="memory")(x, values), None


class Scanned(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(tiny.PLAIN.vocabulary, WIDTH, name="embed")(tokens)
        values = MemoryPool(tiny.MEMORY, name="pool")()
        blocks = nn.scan(
            Block, variable_axes={"params": 0}, split_rngs={"params": True},
            in_axes=cast(Any, nn.broadcast), length=2,
        )  # fmt: skip
        x, _ = blocks(name="blocks")(x, values)
        return nn.Dense(tiny.PLAIN.vocabulary, name="head")(x)


def params_of(module):
    tokens = jnp.asarray(tiny.batch().tokens)
    return flatten(jax.jit(module.init)(jax.random.key(0), tokens)["params"])


def own(module, tables):
    return memory_model(module, tables, inputs=lambda tokens, valid: (tokens,))


@pytest.fixture(scope="module")
def params():
    return params_of(Own())


def test_a_model_of_ones_own_is_differentiated_at_its_reads_and_no_lower(params):
    batch = tiny.batch()
    found = jax.jit(partial(differentiate_reads, own(Own(), TABLES)))(params, {}, batch)

    def loss(tables):
        logits = Own().apply({"params": unflatten({**params, **tables})}, batch.tokens)
        return weighted_loss(cast(jax.Array, logits), batch.targets, batch.weights)

    def whole(tables):
        return jax.value_and_grad(loss)(tables)

    value, gradients = jax.jit(whole)({path: params[path] for path in TABLES})
    assert float(found.loss) == pytest.approx(float(value), rel=1e-6)
    for table, traces in found.traces.items():
        assert len(traces) == len(TABLES[table])
        made = sum(
            oracles.table_gradient(t.cotangent, t.slots, t.weights, tiny.SLOTS) for t in traces
        )
        assert np.abs(made).max() > 1e-4
        np.testing.assert_allclose(made, gradients[table], rtol=0, atol=3e-6 * np.abs(made).max())
    with pytest.raises(AssertionError, match="back-propagated below"):
        jax.grad(lambda embed: loss({"embed/embedding": embed}))(params["embed/embedding"])


def test_a_background_of_ones_own_model_belongs_to_all_of_its_leaves(params):
    model, batches = own(Own(), TABLES), tiny.batches(2)
    measure = partial(measure_background, model, corpus="text", tokenizer="t")
    background = measure(params, batches)
    assert background.pools.keys() == TABLES.keys()
    reads = {table: tiny.MEMORY.reads_per_token * len(layers) for table, layers in TABLES.items()}
    for table, usage in background.pools.items():
        assert int(usage.accesses.sum()) == batches.valid.sum() * reads[table]
    other = measure({**params, "head/bias": params["head/bias"] + 1}, batches)
    assert other.fingerprint != background.fingerprint == measure(params, batches).fingerprint


def test_our_decoder_says_itself_who_reads_what():
    config = tiny.model_config(layers=(0, 2))
    model = as_memory_model(Decoder(config))
    pools = ("memory/pool_0/values", "memory/pool_2/values")
    assert model.tables == dict(zip(pools, [("memory/layer_0",), ("memory/layer_2",)], strict=True))
    shared = as_memory_model(Decoder(tiny.model_config(layers=(0, 2), shared_pool=True)))
    assert shared.tables == {pools[0]: ("memory/layer_0", "memory/layer_2")}
    assert as_memory_model(shared) is shared
    assert all(model.is_upstream(path) == upstream_of_reads(config, path) for path in pools)


@pytest.mark.parametrize(
    "tables", [{}, {"pool_0/values": ()}, {"a": ("memory_0",), "b": ("memory_0",)}]
)
def test_tables_that_nobody_or_too_many_read_are_refused(tables):
    with pytest.raises(ValueError, match=r"tables=.* every layer once"):
        memory_model(Own(), tables)


EXCHANGED = {"pool_0/values": ("memory_1", "memory_2"), "pool_1/values": ("memory_0",)}
LEFT_OUT = {"pool_0/values": ("memory_0",), "pool_1/values": ("memory_1",)}


@pytest.mark.parametrize(
    ("tables", "error"),
    [
        (EXCHANGED, r"memory_0 reads pool_0/values, whose layers are \['memory_1', 'memory_2'\]"),
        (LEFT_OUT, r"expected exactly one read for each memory layer: .*; name every layer"),
    ],
)
def test_a_map_that_is_not_that_of_the_model_is_refused(params, tables, error):
    with pytest.raises(ValueError, match=error):
        jax.eval_shape(partial(differentiate_reads, own(Own(), tables)), params, {}, tiny.batch())


def test_scanned_blocks_are_refused():
    tables = {"pool/values": ("blocks/memory",)}
    model, leaves = own(Scanned(), tables), params_of(Scanned())
    with pytest.raises(ValueError, match=r"the model perturbs \{\}, expected .*nn\.scan over"):
        jax.eval_shape(partial(differentiate_reads, model), leaves, {}, tiny.batch())
    with pytest.raises(ValueError, match=r"sows reads of \[\], expected \['blocks/memory'\]"):
        jax.eval_shape(partial(read_counts, model), leaves, tiny.batch())
