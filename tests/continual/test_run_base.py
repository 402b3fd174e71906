"""The base of a run, and the one that it was before its retrofit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from smf_jax.bases.base import cached_path, load_base, save_base
from smf_jax.bases.pretrain_config import PretrainConfig
from smf_jax.continual import run_base
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.run_base import ask_untouched
from smf_jax.continual.run_directory import BASE, RunDirectory


@pytest.mark.parametrize("named", ["world", "given"])
def test_the_untouched_base_is_the_one_that_the_run_was_told(
    plain_checkpoint, tmp_path, monkeypatch, named
):
    """A built-in one stands in the cache; one made of such a base knows its recipe too."""
    recipe = PretrainConfig.of().recipe()
    cached = replace(load_base(str(plain_checkpoint)), recipe=recipe)
    given, cache = cached.quantised("nf4"), tmp_path / "cache"
    save_base(cached_path(recipe, str(cache)), cached)
    save_base(tmp_path / "given", given)
    run = RunDirectory(str(tmp_path / "run"))
    base = "world" if named == "world" else str(tmp_path / "given")
    run.open(SweepConfig.of(base=base, retrofit="add", base_cache=str(cache)))
    save_base(run.path / BASE, used := cached if named == "world" else given)
    monkeypatch.setattr(run_base, "AskedBase", lambda base, *_: base)
    asked = ask_untouched(str(run.path), "", used, 8)
    assert asked.fingerprint() == used.fingerprint()  # pyright: ignore
