"""Golden vectors: files with a memory's weights, inputs, outputs and gradients, checked here.

``meta_json`` of an ``.npz`` names the ``layout`` or, as ``peer``, its source; else it is guessed.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

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
from smf_jax.paths import PathLike, local
from smf_jax.sparse.selection import RULES, score_slots, select_slots
from smf_jax.sparse.usage import PoolUsage

# Largest difference from a golden array, as a share of its largest number.
TOLERANCE = 2e-6

_SEEN = ("indices", "scores", "weights")  # of every block
_OBSERVED = ("x", "h", "out", "cot", "min_gap", "grad_x", *_SEEN)
_SELECTION = {"background_indices", "batch_indices", "selected"}

# What other sources call things, for guesses, of which a wrong one shows as a difference.
# Weights and biases end as in `_KINDS`; tables and keys may go without.
_PARTS = {
    "query": ("query", "query_proj", "to_queries", "to_query", "queries", "q_proj", "wq"),
    "keys": ("keys", "key"),
    "gate": ("swilu", "swilu_proj", "swilu_projection", "gating", "gate", "gate_proj"),
    "output": ("value_proj", "value_projection", "output_proj", "out_proj", "output", "to_out"),
    "query_norm": ("norm", "query_norm", "queries_norm", "q_norm", "qnorm", "query_bn"),
    "key_norm": ("key_norm", "keys_norm", "k_norm", "knorm"),
    "output_norm": ("output_norm", "out_norm", "norm_output", "norm_out", "post_norm"),
    "values": ("values", "values_v", "value_v", "weight_up_embed", "up_embed", "up", "v"),
    "expert_inputs": ("values_u", "value_u", "weight_down_embed", "down_embed", "down", "u"),
}
_PART = {name: part for part, names in _PARTS.items() for name in names}
_KINDS = {"bias": "bias", "b": "bias", "running_mean": "mean", "running_var": "variance"}
_NAME = re.compile(r"(.+?)(?:_(weight|w|bias|b|running_mean|running_var))?")


class Comparison(NamedTuple):
    """How far a golden array is apart: as a share of its largest number; of slots, those amiss."""

    name: str
    difference: float
    agrees: bool  # within the tolerance; of slots, none differs


class GoldenMemory(NamedTuple):
    """The blocks of a file, and the gradients that it holds."""

    blocks: dict[str, ImportedMemory]  # by prefix, ``""`` where there is one
    gradients: Leaves  # by ``grad`` and path, those of a block's own leaves behind its prefix


def load_golden(path: PathLike) -> tuple[Leaves, dict[str, Any]]:
    """All arrays of a file, float16 as float32, and its ``meta_json``."""
    with np.load(local(path)) as file:
        arrays = {name: file[name] for name in file.files}
    meta = json.loads(str(arrays.pop("meta_json", "{}")))
    half = np.dtype(np.float16)
    return {n: a.astype(np.float32) if a.dtype == half else a for n, a in arrays.items()}, meta


def check_golden(path: PathLike) -> list[Comparison]:
    """Computes and compares what a golden file holds; a ValueError names arrays not understood."""
    arrays, meta = load_golden(path)
    if arrays.keys() >= _SELECTION:
        return check_selection(arrays)
    return check_memory(arrays, read_memory(arrays, meta))


def read_memory(arrays: Leaves, meta: Mapping[str, Any]) -> GoldenMemory:
    """The blocks of a file of memories, and the gradients of ``Σ out · cot`` that it holds.

    Several blocks read one table in turn, ``h = x + A(x); out = h + B(h)``, arrays ``a_keys``,
    ``b_keys`` and so on; gradients stand under the weights' names with ``grad_``. A ValueError
    names arrays that are not understood.
    """
    names = sorted(name.removesuffix("keys") for name in arrays if name.endswith("keys"))
    prefixes = [prefix for prefix in names if "grad_" not in prefix and len(prefix) <= len("a_")]
    if not prefixes:
        raise ValueError(f"no keys among the arrays {sorted(arrays)}")
    tensors: dict[str, Leaves] = defaultdict(dict)
    gradients: dict[str, Leaves] = defaultdict(dict)
    for name, array in arrays.items():
        plain = name.replace("grad_", "", 1)
        prefix = next((p for p in prefixes if p and plain.startswith(p)), "")
        if (leaf := plain.removeprefix(prefix)) not in _OBSERVED:
            (tensors if plain == name else gradients)[prefix][leaf] = array
    golden = GoldenMemory({}, {})
    named = LAYOUTS.get(str(meta.get("layout", meta.get("peer"))).partition("@")[0])
    for prefix in prefixes:
        seen = {name: arrays[prefix + name] for name in _SEEN if prefix + name in arrays}
        layout, weights = named, tensors[""] | tensors[prefix]
        known = layout and (layout is PLAIN_MEMORY or weights.keys() <= layout.tensors.keys())
        if layout is None or not known:
            layout, weights = guess_layout(weights, seen, meta)
        block = golden.blocks[prefix] = import_memory(layout, weights, meta)
        for path, array in _gradients(gradients[""] | gradients[prefix], layout, block).items():
            golden.gradients[f"{'' if path in TABLES else prefix}grad {path}"] = array
    return golden


def _gradients(given: Leaves, layout: MemoryLayout, block: ImportedMemory) -> Leaves:
    """Gradients by path; of those of tables a file may hold the touched rows only."""
    rows = {name: array for name, array in given.items() if name.endswith("_rows")}
    given = {name: array for name, array in given.items() if name not in rows}
    if unknown := sorted(given.keys() - layout.tensors.keys()):
        raise ValueError(f"gradients of {unknown} are not understood; known are {layout.tensors}")
    for name in [name for name in given if f"{name}_rows" in rows]:
        dense = np.zeros((block.config.slots, given[name].shape[1]), np.float32)
        dense[rows[f"{name}_rows"]] = given[name]
        given[name] = dense
    return layout.leaves(given, block.config.heads)


def check_memory(arrays: Leaves, golden: GoldenMemory) -> list[Comparison]:
    """Runs the blocks of a file, forwards and backwards, and compares with what it holds."""
    tables = next(iter(golden.blocks.values())).tables
    params = {prefix: block.params for prefix, block in golden.blocks.items()}

    def total(params: Any, tables: Any, x: Array) -> tuple[Array, Any]:
        lookups = {}
        for prefix, block in golden.blocks.items():
            layer, inputs = MemoryLayer(block.config, block.width), tables.get("expert_inputs")
            variables = {"params": unflatten(params[prefix])}
            y, sown = layer.apply(variables, x, tables["values"], None, inputs, mutable=[LOOKUPS])
            lookups[prefix] = sown[LOOKUPS]["lookup"]
            x = x + y if len(golden.blocks) > 1 else y
        return jnp.sum(x * arrays["cot"]), (x, jax.lax.stop_gradient(lookups))

    run = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True))
    (_, (out, lookups)), (of_leaves, of_tables, of_x) = run(params, tables, arrays["x"])
    found = [_close("out", out, arrays["out"]), _close("grad_x", of_x, arrays["grad_x"])]
    computed = {f"grad {name}": gradient for name, gradient in of_tables.items()}
    for prefix, block in golden.blocks.items():
        found += _compare_lookup(prefix, block, lookups[prefix], arrays)
        computed |= {f"{prefix}grad {path}": leaf for path, leaf in of_leaves[prefix].items()}
    return found + [_close(name, computed[name], a) for name, a in golden.gradients.items()]


def _compare_lookup(
    prefix: str, block: ImportedMemory, lookup: Lookup, arrays: Arrays
) -> list[Comparison]:
    """Slots, exactly and in order (any of those that tie), their scores and weights."""
    expected = arrays[f"{prefix}indices"]
    differs = np.asarray(lookup.slots).reshape(expected.shape) != expected
    if f"{prefix}scores" in arrays:
        apart = np.diff(arrays[f"{prefix}scores"], axis=-1) != 0
        edge = np.ones_like(apart[..., :1])
        differs &= np.concatenate([edge, apart], -1) & np.concatenate([apart, edge], -1)
    share = float(differs.mean())
    found = [Comparison(f"{prefix}indices", share, share == 0)]
    weights = read_weights(lookup.scores, block.config.score)
    for name, value in ((f"{prefix}scores", lookup.scores), (f"{prefix}weights", weights)):
        if name in arrays:
            found.append(_close(name, value, arrays[name]))
    return found


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
    *of_background, of_batch = (
        np.bincount(batch.reshape(-1), minlength=table_slots).astype(np.int32)
        for batch in (*backgrounds, arrays["batch_indices"])
    )
    background = {
        "df": np.sum([batch > 0 for batch in of_background], axis=0),
        "acc": np.sum(of_background, axis=0),
    }
    found = [_close(name, a, arrays[name]) for name, a in background.items() if name in arrays]
    usage = PoolUsage(
        document_frequency=jnp.asarray(background["df"], jnp.int32),
        accesses=jnp.asarray(background["acc"], jnp.int32),
        batches=jnp.asarray(arrays.get("num_background_batches", len(backgrounds)), jnp.int32),
    )
    name = next(n for n in arrays if n.removesuffix("_float64") in (*RULES, "kl"))
    rule: Any = name.removesuffix("_float64")
    rule = ("kl_acc" if "acc" in arrays else "kl_df") if rule == "kl" else rule
    counts, accessed = jnp.asarray(of_batch), of_batch > 0
    scores = np.asarray(score_slots(counts, usage, rule))
    found.append(_close(name, scores[accessed], arrays[name][accessed]))
    top_t = int(arrays.get("top_t", len(arrays["selected"])))
    chosen = np.asarray(select_slots(counts, usage, rule=rule, top_t=top_t))
    chosen, expected = set(chosen[chosen < table_slots].tolist()), set(arrays["selected"].tolist())
    differs = len(chosen ^ expected) / max(1, len(expected))
    return [*found, Comparison("selected", differs, not differs)]


def guess_layout(
    tensors: Arrays, seen: Arrays, meta: Mapping[str, Any]
) -> tuple[MemoryLayout, Leaves]:
    """The layout of one block, and its tensors, biases and scales of no effect among them.

    ``seen`` has its ``indices`` and, where the file has them, ``scores`` and ``weights``; ``meta``
    is what the file says of itself. A ValueError names the tensors that are not understood.
    """
    paths = {name: _path(name) for name in tensors}
    if unknown := sorted(name for name, path in paths.items() if not path):
        raise ValueError(
            f"arrays {unknown} are no part of a memory, neither in the layouts of "
            f"{', '.join(LAYOUTS)} nor by another name that is known: {sorted(_PART)}"
        )
    by_path = {path: np.asarray(tensors[name]) for name, path in paths.items()}
    if len(by_path) < len(tensors):
        raise ValueError(f"two of the arrays {sorted(tensors)} are one part of a memory")
    choices = _choices(by_path, seen, meta)
    # Leaves that change nothing, for biases and scales that a source does without.
    zeros = {"gate/bias": "gate/kernel", "output/bias": "output/kernel"}
    zeros["output_norm/bias"] = "output_norm/scale"
    neutral = {
        path: np.zeros(len(by_path[of]), np.float32) for path, of in zeros.items() if of in by_path
    }
    if choices["qk_norm"]:
        scales = {"query_norm/scale": "query_scale", "key_norm/scale": "key_scale"}
        paths = {name: scales.get(path, path) for name, path in paths.items()}
        neutral |= dict.fromkeys(scales.values(), np.ones(by_path["keys"].shape[-1], np.float32))
    neutral = {path: leaf for path, leaf in neutral.items() if path not in paths.values()}
    keys = by_path.get("keys", np.zeros(0))
    layout = MemoryLayout(
        source="a guess from names",
        tensors=paths | {path: path for path in neutral},
        choices=lambda _: choices,
        half_major=keys.ndim == 4 and keys.shape[1] != 2,
    )
    return layout, {**tensors, **neutral}


def _path(name: str) -> str:
    """The path of a leaf by its name in a file; empty if it is of no part."""
    found = _NAME.fullmatch(name.replace(".", "_"))
    part, kind = (_PART.get(found[1], ""), _KINDS.get(found[2], "scale")) if found else ("", "")
    if part in ("", "keys", "values", "expert_inputs"):
        return part
    return f"{part}/{'kernel' if kind == 'scale' and not part.endswith('_norm') else kind}"


def _choices(by_path: Arrays, seen: Arrays, meta: Mapping[str, Any]) -> dict[str, Any]:
    """What the reads of a block, its tensors and the file's ``meta_json`` tell."""
    heads, reads = seen["indices"].shape[-2:]
    gate = by_path.get("gate/kernel")
    said = any("qk_norm" in key.lower() and bool(value) for key, value in meta.items())
    qk_norm = said or "key_norm/scale" in by_path
    query_norm = "layer" if "query_norm/bias" in by_path else "rms"
    query_norm = "batch" if "query_norm/mean" in by_path else query_norm
    query_norm = query_norm if "query_norm/scale" in by_path and not qk_norm else "none"
    return {
        "heads": heads,
        "reads": reads,
        "gate": "none" if gate is None else "scalar" if len(gate) == 1 else "silu",
        "query_norm": query_norm,
        "qk_norm": qk_norm,
        "score": "relu" if _is_relu(seen, meta) else "softmax",
        "output_norm": "layer" if "output_norm/scale" in by_path else "none",
        "experts": "expert_inputs" in by_path,
        "query_bias": "query/bias" in by_path,
        "norm_epsilon": next((v for key, v in meta.items() if "eps" in key.lower()), None),
    }


def _is_relu(seen: Arrays, meta: Mapping[str, Any]) -> bool:
    if "scores" not in seen or "weights" not in seen:
        return "relu" in json.dumps(meta).lower()
    sums = seen["weights"].sum(axis=-1)
    negative = (seen["scores"] < 0).any(where=seen["weights"] != 0)
    return not np.allclose(sums, 1, rtol=0, atol=1e-4) and not negative
