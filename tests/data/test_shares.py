"""Shares by hash: by the question alone, of about the sizes that they are said to have."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest

from smf_jax.data.shares import ASIDE, DEV, is_in, question_key, share_of

EXPECTED = ["test", "test", "test", "test", "dev", "test"]
ASKED = [f"Who made thing number {n}?" for n in range(3000)]


def test_a_share_hangs_on_the_words_alone():
    for same in (
        "who made  THING number 7",
        "Who made thing, number 7?",
        "Who made thing number ７",
    ):
        assert question_key(same) == "who made thing number 7"
        assert share_of(same) == share_of(ASKED[7])
    assert question_key("¿?") == "¿?"  # no word, and still a key
    assert question_key("Wer ist's?") != question_key("Wer ist?")


def test_shares_have_their_sizes_and_are_those_of_the_hash():
    counts = Counter(map(share_of, ASKED))
    for share, size in dict(aside=ASIDE, dev=DEV, test=1 - ASIDE - DEV).items():
        assert counts[share] / len(ASKED) == pytest.approx(size, abs=0.03)
    # By the definition, so that no version deals dev and test anew.
    first = int(hashlib.sha256(b"who made thing number 0").hexdigest()[:16], 16) / 2**64
    assert share_of(ASKED[0]) == ("aside" if first < 0.1 else "dev" if first < 0.4 else "test")
    assert [share_of(text) for text in ASKED[:6]] == EXPECTED


def test_what_is_set_aside_is_in_no_split():
    for text in ASKED:
        assert [split for split in ("all", "dev", "test") if is_in(split, text)] == {
            "aside": [],
            "dev": ["all", "dev"],
            "test": ["all", "test"],
        }[share_of(text)]
