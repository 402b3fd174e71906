"""Placing arrays on the mesh, and running trials side by side over its axis ``trial``.

What `pmap` once did is a `shard_map` over a named axis here: the devices of a trial run the same
program on it, and the frozen base is placed once per device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from smf_jax.mesh import MEMORY, TRIAL, make_mesh
from smf_jax.processes import are_several, fetched, shared_by_owner
from smf_jax.split_tables import SplitTable, TableLayout, check_split, is_split, whole
from smf_jax.tables import ImplicitTable


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Places every leaf once on each device of the mesh, of split tables the parts.

    Here and below a shape, which has no numbers, is told where it would lie.
    """
    return _placed(tree, mesh)


def split_over(tree: Any, mesh: Mesh, over: str, axis: int = 0) -> Any:
    """Places every leaf split along one of its axes over an axis of the mesh."""
    return _placed(tree, mesh, *([None] * axis), over)


def _placed(tree: Any, mesh: Mesh, *lead: str | None) -> Any:
    def placed(leaf: Any) -> Any:
        spec, shapes = _spec(leaf, *lead), whole(leaf)
        sharding = NamedSharding(mesh, spec.part if is_split(leaf) else spec)
        if not isinstance(shapes, jax.ShapeDtypeStruct):
            return _put(leaf, sharding)
        shapes = shapes.update(sharding=sharding)
        return replace(leaf, part=shapes) if is_split(leaf) else shapes

    return jax.tree.map(placed, tree, is_leaf=is_split)


def _put(leaf: Any, sharding: NamedSharding) -> Any:
    if not are_several():
        return jax.device_put(leaf, sharding)

    def of(array: Any) -> Any:
        # Every process has the whole, and places the parts of its own devices.
        host = fetched(array)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(of, leaf)


def _spec(leaf: Any, *lead: str | None) -> Any:
    """How a leaf lies on a mesh, in a tree of its structure."""
    if not isinstance(leaf, SplitTable):
        return PartitionSpec(*lead)
    return replace(leaf, part=leaf.spec(*lead))


def _specs(tree: Any, *lead: str) -> Any:
    return jax.tree.map(lambda leaf: _spec(leaf, *lead), tree, is_leaf=is_split)


def split_tables(
    params: dict[str, Any], mesh: Mesh, layout: TableLayout, is_table: Callable[[str, Any], bool]
) -> dict[str, Any]:
    """The leaves by path, tables to be split along ``memory``; where that has size 1, as they are.

    Of an implicit table the store is, by columns. A ValueError tells of a table that the devices do
    not divide.
    """
    parts = mesh.shape[MEMORY]
    if parts == 1:
        return params

    def split(path: str, leaf: Any) -> Any:
        if not is_table(path, leaf):
            return leaf
        check_split(path, leaf.shape[-2:], parts, layout)
        rows = leaf.rows if isinstance(leaf, ImplicitTable) else leaf
        split_rows = SplitTable(rows, rows.shape[-2:], layout, parts)
        return replace(leaf, rows=split_rows) if isinstance(leaf, ImplicitTable) else split_rows

    return {path: split(path, leaf) for path, leaf in params.items()}


def stack(trees: Sequence[Any]) -> Any:
    """Stacks the leaves of equal trees along a new leading axis, the trial."""
    return jax.tree.map(lambda *params: jnp.stack(params), *trees)


def unstack(tree: Any, index: int, rows: Any = None) -> Any:
    """One trial's leaves of a stacked tree, bit for bit, still on the devices that hold them.

    The trials are the leading axis; of each leaf only ``rows`` where these are given. What devices
    along ``memory`` share stays split among them; along ``data`` it is that of the first. Where
    several processes run as one, each gets it on the host, and all of them have to ask.
    """

    def own(leaf: Any) -> Any:
        if are_several() and isinstance(leaf, jax.Array):
            return _from_owner(leaf, index, rows)
        place = index
        # Indexing a split array sums its masked shards, which makes 0.0 of -0.0.
        for shard in getattr(leaf, "addressable_shards", ()):
            first, end, _ = shard.index[0].indices(leaf.shape[0])
            if first <= index < end:
                if not _is_shared(leaf):
                    leaf, place = shard.data, index - first
                    break
                at = (0,) if rows is None else (0, rows)
                return _among(leaf, index, at, PartitionSpec(*leaf.sharding.spec[1:]))
        return leaf[place] if rows is None else leaf[place, rows]

    return jax.tree.map(own, tree)


def beside(tree: Any, mesh: Mesh, trial: int) -> Any:
    """The leaves that are placed alike for all trials, on the devices of one; nothing is copied."""

    def own(leaf: Any) -> Any:
        if are_several():
            return fetched(leaf)
        if _is_shared(leaf):
            return _among(leaf, trial, (), leaf.sharding.spec)
        (device, *_) = mesh.devices[trial].flat
        return next(shard.data for shard in leaf.addressable_shards if shard.device == device)

    return jax.tree.map(own, tree)


