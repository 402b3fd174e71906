"""A base is asked before anything is changed, once, and its figures are those before it all."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from experiments import evaluate, sweep
from experiments.evaluate import EvaluateConfig
from smf_jax.bases.asked_base import ANSWERS, AskedBase
from smf_jax.bases.base import load_base
from smf_jax.continual.run_directory import BASE, BASE_SCORES
from smf_jax.continual.scores import measure_base
from smf_jax.continual.stream_data import load_stream_data
from smf_jax.continual.stream_tasks import questions_of
from smf_jax.data.facts import Question
from smf_jax.data.shares import question_key
from smf_jax.evaluation.probes.known import KnownProbe
from smf_jax.evaluation.probes.open import END, open_probe
from smf_jax.evaluation.scorer import Scorer
from tests.tiny_sweep import on_devices, write_lines

TEXTS = [f"Who made thing number {n}?" for n in range(30)]
STEPS = 3


@pytest.fixture(scope="module")
def files(plain_checkpoint, tmp_path_factory) -> dict[str, str]:
    """Questions of which the checkpoint answers every second one as the file says."""
    base = load_base(str(plain_checkpoint))
    asked = [Question(text, ("x",)) for text in TEXTS]
    probe = open_probe(base.tokenizer, asked, base.config.max_positions, steps=STEPS)
    said = probe.predict(Scorer(base.model, 4), base.params)
    lines = [
        {"question": text, "answers": [answer if n % 2 and answer else f"Maker {n}"]}
        for n, (text, answer) in enumerate(zip(TEXTS, said, strict=True))
    ]
    folder = tmp_path_factory.mktemp("asked")
    texts = [{"text": f"Thing number {n} stands beside thing {n + 1}."} for n in range(300)]
    return {
        "stream": str(write_lines(folder / "questions.jsonl", *lines)),
        "background": str(write_lines(folder / "general.jsonl", *texts)),
    }


def given(files, plain_checkpoint, cache: Path) -> dict[str, Any]:
    return dict(
        **files,
        base=str(plain_checkpoint),
        base_cache=str(cache),
        retrofit="replace",  # what is trained is far from what was asked
        heal_steps=0,
        layers="0",
        keys_per_half=8,
        memory_heads=1,
        reads=2,
        methods="smf",
        slots="4",
        lr="3",
        optimizer="sgd",
        tasks=2,
        facts_per_task=3,
        unknown_only=True,
        probes=f"known=known:{files['stream']},old=f1:{files['stream']}",
        probe_limit=4,
        probe_answer_tokens=STEPS,
        background_batches=2,
        eval_batch_size=4,
    )


def flat(scores: dict[str, Any]) -> dict[str, float]:
    """Scores with those of a list under keys of their own."""
    return {
        f"{key}{place}": value
        for key, values in scores.items()
        for place, value in enumerate(values if isinstance(values, list) else [values])
    }


@pytest.fixture
def started(sweeper, monkeypatch):
    """Starts a sweep, up to the first step of its trials: what they would have begun from."""

    def run(out: Path, **changes):
        config, begun = sweeper.config(out, **changes), []
        own = dataclasses.replace(
            sweeper.tools(config),
            load_stream_data=load_stream_data,
            run_group=lambda sweep, *_: begun.append(sweep),
        )
        with on_devices(1):
            assert sweep.main(config, own, lambda *_: "") == 0
        return begun[0]

    return run


def test_a_base_is_asked_once_and_scored_before_it_is_changed(
    started, files, plain_checkpoint, tmp_path, monkeypatch
):
    flags = given(files, plain_checkpoint, tmp_path / "cache")
    first = started(tmp_path / "run", **flags)
    taught = set(map(question_key, questions_of(first.stream_data.tasks)))
    known = first.stream_data.named["known"]
    assert isinstance(known, KnownProbe) and known.about["items"] == 4
    assert len(taught) == 6
    plain = load_base(str(plain_checkpoint))
    # All figures of the base are those of the checkpoint, whatever was put into it.
    expected = measure_base(plain, first.stream_data, Scorer(plain.model, 4))
    assert flat(first.base_scores) == pytest.approx(flat(expected), rel=1e-5)
    assert len(expected["ahead"]) == 2  # every task
    assert first.base_scores["probe_known_kept"] == 1 and first.base_scores["text_neutral"] > 0
    changed = measure_base(first.base, first.stream_data, first.scorer)
    assert changed["text_neutral"] != pytest.approx(expected["text_neutral"], rel=1e-3)
    unknown = open_probe(
        plain.tokenizer,
        [fact.question for task in first.stream_data.tasks for fact in task.facts],
        plain.config.max_positions,
        steps=STEPS,
    )
    assert unknown.measure(Scorer(plain.model, 4), plain.params)["exact"] == 0

    # Neither a resume nor another run asks or scores again.
    monkeypatch.setattr("smf_jax.evaluation.asking.answer_texts", None)
    again = started(tmp_path / "other", **flags)
    for path in (tmp_path / "cache").iterdir():
        path.unlink()
    monkeypatch.setattr("smf_jax.continual.sweep.measure_base", None)
    resumed = started(tmp_path / "run", **flags, resume=True)
    for later in (again, resumed):
        assert later.stream_data.tasks == first.stream_data.tasks
        assert later.stream_data.named["known"].prompts == known.prompts
        assert flat(later.base_scores) == pytest.approx(flat(first.base_scores))

    # The command asks what the run asked, and the model that it is about is the retrofitted one.
    out, probes = tmp_path / "known.json", f"known=known:{files['stream']}"
    told = dict(run=str(tmp_path / "run"), probes=probes, probe_limit=4, eval_batch_size=4)
    assert evaluate.main(EvaluateConfig.of(**told, probe_answer_tokens=STEPS, out=str(out))) == 0
    found = json.loads(out.read_text())["probes"]["known"]
    assert found["items"] == 4 and found["scores"]["kept"] == changed["probe_known_kept"]

    # A run of a version that measured the retrofitted base goes on with that.
    (tmp_path / "run" / BASE_SCORES).unlink()
    assert started(tmp_path / "run", **flags, resume=True).base_scores is None


def test_answers_are_of_one_base_and_one_damaged_file_is_an_error(plain_checkpoint, tmp_path):
    base = load_base(str(plain_checkpoint))
    run, cache = tmp_path / "run", tmp_path / "cache"
    asking = AskedBase(base, run, cache, 8)
    (said,) = asking.answers([[5, 6]], 2, [END])
    asking.keep_in(run)
    (shared,) = cache.iterdir()
    for where in ((run, None), (None, cache)):
        assert AskedBase(base, *where, 8).answers([[5, 6]], 2, [END]) == [said]
    assert shared.read_text().count("\n") == (run / ANSWERS).read_text().count("\n")
    other = AskedBase(base.cast("bfloat16"), run, cache, 8)
    assert not other._said
    (run / ANSWERS).write_text((run / ANSWERS).read_text().replace("float32", "float31"))
    with pytest.raises(ValueError, match=ANSWERS):
        AskedBase(base, run, cache, 8)
    assert not (tmp_path / BASE).exists()
