"""The command that measures a base or a trial's model: the same numbers as the sweep's own."""

from __future__ import annotations

import importlib.util
import json

import pytest

from experiments import evaluate
from experiments.evaluate import EvaluateConfig
from smf_jax.bases.base import load_base
from smf_jax.continual import run_base
from smf_jax.continual.run_base import load_run_base
from smf_jax.continual.run_directory import RunDirectory
from smf_jax.data.readers import Reader
from smf_jax.evaluation.probe import ProbeContext, ProbeOptions
from smf_jax.evaluation.probes.open import OpenProbe
from smf_jax.evaluation.probes.registry import read_probes
from smf_jax.evaluation.probes.text import LossProbe
from smf_jax.evaluation.scorer import Scorer
from tests.tiny_sweep import rows_of, write_lines

# One of each method that keeps what it trained in its own way.
TRIALS = ("smf-tfidf-sgd-t16-lr30-s0", "full-adamw-lr0.01-s0", "lora-sgd-lr0.3-s0")


@pytest.fixture(scope="module")
def probes(tiny_base, tmp_path_factory) -> str:
    """Questions that the base answers as they accept, and a text."""
    folder = tmp_path_factory.mktemp("probes")
    asked = [{"question": f"Where does number {n} live?", "answers": ["?"]} for n in range(5)]
    file = write_lines(folder / "nq.jsonl", *asked)
    base = load_base(str(tiny_base), "base")
    options = ProbeOptions(answer_tokens=5)
    using = ProbeContext(Reader(), base.tokenizer, base.config.max_positions, options)
    (probe,) = read_probes(f"nq=f1:{file}", using).named.values()
    assert isinstance(probe, OpenProbe)
    predictions = probe.predict(Scorer(base.model, 4), base.params)
    for question, prediction in zip(asked, predictions, strict=True):
        question["answers"] = ["nothing", prediction or "nothing"]
    write_lines(file, *asked)
    (folder / "text.txt").write_text("Someone lives in the town. Nothing is known of it. " * 16)
    text = folder / "text.txt"
    return f"nq=f1:{file},town=ppl:{text},asked={file},moved=kl:{text}"


OPTIONS = dict(probe_limit=5, probe_answer_tokens=5, ppl_window=32, ppl_stride=16)


@pytest.fixture(scope="module")
def run(sweeper, probes, tmp_path_factory):
    """A sweep that measured the probes after each of its tasks."""
    out = tmp_path_factory.mktemp("runs") / "probed"
    assert sweeper(out, devices=2, report=True, probes=probes, **OPTIONS) == 0
    return out


def scores_of(out, probes, **changes) -> dict:
    """What the command measures and writes."""
    flags = EvaluateConfig.of(
        probes=probes, out=str(out), **{"eval_batch_size": 32, **OPTIONS, **changes}
    )
    assert evaluate.main(flags) == 0
    return json.loads(out.read_text())


def test_a_sweep_measures_named_probes_after_each_task(run):
    rows = rows_of(run)
    assert {row["trial"] for row in rows} > set(TRIALS)
    for row in rows:
        assert {"probe_nq_f1", "probe_nq_exact", "probe_town_perplexity"} <= row.keys()
        assert row["probe_nq_f1_base"] > 0
        assert row["known"] is not None  # the questions without a kind
    full = [row for row in rows if row["method"] == "full"]
    assert all(row["probe_town_loss"] != row["probe_town_loss_base"] for row in full)
    assert all(row["probe_moved_kl"] > row["probe_moved_kl_base"] >= 0 for row in full)
    text = (run / "report.md").read_text()
    assert "## Probes" in text and "town perplexity" in text
    assert "learned; nq f1 worse by" in text


@pytest.mark.parametrize("trial", TRIALS)
def test_the_command_measures_what_the_sweep_measured(run, probes, tmp_path, trial):
    task = 0 if trial.startswith("smf") else 1
    found = scores_of(tmp_path / "a.json", probes, run=str(run), trial=trial, task=task)
    row = next(r for r in rows_of(run) if (r["trial"], r["task"]) == (trial, task))
    scores = {name: each["scores"] for name, each in found["probes"].items()}
    assert list(scores) == ["nq", "town", "asked", "moved"]
    assert scores["moved"]["kl"] == pytest.approx(row["probe_moved_kl"], rel=1e-4, abs=1e-6)
    assert scores["nq"] == {"f1": row["probe_nq_f1"], "exact": row["probe_nq_exact"]}
    assert scores["town"]["loss"] == pytest.approx(row["probe_town_loss"], rel=1e-5)
    assert scores["asked"]["exact"] == row["known"]
    assert found["model"]["trial"] == trial and found["model"]["task"] == task


