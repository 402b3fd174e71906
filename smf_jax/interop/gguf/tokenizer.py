"""The tokenizer in a GGUF file: its tokens, its special tokens, its chat template."""

from __future__ import annotations

from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models

from smf_jax.data.chat import DEFAULT, ChatTemplate
from smf_jax.data.tokenizer import Tokenizer
from smf_jax.interop.gguf.cuts import CUTS, Cut
from smf_jax.interop.gguf.file import GgufFile
from smf_jax.interop.gguf.sentencepiece import sentencepiece_backend
from smf_jax.typed_json import JsonObject

PREFIX = "tokenizer.ggml."
_BPE, _SENTENCEPIECE = "gpt2", "llama"
# Types of tokens: of ordinary ones there are normal ones (1) and bytes (6).
_UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 2, 3, 4, 5
_TYPES = {"least": 1, "most": 6}
# Where tokens are named that transformers and chat templates know by these names.
_NAMED = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "pad_token": "padding_token_id",
    "unk_token": "unknown_token_id",
}
# Further tokens that end an answer.
_ENDS = ("eot_token_id", "eom_token_id")


def read_tokenizer(file: GgufFile, rows: int) -> Tokenizer:
    """The tokenizer of a model whose embedding has so many rows.

    A text is opened by the begin token where ``add_bos_token`` says so, or where it says nothing
    and the tokenizer is Llama 3's or of SentencePiece. Unused tokens, which pad the embedding, are
    left out.

    Raises:
      ValueError: it is neither a byte-level BPE nor SentencePiece's, cuts texts in an unknown way,
        or is malformed; it names file, key and value.
    """
    told = file.section(PREFIX)
    model, elsewhere = told.need("model", str), "take the model's Hugging Face directory for others"
    known = f"{_BPE!r}, a byte-level BPE, or {_SENTENCEPIECE!r}, SentencePiece; {elsewhere}"
    told.require(model in (_BPE, _SENTENCEPIECE), "model", known)
    tokens = told.many("tokens", str)
    fits = f"from 1 to {rows} tokens, as the embedding has rows"
    told.require(0 < len(tokens) <= rows, "tokens", fits)
    vocabulary, types = _vocabulary(told, tokens)
    if model == _BPE:
        pre = told.need("pre", str)
        told.require(pre in CUTS, "pre", f"one of {', '.join(CUTS)}; {elsewhere}")
        backend, opens = _byte_level(told, CUTS[pre], vocabulary), CUTS[pre].adds_bos
    else:
        backend, opens = sentencepiece_backend(told, tokens, vocabulary), True
    _add_tokens(backend, tokens, types)
    last = len(tokens) - 1
    ids = {key: told.get(key, int, least=0, most=last) for key in (*_NAMED.values(), *_ENDS)}
    end, pad = told.need("eos_token_id", int, least=0, most=last), ids["padding_token_id"]
    adds = told.get("add_bos_token", bool)
    bos = ids["bos_token_id"] if (opens if adds is None else adds) else None
    told.require(bos is not None or not adds, "add_bos_token", "false, for want of a bos_token_id")
    names = {name: tokens[i] for name, key in _NAMED.items() if (i := ids[key]) is not None}
    return Tokenizer(
        backend,
        bos=bos,
        eos=end,
        pad=end if pad is None else pad,
        stops=tuple(dict.fromkeys((end, *(i for key in _ENDS if (i := ids[key]) is not None)))),
        chat=_read_chat(file, names),
        settings=names,
    )


def _vocabulary(told: JsonObject, tokens: list[str]) -> tuple[dict[str, int], list[int]]:
    """The ids of the tokens that are used, and the types of all."""
    types = told.many("token_type", int, **_TYPES)
    told.require(len(types) == len(tokens), "token_type", f"a type for all {len(tokens)} tokens")
    vocabulary = {tokens[i]: i for i, kind in enumerate(types) if kind != _UNUSED}
    used = (i for i, kind in enumerate(types) if kind != _UNUSED)
    twice = next((tokens[i] for i in used if vocabulary[tokens[i]] != i), None)
    told.require(twice is None, "tokens", f"different tokens, but {twice!r} is there twice")
    return vocabulary, types


def _byte_level(told: JsonObject, cut: Cut, vocabulary: dict[str, int]) -> tokenizers.Tokenizer:
    """A byte-level BPE of the ``tokenizers`` library."""
    merges = [tuple(merge.split(" ")) for merge in told.many("merges", str)]
    bad = next((" ".join(merge) for merge in merges if len(merge) != 2), None)
    told.require(bad is None, "merges", f"pairs of tokens, and not {bad!r}; convert it again")
    pairs: Any = merges
    try:
        bpe = models.BPE(vocabulary, pairs, ignore_merges=cut.whole_words)
    except Exception as error:  # tokenizers raises bare Exception for a merge of unknown tokens
        raise told.error(f"{PREFIX}merges do not fit the tokens: {error}; convert again") from error
    backend = tokenizers.Tokenizer(bpe)
    if cut.composes:
        backend.normalizer = cut.normalizer()
    backend.pre_tokenizer = cut.pre_tokenizer()
    backend.decoder = decoders.ByteLevel()
    return backend


def _add_tokens(backend: tokenizers.Tokenizer, tokens: list[str], types: list[int]) -> None:
    """Special tokens and those that users defined; those in the vocabulary keep their ids."""
    special = (_CONTROL, _UNKNOWN)
    backend.add_tokens(
        [
            AddedToken(token, special=kind in special, normalized=False)
            for token, kind in zip(tokens, types, strict=True)
            if kind in (*special, _USER_DEFINED)
        ]
    )


def _read_chat(file: GgufFile, names: dict[str, str]) -> ChatTemplate | None:
    """The chat template, and further ones by name, if there are any."""
    told = file.section("tokenizer.")
    further = {
        name: told.need(f"chat_template.{name}", str)
        for name in told.many("chat_templates", str)
        if name != DEFAULT
    }
    text = told.get("chat_template", str) or ""
    found = ChatTemplate(text, tuple(sorted(names.items())), tuple(sorted(further.items())))
    return found if found.texts else None
