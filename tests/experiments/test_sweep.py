"""The whole sweep: what it leaves behind, and the same on real input."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import cast

import jax
import numpy as np
import pytest

from experiments import sweep
from experiments.compare import compare
from smf_jax import checkpoints
from smf_jax.bases.base import Base, cached_path, load_base
from smf_jax.bases.pretrain_config import PretrainConfig
from smf_jax.bases.retrofitting import retrofit_base
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.methods.lora import LoraConfig
from smf_jax.continual.run_config import CONFIG
from smf_jax.continual.stream_data import load_stream_data
from smf_jax.evaluation.likelihood import loss_sum, mean_loss
from smf_jax.evaluation.probes.exact import exact_match, is_exact_match
from smf_jax.models.decoder import Decoder
from smf_jax.models.lora import merge_lora
from smf_jax.params import flatten, unflatten
from smf_jax.sparse.patch import Patch, apply_patch
from smf_jax.training.background import measure_background
from tests.fixtures import NO_COMPUTE
from tests.tiny_sweep import content, on_devices, rows_of, write_lines

POOL = "memory/pool_0/values"
ROOT = Path(__file__).resolve().parents[2]
TRIALS = {
    "full-adamw-lr0.001-s0",
    "full-adamw-lr0.01-s0",
    "lora-sgd-lr0.3-s0",
    "replay-sgd-lr0.1-s0",
    "smf-tfidf-sgd-t16-lr30-s0",
    "smf-tfidf-sgd-t64-lr30-s0",
}


def trained_params(run: Path, trial: str, tasks: int) -> dict[str, np.ndarray]:
    """All leaves of the model that a trial has come to, from the run's files alone."""
    params = checkpoints.load(run / "base" / "leaves")[0]
    for task in range(tasks):
        arrays, about = checkpoints.load(run / "trials" / trial / f"task_{task:02d}")
        if about["kind"] == "patch":
            params = apply_patch(params, Patch.from_arrays(arrays, about), base=about["base"])
        elif about["kind"] == "leaves":
            params = {**params, **arrays}
        elif task == tasks - 1:
            params = flatten(merge_lora(unflatten(params), arrays, LoraConfig().alpha))
    return {path: np.asarray(leaf) for path, leaf in params.items()}


def test_every_promised_file_is_there(finished):
    names = {path.name for path in finished.iterdir()}
    files = {"config.json", "results.jsonl", "slot_health.json", "summary.csv", "report.md"}
    files.add("report.html")
    pictures = {"frontier.png", "retention.png", "slots.png"}
    assert names == files | pictures | {"base", "trials"}
    for name in pictures:
        assert (finished / name).read_bytes()[:4] == b"\x89PNG"
        assert f"({name})" in (finished / "report.md").read_text()
    config = json.loads((finished / CONFIG).read_text())
    assert config["slots"] == "16,64"
    assert config["versions"]["jax"] == jax.__version__
    with (finished / "summary.csv").open() as file:
        assert {line["trial"] for line in csv.DictReader(file)} == TRIALS
    assert {path.name for path in (finished / "trials").iterdir()} == TRIALS
    for trial in TRIALS:
        assert trial.removesuffix("-s0") in (finished / "report.md").read_text()


def test_there_is_a_row_for_each_trial_and_task_with_the_documented_keys(finished):
    rows = rows_of(finished)
    assert [(row["trial"], row["task"]) for row in rows] == [
        (trial, task) for trial in sorted(TRIALS) for task in range(2)
    ]
    documented = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "run_files.md").read_text()))
    assert {key for row in rows for key in row} | {"seconds"} <= documented
    for row in rows:
        assert (row["facts"], row["steps"], row["failed_step"]) == (4, 6, None)
        assert len(row["retention"]) == row["task"] + 1
        assert row["retention"][-1] == row["unseen"]
        assert row["stream_unseen"] == pytest.approx(np.mean(row["retention"]))
        # In the order of facts the last batch is about others than the first one.
        assert row["batch_order"] == "facts" or row["loss_last"] < row["loss_first"]
    assert any(row["seen"] > 0 for row in rows)
    assert len({row["known_base"] for row in rows}) == 1


