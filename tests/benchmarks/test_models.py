"""Models that are timed: their sizes, leaves and costs."""

from __future__ import annotations

import pytest

from benchmarks import models
from benchmarks.real_size import PLACEMENT, SHAPE
from smf_jax.models.decoder import abstract_params
from smf_jax.params import count_parameters

# Of the published models; see their cards.
PARAMETERS = {
    "qwen2.5-0.5b": 494_032_768,
    "qwen3-0.6b": 596_049_920,
    "llama3.2-1b": 1_235_814_400,
    "decoder-9m": 9_441_536,
    "decoder-1.3b": 1_311_000_000,
}


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items())
def test_shapes_are_those_of_the_published_models_and_of_what_they_are_called(name, parameters):
    found = count_parameters(abstract_params(models.SHAPES[name]))
    tolerance = 0.06 if name.startswith("decoder") else 0
    assert abs(found - parameters) <= tolerance * parameters


def test_the_memory_of_the_real_size_has_its_published_one():
    memory = abstract_params(models.placed(SHAPE, PLACEMENT))["memory"]
    assert count_parameters(memory) == 52_011_264
