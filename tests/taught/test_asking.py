"""Asking a taught model: its answers, those without patches, and where they were read."""

from __future__ import annotations

import pytest

from smf_jax.taught.asking import answer_text, ask
from smf_jax.taught.config import AskConfig
from tests.taught.tiny import FACTS
from tests.tiny_sweep import on_devices, write_lines


def do(*arguments: object, **flags):
    config = AskConfig(arguments=tuple(map(str, arguments)), **{"max_tokens": 4, **flags})
    with on_devices(1):
        return ask(config)


def test_taught_facts_are_answered_and_traced_to_their_patch(taught):
    learned = FACTS[::2]
    found = do(taught, *(fact["question"] for fact in learned), "abcdefghij", without=True)
    assert [answer.said for answer in found[:2]] == [fact["answer"] for fact in learned]
    assert all(answer.without != answer.said for answer in found[:2])
    for number, answer in enumerate(found[:2]):
        assert next(iter(answer.patches)) == f"facts_{number + 1:02d}", answer
        assert sum(answer.patches.values()) == pytest.approx(1, abs=0.02)
    assert found[2].written < min(answer.written for answer in found[:2])
    text = answer_text(found[0])
    assert f"{learned[0]['question']}\n  Maker\n  without patches: " in text
    assert "rows that patches wrote: facts_01" in text


def test_questions_of_a_file_are_compared_where_it_has_answers(taught, tmp_path):
    file = write_lines(tmp_path / "asked.jsonl", FACTS[0], {**FACTS[2], "answer": "Nobody"})
    right = [answer.is_right for answer in do(taught, file=str(file))]
    assert right == [True, False]
    lines = tmp_path / "asked.txt"
    lines.write_text(f"{FACTS[0]['question']}\n\n{FACTS[2]['question']}\n")
    found = [(answer.said, answer.is_right) for answer in do(taught, file=str(lines))]
    assert found == [("Maker", None), ("stands", None)]


@pytest.mark.parametrize(
    ("arguments", "flags", "message"),
    [
        ([], {}, "no DIR given"),
        (["nothing", "a"], {}, "nothing: no such directory"),
        (["DIR"], {}, "no question given"),
        (["DIR"], {"file": "nothing"}, "--file=nothing: no such file"),
        (["DIR", "a " * 90], {}, "--max_tokens=4, more than the model's 64"),
    ],
)
def test_what_cannot_be_asked_is_refused(taught, arguments, flags, message):
    named = [str(taught) if each == "DIR" else each for each in arguments]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        do(*named, **flags)
