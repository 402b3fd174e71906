"""Text of tokens that arrive one by one."""

from __future__ import annotations

import pytest

from smf_jax.data.tokenizer import train_tokenizer
from smf_jax.serving.text_stream import TextStream

TOKENIZER = train_tokenizer(["the cat sat on the mat. größer 猫 END of it"] * 20, 300)


def stream(text: str, stop=()) -> list[str]:
    ids = TOKENIZER.encode(text)
    found = TextStream(TOKENIZER, TOKENIZER.encode_prompt("on"), stop)
    return [*(found.push(token) for token in ids), found.finish()]


@pytest.mark.parametrize("text", ["the cat sat", "größer 猫猫 🙂🙂", "a  b\n\n c ", "END"])
def test_pieces_make_the_whole_text_and_no_character_is_broken(text):
    pieces = stream(text)
    assert "".join(pieces) == f" {text}"
    assert not any("\ufffd" in piece for piece in pieces)


def test_bytes_that_are_no_character_come_at_the_end():
    ids = TOKENIZER.encode("🙂")
    assert len(ids) > 2
    found = TextStream(TOKENIZER, TOKENIZER.encode_prompt("on"), ())
    assert [found.push(token) for token in ids[:-1]][1:] == [""] * (len(ids) - 2)
    assert "\ufffd" in found.finish()


@pytest.mark.parametrize("stop", [["END"], ["D o", "END o"], ["END of it"], ["xyz", " END"]])
def test_nothing_of_a_stop_text_is_sent(stop):
    pieces = stream("the cat END of it", stop)
    text = "the cat END of it"
    assert "".join(pieces) == f" {text[: min(text.find(s) for s in stop if s in text)]}"


def test_what_only_looked_like_a_stop_text_is_sent_later():
    pieces = stream("the EN the", ["END"])
    assert "".join(pieces) == " the EN the"
    ids = TOKENIZER.encode("the EN the")
    assert "".join(pieces[: len(ids)]) == " the EN the" and pieces[-1] == ""


def test_after_a_stop_text_nothing_is_taken():
    found = TextStream(TOKENIZER, [1], ["cat"])
    text = [found.push(token) for token in TOKENIZER.encode("the cat sat")]
    assert found.is_over and "".join(text).strip() == "the" and found.finish() == ""
    assert found.length == len("".join(text))
