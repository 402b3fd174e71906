"""Weights of other implementations: names, layouts, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from smf_jax.interop.public_memories import import_memory, layout_of, parts_of

H, N, C, D, V = 2, 4, 3, 5, 6
RNG = np.random.default_rng(0)


def flat(**more):
    shapes = {"query_w": (H * 2 * C, D), "query_b": (H * 2 * C,), "keys": (H * 2 * N, C)}
    shapes |= {"values": (N * N, V), "value_proj_w": (D, V), "value_proj_b": (D,), **more}
    return {name: RNG.standard_normal(shape).astype("f") for name, shape in shapes.items()}


def read(arrays, **choices):
    return import_memory(arrays, heads=H, reads=2, **choices)


def test_both_layouts_of_one_memory_are_the_same_memory():
    arrays = flat()
    ours = read(arrays)
    query = arrays["query_w"].reshape(H, 2, C, D)
    bias = arrays["query_b"].reshape(H, 2, C)
    other = {
        "to_queries.weight": query.swapaxes(0, 1).reshape(-1, D),
        "to_queries.bias": bias.swapaxes(0, 1).reshape(-1),
        "keys": arrays["keys"].reshape(H, 2, N, C).swapaxes(1, 2),
        **{name: array for name, array in arrays.items() if name.startswith("value")},
    }
    theirs = read(other)
    assert theirs.config == ours.config and theirs.width == ours.width == D
    assert not ours.layout.half_major and theirs.layout.half_major
    assert theirs.params.keys() == ours.params.keys()
    for path, leaf in ours.params.items():
        np.testing.assert_array_equal(theirs.params[path], leaf)
    np.testing.assert_array_equal(ours.params["keys"][1, 0, 2], arrays["keys"][2 * N + 2])
    assert ours.values.dtype == np.float32


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
    imported = read(flat(**more), score="relu", norm_epsilon=1e-4)
    config = imported.config
    assert {name: getattr(config, name) for name in choices} == choices
    assert (config.score, config.norm_epsilon, imported.absent) == ("relu", 1e-4, frozenset())


def test_biases_and_scales_that_are_not_there_change_nothing():
    arrays = flat(**{"swilu_w": (V, D)})
    del arrays["query_b"], arrays["value_proj_b"]
    imported = read(arrays, qk_norm=True)
    assert imported.absent == {"gate/bias", "output/bias", "query_scale", "key_scale"}
    assert not imported.params["gate/bias"].any() and not imported.params["output/bias"].any()
    assert (imported.params["query_scale"] == 1).all() and (imported.params["key_scale"] == 1).all()
    assert not imported.config.query_bias


def test_what_is_no_memory_is_refused_by_name():
    with pytest.raises(ValueError, match=r"arrays \['mask', 'rope_w'\] are no part of a memory"):
        read(flat(mask=(2,), rope_w=(2,)))
    with pytest.raises(ValueError, match=r"arrays values and values_v are both the values weight"):
        read(flat(values_v=(N * N, V)))
    with pytest.raises(ValueError, match=r"no keys, no values among the arrays \['query_w'\]"):
        read({"query_w": np.zeros((4, D))})
    with pytest.raises(ValueError, match=r"keys \(16, 3\) do not fit heads=3 and a table of 16"):
        layout_of(np.zeros((16, 3)), 3, 16)
    without = {name: array for name, array in flat().items() if not name.startswith("value_proj")}
    with pytest.raises(ValueError, match=r"output/kernel is missing, expected \(6, 5\)"):
        read(without)
    assert parts_of({"keys": np.zeros(1), "odd": np.zeros(1)}).unknown == ("odd",)
