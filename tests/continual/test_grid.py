"""The grid: from scoped flags to trials."""

from __future__ import annotations

import pytest

from smf_jax.continual.config import SweepConfig
from smf_jax.continual.grid import (
    budget,
    check_budgets,
    grid,
    one_of,
    parse_list,
    parse_scoped,
    rate,
    seed,
)
from smf_jax.continual.methods import METHODS
from smf_jax.continual.sections import GridConfig
from smf_jax.continual.trial import Trial

DENSE = tuple(name for name, method in METHODS.items() if not method.is_sparse)


def grid_of(**axes: str) -> tuple[Trial, ...]:
    return grid(GridConfig(**axes))


def test_unscoped_values_reach_every_method():
    assert parse_scoped("10, 30", "lr", tuple(METHODS), rate) == dict.fromkeys(
        METHODS, (10.0, 30.0)
    )


def test_scoped_values_reach_only_their_methods():
    text = "smf:10,30/full:3e-5,1e-4/lora:3e-4"
    assert parse_scoped(text, "lr", tuple(METHODS), rate) == {
        "smf": (10.0, 30.0),
        "full": (3e-5, 1e-4),
        "lora": (3e-4,),
    }


def test_an_empty_flag_leaves_the_defaults():
    assert parse_scoped("", "lr", tuple(METHODS), rate) == {}


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
        parse_scoped(text, flag, tuple(METHODS), kind)


def test_the_grid_is_the_product_of_the_axes_that_a_method_has():
    trials = grid_of(
        methods="smf,full",
        seeds="0,1",
        slots="16,64,256",
        rule="tfidf,tf",
        lr="smf:10,30/full:1e-5",
    )
    smf = [trial for trial in trials if trial.method == "smf"]
    assert len(smf) == 2 * 3 * 2 * 2  # rules, budgets, rates, seeds
    assert [trial.id for trial in trials if trial.method == "full"] == [
        "full-adamw-lr1e-05-s0",
        "full-adamw-lr1e-05-s1",
    ]


def test_each_method_deals_its_batches_in_its_own_order_unless_told():
    axes = dict(methods="smf,full", slots="16", lr="smf:30/full:1e-4")
    assert [(trial.id, trial.batch_order) for trial in grid_of(**axes)] == [
        ("smf-tfidf-sgd-t16-lr30-s0", "facts"),
        ("full-adamw-lr0.0001-s0", "shuffled"),
    ]
    assert [(t.id, t.batch_order) for t in grid_of(**axes, batch_order="shuffled")] == [
        ("smf-tfidf-sgd-t16-shuffled-lr30-s0", "shuffled"),
        ("full-adamw-lr0.0001-s0", "shuffled"),
    ]


def test_the_rule_all_has_no_budget():
    trials = grid_of(methods="smf", slots="16,64", rule="all,tf", lr="30")
    assert [trial.id for trial in trials] == [
        "smf-all-sgd-lr30-s0",
        "smf-tf-sgd-t16-lr30-s0",
        "smf-tf-sgd-t64-lr30-s0",
    ]


def test_a_method_named_twice_is_run_once():
    assert grid_of(methods="full,full", seeds="0,0") == grid_of(methods="full")


@pytest.mark.parametrize("method", METHODS)
def test_a_method_left_out_of_every_flag_takes_its_defaults(method):
    other = next(name for name in METHODS if name != method)
    trials = grid_of(methods=method, lr=f"{other}:1.0")
    optimizer = METHODS[method].optimizer
    assert {trial.optimizer for trial in trials} == {optimizer}
    rates = {trial.learning_rate for trial in trials}
    assert rates == set(METHODS[method].learning_rates[optimizer])
    assert all((trial.rule is None) == (method in DENSE) for trial in trials)


