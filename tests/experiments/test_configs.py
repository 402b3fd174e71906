"""Presets set every choice of a protocol; what they come to is pinned here, sizes included."""

from __future__ import annotations

import dataclasses

import pytest

from benchmarks.random_checkpoint import SHAPES
from experiments.cli import parse
from experiments.configs import PRESETS, base_recipe, preset_of
from smf_jax.bases.base import Base
from smf_jax.bases.pretrain_config import PretrainConfig
from smf_jax.bases.pretraining import model_config
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.grid import grid
from smf_jax.continual.methods import METHODS
from smf_jax.continual.methods.method import Setup
from smf_jax.models.config import ModelConfig
from smf_jax.models.decoder import abstract_params
from smf_jax.params import count_parameters, flatten

QWEN_HALF_BILLION, SMOLLM2 = SHAPES["qwen2.5-0.5b"], SHAPES["smollm2-135m"]


def flags_of(name: str, *more: str) -> SweepConfig:
    return parse(SweepConfig, [f"--preset={name}", *more])[0]


def parameters(config: ModelConfig) -> dict[str, int]:
    """Parameters of the memory, of its tables, and of everything."""
    params = flatten(abstract_params(config))
    memory = {path: leaf for path, leaf in params.items() if path.startswith("memory/")}
    tables = {path: leaf for path, leaf in memory.items() if path.endswith("/values")}
    return {
        "memory": count_parameters(memory),
        "tables": count_parameters(tables),
        "all": count_parameters(params),
    }


def retrofitted(config: SweepConfig) -> ModelConfig:
    shape = SMOLLM2 if "smollm2" in config.base.base else QWEN_HALF_BILLION
    if not PRESETS[config.preset.preset].pretrain.memory.memory_layers:  # a built-in base
        shape = pretrained(config.preset.preset)
    retrofit = config.retrofit.resolved()
    if not retrofit.memory.keys_per_half:  # sized by its background
        retrofit = retrofit.sized(512)
    return dataclasses.replace(shape, memory=retrofit.placement(shape.width, shape.layers))


def pretrained(name: str) -> ModelConfig:
    config, _ = parse(PretrainConfig, [f"--preset={name}"])
    return model_config(config, vocabulary=32_768)


def model_of(name: str) -> ModelConfig:
    flags = flags_of(name)
    return retrofitted(flags) if flags.retrofit.retrofit != "none" else pretrained(name)


# Settings of the grid, then: memory layers, pools, heads, reads, key width, value width, slots.
PINNED = {
    "lin2025-facts": (
        "smf-tfidf-sgd-t500-lr2-s0 full-adamw-facts-lr5e-06-s0 lora-adamw-facts-lr5e-06-s0 "
        "lora-adamw-facts-lr5e-05-s0 lora-adamw-facts-lr0.0002-s0",
        ((12,), 1, 4, 32, 1024, 1024, 1_048_576, "silu", "none", True),
    ),
    "lin2025-documents": (
        "smf-tfidf-sgd-t10000-lr2-s0 full-adamw-facts-lr5e-06-s0 lora-adamw-facts-lr5e-06-s0 "
        "lora-adamw-facts-lr5e-05-s0 lora-adamw-facts-lr0.0002-s0",
        ((12,), 1, 4, 32, 1024, 1024, 1_048_576, "silu", "none", True),
    ),
    "goyal2026": (
        "smf-kl_df-adamw-t128-lr0.0005-s0 smf-kl_df-adamw-t256-lr0.0005-s0 "
        "smf-kl_df-adamw-t512-lr0.0005-s0",
        ((6, 12, 18), 3, 4, 16, 256, 896, 16_384, "silu", "none", False),
    ),
    "smf-icml2026": (
        "smf-kl_acc-per_micro_batch-adamw-t512-lr0.0005-s0 "
        "smf-kl_acc-per_micro_batch-adamw-t512-lr0.0005-s1 "
        "smf-kl_acc-per_micro_batch-adamw-t512-lr0.0005-s2 "
        "lora-adamw-lr0.0002-s0 lora-adamw-lr0.0002-s1 lora-adamw-lr0.0002-s2 "
        "full-adamw-lr5e-05-s0 full-adamw-lr5e-05-s1 full-adamw-lr5e-05-s2",
        ((6, 12, 18), 3, 4, 16, 256, 896, 16_384, "silu", "none", False),
    ),
    "memory-plus-373m": (None, ((4, 12, 20), 1, 4, 32, 512, 1024, 1_048_576, "silu", "none", True)),
    "pkm2019": (None, ((10,), 1, 4, 32, 512, 1024, 262_144, "none", "batch", False)),
}
SMOLLM2_MEMORY = ((10, 15, 20), 3, 4, 8, 64, 576, 262_144, "none", "none", True)
SMOLLM2_TRIALS = "smf-tfidf-adam-t512-lr0.5-s0 lora-adamw-lr0.001-s0 full-adamw-lr0.0001-s0"
WORLD_MEMORY = ((1,), 1, 4, 8, 64, 128, 16_384, "silu", "none", True)
PINNED |= {
    "smollm2": (SMOLLM2_TRIALS, SMOLLM2_MEMORY),
    "factoids": (
        f"{SMOLLM2_TRIALS} ewc-adamw-lr0.0001-s0 kl-adamw-lr0.0001-s0 "
        "replay_stream-adamw-lr0.0001-s0",
        SMOLLM2_MEMORY,
    ),
    "cortex": (SMOLLM2_TRIALS, SMOLLM2_MEMORY),
    "long-stream": (
        "smf-tfidf-adam-t512-lr0.5-s0 full-adamw-lr3e-05-s0 full-adamw-lr0.0001-s0 "
        "full-adamw-lr0.0003-s0 lora-adamw-lr0.0003-s0 lora-adamw-lr0.001-s0 "
        "lora-adamw-lr0.003-s0 replay-adamw-lr3e-05-s0 replay-adamw-lr0.0001-s0 "
        "replay-adamw-lr0.0003-s0",
        ((2,), 1, 4, 8, 64, 128, 262_144, "none", "none", True),
    ),
    "updates": (None, WORLD_MEMORY),
}
PINNED["smf-icml2026-scale"] = PINNED["smf-icml2026-replace"] = PINNED["smf-icml2026"]


