"""Tokenizers from metadata: the ids of the tokenizer that the file was made from."""

from __future__ import annotations

import pytest

from smf_jax.data.tokenizer import Tokenizer, load_tokenizer
from smf_jax.interop.gguf.file import open_gguf
from smf_jax.interop.gguf.tokenizer import read_tokenizer
from tests.interop.gguf.files import (
    PRE_TOKENIZERS,
    ROWS,
    SPECIAL,
    TEXTS,
    source_tokenizer,
    tokenizer_values,
    write_gguf,
)

# Each with special tokens in it, and words, digits and marks that were never seen.
HARD = (
    *TEXTS,
    "",
    " ",
    "\n\n \n",
    "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>",
    "a<|endoftext|>b <tool_call>{1: 23}</tool_call> <|im_end",
    "0123456789 3.14159 1e10 x86_64 Ⅷ",
    "zzz ünïcödé\u200b\u00a0nbsp \U0001f469\u200d\U0001f680 \ufeff end",
)


@pytest.fixture
def read(tmp_path):
    def reads(source: str = "smollm", first: bool = True, rows: int = ROWS, **changes) -> Tokenizer:
        told = tokenizer_values(source_tokenizer(source, first), source, ROWS)
        told |= {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
        told = {"general.architecture": "llama", **told}
        return read_tokenizer(open_gguf(write_gguf(tmp_path / "a.gguf", told, {})), rows)

    return reads


@pytest.mark.parametrize("first", [True, False], ids=["special first", "special last"])
@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_ids_are_those_of_the_source(read, pre, first):
    source, found = source_tokenizer(pre, first), read(pre, first)
    for text in HARD:
        assert found.encode(text) == source.encode(text, add_special_tokens=False).ids, text
        assert found.decode(found.encode(text)) == source.decode(found.encode(text)), text
    assert found.encode("<|im_end|>") == [source.token_to_id("<|im_end|>")]
    assert found.size == source.get_vocab_size() < ROWS


def test_words_that_are_tokens_need_no_merges_with_llama_bpe_alone(read):
    for pre, ids in {"llama-bpe": 1, "gpt-2": 9}.items():
        told = tokenizer_values(source_tokenizer(pre), pre)
        names = [*told["tokenizer.ggml.tokens"], "zqzqzqzqz"]
        types = [*told["tokenizer.ggml.token_type"], 1]
        found = read(pre, tokens=names, token_type=types)
        assert len(found.encode("zqzqzqzqz")) == ids


def test_tokens_that_begin_and_end_texts(read):
    end, start = SPECIAL.index("<|im_end|>"), SPECIAL.index("<|im_start|>")
    found = read()
    assert (found.bos, found.eos, found.pad, found.stops) == (None, end, end, (end,))
    assert found.settings["unk_token"] == "<|endoftext|>"
    found = read(add_bos_token=True, padding_token_id=0, eot_token_id=0, eom_token_id=end)
    assert (found.bos, found.pad, found.stops) == (start, 0, (end, 0))
    assert found.encode_prompt("a")[0] == start
    assert read(add_bos_token=...).bos is None
    assert read("llama-bpe", add_bos_token=...).bos == start


def test_chats_are_rendered_by_the_template_of_the_file(read):
    pytest.importorskip("jinja2", reason="chat templates need jinja2")
    found = read()
    messages = [{"role": "user", "content": "Who?"}]
    text = "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
    assert found.template.render(messages) == text
    source = source_tokenizer("smollm")
    assert found.encode_chat(messages) == source.encode(text, add_special_tokens=False).ids


def test_further_templates_are_known_by_name(tmp_path):
    told = tokenizer_values(source_tokenizer(), "smollm") | {
        "general.architecture": "llama",
        "tokenizer.chat_templates": ["default", "tool_use"],
        "tokenizer.chat_template.tool_use": "{{ tools }}",
    }
    file = open_gguf(write_gguf(tmp_path / "a.gguf", told, {}))
    chat = read_tokenizer(file, ROWS).template
    assert chat.select("tool_use") == "{{ tools }}" and "im_start" in chat.select()
    none = {**told, "tokenizer.chat_templates": ..., "tokenizer.chat_template": ...}
    file = open_gguf(write_gguf(tmp_path / "b.gguf", none, {}))
    assert read_tokenizer(file, ROWS).chat is None


def test_a_saved_tokenizer_is_the_same(read, tmp_path):
    for pre, changes in {"smollm": {}, "qwen2": {}, "llama-bpe": {"add_bos_token": True}}.items():
        found = read(pre, **changes)
        found.save(tmp_path / pre)
        again = load_tokenizer(tmp_path / pre, ROWS)
        assert (again.bos, again.eos, again.pad) == (found.bos, found.eos, found.pad)
        assert again.stops == found.stops and again.template.texts == found.template.texts
        for text in HARD:
            assert again.encode(text) == found.encode(text)


REFUSED = {
    "model": ("bert", "tokenizer.ggml.model='bert': expected 'gpt2', a byte-level BPE, or 'lla"),
    "pre": (
        "viking",
        "tokenizer.ggml.pre='viking': expected one of gpt-2, default, smollm, ",
    ),
    "no pre": (..., r"tokenizer.ggml.pre=\(absent\): expected a text"),
    "tokens": (["a"] * ROWS, "tokenizer.ggml.tokens=.*: expected different tokens, but 'a' is"),
    "more tokens": (["a"] * (ROWS + 1), f"tokenizer.ggml.tokens=.*: expected from 1 to {ROWS} to"),
    "token_type": ([1, 1], f"tokenizer.ggml.token_type=.1, 1.: expected a type for all {ROWS} t"),
    "no token_type": (..., r"tokenizer.ggml.token_type=\(absent\): expected a type for all"),
    "merges": (["a b c"], "tokenizer.ggml.merges=.*: expected pairs of tokens, and not 'a b c'"),
    "other merges": (["a 東"], "tokenizer.ggml.merges do not fit the tokens: .*; convert again"),
    "eos_token_id": (..., r"tokenizer.ggml.eos_token_id=\(absent\): expected a whole number"),
    "other eos_token_id": (ROWS, f"tokenizer.ggml.eos_token_id={ROWS}: expected a whole number"),
    "bos_token_id": ("<s>", "tokenizer.ggml.bos_token_id='<s>': expected a whole number"),
    "add_bos_token": (1, "tokenizer.ggml.add_bos_token=1: expected true or false"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_malformed_values_are_named(read, name):
    value, message = REFUSED[name]
    with pytest.raises(ValueError, match=f"a.gguf: {message}"):
        read(**{name.split(" ")[-1]: value})


def test_a_text_cannot_be_opened_by_no_token(read):
    told = "tokenizer.ggml.add_bos_token=True: expected false, for want of a bos_token_id"
    with pytest.raises(ValueError, match=told):
        read(add_bos_token=True, bos_token_id=...)
