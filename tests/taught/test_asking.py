"""Asking a taught model: its answers, those without patches, and where they were read."""

from __future__ import annotations

import pytest

from smf_jax.taught.asking import Answer, answer_text, ask
from smf_jax.taught.config import AskConfig
from tests.taught.tiny import FACTS
from tests.tiny_sweep import on_devices, write_lines


def do(*arguments: object, **flags):
    config = AskConfig(arguments=tuple(map(str, arguments)), **{"max_tokens": 4, **flags})
    with on_devices(1):
        return ask(config)


def test_a_taught_fact_is_answered_and_traced_to_its_patch(taught):
    fact = FACTS[2]
    found, never = do(taught, fact["question"], "abcdefghij", without=True)
    assert found.said == fact["answer"] != found.without
    assert next(iter(found.patches)) == "facts_02", found
    assert sum(found.patches.values()) == pytest.approx(1, abs=0.02)
    # A random model reads much alike whatever is asked: less of its patch, and not none.
    ours, theirs = (each.written * each.patches["facts_02"] for each in (found, never))
    assert theirs < ours
    text = answer_text(found)
    assert f"{fact['question']}\n  stands\n  without patches: " in text
    assert "rows that patches wrote: facts_02" in text


def test_an_answer_is_taught_by_the_patches_that_much_of_it_was_read_from():
    told = Answer("who?", "me", None, (), 0.5, {"b_01": 0.6, "a_01": 0.3, "a_02": 0.1})
    assert told.taught_by == ["b_01", "a_01"]
    assert told._replace(written=0.3).taught_by == ["b_01"]
    # All of it together is too little, or no patch has enough of it.
    assert told._replace(written=0.24).taught_by == []
    assert told._replace(patches={f"a_{n:02}": 0.1 for n in range(10)}).taught_by == []
    assert told.to_json()["taught_by"] == ["b_01", "a_01"]
    assert "\n  taught by b_01, a_01\n" in answer_text(told)
    assert "\n  taught by no patch\n" in answer_text(told._replace(written=0.24))


def test_questions_of_a_file_are_compared_where_it_has_answers(taught, tmp_path):
    file = write_lines(tmp_path / "asked.jsonl", FACTS[2], {**FACTS[0], "answer": "Nobody"})
    assert [answer.is_right for answer in do(taught, file=str(file))] == [True, False]
    lines = tmp_path / "asked.txt"
    lines.write_text(f"{FACTS[2]['question']}\n\n{FACTS[0]['question']}\n")
    found = [(answer.said, answer.is_right) for answer in do(taught, file=str(lines))]
    assert found[0] == ("stands", None) and len(found) == 2


@pytest.mark.parametrize(
    ("arguments", "flags", "message"),
    [
        ([], {}, "no DIR given"),
        (["nothing", "a"], {}, "nothing: no such directory"),
        (["DIR"], {}, "no question given"),
        (["DIR"], {"file": "nothing"}, "--file=nothing: no such file"),
        (["DIR", "a"], {"plain": True, "chat": True}, "--plain, --chat: two ways"),
        (["DIR", "a"], {"chat": True}, "--chat: the tokenizer has no chat template"),
        (["DIR", "a " * 90], {}, "--max_tokens=4, more than the model's 64"),
    ],
)
def test_what_cannot_be_asked_is_refused(taught, arguments, flags, message):
    named = [str(taught) if each == "DIR" else each for each in arguments]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        do(*named, **flags)
