"""Golden vectors: files with a memory's weights, inputs, outputs and gradients, checked here.

A file is an ``.npz`` of one of two kinds, told by its arrays. *Memory*: weights of one block, or of
several that read one table in turn (``h = x + A(x); out = h + B(h)``, arrays ``a_keys``, ``b_keys``
and so on), ``x``, ``out``, a cotangent ``cot``, and the gradients of ``Σ out · cot`` under the
weights' names with ``grad_``. *Selection*: the reads of background batches and of one batch, and
the slots that a rule selects.
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

from smf_jax.interop.public_memories import (
    NAMES,
    Imported,
    Leaves,
    import_memory,
    parts_of,
    to_leaves,
)
from smf_jax.memory.layer import LOOKUPS, MemoryLayer
from smf_jax.memory.product_keys import Lookup, read_weights
from smf_jax.params import unflatten
from smf_jax.sparse.selection import RULES, score_slots, select_slots
from smf_jax.sparse.usage import PoolUsage

# Largest difference from a golden array, as a share of its largest number.
TOLERANCE = 2e-6

_SEEN = ("indices", "scores", "weights")
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

    blocks: dict[str, Imported]
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
    weights: dict[str, Leaves] = {prefix: {} for prefix in ("", *prefixes)}
    gradients: dict[str, Leaves] = {prefix: {} for prefix in ("", *prefixes)}
    for name, array in arrays.items():
        plain = name.replace("grad_", "", 1)
        prefix = next((p for p in prefixes if p and plain.startswith(p)), "")
        plain = plain.removeprefix(prefix)
        if plain not in _OBSERVED:
            (weights if plain == name.removeprefix(prefix) else gradients)[prefix][plain] = array
    if not prefixes:
        raise ValueError(f"no keys among the arrays {sorted(arrays)}")
    blocks = {
        prefix: import_memory(weights[""] | weights[prefix], **_choices(arrays, meta, prefix))
        for prefix in prefixes
    }
    of_leaves = {prefix: _leaf_gradients(gradients[prefix], blocks[prefix]) for prefix in prefixes}
    of_tables = _table_gradients(gradients[""], next(iter(blocks.values())))
    return GoldenMemory(blocks, of_leaves, of_tables)


def _choices(arrays: Leaves, meta: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """What the weights do not tell of a block; its reads do, or the file's ``meta_json``."""
    heads, reads = arrays[f"{prefix}indices"].shape[-2:]
    scores, weights = (arrays.get(prefix + name) for name in ("scores", "weights"))
    if scores is None or weights is None:
        is_relu = "relu" in json.dumps(meta).lower()
    else:
        sums = weights.sum(axis=-1)
        is_relu = not np.allclose(sums, 1, rtol=0, atol=1e-4) and not (scores < 0).any(
            where=weights != 0
        )
    epsilon = next((value for key, value in meta.items() if "eps" in key.lower()), None)
    return {
        "heads": heads,
        "reads": reads,
        "score": "relu" if is_relu else "softmax",
        "qk_norm": any("qk_norm" in key.lower() and bool(value) for key, value in meta.items()),
        "norm_epsilon": epsilon,
    }


def _leaf_gradients(gradients: Leaves, block: Imported) -> Leaves:
    # The gradient of a table holds touched rows, whose slots stand in an array of their own.
    found, unknown = parts_of({n: a for n, a in gradients.items() if not n.endswith("_rows")})
    if unknown:
        raise ValueError(f"gradients of {sorted(unknown)} are not understood; known are {NAMES}")
    return to_leaves(found, block.config, block.layout)


def _table_gradients(gradients: Leaves, block: Imported) -> Leaves:
    """Gradients of whole tables; a file may hold the touched rows only."""
    dense: Leaves = {}
    for name, array in gradients.items():
        (part, _), *_ = (*parts_of({name: array}).found, ("", ""))
        if part not in ("values", "expert_inputs"):
            continue
        rows = gradients.get(f"{name}_rows")
        dense[part] = array
        if rows is not None:
            dense[part] = np.zeros((block.config.slots, array.shape[1]), np.float32)
            dense[part][rows] = array
    return dense


def check_memory(arrays: Leaves, golden: GoldenMemory) -> list[Comparison]:
    """Runs the blocks of a file, forwards and backwards, and compares with what it holds."""
    first = next(iter(golden.blocks.values()))
    tables = {"values": first.values, "expert_inputs": first.expert_inputs}
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


def _run(blocks: Mapping[str, Imported], params: Any, tables: Any, x: Array) -> tuple[Array, Any]:
    """One block, or several with a residual stream around them; also what each looked up."""
    lookups = {}
    for prefix, block in blocks.items():
        layer, inputs = MemoryLayer(block.config, block.width), tables["expert_inputs"]
        variables = {"params": unflatten(params[prefix])}
        y, sown = layer.apply(variables, x, tables["values"], None, inputs, mutable=[LOOKUPS])
        lookups[prefix] = sown[LOOKUPS]["lookup"]
        x = x + y if len(blocks) > 1 else y
    return x, jax.lax.stop_gradient(lookups)


def _compare_lookup(
    prefix: str, block: Imported, lookup: Lookup, arrays: Leaves
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
