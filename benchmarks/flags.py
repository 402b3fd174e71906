"""What the benchmarks can be told."""

import math
from dataclasses import dataclass

from benchmarks.costs import BlockShape
from smf_jax.configuration import Configuration, PathText, setting
from smf_jax.errors import blame_flag
from smf_jax.memory.config import MemoryConfig

ON_THIS_MACHINE = ("read", "lookup", "step", "train", "sweep", "generate")
SUITES = (*ON_THIS_MACHINE, "depth", "real_size", "accelerator", "tpu", "mesh")
_WHAT, _BLOCK, _OUT = "What is measured", "The memory block", "Output"
_SLOTS = "16384,65536,262144,1048576,4194304"


@dataclass(frozen=True)
class BenchmarkConfig(Configuration):
    """What ``python -m benchmarks`` is told."""

    suite: str = setting("all", f"any of {', '.join(SUITES)}; all: the first six", heading=_WHAT)
    table_slots: str = setting(_SLOTS, "table slots, each a square number", heading=_WHAT)
    repetitions: int = setting(30, "samples of each case, in turns", heading=_WHAT, least=1)
    torch: bool = setting(True, "also time EmbeddingBag(sparse=True), if installed", heading=_WHAT)
    peak: bool = setting(True, "also take peak memory, in processes of their own", heading=_WHAT)
    scale: float = setting(1.0, "shrinks models, accelerator, tpu and mesh", heading=_WHAT, above=0)
    topology: str = setting("v5e:2x4", "what the suites tpu and mesh compile for", heading=_WHAT)
    tokens: int = setting(512, "tokens t in a step", heading=_BLOCK, least=1)
    width: int = setting(256, "model width d and value width v", heading=_BLOCK, least=1)
    memory_heads: int = setting(4, "heads h", heading=_BLOCK, least=1)
    reads: int = setting(32, "reads per head k", heading=_BLOCK)
    key_width: int = setting(256, "key width kd, both halves together", heading=_BLOCK)
    budget: int = setting(512, "rows that a step may change", heading=_BLOCK, least=1)
    out: PathText = setting("", "directory to make, of results.json and results.md", heading=_OUT)
    overwrite: bool = setting(False, "replace what an earlier run left at --out", heading=_OUT)
    markdown: bool = setting(False, "print the tables in Markdown at the end", heading=_OUT)

    def suites(self) -> tuple[str, ...]:
        """The suites to run; refuses those that do not exist."""
        names = tuple(name.strip() for name in self.suite.split(","))
        if names == ("all",):
            return ON_THIS_MACHINE
        for name in names:
            if name not in SUITES:
                known = ", ".join((*SUITES, "all"))
                raise ValueError(f"--suite={self.suite}: {name!r} is unknown; choose from {known}")
        if {"tpu", "mesh"} & set(names) and len(names) > 1:
            why = "what compiles for a machine that is not here times nothing; run it by itself"
            raise ValueError(f"--suite={self.suite}: {why}")
        return names

    def slots(self) -> tuple[int, ...]:
        """Table slots, ascending; refuses what is no square number, or too small for --reads."""
        where = f"--table_slots={self.table_slots}"
        try:
            counts = sorted({int(word) for word in self.table_slots.split(",")})
        except ValueError:
            raise ValueError(f"{where}: expected whole numbers, as in 16384,65536") from None
        for count in counts:
            half = math.isqrt(max(count, 1))
            if half**2 != count:
                near = f"{half**2} or {(half + 1) ** 2}"
                raise ValueError(f"{where}: {count} is not a square number; try {near}")
            if half < self.reads:
                fewer = f"fewer than --reads={self.reads}; give at least {self.reads**2}"
                raise ValueError(f"{where}: {count} slots have {half} keys per half, {fewer}")
        return tuple(counts)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.suites()
        if self.scale > 1:
            raise ValueError(f"--scale={self.scale}: expected at most 1, the shapes as they are")
        if self.budget > self.slots()[0]:
            least = f"the smallest of --table_slots={self.table_slots}; lower it"
            raise ValueError(f"--budget={self.budget} is more rows than {least}")
        self.blocks()

    def block(self, slots: int) -> BlockShape:
        shape = (math.isqrt(slots), self.memory_heads, self.reads, self.key_width, self.width)
        with blame_flag("--"):
            return BlockShape(MemoryConfig(*shape), self.tokens, self.width, self.budget)

    def blocks(self) -> tuple[BlockShape, ...]:
        return tuple(map(self.block, self.slots()))
