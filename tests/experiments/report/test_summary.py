"""The numbers of a report, against values worked out by hand and a dense search."""

from __future__ import annotations

import math

import numpy as np
import pytest

from experiments.report.summary import (
    average,
    best,
    curve_labels,
    finished,
    forgetting,
    grouped,
    half_width,
    retention_matrix,
    summarise,
    sweeps,
)


def test_an_outcome_is_the_mean_over_tasks_and_the_state_after_the_last(make_rows):
    rows = make_rows(tasks=2, known_base=0.8, known=0.6)
    rows[0] |= dict(seen=0.5, unseen=0.25, stream_seen=0.5, stream_unseen=0.25, known=0.7)
    rows[1] |= dict(seen=1.0, unseen=0.75, stream_seen=0.4, stream_unseen=0.3)
    (outcome,) = summarise(rows)
    assert (outcome.learned_seen, outcome.learned_unseen) == (0.75, 0.5)
    assert (outcome.end_seen, outcome.end_unseen) == (0.4, 0.3)
    assert outcome.known_kept == pytest.approx(0.75)
    assert outcome.known_forgotten == pytest.approx(0.25)
    assert outcome.text_loss_change == pytest.approx(0.1)
    assert outcome.rows_changed == 150
    assert outcome.seconds == 4
    assert (outcome.tasks, outcome.failed) == (2, "")


def test_known_is_what_the_base_could_answer_where_no_other_facts_are_asked(make_rows):
    asked = dict(probe_k_kept=0.6, probe_k_kept_base=1.0, probe_k_f1=0.7, probe_k_f1_base=1.0)
    (outcome,) = summarise(make_rows(tasks=1, known=None, known_base=None, **asked), "k=known:f")
    assert outcome.known_kept == pytest.approx(0.6)
    (outcome,) = summarise(make_rows(tasks=1, known=0.4, known_base=0.8, **asked), "k=known:f")
    assert outcome.known_kept == pytest.approx(0.5)


def test_what_tasks_did_to_each_other_and_to_the_rest(make_rows):
    rows = make_rows(tasks=3, known=0.7, question_x=0.5, question_x_base=0.6)
    for row, ahead in zip(rows, (0.3, 0.5, None), strict=True):
        row |= dict(ahead=ahead, unseen_base=0.1)
    (outcome,) = summarise(rows)  # 0.9 right after each task, 0.8 later
    assert outcome.backward_transfer == pytest.approx(-0.1)
    assert outcome.forgetting == pytest.approx((0.1 + 0.1) / 2)
    assert outcome.forward_transfer == pytest.approx((0.2 + 0.4) / 2)
    assert outcome.stream_average == pytest.approx((0.9 + 0.85 + (0.8 + 0.8 + 0.9) / 3) / 3)
    assert outcome.gain == pytest.approx((0.7 + 0.7 + 0.8) / 3)
    assert outcome.drop == pytest.approx((0.3 + 0.1) / 2)
    for row in rows:  # as of a version that asked no task ahead, and without a probe
        del row["ahead"], row["unseen_base"], row["question_x"]
        row["known"] = row["known_base"] = None
    (old,) = summarise(rows)
    assert math.isnan(old.forward_transfer) and math.isnan(old.gain) and math.isnan(old.drop)
    assert old.backward_transfer == outcome.backward_transfer


def test_of_a_repeated_row_the_last_counts_whatever_the_order(make_rows):
    rows = make_rows(tasks=3)
    again = rows[2] | {"stream_unseen": 0.1}
    (outcome,) = summarise([rows[2], rows[0], again, rows[1]])
    assert (outcome.tasks, outcome.end_unseen) == (3, 0.1)
    assert [len(accuracies) for accuracies in outcome.retention] == [1, 2, 3]


def test_a_trial_ends_before_a_row_that_is_missing(make_rows):
    first, gap, last = make_rows(tasks=3)
    (outcome,) = summarise([first, last])
    assert outcome.tasks == 1 and len(outcome.retention) == 1
    assert summarise([gap, last]) == ()


def test_what_was_not_measured_is_nan(make_rows):
    (outcome,) = summarise(make_rows("full", known_base=0.0, text_loss=None))
    assert math.isnan(outcome.known_kept)
    assert math.isnan(outcome.text_loss_change)
    assert math.isnan(outcome.rows_changed)


def test_failed_and_unfinished_trials_are_told_apart_from_finished_ones(make_rows):
    nothing = dict(seen=None, unseen=None, retention=None, stream_seen=None, stream_unseen=None)
    failing = make_rows(learning_rate=1e3, tasks=2)
    failing[1] |= nothing | dict(known=None, text_loss=None, failed_step=17)
    trials = summarise(make_rows(tasks=3) + failing + make_rows(slots=512, tasks=2))
    assert [outcome.failed for outcome in trials] == ["", "task 1, step 17", ""]
    assert [outcome.tasks for outcome in trials] == [3, 1, 2]
    assert finished(trials) == trials[:1]
    further = make_rows(learning_rate=1e3, tasks=5)
    further[4] |= nothing | dict(known=None, text_loss=None, failed_step=17)
    of_three, failed = sorted(summarise(make_rows(tasks=3) + further), key=lambda o: o.failed)
    assert failed.tasks == 4 and finished((of_three, failed)) == (of_three,)
    assert finished([]) == ()


def test_settings_are_means_over_seeds_with_their_interval(make_rows):
    learned = (0.5, 0.6, 0.7)
    rows = [row for seed, x in enumerate(learned) for row in make_rows(seed=seed, learned=x)]
    first, second = average(summarise(rows + make_rows(slots=512)))
    assert first.trial.setting == "smf-tfidf-sgd-t64-lr30"
    assert len(first.outcomes) == 3
    assert first.mean["learned_unseen"] == pytest.approx(0.6)
    # Student's t(0.975, 2) = 4.3027, s = 0.1
    assert first.interval["learned_unseen"] == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-4)
    assert math.isnan(second.interval["learned_unseen"])


