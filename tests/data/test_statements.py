"""Statements and documents as facts."""

from __future__ import annotations

import pytest

from smf_jax.data.statements import (
    STATEMENT_FORMATS,
    sentences,
    split_statement,
    statement_fact,
)


@pytest.mark.parametrize(
    ("statement", "beginning", "end"),
    [
        ("The ferry to Orrin Island is orange.", "The ferry to Orrin Island is", "orange"),
        ("The market is held on Thursday", "The market is held on", "Thursday"),
        ("The school is named after a whale.", "The school is named after", "a whale"),
        ("Tollman and Sons | repair the ferry.", "Tollman and Sons", "repair the ferry"),
        ("Seals bark", "Seals", "bark"),
        ("Pepper is the very old dog that guards our lighthouse.", "Pepper is the very old dog "
         "that", "guards our lighthouse"),
    ],
)  # fmt: skip
def test_the_end_of_a_statement_is_asked(statement, beginning, end):
    assert split_statement(statement) == (beginning, end)


@pytest.mark.parametrize("statement", ["Seals", "one | two | three", "| two", "one |", "Is it so?"])
def test_what_cannot_be_divided_is_refused(statement):
    with pytest.raises(ValueError, match="expected"):
        split_statement(statement)


def test_a_statement_is_trained_in_eight_formats_and_asked_in_two_others():
    fact = statement_fact("line 1", "The ferry is orange.", turn=3)
    prompts = [each.prompt for each in (*fact.held_out, *fact.train)]
    assert len(fact.held_out) == 2 and len(fact.train) == 8
    assert sorted(prompts) == sorted(each.format("The ferry is") for each in STATEMENT_FORMATS)
    assert {each.answer for each in (*fact.held_out, *fact.train)} == {" orange"}
    assert fact.held_out[0].prompt == STATEMENT_FORMATS[6].format("The ferry is")


def test_a_sentence_of_a_document_comes_with_the_one_before_it():
    text = "Orrin is a small island. Its ferry is painted orange.\nYes. Is it a new one? "
    text += "It runs on Monday mornings!"
    assert list(sentences([text, "Halden has eleven old bridges."])) == [
        ("", "Orrin is a small island."),
        ("Orrin is a small island.", "Its ferry is painted orange."),
        ("Its ferry is painted orange.", "It runs on Monday mornings!"),
        ("", "Halden has eleven old bridges."),
    ]
    assert list(sentences(["word " * 41 + "."])) == []
