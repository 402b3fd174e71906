"""Twenty recorded steps of two pools, for tests of update rules that must not see a model."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numpy as np

from smf_jax.sparse.rows import ReadTrace
from tests import oracles

STEPS, PLACES = 20, 8
# Pool: table slots, value width, layers that read it.
POOLS = {"memory/pool_1/values": (40, 5, 2), "memory/pool_4/values": (24, 3, 1)}


class Step(NamedTuple):
    """What one step is given."""

    reads: dict[str, list[ReadTrace]]
    slots: dict[str, np.ndarray]

    def dense_gradients(self) -> dict[str, np.ndarray]:
        """The whole tables' gradients."""
        return {
            pool: sum(
                (
                    oracles.table_gradient(
                        np.asarray(read.cotangent),
                        np.asarray(read.slots),
                        np.asarray(read.weights),
                        POOLS[pool][0],
                    )
                    for read in reads
                ),
                start=np.zeros(()),
            )
            for pool, reads in self.reads.items()
        }


def tables(dtype: type = np.float64) -> dict[str, np.ndarray]:
    """Tables whose rows hold every kind of number, ``-0.0`` among them."""
    rng = np.random.default_rng(99)
    made = {}
    for pool, (slots, width, _) in POOLS.items():
        values = rng.standard_normal((slots, width))
        values[::3, 0] = -0.0
        values[1] = -0.0
        made[pool] = values.astype(dtype)
    return made


def steps(dtype: type = np.float64) -> list[Step]:
    """Twenty steps whose selections change: distinct ids in no order, some places unused."""
    rng = np.random.default_rng(7)
    made = []
    for _ in range(STEPS):
        reads, slots = {}, {}
        for pool, (table_slots, width, layers) in POOLS.items():
            reads[pool] = [
                ReadTrace(
                    cast(Any, rng.integers(0, table_slots, (6, 4)).astype(np.int32)),
                    cast(Any, rng.random((6, 4)).astype(dtype)),
                    cast(Any, rng.standard_normal((6, width)).astype(dtype)),
                )
                for _ in range(layers)
            ]
            accessed = np.unique(np.concatenate([read.slots.ravel() for read in reads[pool]]))
            picked = rng.permutation(accessed)[: rng.integers(0, PLACES + 1)]
            slots[pool] = np.full(PLACES, table_slots, np.int32)
            slots[pool][: len(picked)] = picked
        made.append(Step(reads, slots))
    return made
