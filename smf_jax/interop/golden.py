"""Golden vectors: files with a memory's weights, inputs, outputs and gradients, checked here.

A file is an ``.npz`` whose ``meta_json`` names the layout of its weights, as ``layout`` or as
``peer``, the source that computed it; where none that is known fits, the layout is guessed.
There are two kinds, told by the arrays. *Memory*: weights of one block, or of several that read one
table in turn (``h = x + A(x); out = h + B(h)``, arrays ``a_keys``, ``b_keys`` and so on), ``x``,
``out``, a cotangent ``cot``, and the gradients of ``Σ out · cot`` under the weights' names with
``grad_``. *Selection*: the reads of background batches and of one batch, and the slots that a rule
selects.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from smf_jax.interop.golden_names import guess_layout
from smf_jax.interop.public_memories import (
    LAYOUTS,
    PLAIN_MEMORY,
    TABLES,
    Arrays,
    ImportedMemory,
    Leaves,
    MemoryLayout,
    import_memory,
)
from smf_jax.memory.layer import LOOKUPS, MemoryLayer
from smf_jax.memory.product_keys import Lookup, read_weights
from smf_jax.params import unflatten
from smf_jax.sparse.selection import RULES, score_slots, select_slots
from smf_jax.sparse.usage import PoolUsage

# Largest difference from a golden array, as a share of its largest number.
TOLERANCE = 2e-6

_SEEN = ("indices", "scores", "weights")  # of every block
_OBSERVED = ("x", "h", "out", "cot", "min_gap", "grad_x", *_SEEN)
_SELECTION = ("background_indices", "batch_indices", "selected")


class Comparison(NamedTuple):
    """What was compared, and how far apart it is.

    Attributes:
      name: of the golden array.
      difference: largest difference over the largest number; for slots the share that differs.
      agrees: whether that is within the tolerance; for slots whether none differs.
    """

    name: str
    difference: float
    agrees: bool


class GoldenMemory(NamedTuple):
    """The blocks of a file.

    Attributes:
      blocks: by prefix, ``""`` where there is one.
      gradients: of each block's leaves, by prefix and path; of leaves that the file has no
        gradient of, none.
      table_gradients: of ``values`` and ``expert_inputs``.
    """

    blocks: dict[str, ImportedMemory]
    gradients: dict[str, Leaves]
    table_gradients: Leaves


def load_golden(path: str | Path) -> tuple[Leaves, dict[str, Any]]:
    """All arrays of a file, float16 as float32, and its ``meta_json``."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    meta = json.loads(str(arrays.pop("meta_json", "{}")))
    half = {name: a.astype(np.float32) for name, a in arrays.items() if a.dtype == np.float16}
    return arrays | half, meta


def check_golden(path: str | Path) -> list[Comparison]:
    """Computes what a golden file holds, and compares.

    Args:
      path: of the ``.npz``.

    Returns:
      One comparison for each array that could be compared.

    Raises:
      ValueError: if the file holds arrays that are not understood, naming them.
    """
    arrays, meta = load_golden(path)
    if set(_SELECTION) <= arrays.keys():
        return check_selection(arrays)
    return check_memory(arrays, read_memory(arrays, meta))


def read_memory(arrays: Leaves, meta: Mapping[str, Any]) -> GoldenMemory:
    """The blocks of a file of memories, and the gradients that it holds.

    Raises:
      ValueError: if arrays are not understood, naming them.
    """
    names = sorted(name.removesuffix("keys") for name in arrays if name.endswith("keys"))
    prefixes = [prefix for prefix in names if "grad_" not in prefix and len(prefix) <= len("a_")]
    if not prefixes:
        raise ValueError(f"no keys among the arrays {sorted(arrays)}")
    tensors: dict[str, Leaves] = {prefix: {} for prefix in ("", *prefixes)}
    gradients: dict[str, Leaves] = {prefix: {} for prefix in ("", *prefixes)}
    for name, array in arrays.items():
        plain = name.replace("grad_", "", 1)
        prefix = next((p for p in prefixes if p and plain.startswith(p)), "")
        plain = plain.removeprefix(prefix)
        if plain not in _OBSERVED:
            (tensors if plain == name.removeprefix(prefix) else gradients)[prefix][plain] = array
    golden = GoldenMemory({}, {}, {})
    for prefix in prefixes:
        seen = {name: arrays[prefix + name] for name in _SEEN if prefix + name in arrays}
        layout, weights = _layout(tensors[""] | tensors[prefix], seen, meta)
        block = golden.blocks[prefix] = import_memory(layout, weights, meta)
        of_leaves, of_tables = _gradients(gradients[""] | gradients[prefix], layout, block)
        golden.gradients[prefix] = of_leaves
        golden.table_gradients.update(of_tables)
    return golden


def _layout(tensors: Leaves, seen: Arrays, meta: Mapping[str, Any]) -> tuple[MemoryLayout, Leaves]:
    """The layout that the file names, and all tensors of a block; a guess where that fails."""
    layout = LAYOUTS.get(str(meta.get("layout", meta.get("peer"))).partition("@")[0])
    if layout and (layout is PLAIN_MEMORY or tensors.keys() <= layout.tensors.keys()):
        return layout, tensors
    return guess_layout(tensors, seen, meta)


def _gradients(
    gradients: Leaves, layout: MemoryLayout, block: ImportedMemory
) -> tuple[Leaves, Leaves]:
    """Gradients of leaves and of tables, of which a file may hold the touched rows only."""
    rows = {name: array for name, array in gradients.items() if name.endswith("_rows")}
    given = {name: array for name, array in gradients.items() if name not in rows}
    unknown = sorted(given.keys() - layout.tensors.keys())
    if unknown:
        raise ValueError(f"gradients of {unknown} are not understood; known are {layout.tensors}")
    tables: Leaves = {}
    for name in [name for name in given if layout.tensors[name] in TABLES]:
        array = given.pop(name)
        if f"{name}_rows" in rows:
            dense = np.zeros((block.config.slots, array.shape[1]), np.float32)
            dense[rows[f"{name}_rows"]] = array
            array = dense
        tables[layout.tensors[name]] = array
    return layout.leaves(given, block.config.heads), tables


