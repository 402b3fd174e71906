"""Facts of a file, dealt into the tasks of a lesson."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from smf_jax.data.readers import Reader
from smf_jax.taught.fact_files import read_facts
from smf_jax.taught.fact_rows import patches_of
from smf_jax.taught.lessons import find_lesson, patch_name, tasks_of, without_left
from smf_jax.taught.record import Checks, Lesson, PatchEntry, Record, Said, TaughtFact
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


def test_what_was_forgotten_is_taught_again_also_where_its_lesson_was_cut_short(tmp_path):
    facts = facts_of(tmp_path, ("a?", "1"), ("b?", "2"), ("c?", "3"))
    stopped = with_status(lesson_of(Record({}, {}), facts), "forgotten", "learned", "left")
    record = Record({}, {}).with_lesson(replace(stopped, after=None))
    new = lesson_of(record, facts)
    assert (new.name, [fact.question for fact in new.facts]) == ("my-facts-2", ["a?", "c?"])
    # Emptied by the new one, the first is not gone on with, though it never came to its end.
    record = without_left(record, new).with_lesson(with_status(new, "learned", "learned"))
    assert find_lesson(record, facts, "my facts.jsonl", 2) is None
    empty = replace(stopped, facts=(), after=None)
    assert lesson_of(Record({}, {}).with_lesson(empty), facts).facts


def test_a_lesson_and_its_patches_have_names_of_their_own(tmp_path):
    record = Record({}, {})
    for file, name in [
        ("facts_01.jsonl", "facts_01"),
        ("facts.jsonl", "facts-2"),  # whose first patch would be facts_01
        ("facts_01_02.jsonl", "facts_01_02-2"),  # as is the second one of facts_01
        ("facts_02.jsonl", "facts_02"),
        ("facts_01.csv", "facts_01-2"),
    ]:
        new = find_lesson(record, facts_of(tmp_path, (f"{file}?", "1")), file, 2)
        assert new is not None and new.name == name
        entry = PatchEntry(patch_name(new, 0), "", "", 1, new.name, 0, 1, 1.0)
        record = replace(record.with_lesson(new), patches=(*record.patches, entry))


def test_a_name_is_that_of_a_patch_before_it_is_that_of_a_lesson():
    names = [("facts_01", "facts"), ("facts_01_01", "facts_01"), ("facts_02", "facts")]
    entries = (PatchEntry(name, "", "", 1, lesson, 0, 1, 1.0) for name, lesson in names)
    record = Record({}, {}, (), tuple(entries))
    assert record.places("facts_01") == (0,) and record.places("facts") == (0, 2)
    assert record.places("facts_03") == ()


def test_what_no_patch_has_taught_is_known_again_and_not_learned():
    right, wrong = (Said("a?", "1", True),), (Said("a?", "2", False),)
    known = TaughtFact("a?", ("1",), 0, "known", before=right, after=right)
    lost = known.heard(wrong)
    assert (lost.status, lost.heard(right).status) == ("lost", "known")
    learned = replace(known, status="learned", before=wrong)
    assert learned.heard(wrong).heard(right).status == "learned"
    # A record of before may tell otherwise: it is refused in words.
    odd = replace(known, status="learned")
    lesson = Lesson("facts", "facts.jsonl", (odd,), {})
    with pytest.raises(ValueError, match=r"--fact=a\?: no patch taught it"):
        patches_of(Record({}, {}, (lesson,)), odd)


def test_the_facts_of_a_patch_are_those_of_its_task_or_those_that_it_names():
    facts = tuple(TaughtFact(f"{name}?", ("1",), task) for task, name in enumerate("abc"))
    record = Record({}, {}, (Lesson("facts", "facts.jsonl", facts, {}),))
    entry = PatchEntry("facts_02", "", "", 1, "facts", 1, 1, 1.0)
    assert record.facts_of(entry) == facts[1:2]
    once_more = replace(entry, task=3, questions=("a?", "c?"))
    assert record.facts_of(once_more) == (facts[0], facts[2])


def test_a_record_is_read_as_it_was_written(tmp_path):
    facts = facts_of(tmp_path, ("a?", "1"), ("b?", "2"))
    record = Record({"path": "a"}, {"layers": "1"}).with_lesson(lesson_of(Record({}, {}), facts))
    assert Record.from_json(json.loads(json.dumps(record.to_json())), "here") == record
