"""OpenAI's own client, and what it hears of each set of patches."""

from __future__ import annotations

import json

import httpx
import jax
import numpy as np
import openai
import pytest

from smf_jax.models.decoder import plain_logits
from tests.serving.tiny import ANSWER, QUESTION, post

PROMPT = f"Question: {QUESTION}\nAnswer:"


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_every_set_of_patches_is_a_model(client):
    assert [each.id for each in client.models.list()] == [
        "base",
        "taught",
        "base+facts",
        "base+facts_01",
    ]
    assert client.models.retrieve("base+facts_01").id == "base+facts_01"
    with pytest.raises(openai.NotFoundError, match="no set of patches"):
        client.models.retrieve("gpt")


def test_sets_are_switched_from_request_to_request(client):
    found = {
        name: client.completions.create(model=name, prompt=PROMPT, max_tokens=9)
        for name in ("base", "taught", "base+facts_01")
    }
    assert found["taught"].choices[0].text.strip() == ANSWER
    assert found["taught"].choices[0].finish_reason == "stop"
    assert len({each.choices[0].text for each in found.values()}) == 3
    assert len({each.system_fingerprint for each in found.values()}) == 3
    assert all(each.model == name for name, each in found.items())
    usage = found["base"].usage
    assert usage.completion_tokens == 9 and found["base"].choices[0].finish_reason == "length"
    assert usage.total_tokens == usage.prompt_tokens + 9


@pytest.mark.parametrize(
    "how", [{}, {"temperature": 1.0, "seed": 5}, {"stop": ["e", "o"]}], ids=str
)
def test_a_stream_gives_the_same_answer(client, how):
    told = {"model": "base+facts_01", "prompt": [PROMPT, "stands"], "max_tokens": 12, **how}
    whole = client.completions.create(**told)
    pieces = ["", ""]
    reasons = [None, None]
    usage = None
    for event in client.completions.create(
        **told, stream=True, stream_options={"include_usage": True}
    ):
        usage = event.usage
        for choice in event.choices:
            pieces[choice.index] += choice.text
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert pieces == [choice.text for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert usage == whole.usage  # of the last event
    if "stop" in how:
        assert not any(letter in text for text in pieces for letter in "eo")


def test_draws_follow_their_seed(client):
    told = {"model": "base", "prompt": "stands", "max_tokens": 12, "temperature": 1.0, "n": 2}
    texts = [
        [choice.text for choice in client.completions.create(**told, seed=seed).choices]
        for seed in (1, 1, 9)
    ]
    assert texts[0] == texts[1] != texts[2] and texts[0][0] != texts[0][1]


def test_echoed_prompts_bring_the_log_probabilities_of_their_tokens(client, server):
    ids = server.models.base.tokenizer.encode_prompt(PROMPT)
    (choice,) = client.completions.create(
        model="taught", prompt=[ids], max_tokens=1, echo=True, logprobs=1
    ).choices
    told = choice.logprobs
    assert len(told.tokens) == len(ids) + 1 == len(told.text_offset)
    assert told.token_logprobs[0] is None and told.top_logprobs[0] is None
    assert choice.text == f"{PROMPT} {ANSWER}"
    assert choice.text[told.text_offset[-1] :].strip() == ANSWER
    logits = jax.jit(plain_logits(server.models.base.model))
    params = server.models.find("taught").params
    logits = np.asarray(
        logits(params, np.array([ids]), np.ones((1, len(ids)), bool))[0], np.float64
    )
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = [logs[place, token] for place, token in enumerate(ids[1:])]
    np.testing.assert_allclose(told.token_logprobs[1:-1], expected, atol=1e-4)
    best = [max(each.values()) for each in told.top_logprobs[1:]]
    np.testing.assert_allclose(best, logs.max(1), atol=1e-4)
    echoed = client.completions.create(model="taught", prompt=PROMPT, max_tokens=0, echo=True)
    assert echoed.choices[0].text == PROMPT


def test_log_probabilities_of_an_answer_stand_beside_its_tokens(client):
    (choice,) = client.completions.create(
        model="base", prompt="stands", max_tokens=4, logprobs=3
    ).choices
    told = choice.logprobs
    assert [len(each) for each in told.top_logprobs] == [3] * len(told.tokens) == [3] * 4
    for token, log, others in zip(told.tokens, told.token_logprobs, told.top_logprobs, strict=True):
        assert others[token] == log == max(others.values())


def test_a_conversation_needs_a_template(client):
    with pytest.raises(openai.BadRequestError, match="no chat template"):
        client.chat.completions.create(model="base", messages=[{"role": "user", "content": "a"}])


def test_errors_are_those_that_the_client_knows(client):
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="base+nothing", prompt="a")
    assert missing.value.code == "model_not_found" and missing.value.param == "model"
    with pytest.raises(openai.BadRequestError, match="facts_02 was taught on top of facts_01"):
        client.completions.create(model="base+facts_02", prompt="a")
    with pytest.raises(openai.BadRequestError) as long:
        client.completions.create(model="base", prompt="a " * 99)
    assert long.value.code == "context_length_exceeded"


def test_the_tokenizer_is_told_to_those_who_need_it(server):
    tokenizer = server.models.base.tokenizer
    ids = tokenizer.encode("who made it")
    assert post(server, "/tokenize", prompt="who made it").json()["tokens"] == ids
    framed = post(server, "/tokenize", prompt="who made it", add_special_tokens=True).json()
    assert framed["tokens"] == tokenizer.encode_prompt("who made it")
    assert post(server, "/detokenize", tokens=ids).json() == {"prompt": "who made it"}
    told = httpx.get(server.url + "/tokenizer_info").json()
    assert told["eos_token"] == "<|end|>" and told["max_length"] == 64
    for path, body in (("/tokenize", {"prompt": 5}), ("/detokenize", {"tokens": [10**9]})):
        assert post(server, path, **body).status_code == 400


def test_events_are_server_sent(server):
    body = {"model": "taught", "prompt": PROMPT, "max_tokens": 6, "stream": True}
    found = post(server, "/v1/completions", **body)
    assert found.headers["content-type"].startswith("text/event-stream")
    *events, end, empty = found.text.split("\n\n")
    assert (end, empty) == ("data: [DONE]", "")
    told = [json.loads(event.removeprefix("data: ")) for event in events]
    assert "".join(each["choices"][0]["text"] for each in told).strip() == ANSWER
