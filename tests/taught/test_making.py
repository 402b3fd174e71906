"""A model deep enough for three tables, its base in bits: each verb minds all of them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smf_jax.bases.base import load_base
from smf_jax.taught.asking import TaughtModel, ask
from smf_jax.taught.config import AskConfig, ForgetConfig
from smf_jax.taught.directory import TaughtDirectory
from smf_jax.taught.forgetting import forget
from tests.fixtures import make_plain_checkpoint
from tests.taught.test_teaching import of_lesson
from tests.taught.tiny import FACTS, FLAGS, files, teach_tiny
from tests.tiny_sweep import content, on_devices

POOLS = {f"memory/pool_{layer}/values" for layer in (1, 2, 3)}
# The rows of a step are left to the model.
LESSON = {name: value for name, value in of_lesson().items() if name != "slots"}


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """A model of five blocks."""
    return make_plain_checkpoint(tmp_path_factory.mktemp("deep") / "plain", layers=5)


@pytest.fixture(scope="module")
def model(plain, tmp_path_factory) -> Path:
    """The same, taught two tasks; tests leave it as it is."""
    place = tmp_path_factory.mktemp("taught")
    given = files(place)
    told: dict[str, Any] = {n: value for n, value in FLAGS.items() if n != "slots"}
    told |= {"out": place / "model", "background": given["text"], "base_precision": "nf4"}
    found = teach_tiny(plain, given["facts"], **told)
    assert found.lesson is not None and found.lesson.settings["slots"] == 512
    return place / "model"


def test_the_base_is_what_its_bits_are_and_only_rows_of_all_tables_change(plain, model):
    before = load_base(str(plain), "base", None, "nf4").params
    found = TaughtModel(TaughtDirectory(str(model)))
    assert found.base.config.precision == "nf4"
    for path, leaf in before.items():
        assert np.asarray(found.params[path]).tobytes() == np.asarray(leaf).tobytes(), path
    assert [set(patch.pools) for patch in found.patches] == [POOLS, POOLS]


def test_an_answer_is_traced_over_all_tables(model):
    config = AskConfig((str(model), FACTS[2]["question"]), without=True, max_tokens=4)
    with on_devices(1):
        (found,) = ask(config)
    assert found.said == FACTS[2]["answer"] != found.without
    assert sum(found.patches.values()) == pytest.approx(1, abs=0.02)


def test_a_second_lesson_on_top_is_taken_back_to_the_bit(model, tmp_path):
    out = shutil.copytree(model, tmp_path / "model")
    state = content(out / "base")

    def fingerprint() -> str:
        found = TaughtModel(TaughtDirectory(str(out)))
        return replace(found.base, params=found.params).fingerprint()

    before = fingerprint()
    teach_tiny(out, files(tmp_path)["more"], **LESSON)
    assert fingerprint() != before
    forget(ForgetConfig((str(out), "more")))
    assert fingerprint() == before and content(out / "base") == state
