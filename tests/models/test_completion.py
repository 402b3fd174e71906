from dataclasses import replace

import jax
import numpy as np
import pytest

from smf_jax.data.chat import ChatTemplate
from smf_jax.data.tokenizer import train_tokenizer
from smf_jax.models.completion import complete_texts
from smf_jax.models.decoder import Decoder
from smf_jax.models.generate import generate, left_pad, trim
from smf_jax.params import flatten
from tests.models.tiny import random_params, with_memory

TOKENIZER = train_tokenizer(["The cat sat on the mat.\nWhere is the dog? A dog, a cat."] * 9, 300)
CONFIG = replace(with_memory("add", (0,), alpha=1.0), vocabulary=300, layers=1)
MODEL, LEAVES = Decoder(CONFIG), flatten(random_params(CONFIG))
PROMPTS = ["The cat", "Where is the dog and where is the other cat?", "A", "dog. The mat is a mat"]


def complete(prompts, max_tokens=12, **choices):
    return complete_texts(MODEL, LEAVES, TOKENIZER, prompts, max_tokens, **choices)


def alone(prompt: str, steps: int = 12) -> list[int]:
    tokens, valid = left_pad([TOKENIZER.encode_prompt(prompt)], TOKENIZER.pad, 32)
    return np.asarray(generate(MODEL, LEAVES, tokens, valid, steps, TOKENIZER.stops))[0].tolist()


@pytest.fixture(scope="module")
def answers() -> list[str]:
    return complete(PROMPTS)


def test_answers_are_those_of_each_prompt_alone_and_in_order(answers):
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        ids = trim(alone(prompt), TOKENIZER.stops)
        whole = TOKENIZER.decode([*TOKENIZER.encode_prompt(prompt), *ids])
        assert whole == TOKENIZER.decode(TOKENIZER.encode_prompt(prompt)) + answer
    assert len(set(answers)) == len(PROMPTS)
    assert complete(PROMPTS[:3], rows=2) == answers[:3]


def test_nested_parameters_do_as_well(answers):
    found = complete_texts(MODEL, random_params(CONFIG), TOKENIZER, PROMPTS, 12)
    assert found == answers


def test_stop_texts_end_answers_and_are_left_out(answers):
    letter = next(char for char in answers[1][3:] if char.strip() and char.isascii())
    for answer, whole in zip(complete(PROMPTS, stop=[letter, "never this"]), answers, strict=True):
        assert answer == whole.partition(letter)[0]
    # One that no single token holds is cut out of the text.
    pair = answers[1][2:6]
    assert complete(PROMPTS, stop=[pair])[1] == answers[1].partition(pair)[0]


def test_draws_depend_on_the_key_and_not_on_the_neighbours():
    key = jax.random.key(0)
    drawn = complete(PROMPTS, temperature=2.0, key=key)
    assert drawn == complete(PROMPTS, temperature=2.0, key=key)
    others = [*PROMPTS[:2], "A mat", "The dog and the cat sat on the mat."]
    assert drawn[:2] == complete(others, temperature=2.0, key=key)[:2]
    assert drawn != complete(PROMPTS, temperature=2.0, key=jax.random.key(1))


def test_conversations_are_rendered_by_the_template():
    pytest.importorskip("jinja2", reason="needs jinja2")
    text = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    chatting = replace(TOKENIZER, chat=ChatTemplate(text))

    def chat(prompts):
        return complete_texts(MODEL, LEAVES, chatting, prompts, 12, chat=True)

    messages = [{"role": "user", "content": "The cat"}]
    assert chat(["The cat"]) == chat([messages])
    # As a plain prompt, the begin token would stand in front.
    bare = replace(TOKENIZER, bos=None)
    expected = complete_texts(MODEL, LEAVES, bare, ["user: The cat\n"], 12)
    assert chat([messages]) == expected


@pytest.mark.parametrize(
    ("prompts", "choices", "message"),
    [
        ([], {}, r"prompts=\[\] holds no prompt"),
        (["cat " * 60], {}, "prompt 0 takes .* max_tokens=12, more than the model's 64"),
        (["cat"], {"stop": [""]}, "holds an empty text"),
        (["cat"], {"rows": 0}, "rows=0"),
        (["cat"], {"chat": True}, "the tokenizer has no chat template"),
        ([[{"role": "user"}]], {}, "is no text; give chat=True"),
        (["cat"], {"temperature": 1.0}, "temperature=1.0 draws tokens and key=None"),
    ],
)
def test_bad_arguments_are_refused(prompts, choices, message):
    with pytest.raises(ValueError, match=message):
        complete(prompts, **choices)
