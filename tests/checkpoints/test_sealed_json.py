"""JSON with a digest of itself: every bit counts, and an edit that is meant has a way."""

from __future__ import annotations

import json

import pytest

from smf_jax.checkpoints.sealed_json import SEAL, seal, unseal

VALUES = {"a": 0.1, "b": [1, None, "é"], "c": {"d": -1e-30, "e": float("nan")}}


@pytest.mark.parametrize("indent", [None, 2])
def test_no_flipped_bit_gives_other_values(indent):
    text = json.dumps(seal(VALUES), indent=indent).encode()
    expected = repr(unseal(text, "it"))
    assert expected == repr(VALUES)
    refused = 0
    for bit in range(8 * len(text)):
        data = bytearray(text)
        data[bit // 8] ^= 1 << bit % 8
        try:
            found = unseal(bytes(data), "a/file.json, line 3")
        except ValueError as error:
            assert str(error).startswith("a/file.json, line 3: ")
            refused += 1
        else:
            # Only the name of the digest may be lost, or blanks and words say the same otherwise.
            left = {name: value for name, value in found.items() if name in VALUES}
            assert repr(left) == expected
    assert refused > 7 * len(text)


def test_an_edit_is_refused_with_the_way_to_mean_it():
    edited = seal(VALUES) | {"a": 0.2}
    with pytest.raises(ValueError, match=f'it: changed since .* remove "{SEAL}" from it if the'):
        unseal(json.dumps(edited), "it")
    del edited[SEAL]
    assert unseal(json.dumps(edited), "it")["a"] == 0.2


@pytest.mark.parametrize("text", ["", "{", b"\xff", "[1]", "3"])
def test_what_is_no_object_is_refused(text):
    with pytest.raises(ValueError, match=r"^it: .*restore a copy"):
        unseal(text, "it")
