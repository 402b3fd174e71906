"""What a request may hold, and what is refused."""

from __future__ import annotations

import pytest

from smf_jax.data.chat import ChatTemplate
from smf_jax.data.tokenizer import train_tokenizer
from smf_jax.serving.completion_requests import RequestReader
from smf_jax.serving.errors import RequestError

PLAIN = train_tokenizer(["who made thing number 5? Maker stands beside."] * 20, 300)
READER = RequestReader(PLAIN, 310, 64, 32)


def chatty() -> RequestReader:
    text = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
    return RequestReader(
        PLAIN.__class__(PLAIN.backend, 1, 2, 0, chat=ChatTemplate(text)), 310, 64, 32
    )


def read(**changes):
    return READER.completion({"model": "base", "prompt": "who made", **changes})


def test_what_is_absent_has_its_usual_value():
    found = read(seed=3)
    assert found.prompts == (tuple_of := tuple([PLAIN.encode_prompt("who made")])) == tuple_of
    assert (found.max_tokens, found.temperature, found.seed, found.choices) == (16, 0.0, 3, 1)
    assert (found.stop, found.others, found.echo, found.stream) == ((), None, False, False)
    assert read().seed != read().seed  # drawn anew
    assert read(seed=-1).seed == 2**32 - 1


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a", [PLAIN.encode_prompt("a")]),
        (["a", "b"], [PLAIN.encode_prompt("a"), PLAIN.encode_prompt("b")]),
        ([5, 6], [[5, 6]]),
        ([[5, 6], [7]], [[5, 6], [7]]),
        (["a", [7]], [PLAIN.encode_prompt("a"), [7]]),
    ],
)
def test_prompts_are_texts_or_tokens(prompt, expected):
    assert list(read(prompt=prompt).prompts) == expected


def test_what_lm_evaluation_harness_sends_is_read():
    found = read(prompt=[[5, 6]], max_tokens=1, logprobs=1, seed=1234, echo=True, temperature=0)
    assert (found.others, found.echo, found.max_tokens) == (1, True, 1)
    assert read(echo=True, max_tokens=0).max_tokens == 0
    found = read(stop=["\n", "<|end|>"], top_p=1, n=None, suffix=None, user="me")
    assert found.stop == ("\n", "<|end|>")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": [1.5]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": [310]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [2**70]}, "prompt"),
        ({"prompt": ["a"] * 129}, "prompt"),
        ({"prompt": "\ud800"}, "prompt"),
        ({"prompt": "who " * 64}, "prompt"),  # too long for the model
        ({"prompt": [5] * 60}, "prompt"),  # with its answer
        ({"model": None}, "model"),
        ({"model": 5}, "model"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 33}, "max_tokens"),
        ({"max_tokens": 1.0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": "1"}, "max_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"n": 0}, "n"),
        ({"n": 9}, "n"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"stop": ""}, "stop"),
        ({"stop": [5]}, "stop"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": {"a": 1}}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream": True, "echo": True}, "echo"),
        ({"stream_options": ["a"]}, "stream_options"),
        ({"top_p": 0.5}, "top_p"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"nonsense": 1}, "nonsense"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_by_its_name(changes, field):
    with pytest.raises(RequestError) as refused:
        read(**changes)
    assert (refused.value.status, refused.value.field) == (400, field)
    assert field in refused.value.message


def test_a_conversation_is_rendered_by_the_template():
    told = [
        {
            "role": "user",
            "content": [{"type": "text", "text": "who "}, {"type": "text", "text": "made"}],
        }
    ]
    found = chatty().chat({"model": "base", "messages": told})
    assert PLAIN.decode(found.prompts[0]) == "user: who made\nassistant:"
    assert found.max_tokens == 32 and found.others is None
    found = chatty().chat(
        {"model": "b", "messages": told, "max_completion_tokens": 3, "logprobs": True}
    )
    assert (found.max_tokens, found.others) == (3, 0)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
        ({"messages": [{"role": "user", "content": "a", "tool_calls": []}]}, "messages"),
        ({"messages": [{"role": "user", "content": "who " * 99}]}, "messages"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"prompt": "a"}, "prompt"),
        ({"tools": [{"type": "function"}]}, "tools"),
    ],
    ids=str,
)
def test_a_conversation_that_does_not_fit_is_refused(changes, field):
    told = {"model": "base", "messages": [{"role": "user", "content": "a"}], **changes}
    with pytest.raises(RequestError) as refused:
        chatty().chat(told)
    assert (refused.value.status, refused.value.field) == (400, field)


def test_a_tokenizer_without_a_template_takes_no_conversation():
    with pytest.raises(RequestError, match="no chat template"):
        READER.chat({"model": "base", "messages": [{"role": "user", "content": "a"}]})
