"""A model of one's own learns a few facts with the fast step: ``python -m examples.own_model``.

The Transformer below knows nothing of `smf_jax.models`. Two of its blocks read one memory where a
feed-forward would stand; `memory_model` is told by path which layers those are. From there on
everything is as for any other model: measure a background, begin, step.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from smf_jax.data.batching import Batch
from smf_jax.memory.layer import MemoryConfig, MemoryLayer, MemoryPool
from smf_jax.params import Params, flatten
from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.training.background import measure_background
from smf_jax.training.memory_model import memory_model
from smf_jax.training.sparse_config import SparseConfig
from smf_jax.training.sparse_trainer import sparse_trainer
from smf_jax.training.step import Settings, Shared

FACTS = (
    "the capital of Ruritania is Strelsau",
    "the capital of Freedonia is Fredville",
    "the capital of Syldavia is Klow",
    "the capital of Borduria is Szohod",
    "the river of Syldavia is Wladir",
    "the river of Ruritania is Eibe",
)
WORDS = sorted({word for fact in FACTS for word in fact.split()})
LENGTH = max(len(fact.split()) for fact in FACTS) - 1
WIDTH, BUDGET, STEPS = 32, 48, 100
MEMORY = MemoryConfig(keys_per_half=16, heads=2, reads=4, key_width=16, value_width=WIDTH)
TABLE = "pool/values"


class Transformer(nn.Module):
    """Three blocks of attention and, in turn, a feed-forward, a memory, the same memory."""

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "b t"], valid: Bool[Array, "b t"]
    ) -> Float[Array, "b t words"]:
        """Logits of the next word at every place."""
        start = nn.initializers.normal(1.0)
        places = self.param("places", start, (LENGTH, WIDTH))
        x = nn.Embed(len(WORDS), WIDTH, embedding_init=start, name="embed")(tokens) + places[None]
        mask = nn.combine_masks(nn.make_causal_mask(tokens), nn.make_attention_mask(valid, valid))
        pool = MemoryPool(MEMORY, name="pool")
        for block in range(3):  # a Python loop: nn.scan would drop what the memories sow
            y = nn.LayerNorm(name=f"norm_{block}")(x)
            attention = nn.MultiHeadDotProductAttention(num_heads=2, name=f"attention_{block}")
            x += attention(y, mask=mask)
            y = nn.LayerNorm(name=f"second_norm_{block}")(x)
            if block == 0:
                x += nn.Dense(WIDTH, name="out")(nn.gelu(nn.Dense(4 * WIDTH, name="in")(y)))
            else:
                memory = MemoryLayer(MEMORY, WIDTH, dtype=x.dtype, name=f"memory_{block}")
                x += memory(y, pool(), valid)
        return nn.Dense(len(WORDS), name="head")(nn.LayerNorm(name="last_norm")(x))


MODEL = memory_model(Transformer(), {TABLE: ["memory_1", "memory_2"]})


def fresh_params(seed: int = 0) -> Params:
    """Leaves by path; a real model would bring pretrained ones."""
    shape = (1, LENGTH)
    variables = jax.jit(Transformer().init)(
        jax.random.key(seed), jnp.zeros(shape, int), jnp.ones(shape, bool)
    )
    return flatten(variables["params"])


def make_batch(facts: Sequence[str]) -> Batch:
    """One row a fact: each word is predicted from those before it, the last one counts most."""
    ids = np.array([[WORDS.index(word) for word in fact.split()] for fact in facts], np.int32)
    weights = np.full((len(facts), LENGTH), 0.1, np.float32)
    weights[:, -1] = 1
    return Batch(ids[:, :-1], ids[:, 1:], weights, np.ones(weights.shape, bool))


def general_text(batches: int = 16, rows: int = 8) -> Batch:
    """Stands in for text that a real model must not forget: words in any order."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, len(WORDS), (batches, rows, LENGTH + 1)).astype(np.int32)
    ones = np.ones((batches, rows, LENGTH), np.float32)
    return Batch(ids[..., :-1], ids[..., 1:], ones, ones > 0)


def main() -> int:
    """Teaches the facts, prints what it did, and gives back how many are answered afterwards."""
    params, batch = fresh_params(), make_batch(FACTS)
    background = measure_background(MODEL, params, general_text(), corpus="words", tokenizer="none")
    config = SparseConfig(rule="tfidf", optimizer=OptimizerConfig("adam"))
    trainer = sparse_trainer(MODEL, config, capacity=MEMORY.slots)
    settings = Settings(jnp.asarray(0.3), jnp.asarray(BUDGET), jnp.asarray(0))
    shared = Shared(trainer.frozen(params), background.pools)
    # A copy, since each step takes over the table of the state that it is given.
    state = jax.tree.map(jnp.copy, trainer.begin(params, settings))
    step = jax.jit(trainer.step, donate_argnums=1)
    for number in range(STEPS):
        state, metrics = step(shared, state, batch, settings)
        if number % 33 == 0:
            print(f"step {number + 1}: loss {metrics.loss:.3f}, {metrics.selected} rows written")
    logits = trainer.logits(shared, state, batch.tokens, batch.valid)
    right = np.argmax(logits[:, -1], axis=-1) == batch.targets[:, -1]
    moved = np.any(state.tables[TABLE] != params[TABLE], axis=1)
    print(f"{right.sum()} of {len(FACTS)} facts answered; {moved.sum()} of {moved.size} rows moved")
    return int(right.sum())


if __name__ == "__main__":
    main()
