"""Tokenizers of SentencePiece in GGUF files (``tokenizer.ggml.model=llama``): tokens with scores.

Of two neighbours those are joined first that make the token of the highest score. The same is a BPE
whose merges are all pairs that make a token, in the order of its scores. A space is ``▁``; what no
token spells is told in bytes, ``<0x0A>``.
"""

from __future__ import annotations

from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers

from smf_jax.typed_json import JsonObject

_SPACE, _BYTES = "▁", {f"<0x{byte:02X}>" for byte in range(256)}
_CHARS_MAP = "precompiled_charsmap"


def sentencepiece_backend(
    told: JsonObject, tokens: list[str], vocabulary: dict[str, int]
) -> tokenizers.Tokenizer:
    """The tokenizer of the ``tokenizers`` library.

    A space is put before a text unless ``add_space_prefix`` is false, and before what follows a
    special token or one that users defined; llama.cpp puts none behind the latter.

    Raises:
      ValueError: scores are missing or are not as many as tokens, there is no unknown token, or
        texts are normalised by a table.
    """
    scores = told.many("scores", float)
    told.require(len(scores) == len(tokens), "scores", f"a score for all {len(tokens)} tokens")
    told.require(_CHARS_MAP not in told.values, _CHARS_MAP, "no such key: texts are taken as is")
    unknown = told.need("unknown_token_id", int, least=0, most=len(tokens) - 1)
    by_score = sorted(vocabulary.values(), key=lambda i: (-scores[i], i))
    merges: Any = [pair for i in by_score for pair in _pairs(tokens[i], vocabulary)]
    spells = vocabulary.keys() >= _BYTES
    bpe = models.BPE(
        vocabulary, merges, unk_token=tokens[unknown], fuse_unk=True, byte_fallback=spells
    )
    backend, prefix = tokenizers.Tokenizer(bpe), told.get("add_space_prefix", bool) is not False
    steps: list[Any] = [normalizers.Prepend(_SPACE)] if prefix else []
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    back: list[Any] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*back, *([decoders.Strip(" ", 1, 0)] if prefix else [])])
    return backend


def _pairs(token: str, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """The pairs of tokens that make a token, from the left."""
    halves = ((token[:place], token[place:]) for place in range(1, len(token)))
    return [pair for pair in halves if pair[0] in vocabulary and pair[1] in vocabulary]
