"""Every set is, to the bit, the model that the directory holds with these patches."""

from __future__ import annotations

import shutil

import jax
import numpy as np
import pytest

from smf_jax.models.decoder import plain_logits
from smf_jax.serving.patch_names import UnknownModel
from smf_jax.serving.served_models import ServedModels
from smf_jax.taught.config import ForgetConfig
from smf_jax.taught.directory import TaughtDirectory
from smf_jax.taught.forgetting import forget
from tests.tiny_sweep import on_devices


@pytest.fixture(scope="module")
def models(taught):
    with on_devices(1):
        yield ServedModels(TaughtDirectory(str(taught)))


@pytest.mark.parametrize(("name", "count"), [("base", 0), ("base+facts_01", 1), ("taught", 2)])
def test_a_set_gives_the_logits_of_its_patches_to_the_bit(models, name, count):
    directory = models.directory
    base, record = directory.load_base(), directory.read()
    patches = directory.load_patches(record)[:count]
    expected = directory.load_params(base, patches) if patches else base.params
    logits = jax.jit(plain_logits(base.model))
    tokens = np.arange(2 * 9, dtype=np.int32).reshape(2, 9)
    asked = tokens, np.ones(tokens.shape, bool)
    found = models.find(name)
    assert found.names == tuple(patch.task for patch in patches)
    assert logits(found.params, *asked).tobytes() == logits(expected, *asked).tobytes()


def test_the_base_is_placed_once_and_sets_are_rows(models):
    base, taught = models.find("base").params, models.find("taught").params
    differ = [path for path in base if base[path] is not taught[path]]
    assert differ == ["memory/pool_1/values"]
    assert base[differ[0]].rows is taught[differ[0]].rows
    assert models.find("base+facts") is models.find("taught")
    assert len({models.find(name).fingerprint for name in models.names()}) == 3


def test_names_are_those_of_sets_that_can_be_made(models):
    assert models.names() == ["base", "taught", "base+facts", "base+facts_01"]
    with pytest.raises(ValueError, match="facts_02 was taught on top of facts_01"):
        models.find("base+facts_02")
    with pytest.raises(UnknownModel, match="base\\+nothing"):
        models.find("base+nothing")
    record, needs = models.described()
    assert needs == [[], ["facts_01"]] and len(record.patches) == 2


def test_what_another_command_takes_back_is_gone(taught, tmp_path):
    out = shutil.copytree(taught, tmp_path / "model")
    with on_devices(1):
        models = ServedModels(TaughtDirectory(str(out)))
        before = models.find("base+facts_01")
        all_of_it = models.find("taught")
        forget(ForgetConfig((str(out), "facts_02")))
        assert models.names() == ["base", "taught", "base+facts", "base+facts_01"]
        now = models.find("taught")
    assert now.fingerprint == before.fingerprint != all_of_it.fingerprint
    assert all_of_it.names == ("facts_01", "facts_02")  # who has it still has the whole of it
