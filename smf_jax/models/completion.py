"""Texts in, texts out: prompts or conversations, continued by a decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from smf_jax.data.chat import Message
from smf_jax.data.tokenizer import Tokenizer
from smf_jax.models.decoder import Decoder
from smf_jax.models.generate import generate, left_pad, trim

Prompt = str | Sequence[Message]
_SHORTEST = 16


def complete_texts(
    model: Decoder,
    params: Mapping[str, Any],
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    max_tokens: int = 64,
    *,
    stop: Sequence[str] = (),
    temperature: float = 0.0,
    key: Array | None = None,
    chat: bool = False,
    rows: int = 32,
) -> list[str]:
    """What a model answers to each prompt, without the prompt.

    Prompts of like length run together, ``rows`` at once, padded to the next of 16, 32, 64, …
    tokens, so that few shapes are compiled. A continuation ends at an end token of the tokenizer,
    before one of the texts of ``stop``, or after ``max_tokens``. With ``chat`` prompts, which may
    then be lists of messages with ``role`` and ``content``, are rendered by the tokenizer's chat
    template, a text as what the user says. ``params`` are by path or nested; ``temperature`` and
    ``key`` are as for `generate`, and an answer does not depend on the prompts beside it.
    No prompt, an empty one or one that is too long, an empty stop text, and what `generate` refuses
    are a ValueError.
    """
    if rows < 1 or max_tokens < 1:
        raise ValueError(f"rows={rows}, max_tokens={max_tokens}: expected at least 1 of each")
    if "" in stop:
        raise ValueError(f"stop={list(stop)} holds an empty text, which would end every answer")
    encoded = [_encode(tokenizer, prompt, chat) for prompt in prompts]
    _check_lengths(encoded, max_tokens, model.config.max_positions)
    ends = {*tokenizer.stops, *(token for text in stop for token in tokenizer.tokens_with(text))}
    order = np.argsort([len(ids) for ids in encoded], kind="stable")
    answers: list[str] = [""] * len(encoded)
    rows = min(rows, len(encoded))
    for start in range(0, len(order), rows):
        # The last rows are filled up with prompts that ran before: one shape for all.
        chosen = [int(order[place % len(order)]) for place in range(start, start + rows)]
        given = [encoded[index] for index in chosen]
        batch = _pad(given, tokenizer.pad, model.config.max_positions - max_tokens)
        # A key for each row, by the number of its prompt.
        keys = key if key is None else jax.vmap(partial(jax.random.fold_in, key))(np.array(chosen))
        found = generate(
            model, params, *batch, max_tokens, sorted(ends), temperature=temperature, key=keys
        )
        for index, ids in zip(chosen, np.asarray(found).tolist(), strict=True):
            answers[index] = _text(tokenizer, encoded[index], ids, ends, stop)
    return answers


def _encode(tokenizer: Tokenizer, prompt: Prompt, chat: bool) -> list[int]:
    if chat:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        return tokenizer.encode_chat(messages)
    if not isinstance(prompt, str):
        raise ValueError(f"prompt {prompt!r} is no text; give chat=True for lists of messages")
    return tokenizer.encode_prompt(prompt)


def _check_lengths(encoded: Sequence[Sequence[int]], max_tokens: int, positions: int) -> None:
    if not encoded:
        raise ValueError("prompts=[] holds no prompt; give at least one")
    for number, ids in enumerate(encoded):
        if len(ids) + max_tokens > positions:
            raise ValueError(
                f"prompt {number} takes {len(ids)} tokens and max_tokens={max_tokens}, more than "
                f"the model's {positions} positions; shorten one of the two"
            )


def _pad(sequences: Sequence[Sequence[int]], pad: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Left-padded to the next of 16, 32, 64, … places, or to as many as the model takes."""
    length = _SHORTEST
    while length < max(map(len, sequences)):
        length *= 2
    return left_pad(sequences, pad, min(length, most))


def _text(
    tokenizer: Tokenizer, prompt: list[int], ids: list[int], ends: set[int], stop: Sequence[str]
) -> str:
    """The text of a row's tokens, up to an end token or a stop text."""
    kept = trim(ids, tuple(ends))
    # A token may hold the end of the answer and a stop text.
    if len(kept) < len(ids) and ids[len(kept)] not in tokenizer.stops:
        kept = [*kept, ids[len(kept)]]
    # Some tokenizers take a space off the front of every text.
    whole, before = tokenizer.decode([*prompt, *kept]), tokenizer.decode(prompt)
    text = whole[len(before) :] if whole.startswith(before) else tokenizer.decode(kept)
    places = [place for each in stop if (place := text.find(each)) >= 0]
    return text[: min(places)] if places else text
