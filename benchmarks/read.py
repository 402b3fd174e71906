"""Suite ``read``: the weighted read and its gradient, against one gather of all rows."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from benchmarks.block import INPUT_SETS, random_table
from benchmarks.costs import BlockShape, read_cost, weight_gradient_cost
from benchmarks.flags import BenchmarkFlags
from benchmarks.harness import compile_for, over_inputs
from benchmarks.results import Report
from benchmarks.suite import Field, entry, that_fit
from smf_jax.memory.reading import read
from smf_jax.shapes import Table

# Two orders of adding the same float32 products.
_TOLERANCE = 1e-4


def plain_read(values: Table, slots: Array, weights: Array) -> Array:
    """The read as it is written: all rows gathered, weighted and summed."""
    rows = values.at[slots].get(mode="promise_in_bounds")
    return jnp.einsum("tr,trv->tv", weights, rows, preferred_element_type=jnp.float32)


def weight_gradient(
    form: Any, values: Table, slots: Array, weights: Array, cotangent: Array
) -> Array:
    """The gradient of the weights, by whichever form of the read."""
    _, back = jax.vjp(partial(form, values, slots), weights)
    return back(cotangent.astype(jax.eval_shape(form, values, slots, weights).dtype))[0]


def weight_gradient_of_read(values: Table, slots: Array, weights: Array, cotangent: Array) -> Array:
    """That of the read."""
    return weight_gradient(read, values, slots, weights, cotangent)


def make_reads(shape: BlockShape, seed: int = 0) -> list[tuple[Array, Array, Array]]:
    """Sets of slots ``(t, r)`` drawn evenly from all, weights, and cotangents ``(t, v)``."""
    t, r = shape.tokens, shape.memory.reads_per_token

    @jax.jit
    def make(key: Array) -> tuple[Array, Array, Array]:
        one, two, three = jax.random.split(key, 3)
        weights = jax.nn.softmax(jax.random.normal(two, (t, r)))
        return (
            jax.random.randint(one, (t, r), 0, shape.slots),
            weights.astype(shape.dtype),
            jax.random.normal(three, (t, shape.memory.value_width)).astype(shape.dtype),
        )

    return [make(jax.random.key(seed + number)) for number in range(INPUT_SETS)]


def run(flags: BenchmarkFlags, report: Report) -> None:
    """Times every form at every number of table slots, all in turns."""
    field = Field()
    for shape in that_fit(report, "read", flags.blocks(), tables=1):
        table = random_table(shape.slots, shape.memory.value_width, shape.table_dtype)
        sets = make_reads(shape)
        forms = {
            "read": (read, read_cost(shape)),
            "read, one gather": (plain_read, read_cost(shape)),
            "gradient of weights": (weight_gradient_of_read, weight_gradient_cost(shape)),
            "gradient of weights, one gather": (
                partial(weight_gradient, plain_read),
                weight_gradient_cost(shape),
            ),
        }
        outputs = {}
        for name, (form, cost) in forms.items():
            wanted = 3 if "gradient" in name else 2
            inputs = [(table, *each[:wanted]) for each in sets]
            program = compile_for(form, *inputs[0])
            outputs[name] = program.run(*inputs[0])
            field.enter(entry("read", name, shape, cost), over_inputs(program.run, inputs), program)
        require_equal(outputs, "read", "read, one gather")
        require_equal(outputs, "gradient of weights", "gradient of weights, one gather")
    field.run(report, flags.repetitions)


def require_equal(outputs: dict[str, Array], found: str, expected: str) -> None:
    """Refuses to time a form that computes something else.

    Raises:
      RuntimeError: naming both.
    """
    largest = jnp.max(jnp.abs(outputs[expected]))
    difference = float(jnp.max(jnp.abs(outputs[found] - outputs[expected])) / largest)
    if not difference <= _TOLERANCE:
        raise RuntimeError(
            f"{found!r} differs from {expected!r} by {difference:.2g} of the largest value, more "
            f"than {_TOLERANCE:g}: it computes something else, so its time says nothing"
        )
