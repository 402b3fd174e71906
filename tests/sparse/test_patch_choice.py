"""One of many patches in force: the bits of `apply_patch`, whatever was chosen before."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.sparse.patch import apply_patch, diff_params
from smf_jax.sparse.patch_choice import PatchChoice
from smf_jax.tables import explicit, implicit, is_implicit
from tests.sparse.patches import BASE, OTHER, POOL, bits, make_params, teach

SLOTS = [{POOL: [1, 3, 5]}, {POOL: [3, 4], OTHER: [0]}, {OTHER: [2]}]


def patches_of(params):
    found = {}
    for number, slots in enumerate(SLOTS):
        taught = teach(params, number + 1, slots, alpha=0.1 * number)
        named = dict(task=str(number), base=BASE, parent=BASE)
        found[str(number)] = diff_params(params, taught, **named)
    return found


@pytest.mark.parametrize("kind", ["numpy", "jax", "implicit"])
def test_each_choice_has_the_bits_of_its_patch_alone(kind):
    params = make_params()
    patches = patches_of(params)
    given = {"numpy": np.asarray, "jax": jnp.asarray, "implicit": implicit}[kind]
    held = {**params, **{path: given(params[path]) for path in (POOL, OTHER)}}
    choice = PatchChoice(held, patches, BASE)

    def whole():
        found = choice.params
        if kind == "implicit":
            assert is_implicit(found[POOL])
            found |= {path: explicit(found[path]) for path in (POOL, OTHER)}
        return bits(found)

    for name in ("0", "1", "0", "2", None, "1", "1", None):
        choice.choose(name)
        expected = params if name is None else apply_patch(params, patches[name], base=BASE)
        assert choice.name == name and whole() == bits(expected)
    assert bits(params) == bits(make_params())  # which is not written to


def test_what_does_not_fit_is_refused_and_the_base_is_in_force():
    params = make_params()
    patches = patches_of(params)
    moved = {**params, POOL: params[POOL] + (np.arange(len(params[POOL])) == 4)[:, None]}
    moved[POOL] = moved[POOL].astype(params[POOL].dtype)
    choice = PatchChoice(moved, patches, BASE)
    choice.choose("0")
    with pytest.raises(ValueError, match=f"patch '1' does not fit: {POOL} of the base"):
        choice.choose("1")
    assert choice.name is None and bits(choice.params) == bits(moved)
    with pytest.raises(ValueError, match="no patch '00'; did you mean '0'"):
        choice.choose("00")
    for change, message in (
        (dict(base="c" * 64), "patch 'a' belongs to base cccccccccccc, this is base bbb"),
        (dict(parent="c" * 64), "patch 'a' was made after state cccccccccccc, .*stack_patches"),
    ):
        with pytest.raises(ValueError, match=message):
            PatchChoice(params, {"a": dataclasses.replace(patches["0"], **change)}, BASE)