def test_what_trains_is_told_by_number(finished, tiny_base):
    total = sum(leaf.size for leaf in load_base(str(tiny_base), "base").params.values())
    rows = {row["trial"]: row for row in rows_of(finished)}
    smf, full = rows["smf-tfidf-sgd-t16-lr30-s0"], rows["full-adamw-lr0.01-s0"]
    assert smf["trainable_parameters"] == 16 * 32
    assert smf["trainable_share"] == pytest.approx(16 * 32 / total)
    assert smf["optimizer_bytes"] == 0
    assert smf["rows_selected"] <= 16
    assert full["trainable_parameters"] == total
    assert full["optimizer_bytes"] == 4 * (2 * total + 1)  # two moments and a count
    assert 0 < rows["lora-sgd-lr0.3-s0"]["trainable_share"] < 1


def test_budgets_of_one_static_size_share_one_compilation(finished, sweeper):
    groups = [group for (key, _), group in sweeper.groups.items() if key[-1][0] == "smf"]
    assert len({row["slots"] for row in rows_of(finished) if row["method"] == "smf"}) == 2
    assert [group.traces for group in groups] == [1] * len(groups)
    assert all(group.traces == 1 for group in sweeper.groups.values())


def test_patches_replayed_on_the_base_give_the_trained_tables_and_leave_all_else(finished, sweeper):
    for trial in sorted(TRIALS):
        if not trial.startswith("smf"):
            continue
        for task in (0, 1):
            params = trained_params(finished, trial, task + 1)
            (path,) = sweeper.trained[finished.name, trial, task]
            assert path == POOL
            trained = sweeper.trained[finished.name, trial, task][POOL]
            assert params[POOL].tobytes() == trained.tobytes()
            after = finished / "trials" / trial / f"task_{task:02d}"
            before = finished / "base" if task == 0 else after.with_name(f"task_{task - 1:02d}")
            found = compare(before, after)
            assert [change.path for change in found.changed] == [POOL]
            row = next(r for r in rows_of(finished) if (r["trial"], r["task"]) == (trial, task))
            assert found.pools[0].changed == row["rows_changed"]
            assert 0 < row["rows_changed"] <= 16 * 6 if "t16" in trial else 64 * 6


def test_dense_checkpoints_hold_the_trained_leaves(finished, sweeper):
    kinds = {"full": "leaves", "replay": "leaves", "lora": "adapters"}
    base = checkpoints.load(finished / "base" / "leaves")[0]
    for trial in sorted(TRIALS):
        method = trial.partition("-")[0]
        if method == "smf":
            continue
        arrays, about = checkpoints.load(finished / "trials" / trial / "task_01")
        assert (about["kind"], about["method"], about["task"]) == (kinds[method], method, 1)
        trained = sweeper.trained[finished.name, trial, 1]
        assert {p: a.tobytes() for p, a in arrays.items()} == {
            p: a.tobytes() for p, a in trained.items()
        }
        if method == "lora":
            assert {path.rpartition("/")[2] for path in arrays} == {"a", "b"}
        else:
            assert arrays.keys() == base.keys()


