"""From a trial to its trainer: static sizes and what is told before the first step."""

from __future__ import annotations

import dataclasses

import jax
import pytest

from smf_jax.bases.base import load_base
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.methods import METHODS
from smf_jax.continual.methods.method import Setup, TrainableSummary, settings_of
from smf_jax.continual.plan import setup_of
from smf_jax.continual.stream_data import load_stream_data
from smf_jax.continual.trial import Trial
from tests.tiny_sweep import TINY_SWEEP

CONFIG = SweepConfig.of(**TINY_SWEEP)
SMF = Trial("smf", 16, "tfidf", "per_step", "sgd", 30.0, 0, "facts")


@pytest.fixture(scope="module")
def base(tiny_base):
    return load_base(str(tiny_base), "base")


@pytest.fixture(scope="module")
def gathered(base):
    return load_stream_data(CONFIG, base)


@pytest.fixture(scope="module")
def setup(base, gathered):
    """What a method's trainers are made for, with changes to the configuration."""

    def of(method: str = "smf", of_base=base, **changes) -> Setup:
        trial = dataclasses.replace(SMF, method=method)
        return setup_of(CONFIG.with_values(**changes), trial, of_base, gathered)

    return of


def summary(setup: Setup, trial: Trial) -> TrainableSummary:
    method = METHODS[trial.method]
    return method.summary(setup, method.trainer(setup, trial), trial)


def test_a_size_is_a_step_that_holds_the_budget_and_fits_the_table(base, gathered, setup):
    smf = METHODS["smf"]

    def size(**changes) -> int:
        return smf.size(setup(), dataclasses.replace(SMF, **changes))

    assert [size(slots=slots) for slots in (1, 16, 64, 65, 256)] == [64, 64, 64, 256, 256]
    # Rule `all`: as many rows as a batch can read, of a task where that selects.
    memory = dataclasses.replace(base.config.memory.memory, keys_per_half=512)
    placement = dataclasses.replace(base.config.memory, memory=memory)
    large = dataclasses.replace(base, config=base.config.with_memory(placement))
    everything = dataclasses.replace(SMF, slots=None, rule="all")
    length = gathered.examples[0].tokens.shape[-1]
    assert smf.size(setup(of_base=large), everything) == 16 * length * 2 * 8
    of_task = dataclasses.replace(everything, granularity="per_task")
    assert smf.size(setup(of_base=large), of_task) == 4 * 8 * length * 2 * 8
    assert size(slots=None, rule="all") == 256


@pytest.mark.parametrize(
    ("optimizer", "changes", "row_floats", "counts"),
    [
        ("sgd", {}, 0, 0),
        ("momentum", {}, 1, 0),
        ("adam", {}, 2, 1),
        ("adam", dict(store_rows=100), 2, 1),
        ("adam", dict(keep_optimizer_state=True), 2, 1),
    ],
)
def test_optimizer_bytes_are_those_of_the_rows_a_task_can_touch(
    setup, optimizer, changes, row_floats, counts
):
    trains = summary(setup(**changes), dataclasses.replace(SMF, optimizer=optimizer))
    assert (trains.rows, trains.parameters) == (16, 16 * 32)
    capacity = changes.get("store_rows", 256)  # 6 steps of 64 places, of 256 slots
    rows = capacity * 4 * (32 * row_floats + counts)
    # An index of N, how many are used and whether that was enough; Adam's count for the scalars.
    assert trains.optimizer_bytes == (rows + 256 * 4 + 4 + 1 + 4 * counts if row_floats else 0)


@pytest.mark.parametrize(
    ("changes", "rows"),
    [
        (dict(micro_batches=2), 16),
        (dict(micro_batches=2, granularity="per_micro_batch"), 32),
        (dict(leaky=True), 256),
    ],
)
def test_rows_are_all_that_a_step_may_change(setup, changes, rows):
    granularity = changes.pop("granularity", "per_step")
    trial = dataclasses.replace(SMF, granularity=granularity)
    assert summary(setup(**changes), trial).rows == rows


