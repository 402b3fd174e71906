"""Suite ``real_size``: steps of Qwen2.5-0.5B's shape with the memory of 2604.05248, random weights.

``python -m benchmarks.real_size TASK`` takes the steps of one method and tells its peak memory.
"""

import json
import sys
import time
from typing import Any

import jax

from benchmarks import models
from benchmarks.flags import BenchmarkConfig
from benchmarks.machine import ask_child, free_bytes, peak_bytes
from benchmarks.report import Entry, Report
from experiments.report.tables import size
from smf_jax.memory.config import MemoryConfig
from smf_jax.models.config import MemoryPlacement
from smf_jax.params import count_parameters

SUITE, SHAPE = "real_size", "qwen2.5-0.5b"
MEMORY = MemoryConfig(keys_per_half=128, heads=4, reads=16, key_width=256, value_width=896)
PLACEMENT = MemoryPlacement((6, 12, 18), "replace", MEMORY)
_DTYPES = ("bfloat16", "float32")  # frozen weights as checkpoints store them
_ROWS, _LENGTH, _STEPS = 4, 128, 3


def run(flags: BenchmarkConfig, report: Report) -> None:
    """Takes three steps of each method; alone in a process, where peak memory is that of one."""
    alone = flags.peak and jax.default_backend() == "cpu"
    setting = {"model": SHAPE, "table_slots": MEMORY.slots, "tokens": _ROWS * _LENGTH}
    for name in (models.SMF, models.LORA):
        task = {"name": name, "scale": flags.scale, "budget": flags.budget}
        try:
            found = ask_child("benchmarks.real_size", task) if alone else take_steps(**task)
        except ValueError as error:
            report.skip(f"{SUITE}, {name}", str(error))
            continue
        report.add(Entry(SUITE, name, setting), **found)


def take_steps(name: str, scale: float, budget: int) -> dict[str, Any]:
    """Compiles a method's step and takes three, if there is room; tells seconds and memory."""
    config = models.placed(SHAPE, PLACEMENT, scale)
    batches = models.random_batches(config, _ROWS, _LENGTH, _STEPS)
    program, start = models.compile_step(name, config, batches, budget, *_DTYPES)
    needed, free = program.memory["total"], free_bytes()
    if free is not None and needed > free:
        raise ValueError(f"needs {size(needed)}, {size(free)} are free")
    call, seconds = start(), []
    for number in range(_STEPS):
        begun = time.perf_counter()
        _, loss = jax.block_until_ready(call(number))
        seconds.append(time.perf_counter() - begun)
        if not jax.numpy.isfinite(loss):
            raise FloatingPointError(f"step {number} of {name} was not finite: loss {loss}")
    size_of = count_parameters(models.abstract_leaves(config))
    told = {"compile_seconds": program.compile_seconds, "parameters": size_of}
    last = {"first_step_seconds": seconds[0], "peak_bytes": peak_bytes()}
    return {"seconds": seconds, **told, **last}


if __name__ == "__main__":
    print(json.dumps(take_steps(**json.loads(sys.argv[1]))))
