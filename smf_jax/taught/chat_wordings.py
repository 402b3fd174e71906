"""Questions as a user's turn of a conversation: wordings like others, by the chat template."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from smf_jax.continual.stream_tasks import question_of
from smf_jax.data.facts import Fact, Paraphrase, Question
from smf_jax.data.tokenizer import Tokenizer
from smf_jax.taught.lessons import worded

# What a user says. A fact is asked as its question stands, as people ask, and trained in another
# way, so that what is counted is not what was trained.
TRAINED, ASKED = "Please tell me. {}", "{}"


def require_chats(tokenizer: Tokenizer) -> None:
    """Refuses a tokenizer by which no wording is what a model is given when a user asks.

    A ValueError if there is no chat template, if jinja2 is missing, or if conversations do not
    begin as every text of the model does.
    """
    asked = [{"role": "user", "content": "Who?"}]
    prompt = tokenizer.encode_prompt(chat_prompt(tokenizer, Question("Who?", ())))
    if list(prompt) != list(tokenizer.encode_chat(asked)):
        raise ValueError(
            "conversations by the model's chat template do not begin with the token that opens "
            "every text of it, so that no wording is one; leave the flag out"
        )


def chat_prompt(tokenizer: Tokenizer, question: Question, wording: str = ASKED) -> str:
    """The prompt of a wording that is a conversation, up to where the assistant answers.

    It goes without the token that opens every text, which encoding a prompt puts there. The last
    turn of a question that is a conversation is worded; earlier ones stand as they are.
    """
    *earlier, (role, words) = question.turns or [("user", question.text)]
    turns = [*earlier, (role, wording.format(words))]
    text = tokenizer.template.render([{"role": role, "content": said} for role, said in turns])
    added = tokenizer.backend.get_added_tokens_decoder()
    opens = "".join(added[i].content for i in tokenizer.begin if i in added)
    return text.removeprefix(opens)


def in_chats(facts: Iterable[Fact], tokenizer: Tokenizer) -> tuple[Fact, ...]:
    """Facts that are also trained, and asked, as a user's turn, behind their other wordings."""
    return tuple(
        replace(
            fact,
            train=(*fact.train, _chat(tokenizer, fact, TRAINED)),
            held_out=(*fact.held_out, _chat(tokenizer, fact, ASKED)),
        )
        for fact in facts
    )


def _chat(tokenizer: Tokenizer, fact: Fact, wording: str) -> Paraphrase:
    return worded(chat_prompt(tokenizer, question_of(fact), wording), fact.answers[0])
