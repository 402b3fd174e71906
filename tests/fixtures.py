"""Rows of a sweep as the runner writes them, without running one; and a tiny base to run on."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments import pretrain, sweep
from smf_jax.bases.base import load_base
from smf_jax.bases.pretrain_config import PretrainConfig
from smf_jax.continual.run_config import CONFIG
from smf_jax.continual.sweep import Tools
from smf_jax.continual.trial import Trial
from smf_jax.data.tokenizer import train_tokenizer
from smf_jax.interop.huggingface.checkpoint import save_huggingface
from tests.models.tiny import PLAIN, random_params
from tests.taught.tiny import FLAGS, files, teach_tiny
from tests.tiny_sweep import TINY_BASE, Sweeper, content, on_devices


def make_rows(
    method: str = "smf",
    slots: int | None = 64,
    learning_rate: float = 30.0,
    seed: int = 0,
    tasks: int = 3,
    learned: float = 0.9,
    end: float = 0.8,
    known: float = 0.95,
    **changes,
) -> list[dict]:
    """Return the rows of one trial; `changes` replace values in every row."""
    sparse = method == "smf"
    trial = Trial(
        method=method,
        slots=slots if sparse else None,
        rule="tfidf" if sparse else None,
        granularity="per_step" if sparse else None,
        optimizer="sgd" if sparse else "adamw",
        learning_rate=learning_rate,
        seed=seed,
        batch_order="facts" if sparse else "shuffled",
    )
    rows = []
    for task in range(tasks):
        row = dict(
            trial=trial.id,
            method=trial.method,
            slots=trial.slots,
            rule=trial.rule,
            granularity=trial.granularity,
            optimizer=trial.optimizer,
            learning_rate=trial.learning_rate,
            seed=trial.seed,
            batch_order=trial.batch_order,
            task=task,
            task_name=f"task {task}",
            facts=20,
            steps=30,
            seen=learned,
            unseen=learned,
            stream_seen=end,
            stream_unseen=end,
            retention=[end] * task + [learned],
            known=known,
            known_base=1.0,
            text_loss=2.0 + 0.1 * task,
            text_loss_base=2.0,
            loss_first=3.0,
            loss_last=0.1,
            rows_changed=100 * (task + 1) if sparse else None,
            trainable_parameters=8192,
            trainable_share=0.005,
            optimizer_bytes=0,
            seconds=2.0,
            failed_step=None,
        )
        rows.append(row | changes)
    return rows


@pytest.fixture(name="make_rows")
def make_rows_fixture() -> Callable[..., list[dict]]:
    return make_rows


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory) -> Path:
    """The directory of a base of two blocks that knows some of its 24 facts."""
    if made := os.environ.get("SMF_JAX_TINY_BASE"):  # by the process that started this one
        return Path(made)
    path = tmp_path_factory.mktemp("bases") / "tiny"
    with on_devices(1):
        assert pretrain.main(PretrainConfig.of(out=str(path), **TINY_BASE)) == 0
    return path


@pytest.fixture(scope="session")
def plain_checkpoint(tmp_path_factory) -> Path:
    """A Hugging Face directory of a random decoder without memory; tests leave it as it is."""
    return make_plain_checkpoint(tmp_path_factory.mktemp("bases") / "plain")


def make_plain_checkpoint(path: Path, begins: bool = True, layers: int = PLAIN.layers) -> Path:
    """Writes the same anywhere, or one whose texts have no token in front, or a deeper one."""
    tokenizer = train_tokenizer(["Who made thing number 5? Maker stands beside."] * 20, 300)
    config = dataclasses.replace(PLAIN, vocabulary=tokenizer.size + 3, layers=layers)
    save_huggingface(path, config, random_params(config))
    tokenizer = tokenizer if begins else dataclasses.replace(tokenizer, bos=None)
    tokenizer.save(path)
    return path


@pytest.fixture(scope="session")
def sweeper(tiny_base) -> Sweeper:
    """Runs sweeps on the tiny base, with the programs that earlier tests compiled."""
    return Sweeper(tiny_base)


@pytest.fixture(scope="session")
def finished(sweeper, tmp_path_factory) -> Path:
    """A run of all methods, two trials side by side, with its report; tests leave it as it is."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    assert sweeper(out, devices=2, report=True, recount_batches=3) == 0
    return out


@pytest.fixture(scope="session")
def taught(plain_checkpoint, tmp_path_factory) -> Path:
    """The directory of a tiny model that was taught four facts in two tasks; left as it is."""
    place = tmp_path_factory.mktemp("taught")
    given = files(place)
    told = {**FLAGS, "out": place / "model", "background": given["text"]}
    teach_tiny(plain_checkpoint, given["facts"], **told)
    return place / "model"


@pytest.fixture
def old_run(tmp_path) -> Path:
    """A run that stands at --out already, and that no error may touch."""
    out = tmp_path / "old"
    (out / "trials").mkdir(parents=True)
    (out / CONFIG).write_text(json.dumps({"methods": "smf", "versions": {}}))
    (out / "results.jsonl").write_text('{"trial": "precious"}\n')
    return out


NO_COMPUTE = Tools(
    pretrain=None,  # pyright: ignore[reportArgumentType]
    retrofit_base=None,  # pyright: ignore[reportArgumentType]
    measure_background=None,  # pyright: ignore[reportArgumentType]
    run_group=None,  # pyright: ignore[reportArgumentType]
    save_base=None,  # pyright: ignore[reportArgumentType]
)


@pytest.fixture(scope="session")
def no_compute() -> Tools:
    """Tools of a sweep for which whatever computes or writes is an error of its own."""
    return NO_COMPUTE


@pytest.fixture
def refused(sweeper, old_run):
    """Asserts one clear error before any compute, the old run as it was in spite of --overwrite."""
    bases = {}

    def load_once(path, flag, *told):
        if (path, *told) not in bases:
            bases[path, *told] = load_base(path, flag, *told)
        return bases[path, *told]

    tools = dataclasses.replace(NO_COMPUTE, load_base=load_once)

    def refuse(message: str, **changes) -> str:
        before = content(old_run)
        given = {"out": old_run, "overwrite": True, "lr": "", "optimizer": "", **changes}
        with pytest.raises((ValueError, FileNotFoundError, FileExistsError)) as error:
            sweep.main(sweeper.config(**given), tools)
        assert re.search(message, str(error.value), re.DOTALL), str(error.value)
        assert content(old_run) == before
        return str(error.value)

    return refuse