def test_what_a_run_taught_is_no_question_that_is_known(run, probes, tmp_path, monkeypatch):
    taught, asked = [], []

    def read_stream(config, base, asking):
        asked.append((config.stream, base.fingerprint(), asking))
        return frozenset({"who"})

    def read(told, using):
        taught.append(using.taught)
        raise ValueError("read")

    monkeypatch.setattr(evaluate, "read_probes", read)
    monkeypatch.setattr(run_base, "taught_questions", read_stream)
    known = "k=known:" + probes.partition("nq=f1:")[2].partition(",")[0]
    with pytest.raises(ValueError, match="read"):
        scores_of(tmp_path / "a.json", known, run=str(run))
    directory = RunDirectory(str(run))
    base, _ = load_run_base(directory, "")
    assert taught == [{"who"}] and asked == [(directory.config().stream, base.fingerprint(), None)]


def test_a_run_alone_is_its_base(run, probes, tmp_path, capsys):
    found = scores_of(tmp_path / "a.json", probes, run=str(run))
    row = rows_of(run)[0]
    assert found["probes"]["nq"]["scores"]["f1"] == row["probe_nq_f1_base"]
    assert found["probes"]["nq"]["items"] == 5
    assert [each["kind"] for each in found["probes"].values()] == ["f1", "ppl", "exact", "kl"]
    assert found["probes"]["moved"]["scores"]["kl"] == pytest.approx(0, abs=1e-6)
    assert "trial" not in found["model"]
    assert "| nq    |" in capsys.readouterr().out


def test_what_is_measured_is_written_as_it_is(tiny_base, probes, tmp_path, monkeypatch):
    def break_down(self, scorer, params):
        raise ValueError("out of memory")

    monkeypatch.setattr(LossProbe, "measure", break_down)
    with pytest.raises(ValueError, match="out of memory"):
        scores_of(tmp_path / "a.json", probes, base=str(tiny_base))
    kept = json.loads((tmp_path / "a.json").read_text())["probes"]
    assert list(kept) == ["nq"] and kept["nq"]["scores"]["f1"] > 0


def refused(message: str, **changes) -> None:
    given = {"base": "no", "probes": "a=b.txt", "out": "out.json", **changes}
    with pytest.raises((ValueError, FileNotFoundError, FileExistsError), match=message):
        evaluate.main(EvaluateConfig.of(**given))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(probes=""), "--probes and --harness are empty"),
        (dict(out=""), "--out is empty"),
        (dict(trial="smf"), "--trial=smf belongs to a run; give --run too"),
        (dict(task=1), "--task=1 is one of a trial; give --trial too"),
        (dict(eval_batch_size=0), "--eval_batch_size=0: expected at least 1"),
        (dict(probe_limit=-1), "--probe_limit=-1: expected at least 0"),
        (dict(chat_template_args="[1]"), r"--chat_template_args=\[1\]: expected a JSON object"),
        (dict(probes="a=f9:b.txt"), "kind 'f9' is unknown"),
        (dict(probes="a=text:b.txt"), "--base=no: no such directory"),
        (dict(run="no", probes="a=text:b.txt"), "--run=no is no run"),
        (dict(harness="h", harness_path="no"), "--harness"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(changes, message):
    refused(message, **changes)


def test_a_file_that_stands_is_kept_unless_told_otherwise(tmp_path, tiny_base, probes):
    out = tmp_path / "out.json"
    out.write_text("precious")
    refused("--out=.*out.json exists; give another file or --overwrite", out=str(out))
    assert out.read_text() == "precious"
    (name, *_) = probes.split(",")
    found = scores_of(out, name, base=str(tiny_base), overwrite=True)
    assert found["probes"]["nq"]["scores"]["f1"] > 0


def test_a_harness_that_is_absent_is_told_how_to_install(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *given: None if name == "lm_eval" else find_spec(name, *given),
    )
    refused('--harness=h needs lm-evaluation-harness: .*"smf_jax.lm-eval."', harness="h")
