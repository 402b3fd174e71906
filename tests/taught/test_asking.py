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
    asked = [fact["question"] for fact in FACTS]
    found = do(taught, *asked, "Thing beside 5 stands?", without=True)
    assert [answer.said for answer in found[:4]] == [fact["answer"] for fact in FACTS]
    assert all(answer.without != answer.said for answer in found[:4])
    for number, answer in enumerate(found[:4]):
        assert next(iter(answer.patches)) == f"facts_{number // 2 + 1:02d}", answer
        assert sum(answer.patches.values()) == pytest.approx(1, abs=0.02)
    assert found[4].written < min(answer.written for answer in found[:4])
    text = answer_text(found[0])
    assert "Who made 0?\n  Maker\n  without patches: " in text and "facts_01" in text


def test_questions_of_a_file_are_compared_where_it_has_answers(taught, tmp_path):
    file = write_lines(tmp_path / "asked.jsonl", FACTS[0], {**FACTS[1], "answer": "Nobody"})
    right = [answer.is_right for answer in do(taught, file=str(file))]
    assert right == [True, False]
    lines = tmp_path / "asked.txt"
    lines.write_text("Who made 0?\n\nWho made 1?\n")
    found = do(taught, file=str(lines))
    assert [(answer.said, answer.is_right) for answer in found] == [("Maker", None), ("side", None)]


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
