"""Questions by a chat template: the very ids that a conversation has."""

from __future__ import annotations

from dataclasses import replace

import pytest

from smf_jax.data.batching import split_paraphrases
from smf_jax.data.chat import ChatTemplate
from smf_jax.data.facts import Question
from smf_jax.data.questions import question_fact
from smf_jax.data.tokenizer import train_tokenizer
from smf_jax.taught.chat_wordings import in_chats, require_chats

PLAIN = train_tokenizer(["who made thing number 5? Maker stands beside."] * 20, 300)
TURNS = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{{ 'assistant:\n' }}"
CHATTY = replace(PLAIN, chat=ChatTemplate("<|begin|>" + TURNS))


def test_a_fact_is_trained_and_asked_by_the_ids_of_a_conversation():
    plain = question_fact("a", Question("Who made it?", ("Maker",)))
    (fact,) = in_chats([plain], CHATTY)
    assert (fact.train[:-1], fact.held_out[:-1]) == (plain.train, plain.held_out)
    said = ("Please tell me. Who made it?", "Who made it?")
    pairs = split_paraphrases(CHATTY, [fact.train[-1], fact.held_out[-1]])
    for words, (prompt, answer) in zip(said, pairs, strict=True):
        assert prompt == CHATTY.encode_chat([{"role": "user", "content": words}])
        # No space divides the answer from the end of the line that the template ends with.
        assert CHATTY.decode([*prompt, *answer]).endswith(f"{words}\nassistant:\nMaker")
        assert answer[-1] == CHATTY.eos


def test_of_a_conversation_the_last_turn_is_worded():
    turns = (("user", "Hello."), ("assistant", "Yes?"), ("user", "Who?"))
    (fact,) = in_chats([question_fact("a", Question("User: …", ("Maker",), turns))], CHATTY)
    trained = "user: Hello.\nassistant: Yes?\nuser: Please tell me. Who?\nassistant:\n"
    assert (fact.train[-1].prompt, fact.train[-1].answer) == (trained, "Maker")


@pytest.mark.parametrize("tokenizer", [CHATTY, replace(PLAIN, bos=None, chat=ChatTemplate(TURNS))])
def test_a_template_that_opens_as_every_text_does_serves(tokenizer):
    require_chats(tokenizer)


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (PLAIN, "the tokenizer has no chat template"),
        (replace(PLAIN, chat=ChatTemplate(TURNS)), "do not begin with the token that opens"),
    ],
)
def test_what_makes_no_conversation_is_refused(tokenizer, message):
    with pytest.raises(ValueError, match=message):
        require_chats(tokenizer)
