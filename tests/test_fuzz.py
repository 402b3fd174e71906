"""Every reader on a few wrong inputs, the same ones each time; `tests.fuzz` tries thousands."""

from __future__ import annotations

import pytest

from tests.fuzz import TARGETS, fuzz

# So many that all together take a few seconds: parsing 130 flags takes longest.
CASES = {"flags": 10, "gguf": 20, "model config": 20, "safetensors": 30}


@pytest.mark.parametrize("name", TARGETS)
def test_wrong_input_ends_in_an_error_with_words(name):
    fuzz(name, CASES.get(name, 100))  # which raises what a case fails of
