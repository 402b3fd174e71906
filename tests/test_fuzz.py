"""Every reader on wrong inputs, the same ones each time; `tests.fuzz` tries thousands."""

from __future__ import annotations

import pytest

from tests.fuzz import TARGETS, fuzz

CASES = 200  # of each reader, in all about eight seconds


@pytest.mark.parametrize("name", TARGETS)
def test_wrong_input_ends_in_an_error_with_words(name):
    fuzz(name, CASES)  # which raises what a case fails of
