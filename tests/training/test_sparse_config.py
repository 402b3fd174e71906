"""Which choices of a sparse step exclude each other, and what their refusal says."""

from __future__ import annotations

import re

import numpy as np
import optax
import pytest

from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.sparse.rules import RULES
from smf_jax.sparse.selection import GRANULARITIES
from smf_jax.training.sparse_config import SparseConfig
from tests.training import tiny


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("granularity", ["per_step", "per_micro_batch"])
def test_every_rule_ranks_steps_and_micro_batches(rule, granularity):
    config = SparseConfig(rule=rule, granularity=granularity, micro_batches=4, size=512)
    assert config.places == (512 if granularity == "per_step" else 2048)


def test_a_step_takes_an_optax_optimizer_of_ones_own():
    tables = {}
    for optimizer, rate in ((optax.sgd(0.5), 1.0), ("sgd", 0.5)):
        run = tiny.sparse_run(SparseConfig(optimizer=OptimizerConfig(optimizer)))
        state, metrics = run.step(run.start(), tiny.batch(), tiny.settings(rate))
        assert int(metrics.selected) == 5
        (tables[rate],) = state.tables.values()
    np.testing.assert_array_equal(tables[1.0], tables[0.5])


def test_a_step_refuses_an_optimizer_that_mixes_rows():
    own = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.5))
    run = tiny.sparse_run(SparseConfig(optimizer=OptimizerConfig(own)))
    with pytest.raises(ValueError, match="optimizer mixes rows: .*clip= of an OptimizerConfig"):
        run.start()


REFUSED = {
    "rule='best' is unknown; choose from tfidf, tf": {"rule": "best"},
    f"granularity='per_epoch' is unknown; choose from {', '.join(GRANULARITIES)}": {
        "granularity": "per_epoch"
    },
    "budget_scope='each' is unknown; choose from per_layer, shared": {"budget_scope": "each"},
    "mask='rows' is unknown; choose from update, gradient": {"mask": "rows"},
    "size=0 must be at least 1": {"size": 0},
    "micro_batches=-1 must be at least 1": {"micro_batches": -1},
    "score_share=1.5 is no share; give one in (0, 1]": {"score_share": 1.5},
    "score_share=0.0 is no share": {"score_share": 0.0},
    "protect_written=-1 must not be negative": {"protect_written": -1},
    "max_df=1.5 is no share; give one in [0, 1]": {"max_df": 1.5},
    "rule='tf' and max_df=0.1 exclude each other": {"rule": "tf", "max_df": 0.1},
    "alpha_rate=0.0 must be positive": {"alpha_rate": 0.0, "train_alpha": True},
    "granularity='per_micro_batch' and micro_batches=1 exclude each other": {
        "granularity": "per_micro_batch"
    },
    "rule='mass' and granularity='per_task' exclude each other": {
        "rule": "mass",
        "granularity": "per_task",
    },
    "rule='gradient' and granularity='per_task' exclude each other": {
        "rule": "gradient",
        "granularity": "per_task",
    },
    "rule='all' and budget_scope='shared' exclude each other": {
        "rule": "all",
        "budget_scope": "shared",
    },
    "rule='random' and score_share=0.5 exclude each other": {"rule": "random", "score_share": 0.5},
    "rule='all' and score_share=0.5 exclude each other": {"rule": "all", "score_share": 0.5},
    "rule='tf' and protect_written=1.0 exclude each other": {"rule": "tf", "protect_written": 1.0},
    "train_alpha=False and alpha_rate=10.0 exclude each other": {"alpha_rate": 10.0},
    "train_alpha=False and alpha_schedule=False exclude each other": {"alpha_schedule": False},
}


@pytest.mark.parametrize("message", REFUSED)
def test_impossible_choices_are_refused(message):
    with pytest.raises(ValueError, match=re.escape(message)):
        SparseConfig(**REFUSED[message])
