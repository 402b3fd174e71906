"""Which devices run what: the mesh of a trial group, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from tempfile import TemporaryDirectory
from typing import Any

import jax
from jax.sharding import Mesh

from smf_jax import checkpoints, processes
from smf_jax.configuration import Configuration, setting
from smf_jax.mesh import DATA, MEMORY, TRIAL, make_mesh, mesh_sizes
from smf_jax.models.config import MemoryPlacement
from smf_jax.paths import as_path, copy
from smf_jax.split_tables import TableLayout, check_split


@dataclass(frozen=True)
class ProcessConfig(Configuration):
    """Whether several processes run as one, and which of them this is."""

    distributed: bool = setting(
        False,
        "several processes run as one, each with this command, and share a mesh; who they are is "
        "known from Cloud TPU, SLURM, Open MPI or Kubernetes, else from --coordinator",
    )
    coordinator: str = setting("", "HOST:PORT of the first of several processes")
    processes: int = setting(0, "how many there are", least=0)
    process: int = setting(-1, "which of them this is, from 0")

    def __post_init__(self) -> None:
        super().__post_init__()
        given = bool(self.coordinator)
        if given != (self.processes > 0) or given != (self.process >= 0):
            raise ValueError(
                f"--coordinator={self.coordinator} --processes={self.processes} "
                f"--process={self.process}: expected all three, or none of them"
            )
        if given and self.process >= self.processes:
            raise ValueError(
                f"--process={self.process}: expected less than --processes={self.processes}"
            )

    @property
    def are_several(self) -> bool:
        """Whether several processes are to run as one."""
        return self.distributed or bool(self.coordinator)


@dataclass(frozen=True)
class DeviceConfig(ProcessConfig):
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


@contextmanager
def as_one_program(told: ProcessConfig, out: str) -> Iterator[str]:
    """Joins the processes that run as one; yields the directory that this one writes.

    That is ``out`` in the first. Every other has a copy of what stands there, which goes when the
    block ends: so all find the same, and one alone writes what is kept. A program is joined once:
    of blocks within each other the outermost does it, for all that run in it.
    """
    if not told.are_several or checkpoints.copies.on:
        yield out
        return
    processes.join(told.coordinator, told.processes, told.process)
    with ExitStack() as held:
        own = not processes.is_first()
        scratch = [held.enter_context(TemporaryDirectory(prefix="smf_jax-"))] if own else []
        held.enter_context(processes.together(*scratch))
        checkpoints.copies.on = True
        held.callback(setattr, checkpoints.copies, "on", False)
        for place in scratch:
            source, out = as_path(out), str(as_path(place) / as_path(out).name)
            if source.exists():
                copy(source, as_path(out))
        processes.wait_for_all("before anything is written")
        yield out


def mesh_for(told: DeviceConfig, trials: int) -> Mesh:
    """The mesh of a group; of devices for more trials than there are the first are taken.

    Where several processes run as one, all devices are, as none may stand aside.
    """
    sizes = told.sizes
    if not processes.are_several():
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
    if placement.init_rows == "zero" and told.table_layout == "rows":
        raise ValueError(
            "--table_layout=rows: a table that starts at zero holds its rows in the order in which "
            "they were written, so that no device has some of its slots; choose columns, or "
            "retrofit with --memory_init=normal"
        )
    check_split("the memory", (memory.slots, memory.value_width), parts, told.table_layout)
