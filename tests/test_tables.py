"""Tables that start at zero: what is written and read, how they are saved, how they grow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax import tables
from smf_jax.checkpoints.manifest import fingerprint
from smf_jax.memory.reading import read
from smf_jax.params import count_parameters
from smf_jax.sparse.rows import gather_rows, write_rows
from smf_jax.tables import aligned, empty_table, explicit, packed, put, unpacked

N, V = 12, 3


def rows(*slots: int, scale: float = 1.0) -> jax.Array:
    return scale * (1.0 + jnp.arange(len(slots) * V, dtype=jnp.float32)).reshape(-1, V)


def ids(*slots: int) -> jax.Array:
    return jnp.array(slots, jnp.int32)


@dataclass
class Both:
    """A table of each kind, written alike."""

    made: Any
    whole: Any

    def write(self, *slots: int, scale: float = 1.0) -> Both:
        given = ids(*slots), rows(*slots, scale=scale)
        made = tables.with_room(self.made, len(slots))
        return Both(write_rows(made, *given), write_rows(self.whole, *given))

    def check(self) -> None:
        assert explicit(self.made).tobytes() == np.asarray(self.whole).tobytes()


START = Both(empty_table(N, V), jnp.zeros((N, V)))


def test_what_is_written_is_that_of_the_whole_table():
    both = START
    for slots in ((5, 2, N), (2, 7, N), (N, N), (0, 11, 5)):
        both = both.write(*slots, scale=float(sum(slots)))
        both.check()
    assert int(both.made.used) == 1 + 5, "a row is made once"
    assert not np.any(both.made.rows[0])
    places = ids(11, 3, N, 2)
    assert gather_rows(both.made, places).tobytes() == gather_rows(both.whole, places).tobytes()
    asked = (
        jnp.array([[5, 1], [3, 3], [2, 11]], jnp.int32),
        jnp.array([[0.5, 2], [1, 1], [3, -1.0]]),
    )
    assert read(both.made, *asked).tobytes() == read(both.whole, *asked).tobytes()
    of_weights = [
        jax.grad(lambda w, t=t: jnp.sum(read(t, asked[0], w) ** 2)) for t in (both.made, both.whole)
    ]
    assert of_weights[0](asked[1]).tobytes() == of_weights[1](asked[1]).tobytes()


def test_it_is_a_leaf_of_n_rows_that_stores_only_its_own():
    made = START.write(5, 2).made
    assert (made.shape, len(made), made.dtype) == ((N, V), N, jnp.float32)
    assert made.size == count_parameters({"a": made}) == (made.rows.shape[0] - 1) * V
    assert count_parameters({"a": empty_table(N, V)}) == 0
    assert jnp.array_equal(made[ids(2, 3)], jnp.stack([rows(5, 2)[1], jnp.zeros(V)]))


def test_more_rows_than_there_is_room_for_are_not_written_in_part():
    table = tables.with_capacity(empty_table(N, V), 3)
    assert bool(tables.has_room(table, ids(4, 5, N)))
    assert not bool(tables.has_room(table, ids(4, 5, 6)))
    full = write_rows(table, ids(4, 5), rows(4, 5))
    assert bool(tables.has_room(full, ids(4, 5))), "rows that exist need none"
    assert not bool(tables.has_room(full, ids(4, 6)))


def test_room_grows_by_doubling_and_never_beyond_the_table():
    table = tables.with_room(empty_table(N, V), 2)
    assert table.rows.shape == (6, V)
    assert tables.with_room(table, 5) is table
    assert tables.with_room(table, 6).rows.shape == (N + 1, V)
    assert tables.with_room(table, 99).rows.shape == (N + 1, V)
    assert tables.with_room(START.whole, 9) is START.whole
    side_by_side = jax.tree.map(lambda *each: jnp.stack(each), table, START.write(1, 2).made)
    grown = tables.with_room(side_by_side, 5)
    assert grown.rows.shape == (2, N + 1, V) and grown.shape == (N, V)
    one = tables.of_one_capacity([{"a": empty_table(N, V)}, {"a": table}])
    assert [each["a"].rows.shape for each in one] == [(6, V), (6, V)]


def test_content_is_what_is_saved_whatever_its_order_and_room():
    first = START.write(5, 2).write(9, 9 + N).made  # an id beyond N is dropped like N
    kind = jax.tree.map(
        np.asarray, put(put(empty_table(N, V), ids(9), rows(9)), ids(5, 2), rows(5, 2))
    )
    again = put(put(kind, [7], rows(7)), np.array([7]), np.zeros((1, V), "f4"))
    told = [fingerprint(packed({"a/b": table})) for table in (first, kind, again)]
    assert len(set(told)) == 1
    assert told[0] != fingerprint(packed({"a/b": START.write(5).made}))
    saved = packed({"a/b": first, "c": jnp.ones(2)})
    assert saved.keys() == {"a/b/slots", "a/b/rows", "a/b/table_slots", "c"}
    assert saved["a/b/slots"].tolist() == [2, 5, 9]
    back = unpacked(saved)
    assert back.keys() == {"a/b", "c"}
    assert explicit(back["a/b"]).tobytes() == explicit(first).tobytes()
    shapes = jax.eval_shape(lambda: {"a/b": empty_table(N, V)})
    expected = tables.packed_like(shapes, saved)
    assert {n: leaf.shape for n, leaf in expected.items()} == {
        name: leaf.shape for name, leaf in saved.items() if name != "c"
    }


def test_tables_are_equal_by_content():
    first = START.write(5, 2).made
    assert (first == put(put(empty_table(N, V), [2], rows(5, 2)[1:]), [5], rows(5))).all()
    assert not (first == START.write(5).made).any()
    assert first != START.whole and first != empty_table(N, V + 1)


def test_all_rows_are_made_only_by_name():
    for made in (np.asarray, list, lambda table: table * 2):
        with pytest.raises(TypeError):
            made(START.made)
    with pytest.raises(TypeError, match="12 slots .* `explicit` gives all of them"):
        np.asarray(START.made)


def test_minus_zero_is_content():
    minus = put(empty_table(N, V), np.array([3]), np.full((1, V), -0.0, np.float32))
    assert packed({"a": minus})["a/slots"].tolist() == [3]
    assert explicit(tables.implicit(explicit(minus))).tobytes() == explicit(minus).tobytes()


@pytest.mark.parametrize("on_host", [False, True])
def test_put_leaves_the_given_table_alone_and_keeps_its_kind(on_host):
    table = jax.tree.map(np.asarray, START.made) if on_host else START.made
    after = put(table, [4, 1], rows(4, 1))
    assert isinstance(after.rows, np.ndarray if on_host else jax.Array)
    assert int(table.used) == 1 and int(after.used) == 3
    whole = put(np.asarray(START.whole), [4, 1], rows(4, 1))
    assert explicit(after).tobytes() == whole.tobytes()


def test_tables_are_compared_where_either_is_written():
    before, after = START.write(5, 2), START.write(5, 2).write(2, 7, scale=3.0)
    slots, old, new = aligned(before.made, after.made)
    assert slots.tolist() == [2, 5, 7] and not np.any(old[2]) and np.any(new[2])
    assert aligned(before.made, after.whole)[0].tolist() == list(range(N))
    moved = tables.rows_moved(before.made, after.made)
    assert jnp.array_equal(moved, tables.rows_moved(before.whole, after.whole))
    assert np.flatnonzero(moved).tolist() == [2, 7]
    assert not np.any(tables.rows_moved(before.made, START.write(2).write(5, 2).made))
