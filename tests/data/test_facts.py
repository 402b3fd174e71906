from __future__ import annotations

import pytest

from smf_jax.data.facts import Fact, Paraphrase, rotate_paraphrases, train_paraphrases

WORDINGS = tuple(Paraphrase(f"prompt {number}", " answer") for number in range(10))


def test_rotation_divides_all_paraphrases_without_overlap():
    for turn in range(12):
        trained, asked = rotate_paraphrases(WORDINGS, turn, train=8, held_out=2)
        assert len(trained) == 8
        assert len(asked) == 2
        assert set(trained) | set(asked) == set(WORDINGS)


def test_neighbours_are_trained_in_what_a_fact_is_asked():
    for turn in range(12):
        _, asked = rotate_paraphrases(WORDINGS, turn, train=8, held_out=2)
        neighbour, _ = rotate_paraphrases(WORDINGS, turn + 1, train=8, held_out=2)
        assert set(asked) <= set(neighbour)


def test_every_wording_is_held_out_by_some_fact():
    held_out = {w for turn in range(5) for w in rotate_paraphrases(WORDINGS, turn, 8, 2)[1]}
    assert held_out == set(WORDINGS)


def test_rotation_needs_enough_paraphrases():
    with pytest.raises(
        ValueError, match=r"held_out_paraphrases=3 need 11 paraphrases, .* has 10: lower"
    ):
        rotate_paraphrases(WORDINGS, 0, train=8, held_out=3)
    with pytest.raises(ValueError, match="held_out_paraphrases=0: expected at least 1"):
        rotate_paraphrases(WORDINGS, 0, train=8, held_out=0)


def test_trained_paraphrases_leave_out_what_is_asked():
    first = Fact("one", "", WORDINGS[:2], WORDINGS[2:3], ("answer",))
    second = Fact("two", "", WORDINGS[4:5], WORDINGS[5:6], ("answer",))
    assert train_paraphrases([first, second]) == (*WORDINGS[:2], WORDINGS[4])