def test_options_of_the_step_reach_it(setup):
    smf = METHODS["smf"]
    with pytest.raises(ValueError, match="granularity='per_micro_batch' and micro_batches=1"):
        smf.trainer(setup(), dataclasses.replace(SMF, granularity="per_micro_batch"))
    with pytest.raises(ValueError, match="score_share=2"):
        smf.trainer(setup(score_share=2.0), SMF)
    with pytest.raises(ValueError, match="rule='tf' and protect_written=1"):
        smf.trainer(setup(protect_written=1.0), dataclasses.replace(SMF, rule="tf"))
    with pytest.raises(ValueError, match="--budget_scope=each is unknown; choose from per_layer"):
        setup(budget_scope="each")


FULL = Trial("full", None, None, None, "adamw", 1e-3, 0, "shuffled")


def test_what_trains_reads_well(setup):
    trains = summary(setup(), SMF)
    assert str(trains).startswith("16 rows, 512 parameters (")
    assert str(trains).endswith("%), optimizer 0 bytes")
    told = str(summary(setup("full"), FULL))
    assert "rows" not in told and "(100.00%)" in told


LEAVES = (
    "embedding/table",
    "layers_1/attention/query/kernel",
    "memory/layer_1/query/kernel",
    "memory/layer_1/query_norm/mean",
    "memory/layer_1/keys",
    "memory/layer_1/alpha",
    "memory/pool_0/values",
    "memory/pool_0/expert_inputs",
    "layers_1/attention/query/a",
    "layers_1/attention/query/b",
    "layers_1/mlp/up/a",
)


@pytest.mark.parametrize(
    ("method", "changes", "allowed"),
    [
        ("smf", {}, {6}),
        ("smf", dict(train_alpha=True), {5, 6}),
        ("lora", dict(lora_targets="query,value"), {8, 9}),
        ("lora", dict(lora_targets="up"), {10}),
        ("lora", dict(lora_targets="mlp"), {10}),
        ("lora", dict(lora_targets="attention"), {8, 9}),
        ("full", {}, {0, 1, 2, 4, 5, 6, 7, 8, 9, 10}),
        ("replay", {}, {0, 1, 2, 4, 5, 6, 7, 8, 9, 10}),
    ],
)
def test_the_allow_list_of_a_method(method, changes, allowed):
    own = CONFIG.with_values(**changes).own(method)
    found = {i for i, path in enumerate(LEAVES) if METHODS[method].may_train(own, path)}
    assert found == allowed


@pytest.mark.parametrize("method", ["smf", "lora"])
def test_a_trainer_of_what_is_not_allowed_is_refused(setup, method):
    trainer = METHODS["full"].trainer(setup("full"), FULL)
    trial = dataclasses.replace(SMF, method=method)
    with pytest.raises(RuntimeError, match=f"method {method} must not train .*embedding"):
        METHODS[method].summary(setup(method), trainer, trial)


def test_adapters_are_those_of_the_configuration(setup, base):
    trial = Trial("lora", None, None, None, "adamw", 1e-3, 7, "shuffled")
    trainer = METHODS["lora"].trainer(setup("lora", lora_rank=3, lora_targets="query,value"), trial)
    state = jax.eval_shape(trainer.begin, base.params, settings_of(trial, 1))
    shapes = {path: leaf.shape for path, leaf in state.params.items()}
    assert shapes["layers_0/attention/query/a"] == (32, 3)
    assert {path.split("/")[-2] for path in shapes} == {"query", "value"}


def test_every_method_has_a_name_a_colour_and_settings_that_are_flags():
    assert len({method.colour for method in METHODS.values()}) == len(METHODS)
    for name, method in METHODS.items():
        assert method.name == name and method.about
        assert isinstance(CONFIG.own(name), method.config)


def test_settings_are_arrays_of_one_trial():
    found = settings_of(dataclasses.replace(SMF, seed=2**32 - 1), 64)
    assert (float(found.learning_rate), int(found.budget), int(found.seed)) == (30.0, 16, 2**32 - 1)
    everything = dataclasses.replace(SMF, slots=None, rule="all")
    assert int(settings_of(everything, 256).budget) == 256


@pytest.mark.parametrize(("share", "rows"), [(0.5, 8), (0.2, 3), (0.75, 12), (0.001, 1)])
def test_replay_brings_its_share_of_a_batch(share, rows):
    own = CONFIG.with_values(replay_share=share).own("replay")
    assert METHODS["replay"].base_rows(own, 16) == rows
    assert METHODS["full"].base_rows(CONFIG.own("full"), 16) == 0
