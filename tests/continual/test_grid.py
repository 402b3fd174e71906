"""The grid: scoped flags, the trials they make, their names, groups and shares."""

from __future__ import annotations

import pytest

from smf_jax.continual.grid import (
    DEFAULT_LEARNING_RATES,
    DEFAULT_OPTIMIZER,
    METHODS,
    Trial,
    budget,
    build_grid,
    check_budgets,
    one_of,
    parse_list,
    parse_scoped,
    rate,
    seed,
    shard,
)
from smf_jax.sparse.optimizers import OPTIMIZERS


def make_trial(**changes) -> Trial:
    settings = dict(
        method="smf",
        slots=64,
        rule="tfidf",
        granularity="per_step",
        optimizer="sgd",
        learning_rate=30.0,
        seed=0,
        batch_order="facts",
    )
    return Trial(**(settings | changes))


def test_unscoped_values_reach_every_method():
    assert parse_scoped("10, 30", "lr", METHODS, rate) == dict.fromkeys(METHODS, (10.0, 30.0))


def test_scoped_values_reach_only_their_methods():
    text = "smf:10,30/full:3e-5,1e-4/lora:3e-4"
    assert parse_scoped(text, "lr", METHODS, rate) == {
        "smf": (10.0, 30.0),
        "full": (3e-5, 1e-4),
        "lora": (3e-4,),
    }


def test_an_empty_flag_leaves_the_defaults():
    assert parse_scoped("", "lr", METHODS, rate) == {}


def test_repeated_values_count_once_in_their_order():
    assert parse_list("512,64,512,0512", "slots", budget) == (512, 64)


