"""Prompts and what follows them as rows of ids, split and scored as lm-evaluation-harness does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from smf_jax.data.batching import Batch, pad_pairs
from smf_jax.data.tokenizer import Ids, Tokenizer
from smf_jax.losses import token_losses


class RowScores(NamedTuple):
    """What a model says of the targets of a weight, ``(b,)``: JAX, or NumPy once fetched."""

    log_probability: Any  # their log-probability, summed, nats
    tokens: Any  # how many there are, int32
    greedy: Any  # bool, whether each of them is the likeliest token, given those before it


def row_scores(logits: Float[Array, "b t vocabulary"], batch: Batch) -> RowScores:
    """Scores the targets of weight above 0; ``logits`` float32 at least."""
    counts = batch.weights > 0
    # Masked before the sum: a pad's logits may be anything.
    losses = jnp.where(counts, token_losses(logits, batch.targets), 0)
    right = jnp.argmax(logits, axis=-1) == batch.targets
    return RowScores(
        log_probability=-jnp.sum(losses, axis=-1),
        tokens=jnp.sum(counts, axis=-1, dtype=jnp.int32),
        greedy=jnp.all(right | ~counts, axis=-1),
    )


def encode_pairs(tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]]) -> list[tuple[Ids, Ids]]:
    """Ids of prompts, ``bos`` in front where the model has one, and of what follows; no ``eos``.

    What follows is cut out of the ids of the whole text, behind as many as the prompt has by
    itself: none are left where the two meet inside of a token and no others come after it. Spaces
    at the end of a prompt, which is not empty, go to what follows.
    """
    moved = [(p.rstrip(), p[len(p.rstrip()) :] + follows) for p, follows in pairs]
    prompts = list(dict.fromkeys(prompt for prompt, _ in moved))
    ids = dict(zip(prompts, tokenizer.encode_batch(prompts), strict=True))
    wholes = tokenizer.encode_batch([prompt + follows for prompt, follows in moved])
    return [
        (tokenizer.begin + ids[prompt], whole[len(ids[prompt]) :])
        for (prompt, _), whole in zip(moved, wholes, strict=True)
    ]


def pair_rows(
    pairs: Sequence[tuple[Ids, Ids]], pad: int, positions: int, multiple: int = 8
) -> Batch:
    """One row ``(rows, t)`` for each prompt and what follows it; the latter weighs 1.

    A prompt too long for ``positions`` loses its beginning; ``t`` is rounded up to a ``multiple``.
    Nothing weighs in a row where nothing follows: its score is 0 and greedy, as in those of
    lm-evaluation-harness's models that take it at all. A ValueError tells of no pair, an empty
    prompt, or a second half longer than ``positions``.
    """
    if not pairs:
        raise ValueError("pairs=[]: expected at least one prompt and what follows it")
    for number, (prompt, follows) in enumerate(pairs):
        if not prompt:
            raise ValueError(f"pair {number} has 0 tokens of prompt: expected at least one")
        if len(follows) > positions:
            raise ValueError(
                f"pair {number} has {len(follows)} tokens to score, the model takes {positions}: "
                "leave it out or take a model with more positions"
            )
    cut = [(prompt[len(follows) - positions - 1 :], follows) for prompt, follows in pairs]
    longest = max(2, *(len(prompt + follows) for prompt, follows in cut)) - 1
    return pad_pairs(cut, min(positions, -(-longest // multiple) * multiple), pad)


def count_cut(pairs: Sequence[tuple[Ids, Ids]], positions: int) -> int:
    """How many prompts `pair_rows` cuts."""
    return sum(len(prompt) + len(follows) - 1 > positions for prompt, follows in pairs)
