"""Which devices run what: the mesh of a trial group, and what it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
from jax.sharding import Mesh

from smf_jax.configuration import Configuration, setting
from smf_jax.mesh import DATA, MEMORY, TRIAL, make_mesh, mesh_sizes
from smf_jax.models.config import MemoryPlacement
from smf_jax.split_tables import TableLayout, check_split


@dataclass(frozen=True)
class DeviceConfig(Configuration):
    """How a sweep uses the devices that it has."""

    mesh: str = setting(
        "",
        "devices along the axes of the mesh, as in trial:4,data:2,memory:1: trials side by side, "
        "devices that share a batch, devices that share the tables; empty: all along trial",
    )
    table_layout: TableLayout = setting(
        "columns",
        "what of a table a device along memory has: columns, some numbers of every row; rows, all "
        "numbers of some rows",
    )

    @property
    def sizes(self) -> dict[str, int]:
        """Of all axes, for the devices that there are; ValueError if they do not make them up."""
        return mesh_sizes(self.mesh, len(all_devices()))


def all_devices() -> Sequence[Any]:
    """Those of every process, where several run as one."""
    return jax.devices() if jax.process_count() > 1 else jax.local_devices()


def mesh_for(told: DeviceConfig, trials: int) -> Mesh:
    """The mesh of a group; of devices for more trials than there are the first are taken."""
    sizes = told.sizes
    sizes[TRIAL] = min(sizes[TRIAL], trials)
    return make_mesh(sizes, all_devices()[: prod(sizes.values())])


def check_rows(told: DeviceConfig, rows: int, flags: str) -> None:
    """Refuses so many rows, as flags say, that devices along ``data`` do not divide."""
    if rows % (parts := told.sizes[DATA]):
        raise ValueError(
            f"{flags}: --mesh={told.mesh} shares {rows} rows among {parts} devices, which do not "
            "divide them; choose a multiple"
        )


def check_tables(told: DeviceConfig, placement: MemoryPlacement | None) -> None:
    """Refuses memories whose tables cannot be shared as told."""
    parts = told.sizes[MEMORY]
    if parts == 1 or placement is None:
        return
    memory, remedy = placement.memory, "leave memory out of --mesh"
    if memory.experts:
        raise ValueError(f"--mesh={told.mesh}: tables of experts are not split; {remedy}")
    if placement.init_rows == "zero":
        raise ValueError(
            f"--mesh={told.mesh}: tables that start at zero hold the rows that were written, and "
            f"are not split; {remedy}, or retrofit with --memory_init=normal"
        )
    check_split("the memory", (memory.slots, memory.value_width), parts, told.table_layout)
