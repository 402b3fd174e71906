"""Suite ``read``: the weighted read and its gradient, against one gather of all rows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from benchmarks.block import INPUT_SETS, random_table
from benchmarks.costs import BlockShape, read_cost
from benchmarks.flags import BenchmarkConfig
from benchmarks.harness import Holder, compile_for
from benchmarks.report import Measurement, Report, Suite
from smf_jax.memory.reading import read
from smf_jax.shapes import Table

SUITE = "read"
READ, GRADIENT, PLAIN = "read", "gradient of weights", ", one gather"
FORMS = (READ, READ + PLAIN, GRADIENT, GRADIENT + PLAIN)
# Two orders of adding the same float32 products.
_TOLERANCE = 1e-4


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
            tolerance = _TOLERANCE * float(abs(outputs[name + PLAIN]).max())
            found, expected = outputs[name], outputs[name + PLAIN]
            np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance, err_msg=name)
    suite.run(report, flags.repetitions)


def add_reads(
    suite: Suite, of: str, shape: BlockShape, holder: Holder, names: Sequence[str] = FORMS
) -> dict[str, Array]:
    """Adds any of `FORMS` to the suite of this name; gives what the first inputs give, by name."""
    sets, outputs = make_reads(shape), {}
    for name in names:
        form: Any = plain_read if name.endswith(PLAIN) else read
        inputs = sets
        if name.startswith(GRADIENT):
            form = partial(weight_gradient, form)
        else:
            inputs = [each[:2] for each in sets]
        program = compile_for(form, holder.state[0], *inputs[0])
        outputs[name] = program.run(holder.state[0], *inputs[0])
        measurement = Measurement(of, name, shape.setting, cost=read_cost(shape))
        suite.add(measurement, holder.reading(program.run, inputs), program)
    return outputs


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


def make_reads(shape: BlockShape, seed: int = 0) -> list[tuple[Array, Array, Array]]:
    """Sets of slots ``(t, r)`` drawn evenly from all, weights, and cotangents ``(t, v)``."""
    size = (shape.tokens, shape.memory.reads_per_token)

    @jax.jit
    def make(key: Array) -> tuple[Array, Array, Array]:
        one, two, three = jax.random.split(key, 3)
        weights = jax.nn.softmax(jax.random.normal(two, size)).astype(shape.dtype)
        cotangent = jax.random.normal(three, (shape.tokens, shape.memory.value_width))
        slots = jax.random.randint(one, size, 0, shape.slots)
        return slots, weights, cotangent.astype(shape.dtype)

    return [make(jax.random.key(seed + number)) for number in range(INPUT_SETS)]