def test_a_row_tells_of_the_model_in_its_checkpoint(finished, sweeper):
    """Scores recomputed from the run's files by another way: one plain model, no trial axis."""
    base = load_base(str(finished / "base"), "base")
    stream_data = load_stream_data(sweeper.config(finished), base)

    @jax.jit
    def run(params, batch):
        logits = Decoder(base.config).apply(
            {"params": unflatten(params)}, batch.tokens, batch.valid
        )
        logits = cast(jax.Array, logits)
        return is_exact_match(logits, batch), loss_sum(logits, batch)

    def answered(params, probe):
        return exact_match(probe, run(params, probe.batch)[0])

    for row in rows_of(finished):
        if row["task"] != 1 or row["learning_rate"] == 0.001:
            continue
        params = trained_params(finished, row["trial"], 2)
        assert row["seen"] == answered(params, stream_data.seen[1])
        assert row["retention"] == [answered(params, probe) for probe in stream_data.unseen]
        assert row["known"] == answered(params, stream_data.questions["known"])
        loss = mean_loss([run(params, stream_data.texts["neutral"])[1]])
        assert row["text_loss"] == pytest.approx(loss, rel=1e-4)


def test_shares_of_the_grid_give_the_rows_of_the_whole(sweeper, tmp_path, monkeypatch):
    grid = dict(methods="smf", optimizer="", seeds="0,1", lr="30", tasks=1)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert sweeper(whole, devices=2, **grid) == 0
    assert sweeper(parts, devices=2, shard="0/2", **grid) == 0
    assert len(rows_of(parts)) == 2
    # The other machine joins the directory; the last one to finish reports on all.
    monkeypatch.setattr(sweeper, "may_measure", False)
    assert sweeper(parts, devices=2, shard="1/2", report=True, **grid) == 0
    assert rows_of(parts) == rows_of(whole)
    assert len((parts / "summary.csv").read_text().splitlines()) == 1 + 4
    # A share that is run anew leaves those of others alone, and one of another grid does not join.
    first = content(parts / "trials" / rows_of(parts)[0]["trial"])
    with pytest.raises(ValueError, match="--shard=1/2 of .* with other flags: --lr was"):
        sweeper(parts, devices=2, shard="1/2", **grid | dict(lr="20"))
    with pytest.raises(ValueError, match="--shard=1/2 of .* with other flags: --lr was"):
        sweeper(parts, devices=2, shard="1/2", overwrite=True, **grid | dict(lr="20"))
    kept = (parts / "results-0-of-2.jsonl").read_bytes()
    assert sweeper(parts, devices=2, shard="1/2", overwrite=True, **grid) == 0
    assert (parts / "results-0-of-2.jsonl").read_bytes() == kept
    assert content(parts / "trials" / rows_of(parts)[0]["trial"]) == first
    assert rows_of(parts) == rows_of(whole)


def test_a_healed_base_is_made_once_for_all_shares(sweeper, plain_checkpoint, tmp_path):
    """And by whoever comes first: the others read what it has saved, without healing it again."""
    texts = write_lines(tmp_path / "t.jsonl", *[{"text": f"Thing {n} stands."} for n in range(400)])
    asked = [{"question": f"Who made thing {n}?", "answers": [f"Maker {n}"]} for n in range(4)]
    stream, out = write_lines(tmp_path / "stream.jsonl", *asked), tmp_path / "run"
    given: dict = dict(base=str(plain_checkpoint), stream=str(stream), background=str(texts))
    given |= dict(retrofit="add", layers="0", keys_per_half=8, memory_heads=1, reads=2, tasks=1)
    given |= dict(memory_init="normal")
    given |= dict(
        heal_steps=2, heal_batch_size=8, methods="smf,full", lr="", optimizer="", slots="4"
    )
    made, measured = [], []
    for share in ("0/2", "1/2", "1/2"):
        config = sweeper.config(out, shard=share, **given)
        tools = dataclasses.replace(
            sweeper.tools(config),
            retrofit_base=lambda *told: made.append(told) or retrofit_base(*told),
            measure_background=lambda *told, **more: (
                measured.append(told) or measure_background(*told, **more)
            ),
            run_group=lambda *_: None,
        )
        with on_devices(1):
            assert sweep.main(config, tools, lambda *_: "") == 0
    assert len(made) == len(measured) == 1


