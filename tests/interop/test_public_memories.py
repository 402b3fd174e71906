"""Weights of other implementations: their layouts, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from smf_jax.interop.public_memories import (
    FACEBOOK_MEMORY,
    LUCIDRAINS_PKM,
    PLAIN_MEMORY,
    import_memory,
)
from smf_jax.memory.config import MemoryConfig
from tests.golden import OWN, load
from tests.make_golden_memories import CASES

H, N, C, D = 2, 4, 3, 5
META = {"mem_heads": H, "mem_knn": 2, "swilu_projection": True, "dropout": 0.1}


def facebook(**more):
    """Weights of a Memory+ block under their public names."""
    shapes = {"query_w": (H * 2 * C, D), "query_b": (H * 2 * C,), "keys": (H * 2 * N, C)}
    shapes |= {"values": (N * N, D), "swilu_w": (D, D), "swilu_b": (D,)}
    shapes |= {"value_proj_w": (D, D), "value_proj_b": (D,), **more}
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(np.float16) for name, shape in shapes.items()}


def test_a_memory_plus_block():
    arrays = facebook()
    found = import_memory(FACEBOOK_MEMORY, arrays, META)
    sizes: dict[str, Any] = {"keys_per_half": N, "key_width": 2 * C, "value_width": D}
    assert found.config == MemoryConfig(heads=H, reads=2, gate="silu", **sizes)
    assert found.width == D and found.tables.keys() == {"values"}
    assert {leaf.dtype for leaf in found.params.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(found.params["gate/kernel"], arrays["swilu_w"].T)
    np.testing.assert_array_equal(found.params["keys"][1, 0, 2], arrays["keys"][2 * N + 2])
    without = {name: a for name, a in arrays.items() if not name.startswith(("swilu", "value_"))}
    plain = import_memory(FACEBOOK_MEMORY, without, META | {"swilu_projection": False})
    assert plain.config == replace(found.config, gate="none")


def test_halves_that_lie_outside_of_the_heads():
    arrays = facebook()
    query = arrays["query_w"].reshape(H, 2, C, D)
    theirs = {
        "to_queries_weight": query.swapaxes(0, 1).reshape(-1, D),
        "keys": arrays["keys"].reshape(H, 2, N, C).swapaxes(1, 2),
        "values": arrays["values"],
        "norm_weight": np.ones(C),
        "norm_bias": np.zeros(C),
    }
    found = import_memory(LUCIDRAINS_PKM, theirs, {"heads": H, "topk": 2})
    expected = import_memory(FACEBOOK_MEMORY, arrays, META).params
    for path in ("query/kernel", "keys"):
        np.testing.assert_array_equal(found.params[path], expected[path])
    assert (found.config.query_norm, found.config.gate) == ("layer", "none")
    assert not found.config.query_bias


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case.layout == "smf_jax"])
def test_our_own_layout_is_taken_as_it_is(name):
    arrays, meta = load(OWN / f"{name}.npz")
    tensors = {path: arrays[path] for path in PLAIN_MEMORY.tensors if path in arrays}
    found = import_memory(PLAIN_MEMORY, tensors, meta)
    assert found.config == CASES[name].config
    assert found.params.keys() | found.tables.keys() == tensors.keys()
    for path, leaf in (found.params | found.tables).items():
        np.testing.assert_array_equal(leaf, tensors[path])


def test_what_is_no_memory_of_the_source_is_refused_by_name():
    def read(arrays, **given):
        return import_memory(FACEBOOK_MEMORY, arrays, META | given)

    arrays = facebook()
    unknown = r"tensors \['mask', 'rope_w'\] are not of facebookresearch/memory, whose .* lucidrain"
    with pytest.raises(ValueError, match=unknown):
        read(facebook(mask=(2,), rope_w=(2,)))
    with pytest.raises(ValueError, match=r"'mem_knn' is missing; given are \['mem_heads'\]"):
        import_memory(FACEBOOK_MEMORY, arrays, {"mem_heads": H})
    with pytest.raises(ValueError, match=r"no keys, no values among the tensors \['query_w'\]"):
        read({"query_w": arrays["query_w"]})
    with pytest.raises(ValueError, match=r"heads=3 do not fit .*'keys': \(16, 3\)"):
        read(arrays, mem_heads=3)
    with pytest.raises(ValueError, match=r"keys is \(4, 2, 2, 3\), expected \(4, 2, 4, 3\)"):
        read(arrays, mem_heads=2 * H)
    without = {name: array for name, array in arrays.items() if name != "value_proj_w"}
    with pytest.raises(ValueError, match=r"missing: output/kernel \(5, 5\)"):
        read(without)
