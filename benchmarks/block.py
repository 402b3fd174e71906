"""One memory block and ways to train it; ``python -m benchmarks.block TASK`` tells a peak."""

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from benchmarks.costs import BlockShape
from benchmarks.harness import Holder, compile_for
from benchmarks.machine import peak_bytes
from smf_jax.memory.config import MemoryConfig
from smf_jax.memory.layer import PERTURBATIONS, READS, MemoryLayer
from smf_jax.shapes import Rows, SlotIds, Table
from smf_jax.sparse import accesses
from smf_jax.sparse.row_optimizer import RowStore, create_store, update_rows
from smf_jax.sparse.rows import ReadTrace, row_gradient
from smf_jax.sparse.selection import select_slots
from smf_jax.sparse.transform import freeze_all_but_rows
from smf_jax.sparse.usage import PoolUsage
from smf_jax.tables import AnyTable

SMF, MASKED, ADAM = "smf", "dense gradient, masked", "dense gradient, Adam"
INPUT_SETS, LEARNING_RATE = 4, 0.1  # the sets are taken in turn
_SGD = optax.sgd(LEARNING_RATE)
_PATTERN_ROWS, _BATCHES = 4096, 50  # of random tables; of the made-up background
State = tuple[AnyTable, RowStore | None]


@dataclass(frozen=True)
class Block:
    """A frozen block without its table; inputs are pairs ``(1, t, d)`` of input and cotangent."""

    shape: BlockShape
    layer: MemoryLayer
    params: dict[str, Any]
    usage: PoolUsage
    inputs: tuple[tuple[Array, Array], ...]

    def arguments(self) -> list[tuple[Any, ...]]:
        """What a step is given beside its state, for every input."""
        return [(self.params, self.usage, x, upstream) for x, upstream in self.inputs]

    def table(self) -> Table:
        return random_table(self.shape.slots, self.shape.memory.value_width, self.shape.table_dtype)

    def begin(self, table: Table) -> State:
        """The state of plain SGD: masters where the table is narrow, for the rows of all inputs."""
        return table, create_store(_SGD, table, INPUT_SETS * self.shape.static_size)


def make_block(shape: BlockShape) -> Block:
    """Random parameters and inputs, by NumPy: programs compiled here would add to peak memory."""
    rng, layer = np.random.default_rng(0), layer_of(shape)

    def draw(leaf: jax.ShapeDtypeStruct, scale: float) -> Array:
        return jnp.asarray(scale * rng.standard_normal(leaf.shape, np.float32), leaf.dtype)

    def fresh(path: Any, leaf: jax.ShapeDtypeStruct) -> Array:
        return draw(leaf, leaf.shape[-1 if "keys" in jax.tree_util.keystr(path) else 0] ** -0.5)

    params = jax.tree_util.tree_map_with_path(fresh, abstract_params(shape))
    df = jnp.asarray(rng.integers(0, _BATCHES, shape.slots), jnp.int32)
    usage = PoolUsage(df, df, jnp.asarray(_BATCHES, jnp.int32))
    x = jax.ShapeDtypeStruct((1, shape.tokens, shape.width), layer.dtype)
    inputs = tuple((draw(x, 1), draw(x, 1)) for _ in range(INPUT_SETS))
    return Block(shape, layer, params, usage, inputs)


def abstract_table(shape: BlockShape) -> Any:
    """Shape of the table."""
    return jax.ShapeDtypeStruct((shape.slots, shape.memory.value_width), shape.table_dtype)


def layer_of(shape: BlockShape) -> MemoryLayer:
    """The block itself."""
    return MemoryLayer(shape.memory, shape.width, dtype=jnp.dtype(shape.dtype))


def abstract_params(shape: BlockShape) -> dict[str, Any]:
    """Shapes of a block's parameters."""
    x, table = jax.ShapeDtypeStruct((1, 1, shape.width), shape.dtype), abstract_table(shape)
    return dict(jax.eval_shape(layer_of(shape).init, jax.random.key(0), x, table)["params"])


def random_table(slots: int, width: int, dtype: str) -> Table:
    """A table of distinct rows as large as fresh ones, made without a temporary of its size."""
    rng, size = np.random.default_rng(0), (min(slots, _PATTERN_ROWS), width)
    pattern = jnp.asarray(width**-0.5 * rng.standard_normal(size, np.float32))
    # One that is still being made would not count as memory in use.
    return jax.block_until_ready(grow(pattern, slots, dtype))


