from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from smf_jax.data.facts import Question
from smf_jax.data.questions import (
    QUESTION_FORMATS,
    Fields,
    asks,
    question_fact,
    read_open_questions,
    read_questions,
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
    first, second = (question_fact(str(i), Question("Who?", ("I",)), turn=i) for i in range(2))
    assert first.held_out != second.held_out
    assert set(first.held_out) <= set(second.train)


def test_one_answer_may_stand_alone_and_a_question_may_be_a_problem(tmp_path):
    path = write(tmp_path / "set.jsonl", {"question": "Who?", "answer": "I"})
    assert read_questions(path)[0].answers == ("I",)
    path = write(tmp_path / "set.csv", "metadata,problem,answer", "x,Who?,I")
    assert read_questions(path)[0].answers == ("I",)


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
        ({"question": "Who?", "answers": [True]}, r"line 2: 'answers': found True: expected text"),
        (
            {"question": "Who?", "answer": "[x, y]"},
            r"line 2: 'answer': '\[x, y\]' looks like a list",
        ),
        (
            {"question": "Who?", "answer": "[0, 1]"},
            r"line 2: 'answer': '\[0, 1\]' may be a list of",
        ),
        ({"question": ["Who?", "Why?"], "answer": "I"}, "line 2: no question"),
        ({"messages": [{"role": "user", "content": "Who?"}]}, "line 2: the question has no answer"),
        ({"messages": [{"role": "assistant", "content": "I"}]}, "line 2: no question"),
        ({"messages": [{"role": "user", "content": 3}]}, "line 2: 'messages': a message holds 3"),
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


NESTED: dict[str, dict] = {
    "squad": {"question": "Who?", "answers": {"text": ["I", "me"], "answer_start": [0, 3]}},
    "squad's own": {"question": "Who?", "answers": [{"text": "I"}, {"text": "me"}]},
    "trivia": {"question": "Who?", "answer": {"aliases": ["I", "me"], "value": "I", "type": "x"}},
    "null": {"question": None, "problem": "Who?", "answers": None, "answer": ["I", None, "me"]},
    "empty": {"question": "Who?", "answers": [""], "answer": ["I", "me"]},
    "completion": {"prompt": "Who?", "completion": ["I", "me"]},
    "text": {"query": "Who?", "answer": "['I', 'me']"},
    "natural": {"question": {"text": "Who?"}, "answers": [["I"], ["me"]]},
}


@pytest.mark.parametrize("shape", NESTED)
def test_answers_are_read_in_every_shape(tmp_path, shape):
    (found,) = read_open_questions(write(tmp_path / "q.jsonl", NESTED[shape]))
    assert found == Question("Who?", ("I", "me"))


def test_numbers_are_read_as_they_are_written(tmp_path):
    text = '{"question": "When?", "answer": 1911}\n{"question": "Pi?", "answers": [3.10, "3"]}\n'
    (tmp_path / "q.jsonl").write_text(text)
    first, second = read_open_questions(tmp_path / "q.jsonl")
    assert (first.answers, second.answers) == (("1911",), ("3.10", "3"))


@pytest.mark.parametrize("write_cell", [str, json.dumps, lambda texts: str(np.array(texts))])
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_lists_in_cells_teach_no_brackets(tmp_path, write_cell, suffix):
    texts = ["the Oro", "it's", 'the "Oro"', "a, b"] * 4
    path = tmp_path / f"q{suffix}"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=",\t"[suffix == ".tsv"])
        writer.writerows([("question", "answers"), ("Who?", write_cell(texts)), ("[Who]?", "I")])
    first, second = read_open_questions(path)
    assert first.answers == tuple(texts[:4])
    assert second == Question("[Who]?", ("I",))


def test_fields_may_be_named(tmp_path):
    record = {"data": {"q": "Who?", "a": {"all": ["I", "me"]}}, "answer": "wrong", "a.b": "x"}
    path = write(tmp_path / "q.jsonl", record, {"q2": "Why?", "answer": "So"})
    fields = Fields.of("data.q, q2", "data.a.all,answer")
    assert read_open_questions(path, fields) == (
        Question("Who?", ("I", "me")),
        Question("Why?", ("So",)),
    )
    assert Fields.of() == Fields()
    told = r"line 1: the question has no answer: .* in 'data.b'; .* \['data.q', 'data.a.all', "
    with pytest.raises(ValueError, match=told):
        read_questions(path, fields=Fields.of("data.q", "data.b"))
    with pytest.raises(ValueError, match=r"line 1: no question: expected text in 'nope'; the rec"):
        read_questions(path, fields=Fields.of("nope"))


USER, SAID = {"role": "user", "content": "Who?"}, {"role": "assistant", "content": " I "}
SYSTEM = {"role": "system", "content": "Speak."}
SPOKEN = (("user", "Who?"),)


@pytest.mark.parametrize(
    ("record", "text", "answers"),
    [
        ({"messages": [USER, SAID]}, "Who?", ("I",)),
        ({"messages": [SYSTEM, USER, SAID]}, "System: Speak.\nUser: Who?", ("I",)),
        ({"messages": [USER, SAID, USER, SAID]}, "User: Who?\nAssistant: I\nUser: Who?", ("I",)),
        ({"messages": [USER, SAID], "answers": ["me"]}, "Who?", ("me",)),
        ({"prompt": [USER], "completion": [SAID]}, "Who?", ("I",)),
        ({"prompt": [USER], "completion": "I"}, "Who?", ("I",)),
        ({"prompt": "x", "messages": [USER, SAID]}, "Who?", ("I",)),
        ({"messages": str([USER, SAID])}, "Who?", ("I",)),
        ({"messages": [USER, SAID | {"content": "[1]"}]}, "Who?", ("[1]",)),
    ],
)
def test_the_last_answer_of_a_conversation_is_taught(tmp_path, record, text, answers):
    (found,) = read_open_questions(write(tmp_path / "q.jsonl", record))
    assert (found.text, found.answers) == (text, answers)
    assert found.turns[-1:] == SPOKEN


def test_a_conversation_has_no_answer_where_other_fields_are_named(tmp_path):
    path = write(tmp_path / "q.jsonl", {"messages": [USER, SAID]})
    with pytest.raises(ValueError, match="line 1: the question has no answer: .* in 'answer.text'"):
        read_open_questions(path, Fields.of("", "answer.text"))
    fields = Fields.of("", "answer.text,messages")
    assert read_open_questions(path, fields) == (Question("Who?", ("I",), SPOKEN),)


def test_records_of_questions_are_told_from_texts():
    assert asks({"question": "Who?", "text": "x"}) and asks({"messages": [USER, SAID]})
    assert not asks({"prompt": "Who?", "text": "x"}) and not asks({"text": "x"})
    assert asks({"a": {"q": "Who?"}, "text": "x"}, Fields.of("a.q"))


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


def test_open_questions_are_read_as_they_stand(tmp_path):
    found = read_open_questions(write(tmp_path / "q.jsonl", *RECORDS))
    assert [question.text for question in found] == [each["question"] for each in RECORDS]
    assert found[0].answers == ("Lima", "lima")
    with pytest.raises(ValueError, match="line 2: the question has no answer"):
        read_open_questions(write(tmp_path / "bad.jsonl", RECORDS[0], RECORDS[1] | {"answers": []}))
    with pytest.raises(ValueError, match="no questions in the file"):
        read_open_questions(write(tmp_path / "empty.jsonl"))
