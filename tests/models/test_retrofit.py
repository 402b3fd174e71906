import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.models.config import MemoryPlacement, PlacementMode
from smf_jax.models.decoder import abstract_params
from smf_jax.models.retrofit import retrofit
from smf_jax.params import flatten
from tests.models.tiny import MEMORY, PLAIN, random_params

BASE = random_params(PLAIN)
KEY = jax.random.key(0)


def placed(mode: PlacementMode) -> MemoryPlacement:
    return MemoryPlacement((1,), mode, MEMORY)


@pytest.mark.parametrize("mode", ["add", "replace"])
def test_pretrained_leaves_keep_their_paths_and_everything_new_is_memory(mode):
    config, params = retrofit(PLAIN, BASE, placed(mode), KEY)
    before, after = flatten(BASE), flatten(params)
    dropped = {path for path in before if path.startswith("layers_1/feed_forward/")}
    assert set(before) - set(after) == (dropped if mode == "replace" else set())
    assert all(after[path] is before[path] for path in set(before) & set(after))
    assert all(path.startswith("memory/") for path in set(after) - set(before))
    wanted = flatten(abstract_params(config))
    assert {path: leaf.shape for path, leaf in after.items()} == {
        path: leaf.shape for path, leaf in wanted.items()
    }


def test_memories_start_from_the_key():
    params = [
        retrofit(PLAIN, BASE, placed("add"), key)[1]["memory"]
        for key in (KEY, KEY, jax.random.key(1))
    ]
    tables = [np.asarray(memory["pool_1"]["values"]) for memory in params]
    np.testing.assert_array_equal(tables[0], tables[1])
    assert not np.array_equal(tables[0], tables[2])
    assert tables[0].std() == pytest.approx(MEMORY.value_width**-0.5, rel=0.2)
    assert params[0]["layer_1"]["alpha"] == np.float32(0.01)


def test_memories_are_float32_in_a_narrower_model_unless_told():
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), BASE)
    for choice, expected in (({}, jnp.float32), ({"dtype": jnp.bfloat16}, jnp.bfloat16)):
        params = retrofit(PLAIN, half, placed("add"), KEY, **choice)[1]
        assert {leaf.dtype for leaf in jax.tree.leaves(params["memory"])} == {jnp.dtype(expected)}
        assert params["embedder"]["embedding"].dtype == jnp.bfloat16


def test_a_second_retrofit_is_refused():
    config, params = retrofit(PLAIN, BASE, placed("add"), KEY)
    with pytest.raises(ValueError, match=r"memories in layers \(1,\) already"):
        retrofit(config, params, placed("add"), KEY)


def test_pretrain_is_no_retrofit():
    with pytest.raises(ValueError, match="mode='pretrain' builds memories in from the start"):
        retrofit(PLAIN, BASE, placed("pretrain"), KEY)


def test_layer_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"layers \[7\] do not exist"):
        retrofit(PLAIN, BASE, MemoryPlacement((7,), "add", MEMORY), KEY)