def test_every_preset_is_pinned():
    assert PINNED.keys() == PRESETS.keys()


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_comes_to_its_papers_grid_and_memory(name):
    ids, memory = PINNED[name]
    flags = flags_of(name)
    if ids is not None:
        assert " ".join(trial.id for trial in grid(flags.grid)) == ids
    placement = model_of(name).memory
    assert placement is not None
    found = placement.memory
    assert memory == (
        placement.layers,
        len(placement.pools),
        found.heads,
        found.reads,
        found.key_width,
        found.value_width,
        found.slots,
        found.gate,
        found.query_norm,
        found.qk_norm,
    )


@pytest.mark.parametrize("name", [name for name in PRESETS if "2026" in name])
def test_retrofits_have_the_published_number_of_parameters(name):
    sizes = parameters(retrofitted(flags_of(name)))
    alphas = 3 if flags_of(name).retrofit.retrofit == "add" else 0
    assert sizes["memory"] == 52_011_264 + alphas
    assert sizes["tables"] == 3 * 14_680_064


@pytest.mark.parametrize(
    ("name", "tables", "millions"),
    [
        ("lin2025-facts", 1_073_741_824, 2_253),
        ("memory-plus-373m", 1_073_741_824, 1_491),
        ("pkm2019", 268_435_456, 561),
    ],
)
def test_pretrained_memories_have_the_published_tables(name, tables, millions):
    sizes = parameters(pretrained(name))
    assert sizes["tables"] == tables
    assert round(sizes["all"] / 1e6) == millions


# A Qwen2.5-0.5B layer's projections: q and o, k and v, gate and up and down; r·(in + out) each.
ATTENTION, FEED_FORWARD = 2 * (896 + 896) + 2 * (896 + 128), 3 * (896 + 4864)
QWEN_LORA = 16 * 24 * (ATTENTION + FEED_FORWARD)
# What the methods of a preset train: rows of all pools and their numbers, or numbers alone.
TRAINED = {
    "lin2025-facts": {"smf": 500 * 1024, "full": 2_253_490_176, "lora": 108_068_864},
    "lin2025-documents": {"smf": 10_000 * 1024, "full": 2_253_490_176, "lora": 108_068_864},
    "goyal2026": {"smf": 3 * 512 * 896},
    # Each of four micro-batches selects its own.
    "smf-icml2026": {"smf": 3 * 4 * 512 * 896, "full": 494_032_768 + 52_011_267, "lora": QWEN_LORA},
    "smf-icml2026-scale": {
        "smf": 3 * 4 * 512 * 896 + 3,
        "full": 494_032_768 + 52_011_267,
        "lora": QWEN_LORA,
    },
    "smf-icml2026-replace": {
        "smf": 3 * 4 * 512 * 896,
        "full": 494_032_768 + 52_011_264 - 3 * 3 * 896 * 4864,
        "lora": QWEN_LORA - 3 * 16 * FEED_FORWARD,
    },
    "memory-plus-373m": {"smf": 512 * 1024, "full": 1_491_139_072, "lora": 4_153_344},
    "pkm2019": {"smf": 512 * 1024, "full": 561_032_192 - 2 * 4 * 512, "lora": 2_891_776},
}
# Of a layer q and o, k and v, gate and up and down; dense methods leave the rows alone.
SMOLLM2_LORA = 8 * 30 * (2 * (576 + 576) + 2 * (576 + 192) + 3 * (576 + 1536))
SMOLLM2_FULL = 134_515_008 + 3 * 278_848
TRAINED |= {
    "smollm2": {"smf": 1536 * 576, "full": SMOLLM2_FULL, "lora": SMOLLM2_LORA},
    "factoids": {
        "smf": 1536 * 576,
        "lora": SMOLLM2_LORA,
        **dict.fromkeys(("full", "ewc", "kl", "replay_stream"), SMOLLM2_FULL),
    },
    "cortex": {"smf": 1536 * 576, "full": SMOLLM2_FULL, "lora": SMOLLM2_LORA},
    # All but the table, which holds no rows: base, queries and their bias, keys, two scales.
    "long-stream": {
        "smf": 512 * 128,
        "full": 4_850_816 + 128 * 256 + 256 + 2 * 4 * 512 * 32 + 64,
        "lora": 8 * 4 * (4 * (128 + 128) + 3 * (128 + 256)),
    },
    "updates": {"smf": 512 * 128, "full": 6_948_544, "lora": 60_416},
}


