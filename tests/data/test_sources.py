from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from smf_jax.data.sources import (
    QUESTION_FORMATS,
    QuestionFields,
    question_fact,
    read_open_questions,
    read_questions,
    read_texts,
    stream_of,
)

SHARED = Path(__file__).parents[3] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="shared/data is not there")

RECORDS = [
    {"relation": "P36", "question": "What is the capital of Peru?", "answers": ["Lima", " lima "]},
    {"relation": "P50", "question": "Who wrote Emma?", "answers": ["Jane Austen", "Austen"]},
    {"relation": "P36", "question": "What is the capital of Mali?", "answers": ["Bamako"]},
]


def write(path: Path, *records: dict | str) -> Path:
    lines = (r if isinstance(r, str) else json.dumps(r) for r in records)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def questions(count: int) -> tuple:
    return tuple(question_fact(f"q{i}", f"Question {i}?", [f"answer {i}"]) for i in range(count))


def test_question_formats_are_ten_or_more_and_distinct():
    assert len(set(QUESTION_FORMATS)) == len(QUESTION_FORMATS) >= 10
    assert all(text.count("{}") == 1 and text == text.strip() for text in QUESTION_FORMATS)


def test_questions_become_facts(tmp_path):
    first, second, third = read_questions(write(tmp_path / "set.v1.jsonl", *RECORDS))
    assert [fact.name for fact in (first, second, third)] == ["set:1", "set:2", "set:3"]
    assert [fact.relation for fact in (first, second, third)] == ["P36", "P50", "P36"]
    assert first.answers == ("Lima", "lima")
    assert second.answers == ("Jane Austen", "Austen")
    assert (len(first.train), len(first.held_out)) == (8, 2)
    assert not set(first.train) & set(first.held_out)
    for prompt, answer in (*second.train, *second.held_out):
        assert "Who wrote Emma?" in prompt
        assert prompt == prompt.rstrip()
        assert answer == " Jane Austen"


def test_formats_held_out_for_one_question_are_trained_in_the_next():
    first, second = (question_fact(str(i), "Who?", ["I"], turn=i) for i in range(2))
    assert first.held_out != second.held_out
    assert set(first.held_out) <= set(second.train)


def test_one_answer_may_stand_alone_and_fields_may_have_other_names(tmp_path):
    path = write(tmp_path / "set.jsonl", {"question": "Who?", "answer": "I"})
    assert read_questions(path)[0].answers == ("I",)
    path = write(tmp_path / "set.csv", "metadata,problem,answer", "x,Who?,I")
    assert read_questions(path)[0].answers == ("I",)
    path = write(tmp_path / "other.jsonl", {"frage": "Wer?", "antwort": ["Ich"]})
    fields = QuestionFields(question=("frage",), answers=("antwort",))
    assert read_questions(path, fields=fields)[0].answers == ("Ich",)


def test_relations_can_be_chosen(tmp_path):
    path = write(tmp_path / "set.jsonl", *RECORDS)
    assert [fact.name for fact in read_questions(path, relations=["P36"])] == ["set:1", "set:3"]
    with pytest.raises(ValueError, match=r"unknown relations \['P1'\]; the file has P36, P50"):
        read_questions(path, relations=["P36", "P1"])
    plain = write(tmp_path / "plain.jsonl", {"question": "Who?", "answer": "I"})
    with pytest.raises(ValueError, match="line 1: no field 'relation'"):
        read_questions(plain, relations=["P36"])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("", r"line 2: empty"),
        ("{", r"line 2: malformed JSON"),
        ({"answers": ["x"]}, r"line 2: no question: expected text in 'question' or 'problem'"),
        ({"question": " ", "answers": ["x"]}, r"line 2: no question"),
        ({"question": "Who?"}, r"line 2: the question has no answer"),
        ({"question": "Who?", "answers": []}, r"line 2: the question has no answer"),
        ({"question": "Who?", "answers": ["", " "]}, r"line 2: the question has no answer"),
        ({"question": "Who?", "answers": [7]}, r"line 2: 'answers' or 'answer' is \[7\]"),
        ({"question": "Who?", "answers": {"a": "b"}}, r"expected text or a list of texts"),
    ],
)
def test_bad_questions_are_numbered(tmp_path, bad, message):
    path = write(tmp_path / "set.jsonl", RECORDS[0], bad, RECORDS[1])
    with pytest.raises(ValueError, match=message):
        read_questions(path)


