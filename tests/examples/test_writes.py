"""The example that invents facts: nothing twice, nothing given away, and files that are read."""

from __future__ import annotations

import json
import re

import pytest

from examples import writes
from examples.writes import MOST, RELATIONS, WritesConfig, invent
from smf_jax.continual.kinds import kinds_of
from smf_jax.data.questions import read_questions
from smf_jax.data.world.lexicon import OBJECTS

KINDS = ("direct", "reversed", "indirect", "cloze", "document")


def subject(record: dict) -> str:
    return record["asked"]["reversed"]["answer"]


def holds(text: str, words: str) -> bool:
    return re.search(rf"\b{re.escape(words)}\b", text, re.IGNORECASE) is not None


@pytest.fixture(scope="module")
def everything() -> list[dict]:
    return invent(MOST, 7)


def test_subjects_are_unique_and_answers_are_in_their_relation(everything):
    assert len(everything) == MOST > 500
    assert len({subject(record) for record in everything}) == MOST
    assert len({(record["relation"], record["answer"]) for record in everything}) == MOST
    assert {record["relation"] for record in everything} == {each.name for each in RELATIONS}
    objects = {each.name: OBJECTS[each.objects] for each in RELATIONS}
    assert all(record["answer"] in objects[record["relation"]] for record in everything)


def test_every_fact_is_asked_in_every_kind_by_a_question_of_its_own(everything):
    for record in everything:
        assert tuple(record["asked"]) == KINDS
        prompts = [record["question"], *(each["question"] for each in record["asked"].values())]
        assert len(set(prompts)) == 6
        assert record["question"] not in record["asked"]["direct"]["question"]
        answers = {kind: asked["answer"] for kind, asked in record["asked"].items()}
        assert answers.pop("reversed") != record["answer"] and set(answers.values()) == {
            record["answer"]
        }


def test_no_prompt_gives_its_answer_away(everything):
    for record in everything:
        for kind, asked in {"taught": record, **record["asked"]}.items():
            assert not holds(asked["question"], asked["answer"]), (kind, record)
            given = record["answer"] if kind == "reversed" else subject(record)
            assert holds(asked["question"], given), (kind, record)
            assert not re.search(r"[{}]|\s$", asked["question"])


def test_a_seed_gives_one_file_and_a_longer_one_begins_with_it():
    assert invent(40, 0) == invent(90, 0)[:40] != invent(40, 1)
    assert len({record["relation"] for record in invent(16, 0)}) == 16


def test_the_file_is_a_stream_of_facts_with_kinds(tmp_path, capsys):
    out = tmp_path / "writes.jsonl"
    assert writes.main(WritesConfig(facts=20, out=str(out))) == 0
    assert f"{out}: 20 facts of 16 relations" in capsys.readouterr().out
    facts = read_questions(out, kinds=True)
    assert kinds_of(facts) == KINDS and len(facts) == 20
    first = json.loads(out.read_text().splitlines()[0])
    assert (facts[0].answers, facts[0].relation) == ((first["answer"],), first["relation"])
    assert facts[0].of_kind("document")[0].text == first["asked"]["document"]["question"]


def test_what_cannot_be_made_is_refused_by_its_flag(tmp_path):
    out = tmp_path / "writes.jsonl"
    for facts, expected in ((0, "at least 1"), (MOST + 1, f"at most {MOST}")):
        with pytest.raises(ValueError, match=f"--facts={facts}: expected {expected}"):
            WritesConfig(facts=facts, out=str(out))
    with pytest.raises(ValueError, match="--out is empty; name the file"):
        writes.main(WritesConfig())
    out.write_text("mine")
    with pytest.raises(FileExistsError, match=f"--out={out} exists; choose another file"):
        writes.main(WritesConfig(out=str(out)))
    assert out.read_text() == "mine"
