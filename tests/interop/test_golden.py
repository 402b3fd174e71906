"""Golden vectors: of the formulas, by tests/make_golden_memories.py, and of public sources."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from smf_jax.interop.golden import TOLERANCE, check_golden, check_memory, read_memory
from tests import oracles
from tests.golden import OWN, load, public
from tests.make_golden_memories import CASES, about, make_memory, make_selection

NAMES = (
    "fb_h4_k4_n16_silu",
    "fb_h4_k32_n128_plain",
    "fb_shared2_h2_k8_n32_silu",
    "lucid_h4_k8_n32_qln",
    "smf_tfidf_dtunai",
)


@pytest.mark.parametrize("path", [public(name) for name in NAMES])
def test_public_implementations_agree(path):
    found = check_golden(path)
    assert not [each for each in found if not each.agrees]
    arrays, _ = load(path)
    gradients = {n for n in arrays if "grad_" in n and not n.endswith("_rows")}
    told = [each for each in found if "grad" in each.name]
    assert len(told) == (0 if path.name.startswith("smf") else len(gradients)), "none is left out"


@pytest.mark.parametrize("name", CASES)
def test_every_option_agrees_with_its_formulas(name):
    arrays, meta = load(OWN / f"{name}.npz")
    golden = read_memory(arrays, meta)
    assert {block.config for block in golden.blocks.values()} == {CASES[name].config}
    found = check_memory(arrays, golden)
    assert not [each for each in found if not each.agrees]
    names = {each.name for each in found}
    wanted = {"out", "grad_x", "grad values"}
    wanted |= {"grad expert_inputs"} if CASES[name].config.experts else set()
    for prefix, block in golden.blocks.items():
        wanted |= {f"{prefix}{seen}" for seen in ("indices", "scores", "weights")}
        wanted |= {f"{prefix}grad {path}" for path in block.params}
    assert names == wanted, "every leaf is checked"


@pytest.mark.parametrize("name", [*CASES, "tfidf_step"])
def test_the_files_are_what_their_script_makes(name):
    arrays, meta = load(OWN / f"{name}.npz")
    made = make_memory(CASES[name]) if name in CASES else make_selection("tfidf")
    told = about(CASES[name]) if name in CASES else {}
    assert {**told, **meta} == told
    assert told.keys() - meta.keys() <= {"router", "max_ngram", "join"}, "newer than the files"
    assert made.keys() == arrays.keys()
    for each, array in made.items():
        atol = 1e-6 * np.abs(array).max() if array.dtype.kind == "f" else 0
        np.testing.assert_allclose(arrays[each], array, rtol=0, atol=atol, err_msg=each)


def test_tied_scores_follow_the_product_form():
    arrays, meta = load(OWN / "ties.npz")
    scores = arrays["scores"]
    assert (np.diff(scores, axis=-1) == 0).any()
    block = read_memory(arrays, meta).blocks[""]
    x = arrays["x"].reshape(-1, block.width)
    queries = (x @ block.params["query/kernel"]).reshape(len(x), block.config.heads, 2, -1)
    truth = oracles.product_form_lookup(queries, block.params["keys"], block.config.reads)
    np.testing.assert_array_equal(truth.slots, arrays["indices"])


@pytest.mark.parametrize("name", ["out", "grad_x", "scores", "weights", "grad_values", "indices"])
def test_a_difference_of_any_array_is_seen(name, tmp_path):
    arrays, meta = load(OWN / "experts.npz")
    golden = read_memory(arrays, meta)
    if name == "indices":
        spoilt = {**arrays, name: arrays[name][..., ::-1]}
    else:
        spoilt = {**arrays, name: arrays[name] + 3 * TOLERANCE * np.abs(arrays[name]).max()}
    found = check_memory(spoilt, read_memory(spoilt, meta))
    assert [each.agrees for each in found].count(False) == 1
    assert len(found) == len(check_memory(arrays, golden))


@pytest.mark.parametrize("rule", ["kl_df", "kl_acc"])
def test_a_selection_by_kl_agrees_with_its_formula(rule, tmp_path):
    arrays = cast(dict[str, Any], make_selection(rule))
    path = tmp_path / "kl.npz"
    np.savez(path, **arrays)
    found = check_golden(path)
    assert {"df", "kl_float64", "selected"} <= {each.name for each in found}
    assert all(each.agrees for each in found)
    np.savez(path, **{**arrays, "selected": arrays["selected"][1:]})
    assert not {each.name: each for each in check_golden(path)}["selected"].agrees


def test_arrays_that_are_not_understood_are_listed():
    arrays, meta = load(OWN / "experts.npz")
    with pytest.raises(ValueError, match=r"tensors \['dropout_mask'\] are not of smf_jax, whose"):
        read_memory({**arrays, "dropout_mask": arrays["keys"]}, meta)
    with pytest.raises(ValueError, match=r"gradients of \['dropout_mask'\] are not understood"):
        read_memory({**arrays, "grad_dropout_mask": arrays["keys"]}, meta)
