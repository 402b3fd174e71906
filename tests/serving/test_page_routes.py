"""What the page asks for: answers side by side, teaching and taking back."""

from __future__ import annotations

import shutil
import time

import httpx
import pytest

from smf_jax.taught.asking import ask
from smf_jax.taught.config import AskConfig
from tests.serving.tiny import ANSWER, MOST, QUESTION, busy, post, serving
from tests.taught.tiny import FACTS, MORE
from tests.tiny_sweep import content, on_devices


def state(server) -> dict:
    return httpx.get(server.url + "/api/state").json()


def test_the_state_tells_what_each_patch_taught(server):
    told = state(server)
    assert [patch["name"] for patch in told["patches"]] == ["facts_01", "facts_02"]
    assert [patch["needs"] for patch in told["patches"]] == [[], ["facts_01"]]
    fact = told["patches"][1]["facts"][0]
    assert (fact["asked"], fact["expected"], fact["status"]) == (QUESTION, [ANSWER], "learned")
    assert fact["after"] == [ANSWER] != fact["before"] and told["room"] is None


def test_answers_side_by_side_are_those_of_smf_ask(server, taught):
    models = ["base", "taught", "base+facts_01"]
    found = post(server, "/api/ask", question=QUESTION, models=models, max_tokens=4).json()
    with on_devices(1):
        config = AskConfig(arguments=(str(taught), QUESTION), max_tokens=4, without=True)
        (expected,) = ask(config)
    base, now, first = found["answers"]
    assert (now["said"], base["said"]) == (expected.said, expected.without)
    assert now["written"] == pytest.approx(expected.written, abs=1e-6)
    assert now["patches"] == pytest.approx(expected.patches, abs=1e-6)
    assert now["taught_by"] == expected.taught_by
    assert (base["written"], base["patches"], base["patches_on"]) == (0, {}, [])
    assert first["patches_on"] == ["facts_01"] and set(first["patches"]) == {"facts_01"}


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({"question": "", "models": ["base"]}, 400, "question"),
        ({"question": 5, "models": ["base"]}, 400, "question"),
        ({"question": "a", "models": []}, 400, "models"),
        ({"question": "a", "models": ["base"] * 9}, 400, "models"),
        ({"question": "a", "models": ["base", "mine"]}, 404, "mine"),
        ({"question": "a", "models": ["base+facts_02"]}, 400, "facts_01"),
        ({"question": "a " * 50, "models": ["base"]}, 400, "question"),
        ({"question": "a", "models": ["base"], "more": 1}, 400, "more"),
        ({"question": "a", "models": ["base"], "max_tokens": 64}, 400, "max_tokens"),
    ],
    ids=str,
)
def test_questions_that_do_not_fit_are_refused(server, body, status, word):
    found = post(server, "/api/ask", **body)
    assert found.status_code == status and word in found.json()["error"]["message"]


def test_a_full_line_is_told(server):
    with busy(server):
        found = post(server, "/api/ask", question="a", models=["base"], max_tokens=2)
    assert found.status_code == 429 and f"{MOST} prompts wait" in found.json()["error"]["message"]


def test_who_may_only_read_teaches_nothing(server, taught):
    before = content(taught)
    for path, body in (
        ("/api/teach", {"question": "a", "answer": "b"}),
        ("/api/forget", {"patch": "facts_02"}),
    ):
        found = post(server, path, **body)
        assert found.status_code == 403 and "--read_only" in found.json()["error"]["message"]
    assert content(taught) == before


def wait(server) -> dict:
    for _ in range(1200):
        if not (told := state(server))["room"]["doing"]:
            return told
        time.sleep(0.1)
    raise AssertionError("the lesson did not end")


def answer(server, model: str, question: str) -> str:
    found = post(server, "/api/ask", question=question, models=[model], max_tokens=4)
    return found.json()["answers"][0]["said"]


def test_a_fact_is_taught_and_taken_back_while_the_server_answers(taught, tmp_path):
    out = shutil.copytree(taught, tmp_path / "model")
    before = content(out / "base")
    with serving(out) as server:
        was = answer(server, "taught", MORE[1]["question"])
        fact = {"question": MORE[1]["question"], "answer": MORE[1]["answer"]}
        started = post(server, "/api/teach", **fact)
        assert started.status_code == 202 and started.json()["doing"].startswith("teaching: ")
        again = post(server, "/api/teach", **fact)
        assert again.status_code == 409 and "wait until" in again.json()["error"]["message"]
        assert answer(server, "base+facts", QUESTION) == ANSWER  # meanwhile
        told = wait(server)
        assert told["patches"][-1]["name"] == "fact_1_01" and not told["room"]["failed"]
        (taught_fact,) = told["patches"][-1]["facts"]
        assert taught_fact["asked"] == MORE[1]["question"]
        now = answer(server, "taught", MORE[1]["question"])
        assert now != was == answer(server, "base+facts", MORE[1]["question"])
        assert post(server, "/api/forget", patch="nothing").status_code == 404
        refused = post(server, "/api/forget", patch="facts_01")
        assert refused.status_code == 202
        told = wait(server)
        assert told["room"]["failed"] and "wrote over its rows" in told["room"]["last"]
        assert post(server, "/api/forget", patch="fact_1_01").status_code == 202
        told = wait(server)
        assert [patch["name"] for patch in told["patches"]] == ["facts_01", "facts_02"]
        assert "fact_1_01 taken back" in told["room"]["last"]
        assert answer(server, "taught", MORE[1]["question"]) == was
        assert (
            post(server, "/api/teach", question=FACTS[2]["question"], answer=ANSWER).status_code
            == 202
        )
        assert "taught this already" in wait(server)["room"]["last"]
    assert content(out / "base") == before
