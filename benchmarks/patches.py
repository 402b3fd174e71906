"""How long it takes to put another of many patches over one base in force, as JSON.

``python -m benchmarks.patches --patches=1000 --table_slots=262144`` chooses every patch once, in
random order, and then tells whether the base came back bit for bit.
"""

import json
import time
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.machine import describe_machine
from experiments.cli import run
from smf_jax.configuration import Configuration, setting
from smf_jax.params import pool_path
from smf_jax.progress import say
from smf_jax.sparse.patch import make_patch, pool_change
from smf_jax.sparse.patch_choice import PatchChoice

POOL, BASE = pool_path(0), "b" * 64


@dataclass(frozen=True)
class PatchesConfig(Configuration):
    """What is chosen among, and on what."""

    patches: int = setting(1000, "patches over the base", least=2)
    rows: int = setting(512, "rows that each of them changes", least=1)
    table_slots: int = setting(2**18, "rows of the table", least=1)
    width: int = setting(256, "numbers of a row", least=1)
    on_host: bool = setting(False, "the table in NumPy, instead of on the device")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rows > self.table_slots:
            raise ValueError(f"--rows={self.rows}: expected at most --table_slots")


def measure(config: PatchesConfig) -> dict[str, object]:
    """Chooses every patch once; milliseconds of a choice, the table ready at its end."""
    rng = np.random.default_rng(0)
    table = rng.standard_normal((config.table_slots, config.width), np.float32)
    patches = {}
    for number in range(config.patches):
        slots = np.sort(rng.choice(config.table_slots, config.rows, replace=False))
        new = rng.standard_normal((config.rows, config.width), np.float32)
        change = pool_change(slots, table[slots], new, config.table_slots)
        patches[str(number)] = make_patch(
            {POOL: change}, {}, task=str(number), base=BASE, parent=BASE
        )
    choice = PatchChoice({POOL: table if config.on_host else jnp.asarray(table)}, patches, BASE)
    choice.choose("0")  # compiles
    order, seconds = rng.permutation(config.patches), []
    for number in order:
        began = time.perf_counter()
        choice.choose(str(number))
        jax.block_until_ready(choice.params[POOL])
        seconds.append(time.perf_counter() - began)
    last = patches[str(order[-1])].pools[POOL]
    chosen = np.asarray(choice.params[POOL])[last.slots].tobytes() == last.new.tobytes()
    choice.choose(None)
    came_back = np.asarray(choice.params[POOL]).tobytes() == table.tobytes()
    spread = np.percentile(seconds, [50, 95, 100]) * 1e3
    return {
        **config.values(),
        "median_ms": round(float(spread[0]), 3),
        "p95_ms": round(float(spread[1]), 3),
        "most_ms": round(float(spread[2]), 3),
        "chosen_to_the_bit": chosen,
        "base_came_back": came_back,
        "machine": describe_machine(),
    }


def main(config: PatchesConfig) -> int:
    """Prints what was measured; 1 if a bit was wrong."""
    told = measure(config)
    say(json.dumps(told))
    return 0 if told["chosen_to_the_bit"] and told["base_came_back"] else 1


if __name__ == "__main__":
    run(
        main,
        PatchesConfig,
        "time how long another of many patches over one base takes",
        "python -m benchmarks.patches --patches=1000",
    )