def _from_owner(leaf: jax.Array, index: int, rows: Any) -> np.ndarray:
    """One trial's array of those that lie on the devices of several processes."""
    devices: Any = leaf.sharding.mesh.devices[index, 0]  # pyright: ignore
    owners = {device.process_index for device in devices}
    if len(owners) > 1:
        whole_leaf = fetched(leaf)[index]
        return whole_leaf if rows is None else whole_leaf[rows]
    (owner,), found = owners, None
    shape = leaf.shape[1:]
    if rows is not None:
        shape = (len(np.empty((shape[0], 0))[rows]), *shape[1:])
    if owner == jax.process_index():
        at = (0,) if rows is None else (0, rows)
        spec = PartitionSpec(*leaf.sharding.spec[1:])  # pyright: ignore
        found = np.asarray(_among(leaf, index, at, spec))
    return shared_by_owner(found, shape, leaf.dtype, owner)


def _is_shared(leaf: Any) -> bool:
    """Whether a trial's leaf lies on a mesh whose axis ``memory`` has several devices."""
    mesh = getattr(leaf.sharding, "mesh", None)
    return mesh is not None and mesh.shape.get(MEMORY, 1) > 1


def _among(leaf: Any, trial: int, at: tuple[Any, ...], spec: PartitionSpec) -> Any:
    """What stands ``at`` places of each part, among the devices of a trial along ``memory``."""
    devices = leaf.sharding.mesh.devices[trial, 0]
    found = {shard.device: shard.data for shard in leaf.addressable_shards}
    parts = [found[device][at] for device in devices]
    placed = NamedSharding(make_mesh({MEMORY: len(devices)}, devices), spec)
    split = [len(devices) if name == MEMORY else 1 for name in spec]
    split += [1] * (parts[0].ndim - len(split))
    shape = tuple(size * times for size, times in zip(parts[0].shape, split, strict=True))
    return jax.make_array_from_single_device_arrays(shape, placed, parts)


def restack(trees: Sequence[Any], mesh: Mesh) -> Any:
    """The inverse of `unstack` for all trials of a mesh, each on its devices, which nothing leaves.

    The trees are equal but for their numbers.
    """
    if are_several():  # each has them all on the host
        return split_over(stack(trees), mesh, TRIAL)

    def joined(*leaves: Any) -> Any:
        first = leaves[0]
        array = first.part if isinstance(first, SplitTable) else first
        spec = first.spec(TRIAL) if isinstance(first, SplitTable) else PartitionSpec(TRIAL)
        if mesh.shape[MEMORY] > 1 and not isinstance(first, SplitTable):
            spec = PartitionSpec(TRIAL, *array.sharding.spec)
        shape, parts = (len(leaves), *array.shape), []
        sharding = NamedSharding(mesh, spec)
        for place, leaf in enumerate(leaves):
            own = leaf.part if isinstance(leaf, SplitTable) else leaf
            held = [shard.data[None] for shard in own.addressable_shards]
            for beside in mesh.devices[place]:  # along data, each with a copy
                parts += [jax.device_put(*pair) for pair in zip(held, beside, strict=True)]
        made = jax.make_array_from_single_device_arrays(shape, sharding, parts)
        if isinstance(first, SplitTable):
            return replace(first, part=made)
        return made

    return jax.tree.map(joined, *trees, is_leaf=is_split)


def over_trials(
    function: Callable[..., Any],
    mesh: Mesh,
    per_trial: Sequence[bool],
    donate: Sequence[int] = (),
    traced: Callable[[], None] = lambda: None,
) -> Callable[..., Any]:
    """A jitted function that runs ``function`` of one trial on the devices of each.

    Along ``data`` and ``memory`` devices run it on the same arguments, split tables aside, and
    share the work where the function asks `smf_jax.mesh` for it.

    Args:
      function: of one trial, without a trial axis; its outputs come stacked.
      mesh: the size of its axis ``trial`` is the number of trials side by side.
      per_trial: for each argument, whether it carries a leading trial axis; the others are shared.
      donate: arguments whose buffers the outputs take over.
      traced: called whenever a program is made of it.
    """

    def local(*arguments: Any) -> Any:
        own = [
            jax.tree.map(lambda leaf: leaf[0], argument) if stacked else argument
            for argument, stacked in zip(arguments, per_trial, strict=True)
        ]
        return jax.tree.map(lambda leaf: leaf[None], function(*own))

    def abstract(*arguments: Any) -> Any:
        """The outputs, stacked, of whole tables: which of them are split tables."""
        one = [jax.tree.map(lambda leaf: leaf[:1], a) if s else a
               for a, s in zip(arguments, per_trial, strict=True)]  # fmt: skip
        return jax.eval_shape(local, *one)

    def run(*arguments: Any) -> Any:
        traced()
        leads = [(TRIAL,) if stacked else () for stacked in per_trial]
        specs = tuple(PartitionSpec(*lead) for lead in leads)
        out_specs: Any = PartitionSpec(TRIAL)
        if mesh.shape[MEMORY] > 1:
            pairs = zip(arguments, leads, strict=True)
            specs = tuple(_specs(argument, *lead) for argument, lead in pairs)
            out_specs = _specs(abstract(*arguments), TRIAL)
        mapped = jax.shard_map(
            local, mesh=mesh, in_specs=specs, out_specs=out_specs, check_vma=False
        )
        return mapped(*arguments)

    return jax.jit(run, donate_argnums=tuple(donate))
