"""The probe of what the untouched model knows: chosen by asking it, examples from elsewhere."""

from __future__ import annotations

import dataclasses
import json
from typing import cast

import pytest

from smf_jax.data.readers import Reader
from smf_jax.data.shares import is_in, question_key, share_of
from smf_jax.evaluation.asking import Asking
from smf_jax.evaluation.probe import ProbeContext, ProbeOptions
from smf_jax.evaluation.probes.known import KNOWN, KnownProbe
from smf_jax.evaluation.scorer import Scorer
from tests.evaluation.tiny import params, scorer, tokenizer
from tests.tiny_sweep import write_lines

TEXTS = [f"Who falls {n}?" for n in range(40)]
ASKED = [text for text in TEXTS if share_of(text) != "aside"]


class Every3rd(Asking):
    """Answers every third prompt right."""

    def __init__(self):
        super().__init__(lambda: (cast(Scorer, None), {}), tokenizer())

    def answers(self, prompts, steps, until):
        asked = (tokenizer().decode(list(ids)).rpartition("falls ")[2] for ids in prompts)
        return ["Yes" if int(text.partition("?")[0]) % 3 == 0 else "no" for text in asked]


@pytest.fixture
def file(tmp_path) -> str:
    lines = [{"question": text, "answers": ["yes", "yeah"]} for text in [*TEXTS, TEXTS[0].upper()]]
    return str(write_lines(tmp_path / "q.jsonl", *lines))


def read(file: str, asking: Asking | None = None, taught=frozenset(), **options):
    told = ProbeOptions(**{"limit": 5, "answer_tokens": 4, **options})
    using = ProbeContext(Reader(), tokenizer(), 400, told, asking, taught)
    probe = KNOWN.read(file, using)
    assert isinstance(probe, KnownProbe)
    return probe


def questions_of(probe) -> list[str]:
    texts = (tokenizer().decode(list(ids)) for ids in probe.prompts)
    return [text.rpartition("Question: ")[2].removesuffix("\nAnswer:") for text in texts]


def test_it_asks_the_first_questions_that_the_model_answers(file):
    probe = read(file, Every3rd())
    expected = [text for text in ASKED if int(text[10:-1]) % 3 == 0][:5]
    assert questions_of(probe) == expected
    assert all(answers == ("yes", "yeah") for answers in probe.answers)
    # Before there is a model to ask, all that may be asked are checked, each once.
    assert questions_of(read(file)) == ASKED


def test_a_split_and_what_is_taught_bound_it(file):
    for split in ("dev", "test"):
        assert questions_of(read(file, split=split)) == [t for t in TEXTS if is_in(split, t)]
    taught = frozenset(map(question_key, ASKED[:4]))
    assert questions_of(read(file, taught=taught)) == ASKED[4:]


def test_examples_are_questions_that_are_set_aside(file):
    aside = [text for text in TEXTS if share_of(text) == "aside"]
    for ids in read(file, Every3rd(), shots=2).prompts:
        shown = tokenizer().decode(list(ids)).split("\n\n")[:-1]
        assert shown == [f"Question: {text}\nAnswer: yes" for text in aside[:2]]
    with pytest.raises(ValueError, match="--probe_shots=39: of 41 questions of .* set aside"):
        read(file, shots=39)


def test_none_known_and_none_left_are_refused(file, tmp_path):
    class Knows(Every3rd):
        def answers(self, prompts, steps, until):
            return ["no"] * len(prompts)

    with pytest.raises(ValueError, match=f"the base answers none of {len(ASKED)} questions"):
        read(file, Knows())
    with pytest.raises(ValueError, match="none of 41 questions is of --split=all and not taught"):
        read(file, taught=frozenset(map(question_key, TEXTS)))


def test_of_the_model_that_was_asked_all_is_kept(tmp_path):
    probe = read(str(write_lines(tmp_path / "q.jsonl", {"question": "Who falls?", "answers": "x"})))
    (answer,) = probe.predict(scorer(), params())
    right = {"question": "Who falls?", "answers": ["x", answer]}
    file = str(write_lines(tmp_path / "r.jsonl", right, {"question": "Who?", "answers": ["x"]}))
    known = read(file, Asking(lambda: (scorer(), params()), tokenizer()))
    assert known.about["items"] == 1
    assert known.measure(scorer(), params()) == {"kept": 1.0, "f1": 1.0}
    wrong = dataclasses.replace(known, answers=(("x",),))
    assert wrong.measure(scorer(), params())["kept"] == 0
    assert json.dumps(known.about)