def check_memory(arrays: Leaves, golden: GoldenMemory) -> list[Comparison]:
    """Runs the blocks of a file, forwards and backwards, and compares with what it holds."""
    tables = next(iter(golden.blocks.values())).tables
    params = {prefix: block.params for prefix, block in golden.blocks.items()}

    def total(params: Any, tables: Any, x: Array) -> tuple[Array, Any]:
        out, lookups = _run(golden.blocks, params, tables, x)
        return jnp.sum(out * arrays["cot"]), (out, lookups)

    run = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True))
    (_, (out, lookups)), (of_leaves, of_tables, of_x) = run(params, tables, arrays["x"])
    found = [_close("out", out, arrays["out"]), _close("grad_x", of_x, arrays["grad_x"])]
    for prefix, block in golden.blocks.items():
        found += _compare_lookup(prefix, block, lookups[prefix], arrays)
        for path, expected in golden.gradients[prefix].items():
            found.append(_close(f"{prefix}grad {path}", of_leaves[prefix][path], expected))
    for name, expected in golden.table_gradients.items():
        found.append(_close(f"grad {name}", of_tables[name], expected))
    return found


def _run(
    blocks: Mapping[str, ImportedMemory], params: Any, tables: Any, x: Array
) -> tuple[Array, Any]:
    """One block, or several with a residual stream around them; also what each looked up."""
    lookups = {}
    for prefix, block in blocks.items():
        layer, inputs = MemoryLayer(block.config, block.width), tables.get("expert_inputs")
        variables = {"params": unflatten(params[prefix])}
        y, sown = layer.apply(variables, x, tables["values"], None, inputs, mutable=[LOOKUPS])
        lookups[prefix] = sown[LOOKUPS]["lookup"]
        x = x + y if len(blocks) > 1 else y
    return x, jax.lax.stop_gradient(lookups)


def _compare_lookup(
    prefix: str, block: ImportedMemory, lookup: Lookup, arrays: Arrays
) -> list[Comparison]:
    """Slots, exactly and in order (any of those that tie), their scores and weights."""
    expected = arrays[f"{prefix}indices"]
    differs = np.asarray(lookup.slots).reshape(expected.shape) != expected
    computed = {
        "scores": lookup.scores,
        "weights": read_weights(lookup.scores, block.config.score),
    }
    scores = arrays.get(f"{prefix}scores")
    if scores is not None:
        apart = np.diff(scores, axis=-1) != 0
        edge = np.ones_like(apart[..., :1])
        differs &= np.concatenate([edge, apart], -1) & np.concatenate([apart, edge], -1)
    share = float(differs.mean())
    return [
        Comparison(f"{prefix}indices", share, share == 0),
        *(
            _close(prefix + name, value, arrays[prefix + name])
            for name, value in computed.items()
            if prefix + name in arrays
        ),
    ]


def _close(name: str, value: Any, expected: np.ndarray) -> Comparison:
    value = np.asarray(value, np.float64).reshape(expected.shape)
    largest = max(float(np.abs(expected).max(initial=0)), 1e-30)
    difference = float(np.abs(value - expected).max(initial=0)) / largest
    return Comparison(name, difference, difference <= TOLERANCE)


def check_selection(arrays: Leaves) -> list[Comparison]:
    """Counts the reads of a file, scores its slots by the rule that it names, and selects.

    The rule is told by the array of scores, as in ``tfidf_float64``; ``kl`` is ``kl_acc`` where the
    file holds accesses ``acc``, else ``kl_df``.
    """
    backgrounds, table_slots = arrays["background_indices"], len(arrays["df"])
    reads = [_counts(batch, table_slots) for batch in (*backgrounds, arrays["batch_indices"])]
    df = np.sum([batch > 0 for batch in reads[:-1]], axis=0)
    acc = np.sum(reads[:-1], axis=0)
    found = [_close("df", df, arrays["df"])]
    if "acc" in arrays:
        found.append(_close("acc", acc, arrays["acc"]))
    batches = arrays.get("num_background_batches", np.asarray(len(backgrounds)))
    usage = PoolUsage(
        document_frequency=jnp.asarray(df, jnp.int32),
        accesses=jnp.asarray(acc, jnp.int32),
        batches=jnp.asarray(batches, jnp.int32),
    )
    name = next(n for n in arrays if n.removesuffix("_float64") in (*RULES, "kl"))
    rule: Any = name.removesuffix("_float64")
    rule = ("kl_acc" if "acc" in arrays else "kl_df") if rule == "kl" else rule
    counts = jnp.asarray(reads[-1])
    scores = np.asarray(score_slots(counts, usage, rule))
    accessed = reads[-1] > 0
    found.append(_close(name, scores[accessed], arrays[name][accessed]))
    top_t = int(arrays.get("top_t", len(arrays["selected"])))
    chosen = np.asarray(select_slots(counts, usage, rule=rule, top_t=top_t))
    chosen, expected = set(chosen[chosen < table_slots].tolist()), set(arrays["selected"].tolist())
    differs = len(chosen ^ expected) / max(1, len(expected))
    return [*found, Comparison("selected", differs, not differs)]


def _counts(slots: np.ndarray, table_slots: int) -> np.ndarray:
    return np.bincount(slots.reshape(-1), minlength=table_slots).astype(np.int32)
