"""Questions of a fact in other kinds: read as they stand, refused by name, told from a format."""

from __future__ import annotations

import csv
import json

import pytest

from smf_jax.data.facts import Asked, Question
from smf_jax.data.questions import (
    QUESTION_FORMATS,
    Fields,
    bare_question,
    read_open_questions,
    read_questions,
)
from tests.tiny_sweep import write_lines

RECORDS = [
    {"question": "What is the capital of Peru?", "answers": ["Lima", " lima "]},
    {"question": "Who wrote Emma?", "answers": ["Jane Austen", "Austen"]},
]
ASKED = {
    "reversed": {"problem": "What did Ann make?", "answers": ["it", "that"]},
    "in-a_document2": [
        {"question": "One?", "answer": 1},
        {"question": " Two\n\nof? ", "answer": 2},
    ],
}


@pytest.mark.parametrize("cells", [False, True])
def test_questions_of_other_kinds_stand_as_they_are(tmp_path, cells):
    path = write_lines(tmp_path / "set.jsonl", RECORDS[0] | {"asked": ASKED}, RECORDS[1])
    if cells:
        path = tmp_path / "set.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([("question", "answer", "asked"), ("Who?", "I", json.dumps(ASKED))])
            writer.writerow(("Why?", "so", ""))
    first, second = read_questions(path, kinds=True)
    assert first.asked == (
        Asked("reversed", Question("What did Ann make?", ("it", "that"))),
        Asked("in-a_document2", Question("One?", ("1",))),
        Asked("in-a_document2", Question("Two\n\nof?", ("2",))),
    )
    assert first.of_kind("reversed")[0].answers == ("it", "that") and not first.of_kind("direct")
    assert second.asked == ()
    taught = {prompt for prompt, _ in (*first.train, *first.held_out)}
    assert not any("Ann" in prompt or "One" in prompt for prompt in taught)
    assert len(read_open_questions(path)) == 2  # which are the records' own


def test_questions_of_other_kinds_are_read_by_the_same_fields(tmp_path):
    own = {"q": "Who?", "a": "I", "asked": {"direct": {"q": "Which?", "a": "me"}}}
    path, named = write_lines(tmp_path / "set.jsonl", own), Fields.of("q", "a")
    (fact,) = read_questions(path, fields=named, kinds=True)
    assert fact.asked == (Asked("direct", Question("Which?", ("me",))),)
    own["asked"]["direct"] = {"question": "Which?", "answer": "me"}
    with pytest.raises(ValueError, match=r"line 1: 'asked': 'direct': no question: .* in 'q'"):
        read_questions(write_lines(path, own), fields=named, kinds=True)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["Who?"], "'asked': found .*: expected a group of questions by their kind"),
        ("Who?", "'asked': found 'Who\\?': expected a group .* or leave the field out"),
        ({"in doc": {}}, "'asked': the kind 'in doc' is no name: expected letters, .*; rename it"),
        ({"": {}}, "'asked': the kind '' is no name"),
        ({"direct": "Who?"}, "'asked': 'direct': found 'Who\\?': expected a question with its ans"),
        ({"direct": []}, "'asked': 'direct': found .*; give one or take the kind out"),
        ({"direct": {"question": "Who?"}}, "'asked': 'direct': the question has no answer"),
        ({"direct": [{"answer": "I"}]}, "'asked': 'direct': no question: expected text in"),
    ],
)
def test_bad_questions_of_other_kinds_name_line_and_kind(tmp_path, asked, message):
    path = write_lines(tmp_path / "set.jsonl", RECORDS[0], RECORDS[1] | {"asked": asked})
    with pytest.raises(ValueError, match=f"set.jsonl, line 2: {message}"):
        read_questions(path, kinds=True)
    assert len(read_open_questions(path)) == len(read_questions(path)) == 2, "which ask no kinds"


@pytest.mark.parametrize("each", QUESTION_FORMATS)
def test_a_question_is_told_from_the_format_that_it_stands_in(each):
    assert bare_question(each.format("Who made it?")) == "Who made it?"
    assert bare_question("In the evening there was a") == "In the evening there was a"
