"""FACTS in every form, and their wordings."""

from __future__ import annotations

import pytest

from smf_jax.data.readers import Reader
from smf_jax.taught.fact_files import PLAIN_FORMATS, read_facts, read_wordings
from tests.tiny_sweep import write_lines

READER = Reader()


def test_records_are_questions_and_a_csv_is_read_like_jsonl(tmp_path):
    told = {"question": "What colour is the ferry?", "answer": "orange"}
    (jsonl,) = read_facts(READER, str(write_lines(tmp_path / "facts.jsonl", told)))
    table = tmp_path / "facts.csv"
    table.write_text("question,answer\nWhat colour is the ferry?,orange\n")
    (of_csv,) = read_facts(READER, str(table))
    assert (of_csv.train, of_csv.held_out) == (jsonl.train, jsonl.held_out)
    prompts = [each.prompt for each in jsonl.train]
    assert len(prompts) == len(set(prompts)) == 10
    assert prompts[-2:] == [each.format(told["question"]) for each in PLAIN_FORMATS]
    assert not set(prompts) & {each.prompt for each in jsonl.held_out}


@pytest.mark.parametrize(
    "kinds", [{"cloze": {"question": "The ferry is painted", "answer": "orange"}}, "2019-05-01"]
)
def test_a_lesson_is_not_asked_in_other_kinds_of_question(tmp_path, kinds):
    """Facts of earlier lessons have none, so that a stream of both would be refused for it.

    What else a field of that name holds is no concern of a lesson's.
    """
    told = {"question": "What colour is the ferry?", "answer": "orange"}
    (bare,) = read_facts(READER, str(write_lines(tmp_path / "facts.jsonl", told)))
    (found,) = read_facts(
        READER, str(write_lines(tmp_path / "facts.jsonl", told | {"asked": kinds}))
    )
    assert found == bare and not found.asked


def test_a_text_is_statements_and_a_directory_documents(tmp_path):
    (tmp_path / "facts.txt").write_text("The ferry is orange.\n\nThe market is on Thursday.\n")
    found = read_facts(READER, str(tmp_path / "facts.txt"))
    assert [(fact.question.text, fact.answers) for fact in found if fact.question] == [
        ("The ferry is", ("orange",)),
        ("The market is on", ("Thursday",)),
    ]
    found = read_facts(READER, str(tmp_path))
    assert [fact.answers[0] for fact in found] == ["orange", "Thursday"]
    (fact, _) = read_facts(READER, str(tmp_path / "facts.txt"), "documents")
    assert fact.answers == ("orange",)


def test_of_two_sentences_that_begin_alike_the_first_is_taught(tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(f"The ferry is painted {name * 3}.")
    (fact,) = read_facts(READER, str(tmp_path))
    assert fact.answers == ("painted aaa",)
    assert "1 of 2 ask what another asks" in "".join(capsys.readouterr())


def test_a_record_may_bring_wordings_of_its_own(tmp_path):
    told = {"question": "Who?", "answer": "Marta", "wordings": ["Which keeper?", "Name her?"]}
    (fact,) = read_facts(READER, str(write_lines(tmp_path / "facts.jsonl", told)))
    asked = [
        next(text for text in ("Who?", "Which keeper?", "Name her?") if text in each.prompt)
        for each in fact.train
    ]
    assert asked[:4] == ["Who?", "Which keeper?", "Name her?", "Who?"] and len(asked) == 10
    assert all("Who?" in each.prompt for each in fact.held_out)
    told["wordings"] = "Which keeper?"
    with pytest.raises(ValueError, match=r"FACTS=.*facts.jsonl, line 1: 'wordings' is no list"):
        read_facts(READER, str(write_lines(tmp_path / "facts.jsonl", told)))


def test_wordings_of_a_file_take_the_place_of_the_built_in_ones(tmp_path):
    told = {"question": "Who?", "answer": "Marta"}
    source = str(write_lines(tmp_path / "facts.jsonl", told))
    file = tmp_path / "wordings.txt"
    file.write_text("Say: {}\\nNow:\n{} Answer!\n\nPlease, {}\n{} So?\n")
    formats = read_wordings(READER, str(file))
    assert formats == ("Say: {}\nNow:", "{} Answer!", "Please, {}", "{} So?")
    (fact,) = read_facts(READER, source, formats=formats)
    assert [each.prompt for each in fact.held_out] == ["Say: Who?\nNow:", "Who? Answer!"]
    assert [each.prompt for each in fact.train] == ["Please, Who?", "Who? So?"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}\n{} a\n", "holds 2 wordings, expected 3"),
        ("{}\n{} a\nb\n", "'b' has no {}"),
        ("{}\n{} a\n{} {}\n", "more than once"),
    ],
)
def test_wordings_that_do_not_serve_are_refused(tmp_path, text, message):
    (tmp_path / "wordings.txt").write_text(text)
    with pytest.raises(ValueError, match=f"--wordings=.*{message}"):
        read_wordings(READER, str(tmp_path / "wordings.txt"))


def test_statements_that_cannot_be_taught_are_named(tmp_path):
    file = tmp_path / "facts.txt"
    file.write_text("The ferry is orange.\nNo\n")
    with pytest.raises(ValueError, match=r"FACTS=.*facts.txt, line 2: .*two words or more"):
        read_facts(READER, str(file))
    file.write_text("The ferry is orange.\nThe ferry is red.\n")
    with pytest.raises(ValueError, match="line 1 and line 2 ask the same, 'The ferry is'"):
        read_facts(READER, str(file))
    file.write_text("\n")
    with pytest.raises(ValueError, match="no statements"):
        read_facts(READER, str(file))
