from __future__ import annotations

from dataclasses import replace

import pytest

from smf_jax.data.facts import (
    Fact,
    Paraphrase,
    Question,
    rotate_paraphrases,
    stream_of,
    train_paraphrases,
)
from smf_jax.data.questions import question_fact

WORDINGS = tuple(Paraphrase(f"prompt {number}", " answer") for number in range(10))


def test_rotation_divides_all_paraphrases_without_overlap():
    for turn in range(12):
        trained, asked = rotate_paraphrases(WORDINGS, turn, train=8, held_out=2)
        assert len(trained) == 8
        assert len(asked) == 2
        assert set(trained) | set(asked) == set(WORDINGS)


def test_neighbours_are_trained_in_what_a_fact_is_asked():
    for turn in range(12):
        _, asked = rotate_paraphrases(WORDINGS, turn, train=8, held_out=2)
        neighbour, _ = rotate_paraphrases(WORDINGS, turn + 1, train=8, held_out=2)
        assert set(asked) <= set(neighbour)


def test_every_wording_is_held_out_by_some_fact():
    held_out = {w for turn in range(5) for w in rotate_paraphrases(WORDINGS, turn, 8, 2)[1]}
    assert held_out == set(WORDINGS)


def test_rotation_needs_enough_paraphrases():
    with pytest.raises(
        ValueError, match=r"held_out_paraphrases=3 need 11 paraphrases, .* has 10: lower"
    ):
        rotate_paraphrases(WORDINGS, 0, train=8, held_out=3)
    with pytest.raises(ValueError, match="held_out_paraphrases=0: expected at least 1"):
        rotate_paraphrases(WORDINGS, 0, train=8, held_out=0)


def test_trained_paraphrases_leave_out_what_is_asked():
    first = Fact("one", "", WORDINGS[:2], WORDINGS[2:3], ("answer",))
    second = Fact("two", "", WORDINGS[4:5], WORDINGS[5:6], ("answer",))
    assert train_paraphrases([first, second]) == (*WORDINGS[:2], WORDINGS[4])


def questions(count: int) -> tuple:
    asked = (Question(f"Question {i}?", (f"answer {i}",)) for i in range(count))
    return tuple(question_fact(f"q{i}", question) for i, question in enumerate(asked))


def test_a_stream_deals_each_fact_once():
    facts = questions(50)
    tasks = stream_of(facts, tasks=4, facts_per_task=12, seed=0)
    assert [task.name for task in tasks] == ["task_00", "task_01", "task_02", "task_03"]
    dealt = [fact for task in tasks for fact in task.facts]
    assert len(set(dealt)) == 48
    assert set(dealt) <= set(facts)


def test_a_stream_follows_from_its_seed_and_grows_at_its_end():
    facts = questions(50)
    assert stream_of(facts, 3, 5, seed=1) == stream_of(facts, 3, 5, seed=1)
    assert stream_of(facts, 3, 5, seed=1) != stream_of(facts, 3, 5, seed=2)
    assert stream_of(facts, 6, 5, seed=1)[:3] == stream_of(facts, 3, 5, seed=1)


def test_a_question_with_two_records_is_dealt_once():
    facts = questions(10)
    twice = question_fact("again", Question("Question 3?", ("another answer",)), turn=1)
    (task,) = stream_of([*facts, twice], tasks=1, facts_per_task=10, seed=0)
    assert set(task.facts) == set(facts)
    with pytest.raises(ValueError, match="need 11 facts, but the stream has 10 different ones"):
        stream_of([*facts, replace(facts[0], name="copy")], 1, 11, seed=0)


def test_a_stream_needs_counts():
    with pytest.raises(ValueError, match="facts_per_task=0: expected at least 1"):
        stream_of(questions(3), 1, 0, seed=0)
