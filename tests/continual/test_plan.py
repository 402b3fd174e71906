"""What a sweep is told, held against its base; `test_sweep_refusals.py` has the rest."""

from __future__ import annotations

import dataclasses

import pytest

from smf_jax.bases.base import Base, abstract_params_of, load_base
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.grid import grid
from smf_jax.continual.plan import check_trials, measured_background
from smf_jax.continual.stream_data import load_stream_data
from tests.tiny_sweep import TINY_SWEEP


@pytest.fixture(scope="module")
def base(tiny_base) -> Base:
    base = load_base(str(tiny_base), "base")
    return dataclasses.replace(base, params=abstract_params_of(base.config))


@pytest.fixture(scope="module")
def gathered(base):
    return load_stream_data(SweepConfig.of(**TINY_SWEEP), base)


def test_an_outline_is_enough_to_check(base, gathered):
    config = SweepConfig.of(**TINY_SWEEP)
    check_trials(config, grid(config.grid), base, gathered)


def test_checks_name_what_to_do(base, gathered):
    def refused(message: str, stream_data=gathered, of=base, **changes) -> None:
        config = SweepConfig.of(**{**TINY_SWEEP, "lr": "", "optimizer": "", **changes})
        with pytest.raises(ValueError, match=message):
            check_trials(config, grid(config.grid), of, stream_data)

    without = dataclasses.replace(gathered, general=None)
    refused("rule tfidf ranks .*--background=FILE, or --rule=tf", without, methods="smf")
    refused("rule kl_acc, kl_df ranks", without, methods="smf", rule="kl_df,kl_acc")
    refused("--batch_size=1 leaves replay no room", methods="replay", batch_size=1)
    refused("replay mixes .*--background=FILE, or leave replay out", without, methods="replay")
    plain = dataclasses.replace(base, config=base.config.with_memory(None))
    plain = dataclasses.replace(plain, params=abstract_params_of(plain.config))
    refused("no memory, which method smf trains; give --retrofit=add", of=plain)
    refused("--layers=1: layers .1. are outside", of=plain, retrofit="add", layers="1")
    refused(
        "--slots=64: this memory has 16 slots", of=plain, retrofit="add", keys_per_half=4, reads=2
    )
    held = dataclasses.replace(base, config=dataclasses.replace(base.config, precision="nf4"))
    refused(
        "--methods=full,lora with a base held in nf4, .*choose smf, or",
        of=held,
        methods="lora,full",
    )
    dense = dict(methods="full,lora,replay", slots="9999", lr="", optimizer="")
    config = SweepConfig.of(**{**TINY_SWEEP, **dense})
    check_trials(config, grid(config.grid), plain, gathered)  # budgets are those of smf alone


def test_a_background_of_another_tokenizer_is_refused(finished):
    path = str(finished / "base" / "background")
    with pytest.raises(ValueError, match=r"^--background=.*background of another tokenizer"):
        measured_background(path, "another")
    assert measured_background("", "another") is None
