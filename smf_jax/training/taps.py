"""Zeros added to the rows that any JAX function gathers from its tables.

The function stays as it is. Its trace is run again an operation at a time; where rows are gathered
from a table, something is added to them. The gradient with respect to it is that of every row read,
and of no other row: an array of the table's shape is never made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, jaxpr_as_fun
from jaxtyping import Array

# Operations whose result is the table still: the same rows, in another dtype.
_SAME_ROWS = ("convert_element_type", "copy", "copy_p", "stop_gradient", "sharding_constraint")
# Functions inside of the function that are walked through, if a table goes into them, with the
# name of their jaxpr. What was to be recomputed in the backward pass is kept then.
_INNER = {
    **dict.fromkeys(("jit", "pjit", "remat2", "remat", "checkpoint"), "jaxpr"),
    **dict.fromkeys(("core_call", "closed_call"), "call_jaxpr"),
}


class Uses(NamedTuple):
    """What a function does with its tables, by their paths."""

    # Shapes of the gathered rows ``(…, v)``, and the indices of each gather, in order.
    gathers: dict[str, list[tuple[tuple[int, ...], Array]]]
    others: dict[str, list[str]]  # names of all other operations


def tapped(
    function: Callable[..., Any],
    params: Mapping[str, Array],
    arguments: Sequence[Any],
    tables: Collection[str],
    added: Mapping[str, Array],
) -> tuple[Any, Uses]:
    """``function(params, *arguments)`` with something added to gathered rows, and the tables' uses.

    ``added`` has by path of a table what is added to its only gather, of the same number of
    elements; a table that is missing in it is left alone.
    """
    params = dict(params)
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(params, *arguments)
    leaves = jax.tree.leaves((params, *arguments))
    paths = sorted(params)  # the order in which a dictionary is flattened
    walk = _Walk(tables, added)
    known = {number: path for number, path in enumerate(paths) if path in tables}
    outputs = walk.run(closed.jaxpr, closed.consts, leaves, known)
    return jax.tree.unflatten(jax.tree.structure(shapes), outputs), walk.uses


class _Walk:
    """One run through a trace, and what it has met."""

    def __init__(self, tables: Collection[str], added: Mapping[str, Array]) -> None:
        self.uses = Uses({path: [] for path in tables}, {path: [] for path in tables})
        self._added = added

    def run(
        self, jaxpr: Jaxpr, consts: Sequence[Any], inputs: Sequence[Any], known: dict[int, str]
    ) -> list[Any]:
        """Outputs of a jaxpr of whose inputs those that are ``known`` are tables."""
        values: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
        values |= dict(zip(jaxpr.invars, inputs, strict=True))
        tables = {jaxpr.invars[number]: path for number, path in known.items()}

        def value_of(atom: Any) -> Any:
            return atom.val if isinstance(atom, Literal) else values[atom]

        for eqn in jaxpr.eqns:
            found = {
                number: tables[atom]
                for number, atom in enumerate(eqn.invars)
                if not isinstance(atom, Literal) and atom in tables
            }
            given = [value_of(atom) for atom in eqn.invars]
            name = eqn.primitive.name
            if found and name in _INNER:
                inner = eqn.params[_INNER[name]]
                inner = inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, ())
                outputs = self.run(inner.jaxpr, inner.consts, given, found)
            else:
                outputs = _run_one(jaxpr, eqn, given)
            if found and name in _SAME_ROWS:
                tables[eqn.outvars[0]] = found[0]
            elif found and name not in _INNER:
                outputs = self._met(eqn, given, outputs, found)
            values |= dict(zip(eqn.outvars, outputs, strict=True))
        for atom in jaxpr.outvars:
            if not isinstance(atom, Literal) and atom in tables:
                self.uses.others[tables[atom]].append("output")
        return [value_of(atom) for atom in jaxpr.outvars]

    def _met(
        self, eqn: JaxprEqn, given: list[Any], outputs: list[Any], found: Mapping[int, str]
    ) -> list[Any]:
        """The outputs of an operation on tables, with what is added to gathered rows."""
        if not _gathers_rows(eqn, found):
            for path in found.values():
                self.uses.others[path].append(eqn.primitive.name)
            return outputs
        (path,), (rows,) = found.values(), outputs
        self.uses.gathers[path].append((rows.shape, given[1]))
        if path not in self._added:
            return outputs
        return [rows + self._added[path].reshape(rows.shape).astype(rows.dtype)]


def _gathers_rows(eqn: JaxprEqn, found: Mapping[int, str]) -> bool:
    """Whether an operation gathers whole rows of a table ``(N, v)``, which stay its last axis."""
    if eqn.primitive.name != "gather" or list(found) != [0]:
        return False
    table: Any = eqn.invars[0].aval
    rows: Any = eqn.outvars[0].aval
    sizes, numbers = eqn.params["slice_sizes"], eqn.params["dimension_numbers"]
    whole = len(table.shape) == 2 and tuple(sizes) == (1, table.shape[1])
    first = tuple(numbers.start_index_map) == (0,)
    return whole and first and tuple(numbers.offset_dims) == (len(rows.shape) - 1,)


def _run_one(jaxpr: Jaxpr, eqn: JaxprEqn, given: list[Any]) -> list[Any]:
    """The outputs of one operation, in the order of its variables."""
    pairs = zip(eqn.invars, given, strict=True)
    atoms = {atom: value for atom, value in pairs if not isinstance(atom, Literal)}
    about = jaxpr.debug_info.with_unknown_names()
    parts = {"constvars": [], "invars": list(atoms), "outvars": list(eqn.outvars), "eqns": [eqn]}
    one = jaxpr.replace(**parts, debug_info=about)
    return list(jaxpr_as_fun(ClosedJaxpr(one, ()))(*atoms.values()))


def ids_of(indices: Array) -> Array:
    """The ids of a gather, whose indices have one more axis."""
    assert indices.shape[-1] == 1
    return indices.reshape(math.prod(indices.shape))
