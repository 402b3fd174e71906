"""A step on a mesh: what is sent along each axis, and how much of the table a device holds."""

from __future__ import annotations

from dataclasses import replace

import jax

from benchmarks.collectives import collectives
from smf_jax.mesh import DATA, MEMORY, TRIAL, make_mesh
from smf_jax.models.config import MemoryPlacement
from smf_jax.models.decoder import Decoder
from smf_jax.params import is_pool
from smf_jax.sharding import over_trials, replicate, split_over, split_tables
from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.sparse.usage import no_usage
from smf_jax.training.sparse_config import SparseConfig
from smf_jax.training.sparse_trainer import sparse_trainer
from smf_jax.training.step import Shared
from tests.training import tiny

ROWS = 8


def compiled(sizes, layout, keys, width):
    """The step of two memories of one pool, on a mesh of eight devices."""
    memory = replace(tiny.MEMORY, keys_per_half=keys, value_width=width)
    placement = MemoryPlacement((0, 1), "pretrain", memory, shared_pool=True)
    model = replace(tiny.model_config(layers=(0, 1)), memory=placement)
    config = SparseConfig(optimizer=OptimizerConfig("adamw"))
    trainer = sparse_trainer(Decoder(model), config, capacity=512)
    mesh = make_mesh(sizes, jax.devices())
    base = split_tables(tiny.abstract(model), mesh, layout, lambda path, _: is_pool(path))
    base = replicate(base, mesh)

    def stacked(tree):
        lead = (mesh.shape[TRIAL],)
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct((*lead, *x.shape), x.dtype), tree)
        return split_over(shapes, mesh, TRIAL)

    settings = stacked(tiny.settings())
    begin = over_trials(trainer.begin, mesh, (False, True))
    state = split_over(jax.eval_shape(begin, base, settings), mesh, TRIAL)
    usage = jax.eval_shape(lambda: {pool: no_usage(memory.slots) for pool in state.tables})
    shared = Shared(trainer.frozen(base), replicate(usage, mesh))
    step = over_trials(trainer.step, mesh, (False, True, True, True), donate=(1,))
    batch = stacked(tiny.batch(rows=ROWS))
    program = step.lower(shared, state, batch, settings).compile()  # pyright: ignore
    return program, collectives(program.as_text(), mesh)


def test_each_axis_sends_what_it_has_to_and_trials_nothing():
    slots, width, places = 256, 8, 64
    _, sent = compiled({TRIAL: 2, DATA: 2, MEMORY: 2}, "rows", 16, width)
    assert {each.axis for each in sent} == {DATA, MEMORY}
    assert {each.kind for each in sent if each.axis == DATA} == {"all-reduce"}
    shapes = {axis: {s for each in sent if each.axis == axis for s in each.shapes}
              for axis in (DATA, MEMORY)}  # fmt: skip
    # Counts, rows' gradients, and the loss with the weights that it is a mean by.
    assert shapes[DATA] == {f"s32[{slots}]", "s32[]", f"f32[{places},{width}]", "f32[]"}
    # What was read, the selected rows with their moments, the gradient of the weights of reads.
    tokens = ROWS // 2 * tiny.LENGTH
    read, rows = f"f32[{tokens},{width}]", f"[{places},{width}]"
    reads_per_token = tiny.MEMORY.reads_per_token
    assert shapes[MEMORY] == {read, f"u32{rows}", f"f32{rows}", f"f32[{tokens},{reads_per_token}]"}


def test_a_device_holds_its_part_of_a_large_table_at_every_point_of_a_step():
    keys, width = 2048, 256
    program, sent = compiled({MEMORY: 8}, "columns", keys, width)
    table = keys**2 * width * 4
    use = program.memory_analysis()
    at_once = use.argument_size_in_bytes + use.output_size_in_bytes - use.alias_size_in_bytes
    assert table / 8 < at_once + use.temp_size_in_bytes <= (1 / 8 + 0.05) * table
    assert use.alias_size_in_bytes > table / 8
    assert max(each.bytes for each in sent) < 2**20
