"""Token ids to arrays: padded paraphrases, packed text, batches in a seeded order. NumPy only."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from smf_jax.data.facts import Paraphrase, require_at_least
from smf_jax.data.tokenizer import Ids, Tokenizer
from smf_jax.errors import require_memory

T = TypeVar("T")


class Batch(NamedTuple):
    """Sequences shifted into inputs and targets, ``(…, b, t)``: NumPy here, JAX once placed."""

    tokens: Any  # int32, the sequence without its last token
    targets: Any  # int32, the sequence without its first token: what each position predicts
    weights: Any  # float32, the share of each target in the loss; 0 on pads
    # bool, true where ``tokens`` holds a token and no pad; or, where rows hold several sequences
    # (`packing`), int32, the number of a token's sequence in its row from 1, and 0 on pads.
    valid: Any


def split_paraphrases(
    tokenizer: Tokenizer, paraphrases: Sequence[Paraphrase]
) -> list[tuple[Ids, Ids]]:
    """The token ids of each prompt (with ``bos``) and of each answer (with ``eos``).

    The prompt is encoded by itself, as generation will see it. The answer is what follows it in the
    ids of the whole text or, where a token spans the border, is encoded by itself.
    """
    prompts = tokenizer.encode_batch([paraphrase.prompt for paraphrase in paraphrases])
    wholes = tokenizer.encode_batch([prompt + answer for prompt, answer in paraphrases])
    result = []
    for paraphrase, prompt, whole in zip(paraphrases, prompts, wholes, strict=True):
        follows = whole[: len(prompt)] == prompt and len(whole) > len(prompt)
        answer = whole[len(prompt) :] if follows else _continue(tokenizer, paraphrase, prompt)
        result.append((tokenizer.begin + prompt, [*answer, tokenizer.eos]))
    return result


def _continue(tokenizer: Tokenizer, paraphrase: Paraphrase, prompt: Ids) -> Ids:
    """The ids of an answer by itself, such that prompt and answer decode to their text."""
    # Some tokenizers set a space before every text; the answer then goes without its own.
    texts = (paraphrase.answer, paraphrase.answer.removeprefix(" "))
    plain, bare = (tokenizer.encode(text) for text in texts)
    whole = paraphrase.prompt + paraphrase.answer
    return next((ids for ids in (plain, bare) if tokenizer.decode(prompt + ids) == whole), plain)


def needed_length(
    tokenizer: Tokenizer, paraphrases: Sequence[Paraphrase], multiple: int = 8
) -> int:
    """The least length that holds every paraphrase, rounded up to a multiple."""
    pairs = split_paraphrases(tokenizer, paraphrases)
    longest = max((len(prompt) + len(answer) - 1 for prompt, answer in pairs), default=1)
    return -(-longest // multiple) * multiple


def encode_paraphrases(
    tokenizer: Tokenizer,
    paraphrases: Sequence[Paraphrase],
    length: int,
    prompt_loss_weight: float = 0.1,
) -> Batch:
    """One row per paraphrase, ``(b, length)``: ``[bos] prompt answer [eos]`` and pads.

    Targets inside the prompt weigh ``prompt_loss_weight``, the answer and the end token 1. A
    ValueError tells of no paraphrase, one that does not fit, or a negative weight.
    """
    if not paraphrases:
        raise ValueError("encode_paraphrases: no paraphrases; expected at least one")
    if prompt_loss_weight < 0:
        raise ValueError(f"prompt_loss_weight={prompt_loss_weight}: expected 0 or more")
    pairs = split_paraphrases(tokenizer, paraphrases)
    for row, (paraphrase, (prompt, answer)) in enumerate(zip(paraphrases, pairs, strict=True)):
        if (end := len(prompt + answer) - 1) > length:
            raise ValueError(
                f"length={length} is too short for paraphrase {row}, {paraphrase.prompt!r} + "
                f"{paraphrase.answer!r}, which takes {end} positions: raise the length or drop it"
            )
    return pad_pairs(pairs, length, tokenizer.pad, prompt_loss_weight)


def pad_pairs(
    pairs: Sequence[tuple[Ids, Ids]], length: int, pad: int, prompt_weight: float = 0.0
) -> Batch:
    """One row per pair of ids, ``(b, length)``; targets in the second half of a pair weigh 1."""
    batch = empty_batch(len(pairs), length, pad)
    for row, (prompt, answer) in enumerate(pairs):
        sequence = prompt + answer
        end = len(sequence) - 1
        batch.tokens[row, :end] = sequence[:-1]
        batch.targets[row, :end] = sequence[1:]
        batch.weights[row, :end] = prompt_weight
        batch.weights[row, max(0, len(prompt) - 1) : end] = 1.0
        batch.valid[row, :end] = True
    return batch


def pack_texts(
    tokenizer: Tokenizer, texts: Iterable[str], length: int, limit_tokens: int | None = None
) -> Batch:
    """Join texts end to end, ``[bos] text [eos]`` each, and cut the stream into full windows.

    Windows ``(windows, length)`` share one token, so that each token but the first is predicted
    once, with weight 1; an incomplete window is left out. Texts are read until the windows would
    predict more than ``limit_tokens``. A ValueError if there is not one full window.
    """
    if length < 1:
        raise ValueError(f"length={length}: expected at least 1 position per window")
    if limit_tokens is not None and limit_tokens < length:
        raise ValueError(
            f"limit_tokens={limit_tokens} does not fill one window of {length}: raise it"
        )
    windows = None if limit_tokens is None else limit_tokens // length
    stream: Ids = []
    for text in texts:
        stream.extend([*tokenizer.encode_prompt(text), tokenizer.eos])
        if windows is not None and len(stream) > windows * length:
            break
    full = max(0, len(stream) - 1) // length
    count = full if windows is None else min(full, windows)
    if count == 0:
        raise ValueError(
            f"the texts hold {len(stream)} tokens, fewer than one window of {length + 1}: "
            "give more text or a shorter length"
        )
    ids = np.asarray(stream[: count * length + 1], np.int32)
    tokens, targets = (part.reshape(count, length).copy() for part in (ids[:-1], ids[1:]))
    return Batch(tokens, targets, np.ones_like(tokens, np.float32), np.ones_like(tokens, bool))


def require_room(examples: Batch, **counts: int) -> None:
    """Refuses batches that memory cannot hold; the ``ValueError`` names the counts, ``(b, t)``."""
    row = sum(field[:1].nbytes for field in examples) + 16  # and where it was drawn from, twice
    told = ", ".join(f"{name}={count}" for name, count in counts.items())
    require_memory(math.prod(counts.values()) * row, told)


def sample_batches(
    examples: Batch,
    steps: int,
    batch_size: int,
    rng: np.random.Generator,
    groups: Sequence[int] | None = None,
) -> Batch:
    """Draw ``(steps, batch_size, t)`` from ``(b, t)``: every epoch all examples, in a new order.

    ``groups``, the sizes of runs of examples, are shuffled as wholes: a batch then holds few facts
    in all of their paraphrases. A batch may run over the border of two epochs. ``rng`` is the only
    randomness. A ValueError tells of no examples, a count below 1 or beyond memory, or groups that
    do not add up.
    """
    require_at_least(1, steps=steps, batch_size=batch_size)
    available = examples.tokens.shape[0]
    if available == 0:
        raise ValueError("sample_batches: no examples to draw from")
    require_room(examples, steps=steps, batch_size=batch_size)
    sizes = np.ones(available, int) if groups is None else np.asarray(groups, int)
    if sizes.min(initial=1) < 1 or sizes.sum() != available:
        raise ValueError(
            f"groups of {sizes.sum()} examples, smallest {sizes.min(initial=1)}, for {available}: "
            "give the size of every group, 1 or more"
        )
    members = np.split(np.arange(available), np.cumsum(sizes)[:-1])
    needed = steps * batch_size
    epochs = [rng.permutation(len(members)) for _ in range(-(-needed // available))]
    order = np.concatenate([members[group] for epoch in epochs for group in epoch])
    order = order[:needed].reshape(steps, batch_size)
    return Batch(*(field[order] for field in examples))


def mix_in(batches: Batch, others: Batch, share: float, rng: np.random.Generator) -> Batch:
    """``(steps, rows, t)`` batches, a share of whose rows is replaced by rows of others ``(n, t)``.

    The share holds over all steps, to a row: 1 % of batches of 40 is a row in two or three of five
    batches. One row of each batch stays at least. All others are drawn before one is drawn again.
    """
    steps, rows = batches.tokens.shape[:2]
    ends = np.floor(np.arange(steps + 1) * rows * share + rng.random())
    counts = np.minimum(np.diff(ends).astype(int), rows - 1)
    if not counts.any():
        return batches
    replaced = np.arange(rows) >= rows - counts[:, None]
    drawn = sample_batches(others, 1, int(counts.sum()), rng)
    mixed = Batch(*(field.copy() for field in batches))
    for field, new in zip(mixed, drawn, strict=True):
        field[replaced] = new[0]
    return mixed


def concatenate(batches: Sequence[Batch]) -> Batch:
    """Stack the rows of one or more (b, t) batches; shorter ones are padded on the right."""
    if not batches:
        raise ValueError("concatenate: no batches; expected at least one")
    length = max(batch.tokens.shape[-1] for batch in batches)
    padded = (
        [np.pad(field, ((0, 0), (0, length - field.shape[-1]))) for field in batch]
        for batch in batches
    )
    return Batch(*(np.concatenate(fields) for fields in zip(*padded, strict=True)))


def in_chunks(function: Callable[[Batch], T], batch: Batch, rows: int) -> list[T]:
    """Apply ``function`` to runs of ``rows`` rows, the last one padded: one shape, one compilation.

    Results stay on the device, so that the host does not wait between chunks.
    """
    total = batch.tokens.shape[0]
    filled = [np.pad(field, ((0, -total % rows), (0, 0))) for field in batch]
    starts = range(0, total, rows)
    return [function(Batch(*(field[start : start + rows] for field in filled))) for start in starts]


def empty_batch(rows: int, length: int, pad: int) -> Batch:
    """A batch of pads: nothing valid, nothing in the loss."""
    tokens = np.full((rows, length), pad, np.int32)
    weights = np.zeros((rows, length), np.float32)
    return Batch(tokens, tokens.copy(), weights, np.zeros((rows, length), bool))
