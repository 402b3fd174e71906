"""Token ids to arrays: padded paraphrases, packed text, batches in a seeded order. NumPy only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from smf_jax.data.facts import Paraphrase
from smf_jax.data.tokenizer import Tokenizer


class Batch(NamedTuple):
    """Sequences shifted into inputs and targets, ``(…, b, t)``: NumPy here, JAX once placed.

    Leading axes (steps, trials) may be added.
    """

    # int32, the sequence without its last token.
    tokens: Any
    # int32, the sequence without its first token: what each position predicts.
    targets: Any
    # float32, the share of each target in the loss; 0 on pads.
    weights: Any
    # bool, true where ``tokens`` holds a token and no pad.
    valid: Any


def split_paraphrases(
    tokenizer: Tokenizer, paraphrases: Sequence[Paraphrase]
) -> list[tuple[list[int], list[int]]]:
    """The token ids of each prompt (with ``bos``) and of each answer (with ``eos``).

    The prompt is encoded by itself, exactly as generation will see it. The answer is what follows
    it in the ids of the whole text, or, where a token spans the border, the answer encoded by
    itself.
    """
    prompts = tokenizer.encode_batch([paraphrase.prompt for paraphrase in paraphrases])
    wholes = tokenizer.encode_batch(
        [paraphrase.prompt + paraphrase.answer for paraphrase in paraphrases]
    )
    begin = [] if tokenizer.bos is None else [tokenizer.bos]
    result = []
    for paraphrase, prompt, whole in zip(paraphrases, prompts, wholes, strict=True):
        follows = whole[: len(prompt)] == prompt and len(whole) > len(prompt)
        answer = whole[len(prompt) :] if follows else _continue(tokenizer, paraphrase, prompt)
        result.append((begin + prompt, [*answer, tokenizer.eos]))
    return result


def _continue(tokenizer: Tokenizer, paraphrase: Paraphrase, prompt: list[int]) -> list[int]:
    """The ids of an answer by itself, such that prompt and answer decode to their text.

    Some tokenizers set a space before every text; the answer then goes without its own.
    """
    text = paraphrase.prompt + paraphrase.answer
    plain = tokenizer.encode(paraphrase.answer)
    bare = tokenizer.encode(paraphrase.answer.removeprefix(" "))
    fits = (ids for ids in (plain, bare) if tokenizer.decode(prompt + ids) == text)
    return next(fits, plain)


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
    """One row per paraphrase: ``[bos] prompt answer [eos]``, padded on the right.

    Args:
        tokenizer: What encodes.
        paraphrases: b paraphrases.
        length: t, the width of the arrays; ``needed_length`` computes one.
        prompt_loss_weight: The weight of targets inside the prompt; the answer and the end
            token weigh 1.

    Returns:
        A batch of shape (b, t).

    Raises:
        ValueError: If there is no paraphrase, one does not fit, or the weight is negative.
    """
    if not paraphrases:
        raise ValueError("encode_paraphrases: no paraphrases; expected at least one")
    if prompt_loss_weight < 0:
        raise ValueError(f"prompt_loss_weight={prompt_loss_weight}: expected 0 or more")
    batch = _empty(len(paraphrases), length, tokenizer.pad)
    for row, (prompt, answer) in enumerate(split_paraphrases(tokenizer, paraphrases)):
        sequence = prompt + answer
        end = len(sequence) - 1
        if end > length:
            paraphrase = paraphrases[row]
            raise ValueError(
                f"length={length} is too short for paraphrase {row}, {paraphrase.prompt!r} + "
                f"{paraphrase.answer!r}, which takes {end} positions: raise the length or drop it"
            )
        batch.tokens[row, :end] = sequence[:-1]
        batch.targets[row, :end] = sequence[1:]
        batch.weights[row, :end] = prompt_loss_weight
        batch.weights[row, max(0, len(prompt) - 1) : end] = 1.0
        batch.valid[row, :end] = True
    return batch


def pack_texts(
    tokenizer: Tokenizer, texts: Iterable[str], length: int, limit_tokens: int | None = None
) -> Batch:
    """Join texts end to end, ``[bos] text [eos]`` each, and cut the stream into full windows.

    Windows share one token, so that each token but the first is predicted exactly once. What
    does not fill a window at the end is left out. Texts are read only as far as needed.

    Args:
        tokenizer: What encodes.
        texts: The texts; may be a stream that does not fit in memory.
        length: t, the positions of a window.
        limit_tokens: Stop when the windows would predict more tokens than this; None reads all.

    Returns:
        A batch of shape (windows, t), all valid, all weights 1.

    Raises:
        ValueError: If there is not one full window.
    """
    if length < 1:
        raise ValueError(f"length={length}: expected at least 1 position per window")
    if limit_tokens is not None and limit_tokens < length:
        raise ValueError(
            f"limit_tokens={limit_tokens} does not fill one window of {length}: raise it"
        )
    windows = None if limit_tokens is None else limit_tokens // length
    begin = [] if tokenizer.bos is None else [tokenizer.bos]
    stream: list[int] = []
    for text in texts:
        stream.extend(begin + tokenizer.encode(text) + [tokenizer.eos])
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
    tokens, targets = ids[:-1].reshape(count, length), ids[1:].reshape(count, length)
    shape = (count, length)
    return Batch(tokens.copy(), targets.copy(), np.ones(shape, np.float32), np.ones(shape, bool))


def sample_batches(
    examples: Batch,
    steps: int,
    batch_size: int,
    rng: np.random.Generator,
    groups: Sequence[int] | None = None,
) -> Batch:
    """Draw batches from examples: each example once per epoch, every epoch in a new order.

    Where groups are given it is they that are shuffled, and the examples of one stay side by side:
    a batch then holds few facts in all of their paraphrases.

    Args:
        examples: A batch of shape (b, t): the set to draw from.
        steps: The number of batches.
        batch_size: Rows per batch; a batch may run over the border of two epochs.
        rng: The source of the order; the only randomness.
        groups: How many examples each group has, in their order; each its own when None.

    Returns:
        A batch of shape (steps, batch_size, t).

    Raises:
        ValueError: If there are no examples, a count is below 1, or the groups do not add up.
    """
    for name, value in (("steps", steps), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name}={value}: expected at least 1")
    available = examples.tokens.shape[0]
    if available == 0:
        raise ValueError("sample_batches: no examples to draw from")
    sizes = np.ones(available, int) if groups is None else np.asarray(groups, int)
    if sizes.min(initial=1) < 1 or sizes.sum() != available:
        raise ValueError(
            f"groups of {sizes.sum()} examples, smallest {sizes.min(initial=1)}, for {available}: "
            "give the size of every group, 1 or more"
        )
    members = np.split(np.arange(available), np.cumsum(sizes)[:-1])
    needed = steps * batch_size
    order = np.concatenate(
        [
            members[group]
            for _ in range(-(-needed // available))
            for group in rng.permutation(len(members))
        ]
    )[:needed]
    order = order.reshape(steps, batch_size)
    return Batch(*(field[order] for field in examples))


def concatenate(batches: Sequence[Batch]) -> Batch:
    """Stack the rows of several (b, t) batches; shorter ones are padded on the right.

    Raises:
        ValueError: If there is no batch.
    """
    if not batches:
        raise ValueError("concatenate: no batches; expected at least one")
    length = max(batch.tokens.shape[-1] for batch in batches)
    padded = [_pad_to(batch, length) for batch in batches]
    return Batch(*(np.concatenate(fields) for fields in zip(*padded, strict=True)))


def _pad_to(batch: Batch, length: int) -> Batch:
    """The batch with masked positions added on the right up to a length."""
    missing = length - batch.tokens.shape[-1]
    return Batch(*(np.pad(field, ((0, 0), (0, missing))) for field in batch))


def _empty(rows: int, length: int, pad: int) -> Batch:
    """A batch of pads: nothing valid, nothing in the loss."""
    shape = (rows, length)
    return Batch(
        np.full(shape, pad, np.int32),
        np.full(shape, pad, np.int32),
        np.zeros(shape, np.float32),
        np.zeros(shape, bool),
    )
