"""Golden vectors: those of public implementations, and of plain PyTorch for every further option.

tests/make_golden_memories.py made the latter.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from smf_jax.interop.golden import TOLERANCE, check_golden, check_memory, load_golden, read_memory
from tests import oracles

PUBLIC = (
    "fb_h4_k4_n16_silu",
    "fb_h4_k32_n128_plain",
    "fb_shared2_h2_k8_n32_silu",
    "lucid_h4_k8_n32_qln",
    "smf_tfidf_dtunai",
)
OWN = {
    "scalar_gate": {"gate": "scalar", "heads": 1, "value_width": 9},
    "experts": {"experts": True},
    "experts_relu": {"experts": True, "score": "relu", "query_bias": False},
    "relu_output_norm": {"score": "relu", "output_norm": "layer", "heads": 3},
    "qk_norm": {"qk_norm": True},
    "ties": {},
}
PLACE = Path(__file__).parents[1] / "golden_memories"


@pytest.mark.parametrize("name", PUBLIC)
def test_public_implementations_agree(shared, name):
    found = check_golden(shared / "golden" / f"{name}.npz")
    assert not [each for each in found if not each.agrees]
    arrays, _ = load_golden(shared / "golden" / f"{name}.npz")
    gradients = {n for n in arrays if "grad_" in n and not n.endswith("_rows")}
    told = [each for each in found if "grad" in each.name]
    assert len(told) == (0 if name.startswith("smf") else len(gradients)), "none is left out"


@pytest.mark.parametrize("name", OWN)
def test_every_further_option_agrees_with_plain_pytorch(name):
    arrays, meta = load_golden(PLACE / f"{name}.npz")
    golden = read_memory(arrays, meta)
    config = golden.blocks[""].config
    assert {choice: getattr(config, choice) for choice in OWN[name]} == OWN[name]
    found = check_memory(arrays, golden)
    assert not [each for each in found if not each.agrees]
    names = {each.name for each in found}
    assert {"out", "grad_x", "indices", "scores", "weights", "grad values"} <= names
    assert ("grad expert_inputs" in names) == config.experts
    assert {f"grad {path}" for path in golden.blocks[""].params} <= names, "every leaf is checked"


def test_tied_scores_follow_the_product_form():
    arrays, meta = load_golden(PLACE / "ties.npz")
    scores = arrays["scores"]
    assert (np.diff(scores, axis=-1) == 0).any()
    block = read_memory(arrays, meta).blocks[""]
    x = arrays["x"].reshape(-1, block.width)
    queries = (x @ block.params["query/kernel"]).reshape(len(x), block.config.heads, 2, -1)
    truth = oracles.product_form_lookup(queries, block.params["keys"], block.config.reads)
    np.testing.assert_array_equal(truth.slots, arrays["indices"])


@pytest.mark.parametrize("name", ["out", "grad_x", "scores", "weights", "grad_values_u", "indices"])
def test_a_difference_of_any_array_is_seen(name, tmp_path):
    arrays, meta = load_golden(PLACE / "experts.npz")
    golden = read_memory(arrays, meta)
    if name == "indices":
        spoilt = {**arrays, name: arrays[name][..., ::-1]}
    else:
        spoilt = {**arrays, name: arrays[name] + 3 * TOLERANCE * np.abs(arrays[name]).max()}
    found = check_memory(spoilt, read_memory(spoilt, meta))
    assert [each.agrees for each in found].count(False) == 1
    assert len(found) == len(check_memory(arrays, golden))


def kl_file(rule, seed=0, table_slots=60, top_t=7):
    """A file of a KL selection, from the formulas."""
    rng = np.random.default_rng(seed)
    background = rng.integers(0, table_slots, (20, 30))
    batch = rng.integers(0, table_slots, (4, 6))
    counts = np.bincount(batch.ravel(), minlength=table_slots)
    df = sum(np.bincount(each, minlength=table_slots) > 0 for each in background)
    acc = sum(np.bincount(each, minlength=table_slots) for each in background)
    scores = oracles.rule_scores(rule, counts, df, acc, len(background))
    order = np.lexsort((np.arange(table_slots), -scores))
    arrays = {"background_indices": background, "batch_indices": batch, "df": df}
    arrays |= {"acc": acc} if rule == "kl_acc" else {}
    kept = {"kl_float64": np.where(counts > 0, scores, 0), "selected": order[:top_t]}
    return arrays | kept | {"num_background_batches": len(background), "top_t": top_t}


@pytest.mark.parametrize("rule", ["kl_df", "kl_acc"])
def test_a_selection_by_kl_agrees_with_its_formula(rule, tmp_path):
    arrays, path = kl_file(rule), tmp_path / "kl.npz"
    np.savez(path, **arrays)
    found = check_golden(path)
    assert {"df", "kl_float64", "selected"} <= {each.name for each in found}
    assert all(each.agrees for each in found)
    np.savez(path, **{**arrays, "selected": arrays["selected"][1:]})
    assert not {each.name: each for each in check_golden(path)}["selected"].agrees


def test_arrays_that_are_not_understood_are_listed():
    arrays, meta = load_golden(PLACE / "experts.npz")
    with pytest.raises(ValueError, match=r"arrays \['dropout_mask'\] are no part of a memory"):
        read_memory({**arrays, "dropout_mask": arrays["keys"]}, meta)
    with pytest.raises(ValueError, match=r"gradients of \['dropout_mask'\] are not understood"):
        read_memory({**arrays, "grad_dropout_mask": arrays["keys"]}, meta)