def test_a_file_without_questions_is_refused(tmp_path):
    for name in ("empty.jsonl", "empty.csv"):
        with pytest.raises(ValueError, match="no questions in the file"):
            read_questions(write(tmp_path / name))


def test_too_many_paraphrases_are_refused_before_reading(tmp_path):
    with pytest.raises(ValueError, match="train_paraphrases=20 and held_out_paraphrases=2 need 22"):
        read_questions(tmp_path / "none.jsonl", train_paraphrases=20)


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
    twice = question_fact("again", "Question 3?", ["another answer"], turn=1)
    (task,) = stream_of([*facts, twice], tasks=1, facts_per_task=10, seed=0)
    assert set(task.facts) == set(facts)
    with pytest.raises(ValueError, match="need 11 facts, but the stream has 10 different ones"):
        stream_of([*facts, replace(facts[0], name="copy")], 1, 11, seed=0)


def test_a_stream_needs_counts():
    with pytest.raises(ValueError, match="facts_per_task=0: expected at least 1"):
        stream_of(questions(3), 1, 0, seed=0)


def test_texts_come_from_records_paragraphs_and_directories(tmp_path):
    write(tmp_path / "b.jsonl", {"text": "one"}, {"text": " "}, {"text": "two"})
    write(tmp_path / "a.txt", "three", "", "four")
    write(tmp_path / "notes.md", "not read")
    assert list(read_texts(tmp_path / "b.jsonl")) == ["one", "two"]
    assert list(read_texts(tmp_path / "a.txt")) == ["three", "four"]
    assert list(read_texts(tmp_path)) == ["three", "four", "one", "two"]
    other = write(tmp_path / "c.jsonl", {"body": "five"})
    assert list(read_texts(other, field="body")) == ["five"]


def test_texts_are_streamed(tmp_path):
    path = write(tmp_path / "long.jsonl", *[{"text": "fine"}] * 3, "broken")
    texts = read_texts(path)
    assert [next(texts) for _ in range(3)] == ["fine"] * 3
    with pytest.raises(ValueError, match="line 4: malformed JSON"):
        next(texts)


def test_missing_texts_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_texts(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="no text in this directory"):
        read_texts(tmp_path)
    path = write(tmp_path / "a.jsonl", {"body": "x"})
    with pytest.raises(ValueError, match=r"line 1: no text in the field 'text'; .* \['body'\]"):
        list(read_texts(path))


@needs_shared
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("facts/entityquestions_dev.jsonl.gz", 22068),
        ("facts/trivia_dev.jsonl.xz", 8837),
        ("facts/nq_dpr_dev.jsonl.xz", 8757),
        ("facts/simple_qa_test_set.csv.xz", 4326),
        ("docs/simpleqa_docs_90.jsonl.xz", 90),
    ],
)
def test_real_questions(name, count):
    facts = read_questions(SHARED / name)
    assert len(facts) == count
    assert len({fact.name for fact in facts}) == count


@needs_shared
def test_real_relations():
    path = SHARED / "facts/entityquestions_dev.jsonl.gz"
    facts = read_questions(path, relations=["P36", "P800"])
    assert len(facts) == 885 + 220
    with pytest.raises(ValueError, match=r"unknown relations \['P0'\]; the file has P106, P112"):
        read_questions(path, relations=["P0"])


@needs_shared
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("background/c4_train.jsonl.gz", 1000),
        ("background/wiki2014_valid_1MB.jsonl.xz", 407),
        ("ppl/wikitext2_valid.txt.xz", 1160),
    ],
)
def test_real_texts(name, count):
    assert sum(1 for _ in read_texts(SHARED / name)) == count


def test_open_questions_are_read_as_they_stand(tmp_path):
    found = read_open_questions(write(tmp_path / "q.jsonl", *RECORDS))
    assert [question.text for question in found] == [each["question"] for each in RECORDS]
    assert found[0].answers == ("Lima", "lima")
    with pytest.raises(ValueError, match="line 2: the question has no answer"):
        read_open_questions(write(tmp_path / "bad.jsonl", RECORDS[0], RECORDS[1] | {"answers": []}))
    with pytest.raises(ValueError, match="no questions in the file"):
        read_open_questions(write(tmp_path / "empty.jsonl"))
