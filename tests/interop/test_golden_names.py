"""Layouts guessed from names: for golden vectors of sources that have no layout of their own."""

from __future__ import annotations

import numpy as np
import pytest

from smf_jax.interop.golden import check_memory, guess_layout, read_memory
from smf_jax.interop.public_memories import import_memory
from tests.golden import OWN, load

H, N, C, D, V = 2, 4, 3, 5, 6
# Paths here, and what somebody else may call them.
THEIRS = {
    "query/": "to_queries.",
    "gate/": "gating_",
    "output/": "value_proj_",
    "query_scale": "q_norm_weight",
    "key_scale": "k_norm_weight",
    "query_norm/scale": "qnorm.weight",
    "output_norm/scale": "post_norm_w",
    "output_norm/bias": "post_norm_b",
    "values": "values_v",
    "expert_inputs": "down_embed.weight",
    "kernel": "weight",
}


def theirs(arrays):
    """A file in our layout as one of nobody in particular, in PyTorch's and with odd names."""
    renamed = {}
    for name, array in arrays.items():
        plain = name
        for here, there in THEIRS.items():
            plain = plain.replace(here, there)
        renamed[plain] = array.T if "kernel" in name else array
    return renamed


def tensors(**more):
    shapes = {"query_w": (H * 2 * C, D), "query_b": (H * 2 * C,), "keys": (H * 2 * N, C)}
    shapes |= {"values": (N * N, V), "value_proj_w": (D, V), "value_proj_b": (D,), **more}
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype("f") for name, shape in shapes.items()}


def guess(arrays, **meta):
    return guess_layout(arrays, {"indices": np.zeros((1, H, 2), int)}, meta)


def read(arrays, **meta):
    layout, whole = guess(arrays, **meta)
    return import_memory(layout, whole, meta)


@pytest.mark.parametrize(
    "name",
    ["scalar_gate", "experts", "experts_relu", "relu_output_norm", "qk_norm", "query_rms_norm"],
)
def test_a_file_of_nobody_in_particular_agrees(name):
    arrays, meta = load(OWN / f"{name}.npz")
    renamed = theirs(arrays)
    assert len(renamed.keys() - arrays.keys()) >= 4
    golden = read_memory(renamed, {})
    assert golden.blocks[""].config == read_memory(arrays, meta).blocks[""].config
    found = check_memory(renamed, golden)
    assert len(found) == len(check_memory(arrays, read_memory(arrays, meta)))
    assert not [each for each in found if not each.agrees]


@pytest.mark.parametrize(
    ("more", "choices"),
    [
        ({"swilu_w": (V, D), "swilu_b": (V,)}, {"gate": "silu"}),
        ({"gating_w": (1, D), "gating_b": (1,)}, {"gate": "scalar"}),
        ({"norm_weight": (C,), "norm_bias": (C,)}, {"query_norm": "layer"}),
        ({"query_norm.weight": (C,)}, {"query_norm": "rms"}),
        ({"q_norm_w": (C,), "k_norm_w": (C,)}, {"qk_norm": True, "query_norm": "none"}),
        ({"output_norm_w": (V,), "output_norm_b": (V,)}, {"output_norm": "layer"}),
        ({"values_u": (N * N, D)}, {"experts": True}),
        (
            {
                f"query_bn_{kind}": (H * 2 * C,)
                for kind in ("w", "b", "running_mean", "running_var")
            },
            {"query_norm": "batch"},
        ),
    ],
)
def test_arrays_tell_the_choices(more, choices):
    config = read(tensors(**more), act="ReLU", ln_eps=1e-4).config
    assert {name: getattr(config, name) for name in choices} == choices
    assert (config.score, config.norm_epsilon) == ("relu", 1e-4)


def test_keys_tell_whether_the_halves_lie_outside():
    assert guess(tensors(keys=(H, N, 2, C)))[0].half_major
    for shape in ((H, 2, N, C), (H * 2, N, C), (H * 2 * N, C)):
        assert not guess(tensors(keys=shape))[0].half_major


def test_a_known_source_with_tensors_that_its_layout_lacks_is_guessed():
    arrays, _ = load(OWN / "scalar_gate.npz")
    golden = read_memory(theirs(arrays), {"peer": "facebookresearch/memory@7f85280"})
    assert golden.blocks[""].config.gate == "scalar"


def test_biases_and_scales_that_are_not_there_change_nothing():
    arrays = tensors(swilu_w=(V, D))
    del arrays["query_b"], arrays["value_proj_b"]
    found = read(arrays, qk_norm=True)
    assert not found.params["gate/bias"].any() and not found.params["output/bias"].any()
    assert (found.params["query_scale"] == 1).all() and (found.params["key_scale"] == 1).all()
    assert not found.config.query_bias


def test_arrays_that_are_not_understood_are_listed():
    with pytest.raises(ValueError, match=r"arrays \['mask'\] are no part of .* of facebookresear"):
        guess(tensors(mask=(2,)))
    with pytest.raises(ValueError, match=r"two of the arrays .*'values_v'\] are one part"):
        guess(tensors(values_v=(N * N, V)))
