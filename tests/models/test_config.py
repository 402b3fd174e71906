import json
from dataclasses import replace

import pytest

from smf_jax.models.config import MemoryPlacement, ModelConfig, RopeScaling
from tests.models.tiny import FAMILIES, MEMORY, PLAIN, with_memory


@pytest.mark.parametrize(
    "config",
    [
        PLAIN,
        with_memory("add", (0, 1), shared_pool=True, alpha=0.5),
        replace(PLAIN, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 64), dtype="bfloat16"),
        *FAMILIES.values(),
    ],
)
def test_json_round_trip_restores_the_configuration(config):
    again = ModelConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert hash(again) == hash(config)


def test_unknown_field_is_named():
    with pytest.raises(ValueError, match=r"ModelConfig has no fields \['colour'\]"):
        ModelConfig.from_dict(PLAIN.to_dict() | {"colour": 1})


def test_layer_out_of_range_names_the_layer_and_the_range():
    with pytest.raises(ValueError, match=r"layers \[2\] do not exist.*2 layers, 0 to 1"):
        with_memory("add", (1, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "gpt2"}, "family='gpt2' is unknown; choose from"),
        ({"dtype": "int8"}, "dtype='int8' is unknown; choose from"),
        ({"width": 0}, "width=0 must be above 0"),
        ({"rope_theta": -1.0}, "rope_theta=-1.0 must be above 0"),
        ({"key_value_heads": 3}, "heads=4 is not a multiple of key_value_heads=3"),
        ({"head_width": 5}, "head_width=5 must be even"),
        (
            {"unrotated_layers": (2,)},
            r"unrotated_layers=\(2,\) names the blocks \[2\], which do not",
        ),
        ({"sliding_window": 4}, r"sliding_window=4 with sliding_layers=\(\): give a window and"),
        ({"sliding_layers": (0,)}, r"sliding_window=None with sliding_layers=\(0,\): give a wind"),
        ({"sliding_rope_theta": 1e4}, r"sliding_rope_theta=10000.0 with sliding_layers=\(\)"),
        (
            {"query_key_norm": True, "query_key_norm_over_heads": True},
            "query_key_norm=True with query_key_norm_over_heads=True",
        ),
    ],
)
def test_impossible_models_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(PLAIN, **change)


@pytest.mark.parametrize(
    ("layers", "mode", "message"),
    [
        ((), "add", "places no memory"),
        ((1, 1), "add", "names a layer twice"),
        ((1,), "swap", "mode='swap' is unknown; choose from"),
    ],
)
def test_impossible_placements_are_refused(layers, mode, message):
    with pytest.raises(ValueError, match=message):
        MemoryPlacement(layers, mode, MEMORY)


def test_rope_scaling_with_exchanged_factors_is_refused():
    with pytest.raises(ValueError, match="must be above low_frequency_factor"):
        RopeScaling(8.0, 4.0, 1.0, 64)


def test_each_layer_has_a_pool_unless_one_is_shared():
    own = MemoryPlacement((2, 0), "add", MEMORY)
    assert own.layers == own.pools == (0, 2)
    assert own.pool_of(2) == 2
    shared = MemoryPlacement((2, 1), "add", MEMORY, shared_pool=True)
    assert shared.pools == (1,)
    assert shared.pool_of(2) == 1


@pytest.mark.parametrize(("mode", "kept"), [("add", True), ("replace", False), ("pretrain", False)])
def test_only_added_memories_leave_the_feed_forward(mode, kept):
    config = with_memory(mode)
    assert config.has_feed_forward(0)
    assert config.has_feed_forward(1) is kept
