"""Suite ``lookup``: from queries to slots, against all k × k pairs, and the scores alone."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from benchmarks.block import INPUT_SETS
from benchmarks.costs import BlockShape, block_costs
from benchmarks.flags import BenchmarkConfig
from benchmarks.report import Entry, Report, Suite
from smf_jax.memory.product_keys import Lookup, product_key_lookup

SUITE = LOOKUP = "lookup"


def run(flags: BenchmarkConfig, report: Report) -> None:
    """Times every form at every number of table slots, all in turns."""
    suite = Suite()
    for shape in flags.blocks():
        k = shape.memory.reads
        found = add_lookup(suite, SUITE, shape, LOOKUP, partial(product_key_lookup, k=k))
        pairs = partial(lookup_of_all_pairs, k=k)
        expected = add_lookup(suite, SUITE, shape, "lookup, all k × k pairs", pairs)
        np.testing.assert_array_equal(found.slots, expected.slots)
        add_lookup(suite, SUITE, shape, "scores alone", half_scores)
    suite.run(report, flags.repetitions)


def add_lookup(suite: Suite, of: str, shape: BlockShape, name: str, form: Any) -> Any:
    """Adds a form of the lookup to the suite of this name; gives what the first inputs give."""
    inputs = make_queries(shape)
    entry = Entry(of, name, shape.setting, block_costs(shape)[SUITE])
    return suite.compile(entry, form, inputs).run(*inputs[0])


def half_scores(queries: Array, keys: Array) -> Array:
    """The scores of all keys of both halves ``(2, h·t, n)``: what any lookup begins with."""
    scores = jnp.einsum("thpc,hpnc->phtn", queries, keys, precision=lax.Precision.HIGHEST)
    return scores.reshape(2, -1, keys.shape[2])


def lookup_of_all_pairs(queries: Array, keys: Array, k: int) -> Lookup:
    """The lookup as the paper writes it: the best of all k × k pairs (1907.05242, section 3.1)."""
    t, h = queries.shape[:2]
    first, second = half_scores(queries, keys)
    (first, i), (second, j) = lax.top_k(first, k), lax.top_k(second, k)
    pairs = (first[:, :, None] + second[:, None, :]).reshape(-1, k * k)
    scores, winners = lax.top_k(pairs, k)
    slots = jnp.take_along_axis(i, winners // k, axis=1) * keys.shape[2]
    slots = slots + jnp.take_along_axis(j, winners % k, axis=1)
    return Lookup(*(x.reshape(h, t, k).swapaxes(0, 1) for x in (scores, slots)))


def make_queries(shape: BlockShape) -> list[tuple[Array, Array]]:
    """Sets of queries ``(t, h, 2, c)``, each with the same keys ``(h, 2, n, c)``."""
    memory, half = shape.memory, shape.memory.key_width // 2
    draw = jax.jit(jax.random.normal, static_argnums=1)
    keys = draw(jax.random.key(0), (memory.heads, 2, memory.keys_per_half, half))
    sides = (shape.tokens, memory.heads, 2, half)
    return [(draw(jax.random.key(1 + i), sides), keys) for i in range(INPUT_SETS)]