@pytest.mark.parametrize("name", PRESETS)
def test_what_is_told_to_train_is_what_the_paper_trains(name):
    flags = flags_of(name)
    config = model_of(name)
    abstract_base = flatten(abstract_params(config))
    base = Base(config, abstract_base, None, "outline")  # pyright: ignore[reportArgumentType]
    told = {}
    for trial in grid(flags.grid):
        method = METHODS[trial.method]
        setup = Setup(flags.own(trial.method), flags.training, flags.stream.tasks, base, ())
        told[trial.method] = method.summary(setup, method.trainer(setup, trial), trial).parameters
    told.pop("replay", None)
    assert told == TRAINED[name]


def test_training_of_the_retrofits_is_as_published():
    goyal, icml = flags_of("goyal2026"), flags_of("smf-icml2026")
    for training in (goyal.training, icml.training):
        assert (training.clip, training.schedule, training.warmup_steps) == (1.0, "cosine", 100)
        assert training.batch_size == 16
    healed = goyal.retrofit
    assert (healed.retrofit, healed.heal_steps, healed.heal_learning_rate) == (
        "replace",
        1250,
        5e-4,
    )
    own = icml.own("smf")
    assert (icml.retrofit.retrofit, icml.retrofit.alpha, own.train_alpha) == ("add", 0.01, False)
    assert (icml.own("lora").rank, icml.own("lora").alpha) == (16, 32.0)
    assert icml.training.steps_per_task == 11_250
    assert flags_of("smf-icml2026-scale").own("smf").train_alpha
    assert flags_of("smf-icml2026-replace").retrofit.retrofit == "replace"


def test_a_given_flag_wins_over_the_preset():
    config = flags_of("goyal2026", "--slots=64", "--retrofit=replace")
    assert (config.grid.slots, config.grid.rule) == ("64", "kl_df")
    # Also where it is given the value that the flag has by default.
    assert flags_of("goyal2026", "--rule=").grid.rule == ""


def test_without_a_preset_nothing_changes():
    assert parse(SweepConfig, [])[0] == SweepConfig()
    assert base_recipe(SweepConfig()) == PretrainConfig()


@pytest.mark.parametrize("name", PRESETS)
def test_tiny_changes_sizes_and_no_choices(name):
    choices = ("rule", "granularity", "optimizer", "retrofit", "gate", "query_norm", "qk_norm")
    choices += ("score", "shared_pool", "train_alpha", "clip", "schedule", "key_scale")
    tiny, full = (flags_of(name, f"--scale={scale}") for scale in ("tiny", "full"))
    assert [tiny.values()[each] for each in choices] == [full.values()[each] for each in choices]
    if full.stream.facts_per_task == 1:
        assert tiny.stream.facts_per_task == 1, "single writes are the protocol"
    made = model_config(base_recipe(tiny), vocabulary=512)
    assert count_parameters(abstract_params(made)) < 200_000


@pytest.mark.parametrize("name", PRESETS)
def test_a_whole_model_is_not_kept_after_each_of_many_tasks(name):
    """Of SmolLM2 each is half a gigabyte."""
    config = flags_of(name)
    dense = {"full", "ewc", "kl", "replay_stream"} & set(config.grid.methods.split(","))
    if config.base.base != "world" and (config.stream.tasks >= 10 or len(dense) > 1):
        assert not dense or config.run.keep_checkpoints == "last"


@pytest.mark.parametrize("name", PRESETS)
def test_open_choices_are_flags_and_a_preset_names_itself_in_the_run(name):
    known = SweepConfig().values().keys() | PretrainConfig().values().keys()
    assert set(PRESETS[name].open_choices) <= known
    assert flags_of(name).preset.preset == name
    assert preset_of(SweepConfig, name) == flags_of(name).with_values(preset="")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--preset=lin2024"], "--preset=lin2024 is unknown; choose from lin2025-facts"),
        (["--preset=pkm2019", "--scale=huge"], "--scale=huge is unknown; choose from full, tiny"),
        (["--scale=tiny"], "--scale=tiny shrinks a preset; give --preset with it"),
    ],
)
def test_unknown_presets_and_scales_are_refused(arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse(SweepConfig, arguments)
