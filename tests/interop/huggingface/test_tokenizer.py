"""Tokenizers for transformers: it builds some by a family's recipe, whatever the files say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from tokenizers import Regex, pre_tokenizers

from smf_jax.data.bpe_files import QWEN_CUT
from smf_jax.data.tokenizer import Tokenizer, train_tokenizer
from smf_jax.interop.huggingface.tokenizer import save_tokenizer
from smf_jax.models.config import Family
from tests.models.tiny import PLAIN

TEXTS = ["The cat sat on the mat.", "Where does the cat sleep?"] * 20


def saved(directory: Path, family: str, tokenizer: Tokenizer) -> dict:
    config = replace(PLAIN, family=family, vocabulary=tokenizer.size)
    directory.mkdir(exist_ok=True)
    save_tokenizer(directory, config, tokenizer)
    (directory / "config.json").write_text(json.dumps({"model_type": family}))
    return json.loads((directory / "tokenizer_config.json").read_text())


def test_only_tokenizers_that_would_be_rebuilt_bring_code(tmp_path):
    other, qwen = train_tokenizer(TEXTS, 300), train_tokenizer(TEXTS, 300)
    qwen.backend.pre_tokenizer = pre_tokenizers.Split(Regex(QWEN_CUT), "isolated")
    for family in ("llama", "qwen3"):
        assert "auto_map" not in saved(tmp_path / family, family, other)
    assert "auto_map" not in saved(tmp_path / "qwen", "qwen2", qwen)
    told = saved(tmp_path / "other", "qwen2", other)
    assert told["auto_map"] == {"AutoTokenizer": [None, "tokenizer_of_file.Tokenizer"]}
    assert "class Tokenizer(" in (tmp_path / "other" / "tokenizer_of_file.py").read_text()


@pytest.mark.parametrize("family", get_args(Family))
@pytest.mark.parametrize("trusted", [None, True])
def test_live_transformers_tokenises_alike(family, trusted, tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers", reason="needs it: make test-parity")
    code = "transformers.dynamic_module_utils.HF_MODULES_CACHE"
    monkeypatch.setattr(code, str(tmp_path / "modules"))
    ours = train_tokenizer(TEXTS, 300)
    saved(tmp_path, family, ours)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=trusted)
    for text in (*TEXTS[:2], " a  cat", "", "東 é", "cat<|end|> sat<|pad|>"):
        assert theirs(text).input_ids == ours.encode_prompt(text)