@partial(jax.jit, static_argnames=("slots", "dtype"))
def grow(pattern: Array, slots: int, dtype: str) -> Table:
    """So many rows from a few, each at a scale of its own."""
    place = jnp.arange(slots)
    return (pattern[place % pattern.shape[0]] * (0.5 + place / slots)[:, None]).astype(dtype)


def read_trace(
    layer: MemoryLayer, params: dict[str, Any], table: AnyTable, x: Array, upstream: Array
) -> ReadTrace:
    """Forward through the block, and back from its output to its read, as in a finetuning step."""

    def output(perturbation: Array) -> tuple[Array, Any]:
        variables = {"params": params, PERTURBATIONS: {"read": perturbation}}
        out, collections = layer.apply(variables, x, table, mutable=[READS])
        return out, collections[READS]["read"]

    zeros = jnp.zeros((*x.shape[:2], table.shape[1]), layer.dtype)
    _, back, read = jax.vjp(output, zeros, has_aux=True)
    parts, tokens = (read.slots, read.weights, *back(upstream)), x.shape[0] * x.shape[1]
    return ReadTrace(*(part.reshape(tokens, -1) for part in parts))


@contextmanager
def forced(form: accesses.Form) -> Iterator[None]:
    """Whatever is traced in here counts in this form, whatever the sizes are."""
    by_size = accesses.sorted_from
    accesses.sorted_from = lambda: 0 if form == "sorted" else math.inf
    try:
        yield
    finally:
        accesses.sorted_from = by_size


def select(shape: BlockShape, slots: Array, usage: PoolUsage) -> SlotIds:
    """Counts the reads ``(t, h·k)`` and selects the best slots."""
    counted = accesses.count_reads([slots], jnp.ones(slots.shape[0], bool), shape.slots)
    budget = jnp.asarray(shape.budget)
    return select_slots(counted, usage, rule="tfidf", top_t=budget, size=shape.static_size)


def write(state: State, selected: SlotIds, rows: Rows) -> State:
    """Plain SGD on the selected rows."""
    return update_rows(*state, selected, rows, _SGD)


def after(shape: BlockShape, state: State, usage: PoolUsage, trace: ReadTrace) -> State:
    """All of a step that comes after the forward and backward pass."""
    selected = select(shape, trace.slots, usage)
    return write(state, selected, row_gradient([trace], selected, shape.slots))


def step(
    shape: BlockShape, layer: MemoryLayer, state: State, params: Any, usage: PoolUsage, *inputs: Any
) -> State:
    """One step of sparse memory finetuning, given the block's input and cotangent ``(b, t, d)``."""
    return after(shape, state, usage, read_trace(layer, params, state[0], *inputs))


def ways(given: Block) -> dict[str, tuple[Callable[..., Any], Callable[..., Any]]]:
    """By name, how the state is made from a table and the step from that state."""
    shape, layer = given.shape, given.layer

    def output(tables: Any, params: Any, x: Array, upstream: Array) -> tuple[Array, Array]:
        collections: Any
        out, collections = layer.apply({"params": params}, x, tables["table"], mutable=[READS])
        return jnp.sum(out * upstream), collections[READS]["read"].slots

    def dense(transform: optax.GradientTransformationExtraArgs) -> tuple[Any, Any]:
        def start(table: Table) -> Any:
            return {"table": table}, transform.init({"table": table})

        def step(state: Any, params: Any, usage: PoolUsage, *inputs: Array) -> Any:
            tables, opt_state = state
            gradients, read = jax.grad(output, has_aux=True)(tables, params, *inputs)
            slots = {"table": select(shape, read.reshape(shape.tokens, -1), usage)}
            updates, opt_state = transform.update(gradients, opt_state, tables, slots=slots)
            return optax.apply_updates(tables, updates), opt_state

        return start, step

    return {
        SMF: (given.begin, partial(step, shape, layer)),
        MASKED: dense(freeze_all_but_rows(_SGD, ["table"])),
        ADAM: dense(optax.with_extra_args_support(optax.adam(5e-4))),
    }


if __name__ == "__main__":
    task = json.loads(sys.argv[1])
    memory = MemoryConfig.from_dict(task["shape"].pop("memory"))
    given = make_block(BlockShape(memory, **task["shape"]))
    start, run = ways(given)[task["way"]]
    holder = Holder(start(given.table()))
    program = compile_for(run, holder.state, *given.arguments()[0], donate=(0,))
    call = holder.call(program.run, given.arguments(), "writes")
    for repetition in range(3):
        jax.block_until_ready(call(repetition))
    print(json.dumps({"peak_bytes": peak_bytes()}))
