"""Suite ``tpu``: compiles for a TPU that is not there, and tells what its compiler tells.

Nothing runs; on all chips of a topology the tokens, the table's rows or its columns are split.
"""

import os
import re
from collections import Counter
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
from benchmarks.accelerator import ROWS, accelerator_shape, large_decoder
from benchmarks.costs import BlockShape
from benchmarks.flags import BenchmarkConfig
from benchmarks.harness import Program, compile_for
from benchmarks.read import READ
from benchmarks.report import Entry, Report
from smf_jax.data.batching import Batch
from smf_jax.memory.reading import read
from smf_jax.mesh import DATA
from smf_jax.sparse.usage import PoolUsage

SUITE = "tpu"
_COLLECTIVES = "all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all"
_WHOLE, _SPLIT, _COLUMNS = PartitionSpec(), PartitionSpec(DATA), PartitionSpec(None, DATA)
# libtpu looks for a TPU machine's metadata, and for other processes on its chips: here are none.
ENVIRONMENT = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}
ENVIRONMENT |= {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}


class Layout(NamedTuple):
    """How arrays lie on the chips: what has tokens as its first axis, and tables."""

    name: str
    mesh: Mesh
    tokens: PartitionSpec
    table: PartitionSpec

    def place(self, shapes: Any, spec: PartitionSpec = _WHOLE) -> Any:
        """Shapes, placed alike; by default each chip holds everything."""
        placed = partial(jax.ShapeDtypeStruct, sharding=NamedSharding(self.mesh, spec))
        return jax.tree.map(lambda leaf: placed(leaf.shape, leaf.dtype), shapes)


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
        why = f"{str(error).splitlines()[0]}; expected a name as of Cloud TPU, such as v5e:2x4"
        raise ValueError(f"--topology={topology}: {why}") from error
    one, everyone = (Mesh(np.array(chips), (DATA,)) for chips in (devices[:1], devices))
    splits = {"tokens": (_SPLIT, _WHOLE), "rows": (_WHOLE, _SPLIT), "columns": (_WHOLE, _COLUMNS)}
    n = len(devices)
    many = [Layout(f"{n} chips, {of} split", everyone, *specs) for of, specs in splits.items()]
    return [Layout("one chip", one, _WHOLE, _WHOLE), *(many if n > 1 else ())]


def run(flags: BenchmarkConfig, report: Report) -> None:
    """Compiles every program for every layout."""
    shape = replace(accelerator_shape(flags.scale), dtype="float32", table_dtype="float32")
    for layout in layouts(flags.topology):
        for name, (function, *given) in programs(shape, flags.scale, layout).items():
            program = compile_for(function, *given, donate=() if name == READ else (0,))
            setting = {**shape.setting, "layout": layout.name}
            report.add(Entry(SUITE, name, setting, program=program), **told(program))


def programs(shape: BlockShape, scale: float, layout: Layout) -> dict[str, tuple[Any, ...]]:
    """By name, what is compiled: a function, and the shapes of its arguments as they are placed."""
    abstract: Any = jax.ShapeDtypeStruct
    place, of_tokens = layout.place, partial(layout.place, spec=layout.tokens)
    table = place(block.abstract_table(shape), layout.table)
    per_token = (shape.tokens, shape.memory.reads_per_token)
    reads = of_tokens((abstract(per_token, jnp.int32), abstract(per_token, shape.dtype)))
    counts = abstract((shape.slots,), jnp.int32)
    usage = PoolUsage(counts, counts, abstract((), jnp.int32))
    frozen = place((block.abstract_params(shape), usage))
    x = of_tokens(abstract((shape.tokens, 1, shape.width), shape.dtype))
    memory_step = partial(block.step, shape, block.layer_of(shape))
    # The 1.3B model: leaves and compute in bfloat16, but for its table.
    config = large_decoder(shape.memory, scale)
    begin, step = models.make_method(models.SMF, config, shape.budget)
    leaves = models.abstract_leaves(config, "bfloat16", "float32")
    others, (state, loss) = place(jax.eval_shape(begin, leaves))
    state = state._replace(tables=place(state.tables, layout.table))
    background = place(jax.eval_shape(partial(models.random_usage, config)))
    rows, kinds = (ROWS, shape.tokens // ROWS), (jnp.int32, jnp.int32, jnp.float32, bool)
    batch = of_tokens(Batch(*(abstract(rows, kind) for kind in kinds)))
    return {
        READ: (read, table, *reads),
        "smf memory step": (memory_step, (table, None), *frozen, x, x),
        "smf train step": (step, (state, loss), others, background, batch),
    }


def told(program: Program) -> dict[str, Any]:
    """What the compiler tells beside memory: bytes accessed, operations, collectives."""
    analysis = program.run.cost_analysis() or {}
    # How many collectives of each kind stand in the program's text.
    found = re.findall(rf"= .*? ({_COLLECTIVES})(?:-start)?\(", program.run.as_text())
    needed, accessed = program.memory["arguments"], analysis.get("bytes accessed")
    told = {"argument_bytes": needed, "bytes_accessed": accessed, "flops": analysis.get("flops")}
    return {**told, "collectives": dict(Counter(found))}
