"""Meshes, and running trials side by side over the devices of one.

What `pmap` once did is a `shard_map` over a named axis here: every device runs the same program
on its own trial, and the frozen base is placed once per device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

TRIAL = "trial"
DATA = "data"


def device_mesh(axis: str, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of one automatic axis, `TRIAL` or `DATA`, over all local devices or those given."""
    devices = jax.local_devices() if devices is None else devices
    return jax.make_mesh((len(devices),), (axis,), axis_types=(AxisType.Auto,), devices=devices)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Places every leaf once on each device of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def split_over(tree: Any, mesh: Mesh, axis: int = 0) -> Any:
    """Places every leaf split along one of its axes over the mesh's only axis."""
    spec = PartitionSpec(*([None] * axis), mesh.axis_names[0])
    return jax.device_put(tree, NamedSharding(mesh, spec))


def stack(trees: Sequence[Any]) -> Any:
    """Stacks the leaves of equal trees along a new leading axis, the trial."""
    return jax.tree.map(lambda *params: jnp.stack(params), *trees)


def unstack(tree: Any, index: int, rows: Any = None) -> Any:
    """One trial's leaves of a stacked tree, bit for bit, still on the device that holds them.

    The trials are the leading axis; of each leaf only ``rows`` where these are given.
    """

    def own(leaf: Any) -> Any:
        # Indexing a split array sums its masked shards, which makes 0.0 of -0.0.
        for shard in getattr(leaf, "addressable_shards", ()):
            first, end, _ = shard.index[0].indices(leaf.shape[0])
            if first <= index < end:
                leaf, place = shard.data, index - first
                return leaf[place] if rows is None else leaf[place, rows]
        return leaf[index] if rows is None else leaf[index, rows]

    return jax.tree.map(own, tree)


def restack(trees: Sequence[Any], mesh: Mesh) -> Any:
    """The inverse of `unstack` for all trials of a mesh, each on its device, which nothing leaves.

    The trees are equal but for their numbers.
    """
    sharding = NamedSharding(mesh, PartitionSpec(TRIAL))

    def joined(*leaves: Any) -> Any:
        shape = (len(leaves), *leaves[0].shape)
        parts = [leaf[None] for leaf in leaves]
        return jax.make_array_from_single_device_arrays(shape, sharding, parts)

    return jax.tree.map(joined, *trees)


def over_trials(
    function: Callable[..., Any],
    mesh: Mesh,
    per_trial: Sequence[bool],
    donate: Sequence[int] = (),
) -> Callable[..., Any]:
    """A jitted function that runs ``function`` of one trial on every device, each on its own.

    Args:
      function: of one trial, without a trial axis; its outputs come stacked.
      mesh: from `device_mesh(TRIAL)`; its size is the number of trials side by side.
      per_trial: for each argument, whether it carries a leading trial axis; the others are shared.
      donate: arguments whose buffers the outputs take over.
    """

    def local(*arguments: Any) -> Any:
        own = [
            jax.tree.map(lambda leaf: leaf[0], argument) if stacked else argument
            for argument, stacked in zip(arguments, per_trial, strict=True)
        ]
        return jax.tree.map(lambda leaf: leaf[None], function(*own))

    specs = tuple(PartitionSpec(TRIAL) if stacked else PartitionSpec() for stacked in per_trial)
    mapped = jax.shard_map(
        local, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(TRIAL), check_vma=False
    )
    return jax.jit(mapped, donate_argnums=tuple(donate))
