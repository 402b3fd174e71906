"""What a step holds: the table, in place, and nothing else of as many rows."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from smf_jax.mesh import MEMORY, TRIAL, device_mesh
from smf_jax.models.config import MemoryPlacement
from smf_jax.models.decoder import Decoder
from smf_jax.sharding import over_trials
from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.sparse.usage import no_usage
from smf_jax.training.sparse_config import SparseConfig
from smf_jax.training.sparse_trainer import sparse_trainer
from smf_jax.training.step import Shared
from tests.training import tiny

# A table that dwarfs everything else: 256² rows of 24 numbers, 6 MiB.
KEYS, WIDTH = 256, 24
SLOTS = KEYS**2
TABLE_BYTES = SLOTS * WIDTH * 4
ROWS = MEMORY


class Case(NamedTuple):
    """A memory and how it is trained; ``split``: over how many devices its rows lie."""

    layers: tuple[int, ...]
    shared_pool: bool
    config: SparseConfig
    split: int = 1


SGD, ADAMW = OptimizerConfig("sgd"), OptimizerConfig("adamw")
CASES = {
    "one layer": Case((0,), False, SparseConfig(optimizer=ADAMW)),
    "several layers": Case((0, 1), False, SparseConfig(optimizer=SGD, budget_scope="shared")),
    "a shared pool": Case((0, 1), True, SparseConfig(optimizer=ADAMW, protect_written=1.0)),
    "micro-batches": Case(
        (0,), False, SparseConfig(optimizer=SGD, granularity="per_micro_batch", micro_batches=3)
    ),
    "the rule gradient": Case((0,), False, SparseConfig(optimizer=SGD, rule="gradient")),
    "a split table": Case((0,), False, SparseConfig(optimizer=ADAMW), split=8),
}


def trainer_and_shapes(case, keys=KEYS):
    """The trainer of a case, and the shapes of what its step is given."""
    memory = replace(tiny.MEMORY, keys_per_half=keys, value_width=WIDTH)
    placement = MemoryPlacement(case.layers, "pretrain", memory, shared_pool=case.shared_pool)
    model = replace(tiny.model_config(layers=case.layers), memory=placement)
    trainer = sparse_trainer(Decoder(model), case.config, capacity=512)
    params = tiny.abstract(model)
    state = jax.eval_shape(trainer.begin, params, tiny.settings())
    usage = jax.eval_shape(lambda: {pool: no_usage(memory.slots) for pool in state.tables})
    return model, trainer, Shared(trainer.frozen(params), usage), state


def placed_over(devices, keys=KEYS):
    """Places tables split by rows, everything else on all devices."""
    mesh = device_mesh(ROWS, jax.devices()[:devices])

    def sharding(leaf):
        is_table = leaf.shape == (keys**2, WIDTH) and devices > 1
        return NamedSharding(mesh, PartitionSpec(ROWS) if is_table else PartitionSpec())

    return sharding


def lowered_step(case):
    _, trainer, shared, state = trainer_and_shapes(case)
    sharding = placed_over(case.split)

    def placed(tree):
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding(x)), tree
        )

    given = [placed(x) for x in (shared, state, tiny.batch(), tiny.settings())]
    return jax.jit(trainer.step, donate_argnums=1).lower(*given), len(state.tables)


# Operations that hand their operands on and make nothing.
HANDING_ON = {"func.call", "stablehlo.while", "stablehlo.case", "stablehlo.if"}


def made(operation):
    """Name and result type of every operation of a module, the bodies of loops included."""
    for region in operation.regions:
        for block in region:
            for inner in block:
                for result in inner.results:
                    yield inner.operation.name, str(result.type)
                yield from made(inner.operation)


@pytest.mark.parametrize("name", CASES)
def test_a_step_makes_nothing_of_n_rows_but_the_table(name):
    case = CASES[name]
    lowered, tables = lowered_step(case)
    table, module = f"tensor<{SLOTS}x{WIDTH}xf32>", lowered.compiler_ir()
    assert module is not None
    large = [(by, of) for by, of in made(module.operation)
             if by not in HANDING_ON and re.search(rf"\b{SLOTS}x\d", of)]  # fmt: skip
    # Of N rows there is what the write gives, one for each table, and columns of indices.
    assert [by for by, of in large if of == table] == ["stablehlo.scatter"] * tables
    assert all(of in (table, f"tensor<{SLOTS}x1xi32>") for _, of in large), large
    compiled = lowered.compile()
    use, text = compiled.memory_analysis(), compiled.as_text()
    assert use is not None and text is not None
    own_tables = tables * TABLE_BYTES / case.split
    assert use.alias_size_in_bytes >= own_tables
    # On each device: vectors of N, and far less than a table of its rows.
    vectors = 4 * SLOTS
    assert use.temp_size_in_bytes < 4 * vectors * tables + TABLE_BYTES / case.split / 8
    assert not re.findall(rf"f32\[{SLOTS // case.split},{WIDTH}\]\S* copy", text)
    if case.split > 1:
        assert not re.findall(rf"f32\[{SLOTS},{WIDTH}\]", text), "never gathered"


def test_trials_side_by_side_make_no_second_table():
    _, trainer, shared, state = trainer_and_shapes(CASES["one layer"])
    mesh = device_mesh(TRIAL, jax.devices()[:2])

    def placed(tree, trials=(), spec=()):
        sharding = NamedSharding(mesh, PartitionSpec(*spec))
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((*trials, *x.shape), x.dtype, sharding=sharding), tree
        )

    own = [placed(x, (2,), (TRIAL,)) for x in (state, tiny.batch(), tiny.settings())]
    step = over_trials(trainer.step, mesh, (False, True, True, True), donate=(1,))
    compiled = cast(Any, step).lower(placed(shared), *own).compile()
    use = compiled.memory_analysis()
    assert use.alias_size_in_bytes > TABLE_BYTES
    assert use.temp_size_in_bytes < TABLE_BYTES / 2
    assert f"f32[{SLOTS},{WIDTH}]" in compiled.as_text()


def test_a_split_table_takes_the_step_of_a_whole_one():
    keys = 12
    case = CASES["a split table"]
    model, trainer, _, _ = trainer_and_shapes(case, keys)
    params = tiny.params(model)
    df = jnp.asarray(np.random.default_rng(0).integers(0, 8, keys**2), jnp.int32)
    usage = {pool: no_usage(keys**2)._replace(document_frequency=df, batches=jnp.int32(8))
             for pool in trainer.begin(params, tiny.settings()).tables}  # fmt: skip
    shared = Shared(trainer.frozen(params), usage)
    after = {}
    for devices in (1, 8):
        sharding = placed_over(devices, keys)
        state = trainer.begin(params, tiny.settings())
        given = [
            jax.tree.map(lambda x, place=sharding: jax.device_put(x, place(jnp.asarray(x))), x)
            for x in (shared, state, tiny.batch(), tiny.settings(0.05))
        ]
        step = jax.jit(trainer.step)
        state, metrics = given[1], cast(Any, None)
        for _ in range(2):
            state, metrics = step(given[0], state, *given[2:])
        after[devices] = jax.device_get((state.tables, state.written)), metrics
    (pool,) = after[1][0][0]
    (whole, written), (split, written_split) = after[1][0], after[8][0]
    np.testing.assert_array_equal(written_split[pool], written[pool])
    moved = whole[pool] - np.asarray(params[pool])
    assert np.abs(moved).max() > 1e-3
    np.testing.assert_allclose(split[pool], whole[pool], rtol=0, atol=1e-4 * np.abs(moved).max())
    assert int(after[1][1].selected) == int(after[8][1].selected) > 0
