"""Mutations of ``config.json``: each leaves the model as it is, or is refused by file and key."""

import json
import math
import shutil
from pathlib import Path

import pytest

from smf_jax.bases.base import load_base
from smf_jax.data.tokenizer import load_tokenizer
from smf_jax.interop.huggingface.config import read_config
from tests.models.make_golden import GOLDEN

# What a writer with other types, a slip of a hand or a bad disk makes of a value.
WRONG = (True, "512", [1], {}, None, -2, 1.5, math.nan, math.inf, 10**12, "")
# The keys of a Llama of 2024, as the model of `plain_checkpoint` has them and does not.
OLD = {
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.02,
    "pretraining_tp": 1,
    "transformers_version": "4.41.2",
    "use_cache": True,
    "use_sliding_window": False,
    "layer_types": None,
    "quantization_config": None,
    "partial_rotary_factor": 1.0,
    "transformers_weights": None,
}


@pytest.fixture(scope="module")
def place(plain_checkpoint, tmp_path_factory) -> Path:
    """A copy of the checkpoint whose configuration has all the keys."""
    copy = tmp_path_factory.mktemp("mutated") / "plain"
    shutil.copytree(plain_checkpoint, copy)
    return copy


def test_every_mutation_is_the_same_model_or_named(place):
    file = place / "config.json"
    told = OLD | json.loads(file.read_text())
    file.write_text(json.dumps(told))
    base, fates = load_base(str(place)), []
    for key in told:
        for value in WRONG:
            # JSON has no word for infinity but a number too large.
            file.write_text(json.dumps(told | {key: value}).replace("Infinity", "1e400"))
            try:
                load_tokenizer(place, base.config.vocabulary)
                if read_config(file) != base.config:
                    load_base(str(place))  # which must find that the weights do not fit
                    pytest.fail(f"another model: {key}={value}")
            except (ValueError, FileNotFoundError) as error:
                assert key in str(error) and "config.json" in str(error), (key, value)
                fates.append("refused")
            else:
                fates.append("same")
    assert fates.count("refused") > 200
    assert fates.count("same") > 80


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "num_attention_heads",
            10,
            "hidden_size=24: expected a multiple of num_attention_he",
        ),
        ("num_attention_heads", 8, r"head_dim=None: expected an even number, and no 3"),
        ("num_key_value_heads", 3, "num_key_value_heads=3: expected a divisor of num_attention_he"),
        ("head_dim", 5, "head_dim=5: expected an even number"),
        ("num_hidden_layers", 10**6, "num_hidden_layers=1000000: .* from 1 to 1,000"),
        ("rope_theta", 1.5, "rope_theta=1.5: expected a number from 10 to"),
        ("rms_norm_eps", 2, "rms_norm_eps=2: expected a number from 1e-30 to 1"),
    ],
)
def test_what_cannot_be_is_refused_before_the_weights(key, value, message, tmp_path):
    told = json.loads((GOLDEN / "qwen2" / "config.json").read_text())
    told |= {"head_dim": None, "rope_parameters": None, key: value}
    (tmp_path / "config.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=f"config.json: {message}"):
        read_config(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"factor": "8"}, r"rope_scaling.factor='8': expected a number"),
        (
            {"original_max_position_embeddings": 1.5},
            r"g.original_max_position_embeddings=1.5",
        ),
        (
            {"high_freq_factor": 1.0},
            r"high_freq_factor=1.0: expected more than low_freq_factor",
        ),
    ],
)
def test_a_scaling_that_cannot_be_is_named(changes, message, tmp_path):
    told = json.loads((GOLDEN / "llama3" / "config.json").read_text())
    told |= {"rope_scaling": told.pop("rope_parameters") | changes}
    (tmp_path / "config.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=message):
        read_config(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ({"type": "yarn", "factor": 4.0}, "rope_type='yarn' is not supported"),
        ({"type": "default", "partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
    ],
)
def test_a_scaling_beside_the_new_spelling_is_the_one_that_counts(scaling, message, tmp_path):
    told = json.loads((GOLDEN / "qwen2" / "config.json").read_text())
    assert told["rope_parameters"]["rope_type"] == "default"
    (tmp_path / "config.json").write_text(json.dumps(told | {"rope_scaling": scaling}))
    with pytest.raises(ValueError, match=message):
        read_config(tmp_path / "config.json")


def test_the_base_of_rotations_may_stand_in_the_other_spelling(tmp_path):
    told = json.loads((GOLDEN / "llama3" / "config.json").read_text())
    new = told.pop("rope_parameters")
    base = new.pop("rope_theta")
    told |= {"rope_parameters": {"rope_theta": base}, "rope_scaling": new, "rope_theta": None}
    (tmp_path / "config.json").write_text(json.dumps(told))
    found = read_config(tmp_path / "config.json")
    assert found.rope_theta == base and found.rope_scaling is not None


def test_sizes_that_do_not_fit_the_weights_name_the_keys(place):
    file = place / "config.json"
    told = json.loads(file.read_text())
    file.write_text(json.dumps(told | {"num_hidden_layers": 1000}))
    with pytest.raises(ValueError, match=r"json: num_hidden_layers=1000, but the weights have 2"):
        load_base(str(place))
    file.write_text(json.dumps(told | {"intermediate_size": 41}))
    with pytest.raises(ValueError, match=r"by which vocab_size=\d+.*intermediate_size=41"):
        load_base(str(place))