@pytest.mark.parametrize(
    ("text", "flag", "kind", "complaint"),
    [
        ("0", "slots", budget, r"--slots=0: '0' is not a budget; .* 1 or more"),
        ("64,-1", "slots", budget, r"--slots=64,-1: '-1' is not a budget"),
        ("64,,512", "slots", budget, r"--slots=64,,512: '' is not a budget"),
        ("1.5", "slots", budget, r"'1.5' is not a budget"),
        ("smf:", "slots", budget, r"--slots=smf:: '' is not a budget"),
        ("nan", "lr", rate, r"--lr=nan: 'nan' is not a learning rate; .* positive"),
        ("inf", "lr", rate, "'inf' is not a learning rate"),
        ("fast", "lr", rate, "'fast' is not a learning rate"),
        ("-1", "seeds", seed, "--seeds=-1: '-1' is not a seed"),
        ("4294967296", "seeds", seed, "is not a seed"),
        ("tfdif", "rule", one_of(("tfidf", "tf")), "'tfdif' is not known; choose from tfidf, tf"),
        ("ful:1", "lr", rate, "--lr=ful:1: method 'ful' is not known; choose from smf, full"),
        ("smf:1/smf:2", "lr", rate, "method 'smf' is named twice; join its values by commas"),
        ("smf:1/2", "lr", rate, "'2' names no method; .* --lr=smf:2"),
    ],
)
def test_a_bad_value_names_the_flag_the_value_and_the_remedy(text, flag, kind, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse_scoped(text, flag, METHODS, kind)


def test_the_grid_is_the_product_of_the_axes_that_a_method_has():
    trials = build_grid(
        ("smf", "full"),
        (0, 1),
        slots=dict.fromkeys(METHODS, (16, 64, 256)),
        rules=dict.fromkeys(METHODS, ("tfidf", "tf")),
        learning_rates={"smf": (10.0, 30.0), "full": (1e-5,)},
    )
    smf = [trial for trial in trials if trial.method == "smf"]
    assert len(smf) == 2 * 3 * 2 * 2  # rules, budgets, rates, seeds
    assert [trial.id for trial in trials if trial.method == "full"] == [
        "full-adamw-lr1e-05-s0",
        "full-adamw-lr1e-05-s1",
    ]


def test_each_method_deals_its_batches_in_its_own_order_unless_told():
    def orders(**axes):
        return [
            (trial.id, trial.batch_order) for trial in build_grid(("smf", "full"), (0,), **axes)
        ]

    rates = {"smf": (30.0,), "full": (1e-4,)}
    slots = {"smf": (16,)}
    assert orders(slots=slots, learning_rates=rates) == [
        ("smf-tfidf-sgd-t16-lr30-s0", "facts"),
        ("full-adamw-lr0.0001-s0", "shuffled"),
    ]
    shuffled = dict.fromkeys(METHODS, ("shuffled",))
    assert orders(slots=slots, learning_rates=rates, batch_orders=shuffled) == [
        ("smf-tfidf-sgd-t16-shuffled-lr30-s0", "shuffled"),
        ("full-adamw-lr0.0001-s0", "shuffled"),
    ]


def test_the_rule_all_has_no_budget():
    trials = build_grid(
        ("smf",),
        (0,),
        slots={"smf": (16, 64)},
        rules={"smf": ("all", "tf")},
        learning_rates={"smf": (30.0,)},
    )
    assert [trial.id for trial in trials] == [
        "smf-all-sgd-lr30-s0",
        "smf-tf-sgd-t16-lr30-s0",
        "smf-tf-sgd-t64-lr30-s0",
    ]


def test_a_method_named_twice_is_run_once():
    assert build_grid(("full", "full"), (0, 0)) == build_grid(("full",), (0,))


@pytest.mark.parametrize("method", METHODS)
def test_a_method_left_out_of_every_flag_takes_its_defaults(method):
    others = {other: (1.0,) for other in METHODS if other != method}
    trials = build_grid((method,), (0,), learning_rates=others)
    optimizer = DEFAULT_OPTIMIZER[method]
    assert {trial.optimizer for trial in trials} == {optimizer}
    rates = {trial.learning_rate for trial in trials}
    assert rates == set(DEFAULT_LEARNING_RATES[method][optimizer])
    assert all((trial.rule is None) == (method != "smf") for trial in trials)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_has_a_default_rate_for_every_method(method, optimizer):
    trials = build_grid((method,), (0,), optimizers={method: (optimizer,)})
    assert trials
    assert all(trial.learning_rate > 0 for trial in trials)


def test_ids_are_names_that_tell_every_setting():
    assert make_trial().id == "smf-tfidf-sgd-t64-lr30-s0"
    assert make_trial(granularity="per_task", seed=3).id == "smf-tfidf-per_task-sgd-t64-lr30-s3"
    assert make_trial().setting == "smf-tfidf-sgd-t64-lr30"
    assert make_trial().sweep == "smf-tfidf-sgd-t64"


def test_ids_differ_where_trials_differ():
    rates = {"smf": (1e-4, 1.0000001e-4, 30.0), "full": (1e-4, 3e-5)}
    trials = build_grid(
        ("smf", "full"),
        (0, 1),
        rules={"smf": ("all", "tfidf", "random")},
        granularities={"smf": ("per_step", "per_task")},
        optimizers=dict.fromkeys(METHODS, OPTIMIZERS),
        learning_rates=rates,
    )
    assert len({trial.id for trial in trials}) == len(trials)


def test_budgets_of_one_size_step_are_one_group():
    assert make_trial(slots=3).group == make_trial(slots=64, learning_rate=1.0, seed=7).group
    assert make_trial(slots=64).group != make_trial(slots=65).group
    assert make_trial(slots=65).group == make_trial(slots=512).group


@pytest.mark.parametrize(
    "change", [{"rule": "tf"}, {"granularity": "per_task"}, {"optimizer": "adam"}]
)
def test_static_settings_part_groups(change):
    assert make_trial(**change).group != make_trial().group


def test_budgets_beyond_the_table_are_refused_by_name():
    trials = build_grid(("smf", "full"), (0,), slots={"smf": (64, 256, 512)})
    check_budgets(trials, 512)
    with pytest.raises(ValueError, match=r"--slots=256,512: .* has 255 slots; give budgets up to"):
        check_budgets(trials, 255)


@pytest.mark.parametrize("count", [1, 3, 100])
def test_shares_cover_the_grid_once(count):
    trials = build_grid(METHODS, (0, 1))
    shares = [shard(trials, f"{index}/{count}") for index in range(count)]
    assert sorted((t for share in shares for t in share), key=trials.index) == list(trials)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("part", ["", "1", "2/2", "-1/2", "0/0", "a/b", "0/2/3"])
def test_a_share_out_of_range_is_refused(part):
    with pytest.raises(ValueError, match=r"--shard=.*give i/n with i from 0 to n - 1"):
        shard([make_trial()], part)