@pytest.mark.parametrize(("count", "quantile"), [(2, 12.706), (5, 2.776), (30, 2.045)])
def test_the_interval_uses_the_quantile_of_students_t(count, quantile):
    values = np.linspace(0, 1, count)
    expected = quantile * np.std(values, ddof=1) / count**0.5
    assert half_width(values) == pytest.approx(expected, rel=1e-3)


def test_a_sweep_holds_the_settings_that_differ_in_the_rate_by_rising_rate(make_rows):
    rows = make_rows(learning_rate=30.0) + make_rows("full", learning_rate=1e-5)
    rows += make_rows(learning_rate=3.0) + make_rows(slots=512)
    curves = sweeps(average(summarise(rows)))
    assert {name: [s.trial.learning_rate for s in curve] for name, curve in curves.items()} == {
        "smf-tfidf-sgd-t64": [3.0, 30.0],
        "full-adamw": [1e-5],
        "smf-tfidf-sgd-t512": [30.0],
    }


def test_labels_name_only_what_tells_curves_apart(make_rows):
    rows = make_rows() + make_rows(slots=512) + make_rows("full")
    assert list(curve_labels(sweeps(average(summarise(rows)))).values()) == [
        "smf, budget 64",
        "smf, budget 512",
        "full",
    ]
    rows += make_rows(rule="random", trial="smf-random-sgd-t64-lr30-s0")
    assert list(curve_labels(sweeps(average(summarise(rows)))).values()) == [
        "smf, random, budget 64",
        "smf, tfidf, budget 64",
        "smf, tfidf, budget 512",
        "full",
    ]


def test_the_best_setting_weighs_what_was_learned_and_what_was_kept(make_rows):
    gentle = make_rows("full", learning_rate=1e-5, end=0.1, known=0.99)
    middle = make_rows("full", learning_rate=3e-5, end=0.5, known=0.8)
    strong = make_rows("full", learning_rate=1e-4, end=0.6, known=0.1)
    averages = average(summarise(gentle + middle + strong + make_rows(end=0.9, known=0.9)))
    assert averages[2].balance == pytest.approx(2 / (1 / 0.5 + 1 / 0.8))
    assert best(averages).trial.method == "smf"
    assert [s.trial.setting for s in map(best, grouped(averages, "trial.method").values())] == [
        "smf-tfidf-sgd-t64-lr30",
        "full-adamw-lr3e-05",
    ]


def test_trials_are_sorted_by_method_and_then_by_number_whatever_ran_first(make_rows):
    rows = []
    for slots in (512, 64, 4096):
        for rate in (120.0, 30.0):
            for seed in (10, 2):
                rows += make_rows(slots=slots, learning_rate=rate, seed=seed)
    rows = make_rows("full") + make_rows("lora") + rows
    rows += [row | {"method": "ewc", "trial": "ewc"} for row in make_rows("lora")]
    trials = [outcome.trial for outcome in summarise(rows)]
    assert [t.method for t in trials] == ["smf"] * 12 + ["full", "lora", "ewc"]
    numbers = [(t.slots, t.learning_rate, t.seed) for t in trials[:12]]
    assert numbers == sorted(numbers) and len(set(numbers)) == 12


def test_where_nothing_was_known_the_best_has_learned_the_most(make_rows):
    rows = make_rows(end=0.2, known_base=0.0) + make_rows(slots=512, end=0.3, known_base=0.0)
    assert best(average(summarise(rows))).trial.slots == 512
    assert average(summarise(make_rows(end=0.0, known=0.0)))[0].balance == 0


def test_forgetting_falls_back_on_the_loss_where_a_base_knew_nothing(make_rows):
    known, unknown = make_rows(), make_rows("full", known_base=0.0)
    assert forgetting(average(summarise(known)))[0] == "known_forgotten"
    assert forgetting(average(summarise(known + unknown)))[0] == "text_loss_change"


def test_retention_is_a_lower_triangle_averaged_over_seeds(make_rows):
    rows = make_rows(seed=0, learned=0.8, end=0.4) + make_rows(seed=1, learned=1.0, end=0.6)
    (setting,) = average(summarise(rows))
    expected = [[0.9, np.nan, np.nan], [0.5, 0.9, np.nan], [0.5, 0.5, 0.9]]
    np.testing.assert_allclose(retention_matrix(setting), expected)


def test_named_probes_are_those_after_the_last_task_and_their_change(make_rows):
    base = dict(probe_nq_f1_base=0.4, probe_wiki_loss_base=2.0, probe_none_exact_base=0.0)
    now = dict(probe_nq_f1=0.3, probe_wiki_loss=2.5, probe_none_exact=0.0)
    rows = make_rows(tasks=2, **base, **now)
    rows[0]["probe_nq_f1"] = 0.1
    (outcome,) = summarise(rows)
    assert outcome.probes == now
    assert outcome.worsened("probe_nq_f1") == pytest.approx(0.25)  # of the base's score
    assert outcome.worsened("probe_wiki_loss") == pytest.approx(0.25)  # a loss worsens upwards
    assert math.isnan(outcome.worsened("probe_none_exact"))  # nothing to lose
    (setting,) = average([outcome])
    assert setting.mean["probe_nq_f1"] == 0.3
    (told,) = summarise(rows, "wiki=ppl:gone.txt")  # the kind, of which the run told
    assert outcome.metrics["probe_wiki_loss"].headline
    assert not told.metrics["probe_wiki_loss"].headline