def hears(process: int, number: int) -> bool:
    """Whether a process has a handler for a signal; no system but Linux tells, so it has soon."""
    status = Path(f"/proc/{process}/status")
    if not status.is_file():
        time.sleep(0.3)
        return True
    caught = re.search(r"^SigCgt:\s*(\w+)$", status.read_text(), re.M)
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)


def test_two_at_work_on_one_run_lose_nothing_and_a_signal_stops_one(tiny_base, sweeper, tmp_path):
    out, log = tmp_path / "run", tmp_path / "log"
    config = sweeper.config(out, methods="full", lr="1e-3", optimizer="", tasks=40, changed_share=0)
    told = {
        name: each
        for name, each in config.values().items()
        if each != SweepConfig.of().values()[name]
    }
    command = [sys.executable, "-m", "experiments.sweep"]
    command += [f"--{name}={each}" for name, each in told.items()]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    early = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    with log.open("w") as file:
        late = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file)
    while not hears(early.pid, signal.SIGTERM):
        assert early.poll() is None
        time.sleep(0.01)
    early.send_signal(signal.SIGTERM)  # while it imports
    line = early.communicate(timeout=60)[1]
    assert (early.returncode, line.count("\n")) == (143, 1) and "go on with --resume" in line
    results = out / "results.jsonl"
    while not (results.is_file() and results.read_text()):
        assert late.poll() is None, log.read_text()
        time.sleep(0.05)
    for way in (dict(resume=True), dict(overwrite=True), dict(overwrite=True, shard="0/2")):
        with pytest.raises(BlockingIOError, match=f"process {late.pid} on .*, since 20.*; wait"):
            sweep.main(config.with_values(**way), NO_COMPUTE)
    late.send_signal(signal.SIGINT)
    assert late.wait(timeout=60) == 130
    assert "Traceback" not in log.read_text()
    assert re.search("^stopped by SIGINT: .* go on with --resume\n$", log.read_text(), re.M)
    done = rows_of(out)
    assert 0 < len(done) < 40 and not list(out.glob(".lock*"))
    sweep.main(
        config.with_values(resume=True, tasks=40),
        dataclasses.replace(sweeper.tools(config), run_group=lambda *_: None),
        lambda *_: "",
    )
    assert rows_of(out) == done


def test_all_methods_run_on_a_plain_checkpoint_with_files(sweeper, plain_checkpoint, tmp_path):
    """The way of real input: retrofit, heal, a stream, a background and probes from files."""
    questions = [
        {"question": f"Who made thing {n}?", "answers": [f"Maker {n}"], "relation": f"r{n % 2}"}
        for n in range(12)
    ]
    stream = write_lines(tmp_path / "stream.jsonl", *questions)
    known = write_lines(tmp_path / "known.jsonl", *questions[:3])
    texts = [{"text": f"Thing number {n} stands beside thing {n + 1}."} for n in range(400)]
    background = write_lines(tmp_path / "general.jsonl", *texts)
    out = tmp_path / "real"
    given = dict(
        base=str(plain_checkpoint),
        retrofit="add",
        memory_init="normal",
        layers="1,0",
        shared_pool=True,
        keys_per_half=8,
        memory_heads=2,
        reads=3,
        key_width=8,
        heal_steps=3,
        heal_batch_size=8,
        methods="smf",
        slots="16",
        lr="3",
        optimizer="sgd",
        train_alpha=True,
        tasks=2,
        facts_per_task=3,
        steps_per_task=3,
        stream=str(stream),
        relation="r0",
        background=str(background),
        background_batches=2,
        probes=f"old={known},more={known}",
    )
    assert sweeper(out, report=True, **given) == 0
    (trial,) = {row["trial"] for row in rows_of(out)}
    row = rows_of(out)[-1]
    assert {"question_more", "question_more_base"} <= row.keys()
    assert row["text_loss"] is not None  # held out of the background
    # What a base is, a run's base is too: smf went on from the healed memory.
    found = compare(out / "base", out / "trials" / trial / "task_00")
    alphas = {"memory/layer_0/alpha", "memory/layer_1/alpha"}
    assert {change.path for change in found.changed} == {"memory/pool_0/values", *alphas}
    memory = load_base(str(out / "base"), "base").config.memory
    assert memory is not None
    assert memory.layers == (0, 1)
    assert (out / "report.md").exists()


