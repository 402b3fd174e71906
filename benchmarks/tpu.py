"""Suite ``tpu``: compiles for a TPU that is not there, and tells what its compiler tells.

The package ``libtpu`` holds the TPU compiler. The read, the memory's step and a whole model's step
are compiled for one chip of a topology, and for all of them with the tokens, the table's rows or
its columns split; nothing runs.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks import block, models
from benchmarks.accelerator import accelerator_shape, large_decoder
from benchmarks.costs import BlockShape
from benchmarks.flags import BenchmarkConfig
from benchmarks.harness import Program, compile_for
from benchmarks.report import Measurement, Report
from smf_jax.data.batching import Batch
from smf_jax.memory.layer import MemoryLayer
from smf_jax.memory.reading import read
from smf_jax.sharding import DATA
from smf_jax.sparse.usage import PoolUsage

SUITE = "tpu"
_ROWS = 64
_COLLECTIVES = "all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all"
# libtpu looks for a TPU machine's metadata, and for other processes on its chips: here are none.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


class Layout(NamedTuple):
    """How arrays lie on the chips: what has tokens as its first axis, and tables."""

    name: str
    mesh: Mesh
    tokens: PartitionSpec
    table: PartitionSpec

    def place(self, shape: Any, spec: PartitionSpec | None = None) -> Any:
        """Shapes, placed alike; by default each chip holds everything."""
        sharding = NamedSharding(self.mesh, PartitionSpec() if spec is None else spec)
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shape
        )


def prepare() -> None:
    """Keeps JAX on the CPU, and libtpu, which must be there, from looking for chips."""
    if find_spec("libtpu") is None:
        raise ValueError(
            "--suite=tpu: the package libtpu, which holds the TPU compiler, is not installed; "
            'pip install "jax[tpu]" brings the one that fits this jax, and needs no TPU'
        )
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    jax.config.update("jax_platforms", "cpu")


def layouts(topology: str) -> list[Layout]:
    """One chip of a topology, and all of them with tokens, or the table's rows or columns split."""
    try:
        devices = topologies.get_topology_desc(topology, platform="tpu").devices
    except Exception as error:  # libtpu raises whatever XLA does
        raise ValueError(
            f"--topology={topology}: {str(error).splitlines()[0]}; expected a name as of Cloud "
            "TPU, such as v5e:2x4"
        ) from error
    one, everyone = Mesh(np.array(devices[:1]), (DATA,)), Mesh(np.array(devices), (DATA,))
    whole, split, columns = PartitionSpec(), PartitionSpec(DATA), PartitionSpec(None, DATA)
    found, many = [Layout("one chip", one, whole, whole)], f"{len(devices)} chips"
    if len(devices) > 1:
        found.append(Layout(f"{many}, tokens split", everyone, split, whole))
        found.append(Layout(f"{many}, rows split", everyone, whole, split))
        found.append(Layout(f"{many}, columns split", everyone, whole, columns))
    return found


def run(flags: BenchmarkConfig, report: Report) -> None:
    """Compiles every program for every layout."""
    shape = tpu_shape(flags.scale)
    for layout in layouts(flags.topology):
        for name, compile_program in programs(shape, flags.scale, layout).items():
            program = compile_program()
            setting = {**shape.setting, "layout": layout.name}
            measurement = Measurement(SUITE, name, setting, more=told(program))
            report.add(measurement.with_program(program))


def tpu_shape(scale: float) -> BlockShape:
    """As of the suite accelerator, in float32: 1M × 1,024, 4,096 tokens."""
    return replace(accelerator_shape(scale), dtype="float32", table_dtype="float32")


def programs(shape: BlockShape, scale: float, layout: Layout) -> dict[str, Callable[[], Program]]:
    """The programs by name, each compiled when it is called."""
    table = layout.place(block.abstract_table(shape), layout.table)
    return {
        "read": partial(_compile_read, shape, layout, table),
        "smf memory step": partial(_compile_step, shape, layout, table),
        "smf train step": partial(_compile_train, shape, scale, layout),
    }


def _compile_read(shape: BlockShape, layout: Layout, table: Any) -> Program:
    per_token = (shape.tokens, shape.memory.reads_per_token)
    given = (jax.ShapeDtypeStruct(per_token, kind) for kind in (jnp.int32, shape.dtype))
    return compile_for(read, table, *(layout.place(leaf, layout.tokens) for leaf in given))


def _compile_step(shape: BlockShape, layout: Layout, table: Any) -> Program:
    layer = MemoryLayer(shape.memory, shape.width, dtype=jnp.dtype(shape.dtype))
    counts = jax.ShapeDtypeStruct((shape.slots,), jnp.int32)
    usage = PoolUsage(counts, counts, jax.ShapeDtypeStruct((), jnp.int32))  # pyright: ignore[reportArgumentType]
    x = jax.ShapeDtypeStruct((shape.tokens, 1, shape.width), shape.dtype)
    params, usage = layout.place((block.abstract_params(shape, layer), usage))
    x = layout.place(x, layout.tokens)
    step = partial(block.step, shape, layer)
    return compile_for(step, (table, None), params, usage, x, x, donate=(0,))


def _compile_train(shape: BlockShape, scale: float, layout: Layout) -> Program:
    """Of the 1.3B model: leaves and compute in bfloat16, but for its table."""
    config = large_decoder(shape.memory, scale)
    method = models.make_method(models.SMF, config, shape.budget)
    leaves = models.abstract_leaves(config, "bfloat16", "float32")
    usage = jax.eval_shape(partial(models.random_usage, config))
    frozen, (state, loss) = jax.eval_shape(method.begin, leaves)
    placed = layout.place(state)._replace(tables=layout.place(state.tables, layout.table))
    rows = (_ROWS, shape.tokens // _ROWS)
    kinds = (jnp.int32, jnp.int32, jnp.float32, bool)
    batch = layout.place(
        Batch(*(jax.ShapeDtypeStruct(rows, kind) for kind in kinds)),  # pyright: ignore[reportArgumentType]
        layout.tokens,
    )
    frozen, usage, loss = layout.place((frozen, usage, loss))
    return compile_for(method.step, (placed, loss), frozen, usage, batch, donate=(0,))


def told(program: Program) -> dict[str, Any]:
    """What the compiler tells beside memory: bytes accessed, operations, collectives."""
    analysis = program.run.cost_analysis() or {}
    return {
        "argument_bytes": program.memory.arguments if program.memory else None,
        "bytes_accessed": analysis.get("bytes accessed"),
        "flops": analysis.get("flops"),
        "collectives": collectives(program.run.as_text()),
    }


def collectives(text: str) -> dict[str, int]:
    """How many collectives of each kind stand in a compiled program's text."""
    return dict(Counter(re.findall(rf"= .*? ({_COLLECTIVES})(?:-start)?\(", text)))
