"""What a compiled program sends between devices, by the axis of the mesh along which it does."""

import re
from collections import Counter
from math import prod
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

_KINDS = "all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all"
_CALL = re.compile(rf"^\s*(?:ROOT )?\S+ = (.*?) ({_KINDS})(?:-start)?\((.*)$", re.MULTILINE)
_LISTED = re.compile(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{} ]*\})\}")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_SHAPE = re.compile(r"(pred|[suf]\d+|bf16)\[([\d,]*)\]")
_BYTES = {"pred": 1, "bf16": 2}


class Collective(NamedTuple):
    """One operation that devices do together."""

    axis: str  # of the mesh, several joined by +
    kind: str  # as in the program's text
    shapes: tuple[str, ...]  # of its results, as f32[8,16]

    @property
    def bytes(self) -> int:
        """Of its results."""
        return sum(map(_bytes_of, self.shapes))

    def __str__(self) -> str:
        return f"{self.axis} {self.kind} {' '.join(self.shapes)}"


def collectives(text: str, mesh: Mesh) -> list[Collective]:
    """Those of a program's text, compiled for the devices of a mesh in its order."""
    found = []
    for results, kind, rest in _CALL.findall(text):
        shapes = tuple(f"{kind_of}[{sizes}]" for kind_of, sizes in _SHAPE.findall(results))
        if axis := _axis(rest, mesh):
            found.append(Collective(axis, kind, shapes))
    return found


def by_axis(found: list[Collective]) -> dict[str, dict[str, int]]:
    """How many of each kind there are along each axis."""
    axes: dict[str, Counter[str]] = {}
    for each in found:
        axes.setdefault(each.axis, Counter())[each.kind] += 1
    return {axis: dict(kinds) for axis, kinds in sorted(axes.items())}


def _axis(rest: str, mesh: Mesh) -> str:
    """The axes along which the devices of a group differ; empty where groups are of one device."""
    groups = _groups(rest)
    shape = tuple(mesh.shape.values())
    groups = groups or [list(range(prod(shape)))]
    places = np.stack(np.unravel_index(np.asarray(groups), shape))
    differ = (places != places[:, :, :1]).any(axis=(1, 2))
    return "+".join(name for name, along in zip(mesh.shape, differ, strict=True) if along)


def _groups(rest: str) -> list[list[int]]:
    if listed := _LISTED.search(rest):
        inner = re.findall(r"\{([\d, ]*)\}", listed[1])
        return [[int(each) for each in group.split(",")] for group in inner if group.strip()]
    if iota := _IOTA.search(rest):
        sizes, dims, order = (
            [int(each) for each in part.split(",")] if part else [] for part in iota.groups()
        )
        numbers = np.arange(prod(dims)).reshape(dims)
        return (numbers.transpose(order) if order else numbers).reshape(sizes).tolist()
    return []


def _bytes_of(shape: str) -> int:
    kind, sizes = _SHAPE.findall(shape)[0]
    width = _BYTES.get(kind) or int(kind[1:]) // 8
    return width * prod(int(size) for size in sizes.split(",") if size)
