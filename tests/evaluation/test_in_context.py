"""The ceiling with a task's facts in the prompt: what is told, what is asked, what fits."""

from __future__ import annotations

from smf_jax.data.facts import Fact, Paraphrase, Question
from smf_jax.evaluation.in_context import exact_shares, in_context_probe, unseen_questions
from smf_jax.evaluation.scorer import Scorer
from tests.evaluation.tiny import tokenizer


def fact(name: str, answers: tuple[str, ...]) -> Fact:
    def said(how: str) -> Paraphrase:
        return Paraphrase(f"{how} {name}:", f" {answers[0]}")

    return Fact(name, "", (said("Told"), said("Or")), (said("Asked"), said("Also")), answers)


FACTS = (fact("bridge", ("Ann Lee", "Lee")), fact("hill", ("snow",)))


def test_all_facts_stand_before_each_question_in_a_wording_that_was_not_told():
    probe = in_context_probe(tokenizer(), FACTS, unseen_questions(FACTS, 1), positions=400, steps=4)
    told = "Told bridge: Ann Lee\n\nTold hill: snow\n\n"
    assert probe is not None
    assert all(ids[0] == tokenizer().bos for ids in probe.prompts)
    prompts = [tokenizer().decode(ids[1:]) for ids in probe.prompts]
    assert prompts == [f"{told}Asked bridge:", f"{told}Asked hill:"]
    assert probe.answers == (("Ann Lee", "Lee"), ("snow",)) and probe.steps == 4


def test_facts_that_fit_into_no_prompt_are_not_asked():
    whole = in_context_probe(tokenizer(), FACTS, unseen_questions(FACTS, 2), positions=400, steps=4)
    assert whole is not None and len(whole.prompts) == 4
    needed = max(map(len, whole.prompts)) + 4
    assert (
        in_context_probe(tokenizer(), FACTS, unseen_questions(FACTS, 2), positions=needed, steps=4)
        is not None
    )
    assert (
        in_context_probe(
            tokenizer(), FACTS, unseen_questions(FACTS, 2), positions=needed - 1, steps=4
        )
        is None
    )


class SaysSnow(Scorer):
    """Answers every prompt with the second fact, and counts how often it is asked."""

    def __init__(self):
        self.calls = 0

    def answer(self, params, prompts, steps, stop=(), multiple=8):
        self.calls += 1
        return [tokenizer().encode(" snow\n") for _ in prompts]


def test_every_probe_has_its_own_share_of_what_is_asked_at_once():
    bridge, snow = Question("What is it?", ("Ann Lee",)), Question("And that?", ("ice", "snow"))
    probes = [
        in_context_probe(tokenizer(), FACTS, asked, positions=positions, steps=4)
        for asked, positions in (
            ((bridge, snow), 400),
            ((snow,), 20),
            ((snow,), 400),
            ((bridge,), 400),
            ((bridge, snow, bridge, bridge), 400),
        )
    ]
    scorer = SaysSnow()
    assert exact_shares(scorer, {}, probes) == [0.5, None, 1.0, 0.0, 0.25] and scorer.calls == 1
    assert exact_shares(scorer, {}, [None, None]) == [None, None] and scorer.calls == 1
