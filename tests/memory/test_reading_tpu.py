"""The read and its gradients as a TPU's compiler makes them; skipped where there is no libtpu.

The compiler runs in a process of its own: it wants settings that must be there before JAX is.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 64 * 2**20

# 4,096 tokens of 128 reads of a table of 1M rows of 1,024 numbers: 2 GiB of rows are gathered.
PROGRAM = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from smf_jax.memory.reading import read, row_products, table_gradient

devices = topologies.get_topology_desc("v5e:2x2", platform="tpu").devices
mesh = Mesh(np.array(devices[:1]), ("x",), axis_types=(AxisType.Auto,))
place = NamedSharding(mesh, PartitionSpec())
slots, width, tokens, reads = 2**20, 1024, 4096, 128

def of(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=place)

table, vectors, weights = of(slots, width), of(tokens, width), of(tokens, reads)
ids = of(tokens, reads, dtype=jnp.int32)
plain = lambda v, s, w: jnp.sum(w[:, :, None] * v[s], axis=1)
programs = {
    "plain": (plain, table, ids, weights),
    "read": (read, table, ids, weights),
    "row_products": (row_products, table, ids, vectors),
    "table_gradient": (lambda g, s, w: table_gradient(g, s, w, slots), vectors, ids, weights),
}
found = {}
for name, (function, *given) in programs.items():
    found[name] = jax.jit(function).lower(*given).compile().memory_analysis().temp_size_in_bytes
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def temporaries():
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("no libtpu: install the one that jax[tpu] names")
    settings = {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answers = [line for line in done.stdout.splitlines() if line.startswith('{"plain"')]
    return json.loads(answers[-1])


def test_a_plain_read_holds_all_gathered_rows(temporaries):
    assert temporaries["plain"] >= 2**31


@pytest.mark.parametrize("name", ["read", "row_products", "table_gradient"])
def test_a_read_and_its_gradients_hold_little(temporaries, name):
    assert temporaries[name] <= LIMIT
