"""Facts of a file, dealt into the tasks of a lesson."""

from __future__ import annotations

import json
from dataclasses import replace

from smf_jax.data.readers import Reader
from smf_jax.taught.fact_files import read_facts
from smf_jax.taught.lessons import find_lesson, tasks_of, without_left
from smf_jax.taught.record import Checks, Record
from tests.tiny_sweep import write_lines


def facts_of(tmp_path, *questions):
    records = [{"question": q, "answer": a} for q, a in questions]
    return read_facts(Reader(), str(write_lines(tmp_path / "my facts.jsonl", *records)))


def lesson_of(record, facts, per_task=2):
    found = find_lesson(record, facts, "a/my facts.jsonl", per_task)
    assert found is not None
    return found


def with_status(lesson, *statuses):
    facts = zip(lesson.facts, statuses, strict=True)
    told = tuple(replace(fact, status=status) for fact, status in facts)
    return replace(lesson, facts=told, after=Checks())


def test_facts_are_dealt_in_their_order_and_twice_the_same_is_one(tmp_path):
    facts = facts_of(tmp_path, ("a?", "1"), ("b?", "2"), ("A ?", "1"), ("c?", "3"))
    lesson = lesson_of(Record({}, {}), facts)
    assert lesson.name == "my-facts" and lesson.tasks == 2 and lesson.left() == (0, 1)
    tasks = tasks_of(lesson, facts)
    assert [task.name for task in tasks] == ["my-facts_01", "my-facts_02"]
    assert [[fact.answers[0] for fact in task.facts] for task in tasks] == [["1", "2"], ["3"]]


def test_what_is_known_is_not_taught_again_and_another_answer_is(tmp_path):
    facts = facts_of(tmp_path, ("a?", "1"), ("b?", "2"), ("c?", "3"))
    done = with_status(lesson_of(Record({}, {}), facts), "learned", "known", "not learned")
    record = Record({}, {}).with_lesson(done)
    again = lesson_of(record, facts)
    assert (again.name, [fact.question for fact in again.facts]) == ("my-facts-2", ["c?"])
    assert find_lesson(record, facts[:2], "b.jsonl", 2) is None
    changed = lesson_of(record, facts_of(tmp_path, ("a?", "9")))
    assert [fact.answers for fact in changed.facts] == [("9",)]
    record = record.with_lesson(with_status(changed, "learned"))
    # The later answer is the one that counts.
    assert record.current()["a"].answers == ("9",)


def test_a_lesson_that_stopped_goes_on_unless_more_is_wanted(tmp_path):
    facts = facts_of(tmp_path, ("a?", "1"), ("b?", "2"), ("c?", "3"))
    stopped = with_status(lesson_of(Record({}, {}), facts), "learned", "learned", "left")
    record = Record({}, {}).with_lesson(stopped)
    assert lesson_of(record, facts) == stopped
    more = facts_of(tmp_path, ("a?", "1"), ("b?", "2"), ("c?", "3"), ("d?", "4"))
    new = lesson_of(record, more)
    assert [fact.question for fact in new.facts] == ["c?", "d?"]
    record = without_left(record, new).with_lesson(new)
    assert [lesson.left() for lesson in record.lessons] == [(), (0,)]


def test_a_record_is_read_as_it_was_written(tmp_path):
    facts = facts_of(tmp_path, ("a?", "1"), ("b?", "2"))
    record = Record({"path": "a"}, {"layers": "1"}).with_lesson(lesson_of(Record({}, {}), facts))
    assert Record.from_json(json.loads(json.dumps(record.to_json())), "here") == record
