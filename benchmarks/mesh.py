"""Suite ``mesh``: a group's step on every mesh, compiled for a TPU topology that is not there.

Nothing runs. Of each program it tells what is sent along each axis, and the bytes on each chip.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from benchmarks import models
from benchmarks.accelerator import ROWS
from benchmarks.collectives import Collective, by_axis, collectives
from benchmarks.flags import BenchmarkConfig
from benchmarks.harness import Program, program_of
from benchmarks.report import Entry, Report
from smf_jax.data.batching import Batch
from smf_jax.memory.config import MemoryConfig
from smf_jax.mesh import DATA, MEMORY, TRIAL, make_mesh
from smf_jax.models.config import MemoryPlacement, ModelConfig
from smf_jax.params import is_pool
from smf_jax.sharding import over_trials, replicate, split_over, split_tables
from smf_jax.split_tables import TableLayout
from smf_jax.training.step import Shared

SUITE = "mesh"
BUDGET, TOKENS = 512, 64  # rows that a step may change in each pool; tokens of a row
BESIDE = 8  # chips that share the large tables
MOST_CHIPS = 16  # from here on the large programs say nothing new


class Case(NamedTuple):
    """A model on a mesh."""

    name: str
    config: ModelConfig
    sizes: dict[str, int]  # of the axes
    layout: TableLayout = "columns"
    table_dtype: str = "float32"


def cases(chips: int, scale: float) -> list[Case]:
    """A small model along each axis; 16M rows of 1,024; the 1.3B model with three memories."""
    small = models.built_in_decoder(65536, scale)
    found = [
        Case("small, trials", small, {TRIAL: chips}),
        Case("small, data", small, {DATA: chips}),
        Case("small, columns", small, {MEMORY: chips}),
        Case("small, rows", small, {MEMORY: chips}, "rows"),
    ]
    if chips % BESIDE or chips > MOST_CHIPS:
        return found
    sizes = {DATA: chips // BESIDE, MEMORY: BESIDE}
    keys, width = (max(8, round(n * scale) // 8 * 8) for n in (4096, 1024))
    wide = MemoryConfig(keys, 4, min(32, keys), 256, width)
    huge = models.placed("decoder-1.3b", MemoryPlacement((1,), "pretrain", wide), min(scale, 0.1))
    memory = MemoryConfig(keys // 4, 4, min(32, keys // 4), 256, width)
    placement = MemoryPlacement((6, 12, 18), "pretrain", memory)
    large = models.placed("decoder-1.3b", placement, scale)
    layouts: tuple[TableLayout, ...] = ("columns", "rows")
    found += [Case(f"16M slots, {of}", huge, sizes, of, "bfloat16") for of in layouts]
    return [*found, Case("1.3B, three memories", large, sizes)]


def compiled(case: Case, devices: Any) -> Program:
    """The step of a group, as `TrialGroup` compiles it."""
    mesh = make_mesh(case.sizes, devices)
    dtype = "bfloat16" if case.config.dtype == "bfloat16" else "float32"
    leaves = models.abstract_leaves(case.config, dtype, case.table_dtype)
    base = split_tables(leaves, mesh, case.layout, lambda path, _: is_pool(path))
    base, size = replicate(base, mesh), mesh.shape[TRIAL]

    def stacked(tree: Any) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *x.shape), x.dtype), tree)

    trainer = models.make_trainer(models.SMF, case.config, BUDGET)
    settings = split_over(stacked(models.settings_for(BUDGET)), mesh, TRIAL)
    state = jax.eval_shape(over_trials(trainer.begin, mesh, (False, True)), base, settings)
    usage = jax.eval_shape(lambda: models.random_usage(case.config))
    shared = Shared(trainer.frozen(base), replicate(usage, mesh))
    kinds = (jnp.int32, jnp.int32, jnp.float32, bool)
    batch = Batch(*(jax.ShapeDtypeStruct((ROWS, TOKENS), kind) for kind in kinds))
    step = over_trials(trainer.step, mesh, (False, True, True, True), donate=(1,))
    given = (split_over(state, mesh, TRIAL), split_over(stacked(batch), mesh, TRIAL), settings)
    return program_of(step, shared, *given)


def sent(program: Program, case: Case, devices: Any) -> list[Collective]:
    """What the chips of a case send each other."""
    return collectives(program.run.as_text(), make_mesh(case.sizes, devices))


def run(flags: BenchmarkConfig, report: Report) -> None:
    """Compiles every case for the topology."""
    devices = topologies.get_topology_desc(flags.topology, platform="tpu").devices
    for case in cases(len(devices), flags.scale):
        program = compiled(case, devices)
        found = sent(program, case, devices)
        memory = models.memory_of(case.config).memory
        tables = len(models.memory_of(case.config).pools) * memory.slots * memory.value_width
        share = tables * jnp.dtype(case.table_dtype).itemsize // case.sizes.get(MEMORY, 1)
        setting = {"topology": flags.topology, "mesh": _told(case.sizes)}
        report.add(
            Entry(SUITE, case.name, setting, program=program),
            table_bytes_per_chip=share,
            over_share=round(program.memory["total"] / share - 1, 4),
            sent=by_axis(found),
            operations=[str(each) for each in found],
        )


def _told(sizes: dict[str, int]) -> str:
    return ",".join(f"{axis}:{size}" for axis, size in sizes.items() if size > 1)
