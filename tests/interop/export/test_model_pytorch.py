"""The exported directory, read in PyTorch by pytorch_memory.py."""

import importlib.util
from dataclasses import replace

import jax
import numpy as np
import pytest

from smf_jax.interop.export.model import READER, export_model, load_exported
from smf_jax.memory.layer import MemoryConfig
from smf_jax.models.config import MemoryPlacement, ModelConfig
from smf_jax.models.decoder import Decoder
from smf_jax.params import Params, flatten, unflatten
from tests.interop.export.tiny import patches_of
from tests.models.tiny import FAMILIES, PLAIN, random_params, random_tokens

# Wide enough that no norm comes out near zero, by which rounding would grow.
MEMORY = MemoryConfig(keys_per_half=8, heads=2, reads=3, key_width=32, value_width=48)
WIDE = replace(PLAIN, width=64, head_width=20, hidden_width=96, max_positions=256)
VARIANTS = {
    "add": ("add", MEMORY, {}),
    "replace": ("replace", MEMORY, {}),
    "shared pool": ("add", MEMORY, {"shared_pool": True}),
    "layer norm, scalar gate": (
        "add",
        replace(MEMORY, query_norm="layer", gate="scalar", value_width=64),
        {},
    ),
    "rms norm, no gate": ("replace", replace(MEMORY, query_norm="rms", gate="none"), {}),
    "batch norm, output norm": (
        "add",
        replace(MEMORY, query_norm="batch", output_norm="layer"),
        {},
    ),
    "norms behind the two parts": ("add", MEMORY, {}),
    "norms behind, replaced": ("replace", MEMORY, {}),
    "experts": ("add", replace(MEMORY, experts=True), {}),
    "qk-norm, relu": ("add", replace(MEMORY, qk_norm=True, score="relu", query_bias=False), {}),
}


def model_of(name: str) -> ModelConfig:
    mode, memory, choices = VARIANTS[name]
    placement = MemoryPlacement((0, 1), mode, memory, alpha=1.0, **choices)
    base = WIDE
    if "norms behind" in name:
        sizes = {"width": 64, "head_width": 16, "hidden_width": 96, "max_positions": 256}
        base = replace(FAMILIES["olmo2"], **sizes)
    return replace(base, memory=placement)


def leaves_of(config: ModelConfig) -> Params:
    """Random leaves; rows as small as those of a fresh table, or rounding grows with the logits."""
    params = flatten(random_params(config))
    for path, leaf in params.items():
        if path.endswith("/values"):
            params[path] = leaf * 0.3
        if path.endswith("/variance"):
            params[path] = abs(leaf) + 0.5
    return params


@pytest.mark.parametrize("name", VARIANTS)
def test_pytorch_computes_the_same_logits(name, tmp_path):
    torch = pytest.importorskip("torch", reason="needs torch: make test-parity")
    transformers = pytest.importorskip("transformers", reason="needs it: make test-parity")
    spec = importlib.util.spec_from_file_location("pytorch_memory", READER)
    assert spec is not None and spec.loader is not None
    reader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reader)

    config = model_of(name)
    params = leaves_of(config)
    export_model(tmp_path / "out", config, params, patches_of(params))
    tokens = random_tokens(config, (1, 256))
    found = []
    for count in (0, 1, 2):
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
        reader.load_memories(model, tmp_path / "out", patches=count)
        with torch.no_grad():
            theirs = model(torch.tensor(tokens, dtype=torch.long)).logits.numpy()
        ours = load_exported(tmp_path / "out", patches=count)
        expected = jax.jit(Decoder(config).apply)({"params": unflatten(ours.params)}, tokens)
        assert np.abs(theirs - expected).max() <= 1e-5
        found.append(theirs)
    assert np.abs(found[1] - found[0]).max() > 1e-3
    assert np.abs(found[2] - found[1]).max() > 1e-3
