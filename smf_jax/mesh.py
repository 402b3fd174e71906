"""The one mesh: axes `trial`, `data` and `memory`, and what runs along each of them.

Trials stand side by side along ``trial`` and share nothing. Along ``data`` devices share the rows
of a batch, along ``memory`` the tables. Functions of one trial ask here for what they need of the
devices beside them; where nothing is shared, as in a plain ``jit``, they get back what they gave.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, Mesh
from jaxtyping import Array, Shaped

TRIAL, DATA, MEMORY = AXES = ("trial", "data", "memory")
Tree = TypeVar("Tree")


def make_mesh(sizes: Mapping[str, int], devices: Sequence[Any]) -> Mesh:
    """A mesh of the three axes over all of the devices; an axis that is not named has size 1."""
    shape = tuple(sizes.get(axis, 1) for axis in AXES)
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def device_mesh(axis: str, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with all local devices, or those given, along one of its axes."""
    devices = jax.local_devices() if devices is None else devices
    return make_mesh({axis: len(devices)}, devices)


def mesh_sizes(text: str, devices: int) -> dict[str, int]:
    """The size of each axis, from text such as ``trial:4,data:2``.

    Without ``trial`` that takes what the others leave. A ValueError tells of text that is not so,
    of an axis that is unknown, named twice or smaller than 1, and of sizes that do not make up the
    number of devices.
    """
    sizes: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        name, _, size = part.partition(":")
        if name not in AXES or name in sizes or not (size.isascii() and size.isdigit()):
            raise ValueError(
                f"--mesh={text}: {part!r} is not understood; expected axes once each, as in "
                "trial:4,data:2,memory:1"
            )
        sizes[name] = int(size)
    inner = sizes.get(DATA, 1) * sizes.get(MEMORY, 1)
    if TRIAL not in sizes and inner:
        sizes[TRIAL] = devices // inner
    total = inner * sizes.get(TRIAL, 0)
    if total != devices:
        raise ValueError(
            f"--mesh={text}: makes up {total} devices and there are {devices}; expected sizes "
            "whose product is that number"
        )
    return {axis: sizes.get(axis, 1) for axis in AXES}


def parts_along(axis: str) -> int:
    """Among how many devices the function that is being traced is shared along an axis."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.shape[axis] if axis in mesh.manual_axes else 1


def sum_over(axis: str, tree: Tree) -> Tree:
    """The sum of every leaf over the devices along an axis."""
    return lax.psum(tree, axis) if parts_along(axis) > 1 else tree


def gather_over(axis: str, tree: Tree, along: int = 0) -> Tree:
    """The leaves of all devices along an axis of the mesh, joined along an axis of their own."""
    if parts_along(axis) == 1:
        return tree
    return jax.tree.map(lambda leaf: lax.all_gather(leaf, axis, axis=along, tiled=True), tree)


def own_part(axis: str, array: Shaped[Array, "..."], along: int) -> Shaped[Array, "..."]:
    """This device's part of an array: the inverse of `gather_over`."""
    parts = parts_along(axis)
    if parts == 1:
        return array
    size = array.shape[along] // parts
    return lax.dynamic_slice_in_dim(array, lax.axis_index(axis) * size, size, along)


def own_rows(batch: Tree) -> Tree:
    """This device's rows of a batch of ``(b, …)`` fields, every so-manieth along ``data``.

    Hence micro-batches, which are runs of rows, hold the same rows as on one device. A ValueError
    if the devices do not divide the rows.
    """
    parts = parts_along(DATA)
    if parts == 1:
        return batch
    rows = jax.tree.leaves(batch)[0].shape[0]
    if rows % parts:
        raise ValueError(
            f"--mesh=data:{parts}: a batch of {rows} rows is not divided by {parts} devices; "
            "choose a divisor of it"
        )

    def own(field: Any) -> Array:
        dealt = jnp.reshape(field, (rows // parts, parts, *field.shape[1:]))
        return lax.dynamic_index_in_dim(dealt, lax.axis_index(DATA), 1, keepdims=False)

    return jax.tree.map(own, batch)


def all_rows(rows: Tree) -> Tree:
    """The rows of all devices along ``data``, in the order of the batch: undoes `own_rows`."""
    parts = parts_along(DATA)
    if parts == 1:
        return rows

    def joined(own: Array) -> Array:
        dealt = lax.all_gather(own, DATA, axis=1)
        return dealt.reshape(-1, *own.shape[1:])

    return jax.tree.map(joined, rows)


# --- differentiated, where each device does a part of one computation -----------------------------


def to_parts(axis: str, array: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    """An array that all devices have, before each computes a part with it.

    It stays as it is; its gradient is the sum of what the parts give.
    """
    return _differentiated("keep", axis, array)


def joined_parts(axis: str, array: Shaped[Array, "t _v"]) -> Shaped[Array, "t v"]:
    """The columns of all devices; the gradient of each device's are its own columns."""
    return _differentiated("join", axis, array)


def summed_parts(axis: str, array: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    """The sum over all devices; its gradient is that of each summand."""
    return _differentiated("sum", axis, array)


# How an array goes forward, and its gradient back.
_WAYS: dict[str, tuple[Callable[..., Array], Callable[..., Array]]] = {
    "keep": (lambda _, array: array, sum_over),
    "join": (partial(gather_over, along=1), partial(own_part, along=1)),
    "sum": (sum_over, lambda _, array: array),
}


def _differentiated(way: str, axis: str, array: Array) -> Array:
    forward, backward = _WAYS[way]
    function = jax.custom_vjp(partial(forward, axis))
    function.defvjp(
        lambda given: (forward(axis, given), None),
        lambda _, cotangent: (backward(axis, cotangent),),
    )
    return cast(Array, function(array))
