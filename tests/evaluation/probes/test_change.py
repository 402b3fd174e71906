"""Probes that compare with the base: nothing moved, and what moved counted by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.data.facts import Question
from smf_jax.evaluation.probe import refer_to_base
from smf_jax.evaluation.probes.change import KlProbe, SameProbe, prompt_rows
from smf_jax.evaluation.probes.open import open_probe
from smf_jax.models.decoder import plain_logits
from tests.evaluation.tiny import POSITIONS, model, params, scorer, tokenizer

QUESTIONS = [Question(text, ("x",)) for text in ("Who is it?", "A boy", "Where?", "The end")]
IDS = [tokenizer().encode_prompt(text) for text in ("A boy rides down.", "Who?")]


def changed():
    """The base with other words at its head."""
    now = dict(params())
    kernel = now["head/kernel"]
    now["head/kernel"] = kernel + 0.5 * np.roll(np.asarray(kernel), 1, axis=1)
    return now


def log_softmax(of, ids) -> np.ndarray:
    """Log-probabilities of every word after each id, ``(len(ids), vocabulary)``."""
    tokens = np.asarray([ids], np.int32)
    logits = plain_logits(model())(of, jnp.asarray(tokens), jnp.ones_like(tokens, bool))
    return np.asarray(jax.nn.log_softmax(logits), np.float64)[0]


def test_of_the_base_itself_nothing_has_changed():
    same = SameProbe(open_probe(tokenizer(), QUESTIONS, POSITIONS, steps=4))
    kl = KlProbe(prompt_rows(IDS, tokenizer().pad), "items")
    refer_to_base({"same": same, "kl": kl}, scorer(), params())
    assert same.measure(scorer(), params()) == {"same": 1.0}
    assert kl.measure(scorer(), params())["kl"] == pytest.approx(0, abs=1e-6)
    assert same.about == {"items": 4} and kl.about == {"items": 2, "tokens": sum(map(len, IDS))}


def test_answers_that_differ_are_counted_right_or_wrong():
    asked = open_probe(tokenizer(), QUESTIONS, POSITIONS, steps=4)
    probe = SameProbe(asked)
    refer_to_base({"same": probe}, scorer(), params())
    before, now = (asked.predict(scorer(), each) for each in (params(), changed()))
    expected = np.mean([a == b for a, b in zip(before, now, strict=True)])
    assert expected < 1 and probe.measure(scorer(), changed()) == {"same": expected}


def test_the_divergence_is_the_mean_over_all_tokens_of_the_prompts():
    probe = KlProbe(prompt_rows(IDS, tokenizer().pad), "items")
    refer_to_base({"kl": probe}, scorer(), params())
    total = 0.0
    for ids in IDS:
        p, q = (log_softmax(each, ids) for each in (params(), changed()))
        total += np.sum(np.exp(p) * (p - q))
    expected = total / sum(map(len, IDS))
    assert expected > 0.01
    assert probe.measure(scorer(), changed())["kl"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", ["same", "kl"])
def test_without_a_base_nothing_is_measured(kind):
    probe = {
        "same": SameProbe(open_probe(tokenizer(), QUESTIONS, POSITIONS, steps=4)),
        "kl": KlProbe(prompt_rows(IDS, tokenizer().pad), "items"),
    }[kind]
    with pytest.raises(RuntimeError, match="call refer_to with the base before measure"):
        probe.measure(scorer(), params())