def test_a_scope_of_a_method_that_is_not_run_is_said_once(capsys):
    assert grid_of(methods="full", lr="smf:3/full:1e-4/lora:1e-3") == grid_of(
        methods="full", lr="1e-4"
    )
    (line,) = capsys.readouterr().out.splitlines()
    assert line == (
        "--lr=smf:3/full:1e-4/lora:1e-3: nothing of smf, lora, which --methods leaves out, is run"
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam", "adamw"])
def test_the_usual_optimizers_have_a_default_rate_for_every_method(method, optimizer):
    trials = grid_of(methods=method, optimizer=optimizer)
    assert trials
    assert all(trial.learning_rate > 0 for trial in trials)


def test_ids_differ_where_trials_differ():
    trials = grid_of(
        methods="smf,full",
        seeds="0,1",
        rule="all,tfidf,random",
        granularity="per_step,per_task",
        optimizer="sgd,momentum,adam,adamw",
        lr="smf:1e-4,1.0000001e-4,30/full:1e-4,3e-5",
    )
    assert len({trial.id for trial in trials}) == len(trials)


def test_budgets_beyond_the_table_are_refused_by_name():
    trials = grid_of(methods="smf,full", slots="64,256,512")
    check_budgets(trials, 512)
    with pytest.raises(ValueError, match=r"--slots=256,512: .* has 255 slots; give budgets up to"):
        check_budgets(trials, 255)


def test_the_defaults_make_a_frontier_of_every_method():
    trials = grid_of()
    rates = {
        m: {t.learning_rate for t in trials if t.method == m} for m in ("full", "lora", "replay")
    }
    assert all(len(found) >= 3 for found in rates.values())
    assert {t.slots for t in trials if t.method == "smf"} == {64, 512}
    assert len(trials) == len(set(trials)) == len({t.id for t in trials})


def test_axes_that_a_method_lacks_collapse():
    given = dict(rule="tf,random", granularity="per_step,per_task", seeds="0,1")
    trials = grid_of(methods="smf,full", slots="16,64", lr="smf:10/full:1e-4", **given)
    assert [t.method for t in trials].count("smf") == 2 * 2 * 2 * 2
    assert [t.method for t in trials].count("full") == 2
    scoped = grid_of(methods="smf,lora", slots="smf:16", lr="lora:1e-3", optimizer="lora:sgd")
    assert {(t.method, t.slots, t.optimizer) for t in scoped} == {
        ("smf", 16, "sgd"),
        ("lora", None, "sgd"),
    }


def test_settings_of_methods_are_axes_and_what_is_as_told_is_not_named():
    told = "lora_targets:all,gate+up/lora_rank:8,32"
    trials = grid_of(methods="lora,full", lr="1e-3", vary=told)
    words = [trial.varied_words for trial in trials if trial.method == "lora"]
    both = [["targets_all"], ["targets_gate+up"]]
    assert words == [*both, *(["rank32", *each] for each in both)]
    assert [trial.id for trial in trials if trial.method == "full"] == ["full-adamw-lr0.001-s0"]
    default, wide = grid_of(methods="lora", lr="1e-3", vary="lora_rank:8,32")
    assert (default.id, wide.id) == ("lora-adamw-lr0.001-s0", "lora-adamw-rank32-lr0.001-s0")
    # What the run is told is what a trial differs from.
    own = SweepConfig.of(lora_rank=32).own
    found = grid(GridConfig(methods="lora", lr="1e-3", vary="lora_rank:8,32"), own)
    assert [trial.varied for trial in found] == [(("lora_rank", 8),), ()]


@pytest.mark.parametrize(
    ("vary", "complaint"),
    [
        ("rank:8", "--vary=rank:8: 'rank:8' names no setting of a method; give SETTING:VALUES"),
        ("lora_rank", "'lora_rank' names no setting of a method"),
        ("lora_rank:8/lora_rank:9", "lora_rank is named twice; join its values by commas"),
        ("lora_rank:8,x", "'x' is no value of lora_rank, of type int"),
        ("lora_rank:0", "'0' is no value of lora_rank, of type int: --lora_rank=0: .*at least 1"),
        ("train_alpha:yes", "'yes' is no value of train_alpha; give true or false"),
        ("budget_scope:each", "is no value of budget_scope, .* choose from per_layer, shared"),
    ],
)
def test_a_setting_that_cannot_be_varied_so_is_refused(vary, complaint):
    with pytest.raises(ValueError, match=complaint):
        grid_of(methods="smf,lora", vary=vary)


def test_a_setting_of_a_method_that_is_not_run_is_said(capsys):
    assert grid_of(methods="full", vary="lora_rank:8,32") == grid_of(methods="full")
    assert "nothing of lora, which --methods leaves out" in capsys.readouterr().out
