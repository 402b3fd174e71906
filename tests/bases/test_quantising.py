"""Bases rounded to four bits on text: nearer to the float model, held as any base in bits is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import quantise
from smf_jax import checkpoints
from smf_jax.bases.base import Base, load_base
from smf_jax.bases.quantise_config import QuantiseConfig
from smf_jax.bases.quantising import quantise_base
from smf_jax.bases.text_windows import text_windows
from smf_jax.data.batching import Batch
from smf_jax.models.config import ModelConfig
from smf_jax.models.decoder import plain_logits
from smf_jax.models.quantised import is_matrix
from smf_jax.params import flatten, is_memory, is_quantised
from tests.models.tiny import FAMILIES, random_params, random_tokens, with_memory
from tests.tiny_sweep import write_lines

MODELS: dict[str, ModelConfig] = {
    **{name: FAMILIES[name] for name in ("llama", "qwen2", "gemma3_text")},
    "memory": with_memory("add"),
}


@pytest.fixture(scope="module")
def checkpoint(plain_checkpoint) -> Base:
    return load_base(str(plain_checkpoint))


def base_of(config: ModelConfig, like: Base) -> Base:
    return replace(like, config=config, params=flatten(random_params(config)))


def text(config: ModelConfig, rows: int = 12, pads: int = 0) -> Batch:
    tokens = random_tokens(config, (rows, 20))
    valid = np.ones(tokens.shape, bool)
    if pads:
        tokens, valid = (np.pad(field, ((0, pads), (0, 0))) for field in (tokens, valid))
    return Batch(tokens, tokens, valid.astype(np.float32), valid)


def off(base: Base, made: Base, windows: Batch) -> float:
    """Mean squared difference of the logits."""
    said, expected = (
        np.asarray(plain_logits(each.model)(each.params, windows.tokens, windows.valid))
        for each in (made, base)
    )
    return float(np.square(said - expected).mean())


@pytest.mark.parametrize("name", MODELS)
def test_text_goes_through_it_more_nearly_as_through_the_float_model(name, checkpoint):
    base = base_of(MODELS[name], checkpoint)
    windows = text(base.config)
    made, plain = quantise_base(base, "nf4", windows), base.quantised("nf4")
    assert made.config == plain.config
    shapes = {path: (leaf.shape, leaf.dtype) for path, leaf in plain.params.items()}
    assert {path: (leaf.shape, leaf.dtype) for path, leaf in made.params.items()} == shapes
    for path, leaf in made.params.items():
        if not is_quantised(path) or not path.startswith("layers_"):
            assert np.asarray(leaf).tobytes() == np.asarray(plain.params[path]).tobytes(), path
    assert any(is_memory(path) for path in made.params) == (name == "memory")
    assert off(base, made, windows) < 0.8 * off(base, plain, windows)


def test_pads_tell_nothing(checkpoint):
    base = base_of(FAMILIES["llama"], checkpoint)
    alone, padded = (quantise_base(base, "int4", text(base.config, 12, pads)) for pads in (0, 9))
    assert alone.fingerprint() == padded.fingerprint()


def test_what_is_held_in_bits_or_not_finite_is_refused(checkpoint):
    windows = text(checkpoint.config)
    told = "^--base_precision=nf4: the base is held in int8 already; give the model that it was"
    with pytest.raises(ValueError, match=told):
        quantise_base(checkpoint.quantised("int8"), "nf4", windows)
    most = np.broadcast_to(np.int32(1), (2**34, 16))  # of no memory
    with pytest.raises(ValueError, match="^--round_tokens=274877906944 takes .* GiB"):
        quantise_base(checkpoint, "nf4", Batch(most, most, most, most))
    path = next(path for path in checkpoint.params if is_matrix(path) and "layers_1" in path)
    broken = {**checkpoint.params, path: checkpoint.params[path].at[0, 0].set(np.nan)}
    with pytest.raises(ValueError, match=f"^{path}: .*not finite"):
        quantise_base(replace(checkpoint, params=broken), "nf4", windows)


def flags(**changes: Any) -> QuantiseConfig:
    return QuantiseConfig.of(**{"round_length": 16, "round_tokens": 64, **changes})


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("texts") / "text.jsonl"
    return write_lines(place, *({"text": f"Who made thing {i}? Maker stands."} for i in range(40)))


def test_the_command_writes_a_base_that_every_command_reads(
    plain_checkpoint, checkpoint, texts, tmp_path, capsys
):
    out = tmp_path / "made"
    usual = dict(base=str(plain_checkpoint), round_texts=str(texts), out=str(out))
    given = flags(**usual, base_precision="int4")
    assert quantise.main(given) == 0
    assert "int4 and float32" in capsys.readouterr().out
    made = load_base(str(out), "base", None, "int4")
    said = [f"Who made thing {i}? Maker stands." for i in range(40)]
    windows = text_windows(said, checkpoint, given.text, "round")
    assert made.fingerprint() == quantise_base(checkpoint, "int4", windows).fingerprint()
    assert made.fingerprint() != checkpoint.quantised("int4").fingerprint()
    half = flags(**usual | {"out": str(tmp_path / "half")}, base_precision="int4", dtype="bfloat16")
    assert quantise.main(half) == 0
    narrow = load_base(str(tmp_path / "half"))
    assert narrow.config.dtype == "bfloat16"
    assert narrow.fingerprint() == made.cast("bfloat16").fingerprint(), "rounded from float32"
    inputs = checkpoints.read_metadata(out / "leaves")["inputs"]
    assert inputs["base"]["path"] == str(plain_checkpoint)
    assert inputs["round_texts"]["path"] == str(texts)


def test_what_cannot_be_done_is_refused_before_anything_is_computed(
    plain_checkpoint, texts, tmp_path, monkeypatch
):
    monkeypatch.setattr(quantise, "quantise_base", None)
    usual = dict(base=str(plain_checkpoint), round_texts=str(texts), out=str(tmp_path / "made"))
    refusals = {
        "--round_texts is empty: .*or name --base_precision=nf4 to": {"round_texts": ""},
        "--round_length=65 is more than the 64 positions": {"round_length": 65},
        "--round_tokens=8 does not fill one window of --round_length=16": {"round_tokens": 8},
        "--out is empty": {"out": ""},
    }
    for message, changes in refusals.items():
        with pytest.raises(ValueError, match=f"^{message}"):
            quantise.main(flags(**{**usual, **changes}))
    assert not (tmp_path / "made").exists()
    with pytest.raises(ValueError, match="int8"):
        flags(base_precision="int8")
