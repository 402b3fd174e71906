"""What the benchmarks can be told."""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks.costs import BlockShape
from smf_jax.configuration import Configuration, setting
from smf_jax.errors import blame_flag
from smf_jax.memory.config import MemoryConfig

ON_THIS_MACHINE = ("read", "lookup", "step", "train", "sweep", "generate")
SUITES = (*ON_THIS_MACHINE, "real_size", "accelerator", "tpu")
_WHAT, _BLOCK, _OUT = "What is measured", "The memory block", "Output"
_SLOTS = "16384,65536,262144,1048576,4194304"


@dataclass(frozen=True)
class BenchmarkConfig(Configuration):
    """What ``python -m benchmarks`` is told."""

    suite: str = setting(
        "all", heading=_WHAT, help=f"any of {', '.join(SUITES)}; all: the first six"
    )
    table_slots: str = setting(_SLOTS, heading=_WHAT, help="table slots, each a square number")
    repetitions: int = setting(
        30, heading=_WHAT, help="samples of each case, taken in turns", least=1
    )
    torch: bool = setting(
        True, heading=_WHAT, help="also time EmbeddingBag(sparse=True), where torch is installed"
    )
    peak: bool = setting(
        True, heading=_WHAT, help="also take peak memory, each in a process of its own"
    )
    scale: float = setting(
        1.0,
        heading=_WHAT,
        help="shrinks whole models and the block of accelerator and tpu",
        above=0,
    )
    topology: str = setting("v5e:2x4", heading=_WHAT, help="what the suite tpu compiles for")
    tokens: int = setting(512, heading=_BLOCK, help="tokens t in a step", least=1)
    width: int = setting(256, heading=_BLOCK, help="model width d and value width v", least=1)
    memory_heads: int = setting(4, heading=_BLOCK, help="heads h", least=1)
    reads: int = setting(32, heading=_BLOCK, help="reads per head k")
    key_width: int = setting(256, heading=_BLOCK, help="key width kd, both halves together")
    budget: int = setting(512, heading=_BLOCK, help="rows that a step may change", least=1)
    out: str = setting(
        "", heading=_OUT, help="directory of results.json, results.md, pictures; must not exist"
    )
    overwrite: bool = setting(False, heading=_OUT, help="replace what an earlier run left at --out")
    markdown: bool = setting(
        False, heading=_OUT, help="print the tables in Markdown at the end, to be pasted"
    )

    def suites(self) -> tuple[str, ...]:
        """The suites to run; refuses those that do not exist."""
        if self.suite == "all":
            return ON_THIS_MACHINE
        names = tuple(name.strip() for name in self.suite.split(","))
        for name in names:
            if name not in SUITES:
                known = ", ".join((*SUITES, "all"))
                raise ValueError(f"--suite={self.suite}: {name!r} is unknown; choose from {known}")
        if "tpu" in names and len(names) > 1:
            raise ValueError(
                f"--suite={self.suite}: tpu compiles for a machine that is not here and times "
                "nothing; run it by itself"
            )
        return names

    def slots(self) -> tuple[int, ...]:
        """Table slots, ascending; refuses what is no square number, or too small for --reads."""
        where = f"--table_slots={self.table_slots}"
        try:
            counts = sorted({int(word) for word in self.table_slots.split(",")})
        except ValueError:
            raise ValueError(f"{where}: expected whole numbers, as in 16384,65536") from None
        for count in counts:
            half = math.isqrt(max(count, 0))
            if half < 1 or half * half != count:
                near = f"{max(half, 1) ** 2} or {(half + 1) ** 2}"
                raise ValueError(f"{where}: {count} is not a square number; try {near}")
            if half < self.reads:
                raise ValueError(
                    f"{where}: {count} slots have {half} keys per half, fewer than "
                    f"--reads={self.reads}; give at least {self.reads**2}"
                )
        return tuple(counts)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.suites()
        least = self.slots()[0]
        if self.scale > 1:
            raise ValueError(f"--scale={self.scale}: expected at most 1, the shapes as they are")
        if self.budget > least:
            raise ValueError(
                f"--budget={self.budget} is more rows than the smallest of "
                f"--table_slots={self.table_slots}; lower it"
            )
        self.block(least)

    def block(self, slots: int) -> BlockShape:
        """The memory block with so many table slots."""
        with blame_flag("--"):
            memory = MemoryConfig(
                keys_per_half=math.isqrt(slots),
                heads=self.memory_heads,
                reads=self.reads,
                key_width=self.key_width,
                value_width=self.width,
            )
        return BlockShape(memory, self.tokens, self.width, self.budget)

    def blocks(self) -> tuple[BlockShape, ...]:
        """The memory block at every number of table slots."""
        return tuple(map(self.block, self.slots()))
