"""A hashed table on the host or the device: ``python -m benchmarks.host_table [KEYS [WIDTH]]``.

Ten sparse steps of a small decoder whose memory is read by hashes of the last tokens, once with its
``KEYS²`` rows on the device, once with the rows of each batch fetched ahead of its step. Told as
JSON: seconds of a step, and the bytes of the table's arrays on the device. On a CPU device and host
are one memory: bytes are then those that an accelerator would hold, and a fetch is a copy that
crosses no bus, so that the seconds say what gathering and waiting cost, not what a bus does.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from smf_jax.data.batching import Batch
from smf_jax.memory.config import MemoryConfig
from smf_jax.memory.ngrams import ngram_slots, recent_tokens
from smf_jax.models.config import MemoryPlacement, ModelConfig
from smf_jax.models.decoder import Decoder, init_params
from smf_jax.params import count_bytes, flatten, pool_path
from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.training.host_tables import HostTable, host_steps
from smf_jax.training.sparse_config import SparseConfig
from smf_jax.training.sparse_trainer import sparse_trainer
from smf_jax.training.step import Settings, Shared

POOL, ROWS, LENGTH, STEPS, BUDGET = pool_path(1), 16, 64, 10, 64


def decoder_of(keys: int, width: int) -> Decoder:
    """Two blocks, the second of which reads a hashed memory."""
    memory = MemoryConfig(keys, 4, value_width=width, gate="none", router="ngram")
    placement = MemoryPlacement((1,), "add", memory, alpha=None, init_rows="zero")
    sizes: dict[str, Any] = {"vocabulary": 1000, "width": width, "layers": 2}
    sizes |= {"heads": 4, "key_value_heads": 4}
    wide: dict[str, Any] = {"head_width": width // 4, "hidden_width": 4 * width}
    return Decoder(ModelConfig("llama", **sizes, **wide, memory=placement))


def batches() -> list[Batch]:
    """Random tokens that predict random ones."""
    tokens = np.random.default_rng(0).integers(0, 1000, (STEPS, 2, ROWS, LENGTH)).astype(np.int32)
    ones = np.ones((ROWS, LENGTH), np.float32)
    return [Batch(pair[0], pair[1], ones, ones > 0) for pair in tokens]


def slots_on_cpu(memory: MemoryConfig) -> Callable[[Batch], dict[str, np.ndarray]]:
    """The slots of a batch, computed by a CPU: a device that steps is not waited for."""

    @jax.jit
    def slots(tokens: jax.Array, valid: jax.Array) -> jax.Array:
        recent = recent_tokens(tokens, valid, memory.max_ngram).tokens
        return ngram_slots(recent, memory.heads, memory.slots)

    def of_batch(batch: Batch) -> dict[str, np.ndarray]:
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            return {POOL: np.asarray(slots(batch.tokens, batch.valid))}

    return of_batch


def measure(keys: int, width: int) -> dict[str, Any]:
    """Both ways, one after the other."""
    model = decoder_of(keys, width)
    assert model.config.memory is not None
    memory, made = model.config.memory.memory, batches()
    leaves = flatten(init_params(model.config, jax.random.key(0)))
    settings = Settings(jnp.float32(0.1), jnp.int32(BUDGET), jnp.uint32(0))
    config = SparseConfig(rule="tf", size=BUDGET, optimizer=OptimizerConfig("adam"))
    trainer = sparse_trainer(model, config, STEPS * BUDGET)
    step = jax.jit(trainer.step, donate_argnums=1)
    found: dict[str, Any] = {"backend": jax.default_backend(), "rows": keys**2, "width": width}

    def told(name: str, table_bytes: int, seconds: list[float]) -> None:
        found[f"{name}_table_bytes_on_device"] = table_bytes
        found[f"{name}_step_seconds"] = float(np.median(seconds[2:]))

    params = {**leaves, POOL: jnp.zeros((keys**2, width), jnp.float32)}
    shared, state = Shared(trainer.frozen(params), None), trainer.begin(params, settings)
    del params
    seconds = []
    for batch in made:
        began = time.monotonic()
        state, _ = jax.block_until_ready(step(shared, state, batch, settings))
        seconds.append(time.monotonic() - began)
    on_device = np.asarray(state.tables[POOL])
    told("device", count_bytes(state.tables), seconds)
    del state

    room = ROWS * LENGTH * memory.reads_per_token
    host = HostTable(np.zeros((keys**2, width), np.float32), room)
    params = {**leaves, POOL: host.fetch(np.arange(0)).table}
    state, seconds, last = trainer.begin(params, settings), [], 0
    began = time.monotonic()
    given = made, settings, {POOL: host}, slots_on_cpu(memory)
    for after, _ in host_steps(step, shared, state, *given):
        jax.block_until_ready(after.tables)
        seconds.append(time.monotonic() - began)
        began, last = time.monotonic(), count_bytes(after.tables)
    told("host", last, seconds)
    found["largest_difference"] = float(np.abs(host.values - on_device).max())
    return found


def main(keys: str = "256", width: str = "64") -> int:
    """Prints one line of JSON; 1 if the two ways differ by more than rounding."""
    found = measure(int(keys), int(width))
    print(json.dumps(found))
    return 0 if found["largest_difference"] < 1e-4 else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
