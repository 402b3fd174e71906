"""What is measured after each task: the tasks so far, the next one, and the base before all."""

from __future__ import annotations

import pytest

from smf_jax.bases.base import load_base
from smf_jax.continual.run_directory import RunDirectory
from smf_jax.continual.stream_data import load_stream_data
from smf_jax.evaluation.in_context import in_context_probe, unseen_questions
from smf_jax.evaluation.scorer import Scorer
from tests.tiny_sweep import rows_of, write_lines

FULL = "full-adamw-lr0.01-s0"


def test_every_task_is_asked_before_it_is_taught(finished, sweeper):
    rows = [row for row in rows_of(finished) if row["trial"] == FULL]
    base = load_base(str(finished / "base"), "base")
    data = load_stream_data(sweeper.config(finished), base)
    scorer, run = Scorer(base.model, 32), RunDirectory(str(finished))

    def exact(params, task):
        return data.unseen[task].measure(scorer, params)["exact"]

    before = [exact(base.params, task) for task in (0, 1)]
    assert [row["unseen_base"] for row in rows] == pytest.approx(before)
    first = run.load_model(*run.find_trial(FULL, 0), base.params, base.fingerprint())
    assert rows[0]["ahead"] == pytest.approx(exact(first, 1)) and rows[1]["ahead"] is None
    assert rows[0]["retention"] == pytest.approx([exact(first, 0)])


@pytest.mark.parametrize(("steps", "fits"), [(2, True), (500, False)])
def test_the_base_is_asked_with_the_facts_of_a_task_in_its_prompt(
    sweeper, tmp_path, capsys, steps, fits
):
    told = dict(methods="smf", slots="16", in_context=True, probe_answer_tokens=steps)
    assert sweeper(tmp_path / "run", **told) == 0
    base = load_base(str(tmp_path / "run" / "base"), "base")
    data = load_stream_data(sweeper.config(tmp_path / "run", **told), base)
    scorer, expected = Scorer(base.model, 32), []
    for task in data.tasks:
        asked, positions = unseen_questions(task.facts, 2), base.config.max_positions
        probe = in_context_probe(base.tokenizer, task.facts, asked, positions, steps)
        expected.append(probe and probe.measure(scorer, base.params)["exact"])
    assert [score is not None for score in expected] == [fits, fits]
    assert [row["unseen_in_context"] for row in rows_of(tmp_path / "run")] == expected
    lacking = "--in_context: the facts of 2 of 2 tasks" in capsys.readouterr().out
    assert lacking == (not fits)


def test_questions_that_share_a_row_score_as_alone(sweeper, tmp_path):
    """Packed, the taught answer first and others where it fails: as each answer in its own row."""
    asked = [
        {"question": "Who is" + " it" * (n % 9) + "?", "answers": [str(n % 2), "Ann", "Bo"]}
        for n in range(8)
    ]
    stream = str(write_lines(tmp_path / "stream.jsonl", *asked))
    told = dict(stream=stream, pack=True, methods="full", lr="full:1e-2", eval_batch_size=4)
    assert sweeper(tmp_path / "run", devices=1, **told) == 0
    base = load_base(str(tmp_path / "run" / "base"), "base")
    data = load_stream_data(sweeper.config(tmp_path / "run", **told), base)
    scorer, run = Scorer(base.model, 32), RunDirectory(str(tmp_path / "run"))
    rows, found = rows_of(tmp_path / "run"), []
    for task, row in enumerate(rows):
        params = run.load_model(*run.find_trial(FULL, task), base.params, base.fingerprint())
        unseen = [data.unseen[t].measure(scorer, params)["exact"] for t in range(task + 1)]
        assert row["retention"] == pytest.approx(unseen)
        assert row["seen"] == pytest.approx(data.seen[task].measure(scorer, params)["exact"])
        found += [*unseen, row["seen"]]
    assert len(rows) == 2 and max(found) > 0 and min(found) < 1
