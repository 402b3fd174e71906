"""Open questions: the prompt with its examples, where an answer ends, and its scores."""

from __future__ import annotations

import dataclasses
from typing import cast

import pytest

from smf_jax.data.chat import ChatTemplate
from smf_jax.data.facts import Question
from smf_jax.data.readers import Reader
from smf_jax.evaluation.probe import ProbeContext, ProbeOptions
from smf_jax.evaluation.probes.open import F1, open_probe
from smf_jax.evaluation.scorer import Scorer
from tests.evaluation.tiny import POSITIONS, params, scorer, tokenizer
from tests.tiny_sweep import write_lines

QUESTIONS = (
    Question("Who made it?", ("Ann Lee", "Lee")),
    Question("Who falls?", ("a boy",)),
    Question("Who laughs?", ("he",)),
)


def prompts_of(probe) -> list[str]:
    assert all(ids[0] == tokenizer().bos for ids in probe.prompts)
    return [tokenizer().decode(ids[1:]) for ids in probe.prompts]


def test_questions_are_asked_in_the_documented_format():
    probe = open_probe(tokenizer(), QUESTIONS, POSITIONS, steps=4)
    assert prompts_of(probe)[1] == "Question: Who falls?\nAnswer:"
    assert probe.answers == (("Ann Lee", "Lee"), ("a boy",), ("he",))
    assert probe.about == {"items": 3}


def test_examples_stand_before_the_question_and_are_not_asked():
    probe = open_probe(tokenizer(), QUESTIONS, 200, shots=2, steps=4)
    assert prompts_of(probe) == [
        "Question: Who made it?\nAnswer: Ann Lee\n\nQuestion: Who falls?\nAnswer: a boy\n\n"
        "Question: Who laughs?\nAnswer:"
    ]
    assert probe.answers == (("he",),)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(shots=3), "shots=3 of 3 questions leaves none to ask"),
        (dict(shots=-1), "shots=-1, steps=4: expected"),
        (dict(steps=0), "shots=0, steps=0: expected"),
        (
            dict(positions=12),
            "the prompt of 'Who .*' takes .* tokens, and its answer up to 4: more",
        ),
    ],
)
def test_probes_that_cannot_be_asked_are_refused(changes, message):
    given = dict(positions=POSITIONS, shots=0, steps=4) | changes
    with pytest.raises(ValueError, match=message):
        open_probe(tokenizer(), QUESTIONS, **given)


def test_a_chat_template_frames_the_prompt_when_asked_for():
    template = ChatTemplate("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<he>")
    chatty = dataclasses.replace(tokenizer(), chat=template)
    pytest.importorskip("jinja2", reason="chat templates need jinja2")
    probe = open_probe(chatty, QUESTIONS, 200, shots=2, steps=4, chat=True)
    ((ids),) = probe.prompts
    assert tokenizer().decode(ids) == (
        "<user>Question: Who made it?\nAnswer: Ann Lee\n\nQuestion: Who falls?\nAnswer: a boy\n\n"
        "Question: Who laughs?\nAnswer:<he>"
    )
    with pytest.raises(ValueError, match="the tokenizer has no chat template"):
        open_probe(tokenizer(), QUESTIONS, 200, chat=True)


def test_a_conversation_keeps_its_earlier_turns():
    pytest.importorskip("jinja2", reason="chat templates need jinja2")
    template = ChatTemplate("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<he>")
    chatty = dataclasses.replace(tokenizer(), chat=template)
    turns = (("system", "Laugh."), ("user", "Who falls?"))
    asked = Question("System: Laugh.\nUser: Who falls?", ("a boy",), turns)
    (ids,) = open_probe(chatty, [asked], 200, steps=4, chat=True).prompts
    assert tokenizer().decode(ids) == "<system>Laugh.<user>Question: Who falls?\nAnswer:<he>"
    (ids,) = open_probe(chatty, [asked], 200, steps=4).prompts
    assert tokenizer().decode(ids[1:]).startswith("Question: System: Laugh.\nUser: Who falls?\nAn")


def test_what_is_compared_by_character_is_told(tmp_path, capsys):
    asked = [{"question": "Wo?", "answers": ["Tokyo", "東京"]}, {"question": "Wer?", "answer": "I"}]
    file = str(write_lines(tmp_path / "q.jsonl", *asked))
    using = ProbeContext(Reader(), tokenizer(), POSITIONS, ProbeOptions(answer_tokens=4))
    assert F1.read(file, using).about == {"items": 2, "by_character": 1}
    assert "1 of 2 questions have answers in scripts without spaces" in capsys.readouterr().out


class Says:
    """A scorer that answers what it is told, as a model would: up to what stops it."""

    def __init__(self, *texts: str):
        self.texts = texts

    def answer(self, given, prompts, steps, stop, multiple):
        assert tokenizer().eos in stop and set(tokenizer().tokens_with("\n")) <= set(stop)
        answers = []
        for text in self.texts:
            ids = [*tokenizer().encode(text), tokenizer().eos]
            end = next(place for place, token in enumerate(ids) if token in stop)
            answers.append(ids[: end + 1])
        return answers


def test_an_answer_ends_with_its_line_or_its_text():
    probe = open_probe(tokenizer(), QUESTIONS, POSITIONS, steps=4)
    says = cast(Scorer, Says(" The Lee.\n\nQuestion: Who?", " a boy", "\nHe"))
    assert probe.predict(says, {}) == ["The Lee.", "a boy", ""]
    # "The Lee." is "Lee" but for the article and the full stop.
    assert probe.measure(says, {}) == pytest.approx({"f1": 2 / 3, "exact": 2 / 3})
    partly = cast(Scorer, Says(" Ann", " the old boy", " he"))
    assert probe.measure(partly, {}) == pytest.approx(
        {"f1": (2 / 3 + 2 / 3 + 1) / 3, "exact": 1 / 3}
    )


def test_a_models_own_answers_are_its_greedy_continuations():
    probe = open_probe(tokenizer(), QUESTIONS, POSITIONS, steps=6)
    stop = (*tokenizer().stops, *tokenizer().tokens_with("\n"))
    raw = scorer().answer(params(), probe.prompts, 6, stop)
    texts = [tokenizer().decode(ids) for ids in raw]
    assert probe.predict(scorer(), params()) == [t.partition("\n")[0].strip() for t in texts]