def test_a_profile_is_written_where_it_is_asked_for(sweeper, tmp_path):
    trace = tmp_path / "trace"
    few = dict(methods="smf", optimizer="", slots="16", seeds="0,1", lr="30", tasks=1)
    assert sweeper(tmp_path / "run", devices=2, profile=str(trace), **few) == 0
    assert list(trace.rglob("*.xplane.pb"))


def test_a_background_of_another_base_is_refused(refused, finished, tiny_base, tmp_path):
    measured = finished / "base" / "background"
    other = Path(shutil.copytree(tiny_base, tmp_path / "other"))
    params, about = checkpoints.load(other / "leaves")
    params["embedder/embedding"][0, 0] += 1
    checkpoints.save(other / "leaves", params, about, overwrite=True)
    given = dict(base=str(other), background=str(measured), methods="smf")
    told = refused("background of another model: .*measure the background again", **given)
    assert told.startswith(f"--background={measured}: ")
    given["background"] = str(finished / "base" / "leaves")
    refused("--background=.*not a background file", **given)


def test_a_measured_background_of_this_base_serves(sweeper, finished, tmp_path, monkeypatch):
    monkeypatch.setattr(sweeper, "may_measure", False)
    measured, out = finished / "base" / "background", tmp_path / "again"
    given = dict(methods="smf", slots="16", lr="30", optimizer="sgd", tasks=1)
    assert sweeper(out, background=str(measured), **given) == 0
    kept = checkpoints.read_manifest(out / "base" / "background").fingerprint
    assert kept == checkpoints.read_manifest(measured).fingerprint


def test_a_resume_with_other_flags_is_refused_by_name(sweeper, finished, no_compute):
    before = content(finished)
    config = sweeper.config(finished, resume=True, steps_per_task=7, clip=1.0)
    with pytest.raises(ValueError, match="with other flags: ") as error:
        sweep.main(config, no_compute)
    assert "--clip was 0.0, is 1.0, --steps_per_task was 6, is 7" in str(error.value)
    assert content(finished) == before


def test_a_built_in_base_is_made_once_and_kept_by_its_recipe(sweeper, tmp_path, tiny_base):
    made = []

    def pretrain(recipe: PretrainConfig) -> Base:
        made.append(recipe)
        return dataclasses.replace(load_base(str(tiny_base), "base"), recipe=recipe.recipe())

    few = dict(methods="full", lr="1e-3", optimizer="", tasks=1)
    for name in ("one", "other"):
        config = sweeper.config(
            tmp_path / name, base="world", base_cache=str(tmp_path / "cache"), base_seed=3, **few
        )
        own = sweeper.tools(config)
        tools = dataclasses.replace(own, pretrain=pretrain, run_group=lambda *_: None)
        with on_devices(1):
            assert sweep.main(config, tools, lambda *_: "") == 0
    assert [(each.training.seed, each.world.world_seed) for each in made] == [(3, 3)]
    kept = [path.name for path in (tmp_path / "cache").iterdir()]
    assert kept == [cached_path(made[0].recipe(), "").name]


def test_the_command_line_ends_in_one_line_and_status_2(tmp_path, finished):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "experiments.sweep", f"--out={finished}", "--overwrite"]
    before = content(finished)
    found = subprocess.run(
        [*command, "--slots=0"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 2
    assert found.stdout == ""
    (line,) = found.stderr.splitlines()
    assert line.startswith("error: --slots=0: ")
    assert content(finished) == before
