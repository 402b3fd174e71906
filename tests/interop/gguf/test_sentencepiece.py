"""Tokenizers of SentencePiece: the ids that SentencePiece itself gives, kept in a file."""

from __future__ import annotations

import json

import pytest

from smf_jax.data.tokenizer import Tokenizer, load_tokenizer
from smf_jax.interop.gguf.file import open_gguf
from smf_jax.interop.gguf.tokenizer import read_tokenizer
from tests.interop.gguf.files import write_gguf
from tests.interop.gguf.make_sentencepiece import GOLDEN, TOOL

KNOWN = json.loads(GOLDEN.read_text(encoding="utf-8"))


@pytest.fixture
def read(tmp_path):
    def reads(name: str = "none", **changes) -> Tokenizer:
        known = KNOWN[name]
        told = {
            "model": "llama",
            "pre": "default",
            **{key: known[key] for key in ("tokens", "token_type", "scores")},
            "unknown_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "add_space_prefix": name == "prefix",
            **changes,
        }
        values = {f"tokenizer.ggml.{key}": value for key, value in told.items()}
        values["general.architecture"] = "llama"
        return read_tokenizer(open_gguf(write_gguf(tmp_path / "a.gguf", values, {})), 360)

    return reads


@pytest.mark.parametrize("name", ["prefix", "none"])
def test_ids_and_texts_are_those_of_sentencepiece(read, name, tmp_path):
    found, known = read(name), KNOWN[name]
    found.save(tmp_path / "saved")
    for tokenizer in (found, load_tokenizer(tmp_path / "saved", 360)):
        assert tokenizer.bos == 1  # where a file says nothing, too
        for text, ids, back in zip(KNOWN["asked"], known["ids"], known["texts"], strict=True):
            if TOOL not in text or name == "none":  # behind it llama.cpp puts no space
                assert tokenizer.encode(text) == ids, text
                assert tokenizer.decode(ids) == back
    assert read("prefix", add_space_prefix=...).encode("a") == read("prefix").encode("a")


def test_a_text_may_be_opened_by_no_token(read):
    assert read(add_bos_token=False).bos is None
    assert read(add_bos_token=True).bos == 1


REFUSED = {
    "scores": ([0.5], "tokenizer.ggml.scores=.*: expected a score for all 360 tokens"),
    "unknown_token_id": (..., r"tokenizer.ggml.unknown_token_id=\(absent\): expected a whole num"),
    "precompiled_charsmap": ([1], "tokenizer.ggml.precompiled_charsmap=.*: expected no such key"),
}


@pytest.mark.parametrize("key", REFUSED)
def test_malformed_values_are_named(read, key):
    value, message = REFUSED[key]
    with pytest.raises(ValueError, match=message):
        read(**{key: value})
