from __future__ import annotations

import pytest

from smf_jax.data.conversations import say_turns, turns_of

MESSAGES = [
    {"role": "system", "content": " Be brief. "},
    {"role": "user", "content": [{"type": "text", "text": "Who?"}]},
]


def test_messages_become_turns():
    turns = (("system", "Be brief."), ("user", "Who?"))
    assert turns_of(MESSAGES) == turns
    assert turns_of({"role": [b"user", b"x"], "content": [b"Who?", b"I"]}) == (
        ("user", "Who?"),
        ("x", "I"),
    )
    assert turns_of({"role": "user", "content": "Who?"}) == turns[1:]
    assert say_turns(turns) == "System: Be brief.\nUser: Who?"
    assert say_turns(turns[1:]) == "Who?"


@pytest.mark.parametrize("value", ["text", None, 3, ["a"], [{"role": "user"}], {"text": "a"}, []])
def test_anything_else_is_no_conversation(value):
    assert turns_of(value) == ()


@pytest.mark.parametrize("content", [None, 3, [{"type": "image", "image": "x"}], ["a"]])
def test_messages_of_anything_but_text_are_refused(content):
    with pytest.raises(ValueError, match="a message holds .*: expected text"):
        turns_of([{"role": "user", "content": content}])
