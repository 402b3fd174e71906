"""Suite ``read``: the weighted read and its gradient, against one gather of all rows."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from benchmarks.block import INPUT_SETS, random_table
from benchmarks.costs import BlockShape, block_costs
from benchmarks.flags import BenchmarkConfig
from benchmarks.harness import Holder
from benchmarks.report import Entry, Report, Suite
from smf_jax.memory.reading import read
from smf_jax.shapes import Table

SUITE = "read"
READ, GRADIENT, PLAIN = "read", "gradient of weights", ", one gather"
FORMS = (READ, READ + PLAIN, GRADIENT, GRADIENT + PLAIN)
_TOLERANCE = 1e-4  # of two orders of adding the same float32 products


def run(flags: BenchmarkConfig, report: Report) -> None:
    """Times every form at every number of table slots, all in turns."""
    suite = Suite()
    for shape in flags.blocks():
        if not report.has_room(f"{SUITE} at {shape.slots:,} table slots", shape.table_bytes):
            continue
        table = random_table(shape.slots, shape.memory.value_width, shape.table_dtype)
        outputs = add_reads(suite, SUITE, shape, Holder((table,)))
        for name in (READ, GRADIENT):
            # What computes something else is not timed.
            found, expected = outputs[name], outputs[name + PLAIN]
            tolerance = _TOLERANCE * float(abs(expected).max())
            np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance, err_msg=name)
    suite.run(report, flags.repetitions)


def add_reads(
    suite: Suite, of: str, shape: BlockShape, holder: Holder, names: Sequence[str] = FORMS
) -> dict[str, Array]:
    """Adds any of `FORMS` to the suite of this name; gives what the first inputs give, by name."""
    sets, outputs = make_reads(shape), {}
    for name in names:
        form: Any = plain_read if name.endswith(PLAIN) else read
        inputs = [each[:2] for each in sets]
        if name.startswith(GRADIENT):
            form, inputs = partial(weight_gradient, form), sets
        entry = Entry(of, name, shape.setting, block_costs(shape)[SUITE])
        program = suite.compile(entry, form, inputs, "reads", holder)
        outputs[name] = program.run(*holder.given("reads"), *inputs[0])
    return outputs


def plain_read(values: Table, slots: Array, weights: Array) -> Array:
    """The read as it is written: all rows gathered, weighted and summed."""
    rows = values.at[slots].get(mode="promise_in_bounds")
    return jnp.einsum("tr,trv->tv", weights, rows, preferred_element_type=jnp.float32)


def weight_gradient(
    form: Any, values: Table, slots: Array, weights: Array, cotangent: Array
) -> Array:
    """The gradient of the weights, by whichever form of the read."""
    out, back = jax.vjp(partial(form, values, slots), weights)
    return back(cotangent.astype(out.dtype))[0]


def make_reads(shape: BlockShape) -> list[tuple[Array, Array, Array]]:
    """Sets of slots ``(t, r)`` drawn evenly from all, weights, and cotangents ``(t, v)``."""
    size = (shape.tokens, shape.memory.reads_per_token)

    @jax.jit
    def make(key: Array) -> tuple[Array, Array, Array]:
        one, two, three = jax.random.split(key, 3)
        weights = jax.nn.softmax(jax.random.normal(two, size)).astype(shape.dtype)
        cotangent = jax.random.normal(three, (shape.tokens, shape.memory.value_width))
        slots = jax.random.randint(one, size, 0, shape.slots)
        return slots, weights, cotangent.astype(shape.dtype)

    return [make(jax.random.key(number)) for number in range(INPUT_SETS)]
