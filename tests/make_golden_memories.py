"""Makes tests/golden_memories/*.npz: memories and selections from the formulas of the papers.

``python -m tests.make_golden_memories`` computes them in NumPy and float64, with no line of the
library. Gradients are complex-step derivatives, ``∂f/∂w = Im f(w + iε) / ε``, exact to rounding, of
blocks that read the slots that were found. Cases that public implementations have are laid out and
named as there, all others as here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from scipy.special import erf

from smf_jax.memory.config import MemoryConfig
from tests import oracles

PLACE = Path(__file__).parent / "golden_memories"
FACEBOOK, LUCIDRAINS, OURS = "facebookresearch/memory", "lucidrains/product-key-memory", "smf_jax"
TABLES = ("values", "expert_inputs")
STEP = 1e-30
Arrays = dict[str, np.ndarray]


class Case(NamedTuple):
    """One file: a memory, who lays it out, and the blocks that read one table in turn."""

    config: MemoryConfig
    layout: str = OURS
    tokens: int = 5
    seed: int = 0
    blocks: tuple[str, ...] = ("",)
    width: int = 6
    ties: bool = False


def small(**choices) -> MemoryConfig:
    sizes = {"keys_per_half": 6, "heads": 2, "reads": 3, "key_width": 8, "value_width": 6}
    return MemoryConfig(**{**sizes, "gate": "none", **choices})


CASES = {
    "memory_plus": Case(small(heads=4, reads=4, gate="silu"), FACEBOOK, tokens=8, seed=1),
    "many_reads": Case(small(heads=4, reads=32, keys_per_half=33), FACEBOOK, tokens=3, seed=1),
    "shared_pool": Case(small(gate="silu"), FACEBOOK, blocks=("a_", "b_"), seed=4),
    "query_layer_norm": Case(
        small(heads=4, query_norm="layer", query_bias=False), LUCIDRAINS, seed=5
    ),
    "query_rms_norm": Case(small(query_norm="rms"), seed=1),
    "scalar_gate": Case(small(heads=1, value_width=9, gate="scalar")),
    "experts": Case(small(experts=True), seed=4),
    "experts_relu": Case(small(experts=True, score="relu", query_bias=False), seed=5),
    "relu_output_norm": Case(small(heads=3, score="relu", output_norm="layer", query_bias=False)),
    "qk_norm": Case(small(qk_norm=True), seed=5),
    "ties": Case(small(query_bias=False), ties=True),
}


def weights_of(case: Case, random: np.random.Generator) -> Arrays:
    """Random weights of a block and of its tables by our paths, representable in float16."""
    m, d = case.config, case.width
    h, n, c, v = m.heads, m.keys_per_half, m.key_width // 2, m.value_width
    gate = {"none": 0, "scalar": 1, "silu": v}[m.gate]
    shapes = {
        "query/kernel": (d, h * 2 * c),
        "query/bias": (h * 2 * c,) if m.query_bias else None,
        "keys": (h, 2, n, c),
        "query_scale": (c,) if m.qk_norm else None,
        "key_scale": (c,) if m.qk_norm else None,
        "query_norm/scale": (c,) if m.query_norm != "none" else None,
        "query_norm/bias": (c,) if m.query_norm == "layer" else None,
        "values": (n * n, v),
        "expert_inputs": (n * n, d) if m.experts else None,
        "output_norm/scale": (v,) if m.output_norm == "layer" else None,
        "output_norm/bias": (v,) if m.output_norm == "layer" else None,
        "gate/kernel": (d, gate) if gate else None,
        "gate/bias": (gate,) if gate else None,
        "output/kernel": (v, d) if gate else None,
        "output/bias": (d,) if gate else None,
    }
    made = {path: random.standard_normal(s) for path, s in shapes.items() if s is not None}
    made |= {path: a / np.sqrt(len(a)) for path, a in made.items() if path.endswith("kernel")}
    if case.ties:
        made |= {path: np.round(made[path]) for path in ("query/kernel", "keys")}
    return {path: array.astype(np.float16).astype(np.float64) for path, array in made.items()}


def rms(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return scale * x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-6)


def layer_norm(x: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
    x = x - x.mean(axis=-1, keepdims=True)
    return scale * x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-5) + bias


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def routing(w: Arrays, x: np.ndarray, m: MemoryConfig) -> tuple[np.ndarray, np.ndarray]:
    """Queries ``(t, h, 2, c)`` and keys ``(h, 2, n, c)``."""
    queries = x @ w["query/kernel"] + (w["query/bias"] if m.query_bias else 0)
    queries, keys = queries.reshape(len(x), m.heads, 2, -1), w["keys"]
    if m.query_norm == "layer":
        queries = layer_norm(queries, w["query_norm/scale"], w["query_norm/bias"])
    if m.query_norm == "rms":
        queries = rms(queries, w["query_norm/scale"])
    if m.qk_norm:
        queries, keys = rms(queries, w["query_scale"]), rms(keys, w["key_scale"])
    return queries, keys


def block(w: Arrays, x: np.ndarray, slots: np.ndarray, m: MemoryConfig) -> Arrays:
    """Output, scores and weights of a block that reads ``slots`` ``(t, h, k)``."""
    queries, keys = routing(w, x, m)
    head, halves = np.arange(m.heads)[:, None], np.divmod(slots, m.keys_per_half)
    parts = [
        np.einsum("thc,thkc->thk", queries[:, :, half], keys[head, half, halves[half]])
        for half in (0, 1)
    ]
    scores = cast(Any, sum(parts))
    if m.score == "relu":
        weights = np.where(scores.real > 0, scores, 0)
    else:
        weights = np.exp(scores - scores.real.max(axis=-1, keepdims=True))
        weights = weights / weights.sum(axis=-1, keepdims=True)
    counts = weights
    if m.experts:
        unit = np.einsum("td,thkd->thk", x, w["expert_inputs"][slots])
        counts = weights * unit * (1 + erf(unit / np.sqrt(2))) / 2
    y = np.einsum("thk,thkv->tv", counts, w["values"][slots])
    if m.output_norm == "layer":
        y = layer_norm(y, w["output_norm/scale"], w["output_norm/bias"])
    if m.gate != "none":
        gate = x @ w["gate/kernel"] + w["gate/bias"]
        if m.gate == "silu":
            y = y * gate * sigmoid(gate)
        y = y @ w["output/kernel"] + w["output/bias"]
        y = sigmoid(gate) * y if m.gate == "scalar" else y
    return {"out": y, "scores": scores, "weights": weights}


def differentiate(loss: Callable, w: Arrays, name: str, touched: set[int]) -> np.ndarray:
    """The gradient of ``loss(w)`` with respect to one array; of tables at touched rows only."""
    found, nudged = np.zeros(w[name].shape), w[name].astype(complex)
    for place in np.ndindex(found.shape):
        if name not in TABLES or place[0] in touched:
            nudged[place] += 1j * STEP
            found[place] = loss({**w, name: nudged}).imag / STEP
            nudged[place] = w[name][place]
    return found


def laid_out(path: str, array: np.ndarray, case: Case) -> tuple[str, np.ndarray]:
    """Name and array of a weight, or of its gradient, as the case's source has them."""
    m, d = case.config, case.width
    if case.layout == FACEBOOK:
        name = path.replace("gate/", "swilu_").replace("output/", "value_proj_").replace("/", "_")
        name = name.replace("_kernel", "_w").replace("_bias", "_b")
        array = array.reshape(-1, m.key_width // 2) if path == "keys" else array
        return name, array.T if path.endswith("kernel") else array
    if case.layout == LUCIDRAINS and path == "keys":
        return path, array.swapaxes(1, 2)
    if case.layout == LUCIDRAINS and path == "query/kernel":
        split = array.reshape(d, m.heads, 2, -1).transpose(2, 1, 3, 0)
        return "to_queries_weight", split.reshape(-1, d)
    if case.layout == LUCIDRAINS:
        return path.replace("query_norm/", "norm_").replace("norm_scale", "norm_weight"), array
    return path, array


def about(case: Case) -> dict:
    """Hyper-parameters under the names of the case's source."""
    m = case.config
    given = {
        FACEBOOK: {
            "mem_heads": m.heads,
            "mem_knn": m.reads,
            "swilu_projection": m.gate == "silu",
        },
        LUCIDRAINS: {"heads": m.heads, "topk": m.reads},
        OURS: m.to_dict(),
    }
    return {"layout": case.layout, **given[case.layout]}


def make_memory(case: Case) -> Arrays:
    """All arrays of a case."""
    random, m = np.random.default_rng(case.seed), case.config
    w = {
        path if path in TABLES else prefix + path: array
        for prefix in case.blocks
        for path, array in weights_of(case, random).items()
    }
    x, cot = random.standard_normal((2, case.tokens, case.width)).astype(np.float16).astype(float)
    x = np.round(x) if case.ties else x
    slots: dict[str, np.ndarray] = {}
    gaps: list[float] = []

    def run(w: Arrays) -> Arrays:
        """The blocks in turn; the first run finds the slots."""
        made, x, several = {}, w["x"], len(case.blocks) > 1
        for prefix in case.blocks:
            own = {path.removeprefix(prefix): array for path, array in w.items()}
            if prefix not in slots:
                slots[prefix] = oracles.product_form_lookup(*routing(own, x, m), m.reads).slots
                gaps.append(oracles.brute_force_lookup(*routing(own, x, m), m.reads).gap.min())
            found = block(own, x, slots[prefix], m)
            x = x + found.pop("out") if several else found.pop("out")
            made |= {prefix + name: array for name, array in found.items()}
        return {"out": x, **made}

    made = run(w | {"x": x})
    touched = {slot for each in slots.values() for slot in each.ravel().tolist()}
    arrays = {"x": x[None], "cot": cot[None], "min_gap": np.asarray(min(gaps))}
    arrays |= {**made, "out": made["out"][None]}
    arrays |= {f"{prefix}indices": each.astype(np.int32) for prefix, each in slots.items()}
    arrays = {k: a.astype(np.float32) if a.dtype == float else a for k, a in arrays.items()}
    for path in [*w, "x"]:
        gradient = differentiate(lambda w: (run(w)["out"] * cot).sum(), w | {"x": x}, path, touched)
        if path == "x":
            arrays["grad_x"] = gradient[None].astype(np.float32)
            continue
        prefix = next(p for p in case.blocks if path.startswith(p) or path in TABLES)
        prefix = "" if path in TABLES else prefix
        name, weight = laid_out(path.removeprefix(prefix), w[path], case)
        _, gradient = laid_out(path.removeprefix(prefix), gradient, case)
        arrays[prefix + name] = weight.astype(np.float16)
        rows = np.array(sorted(touched), np.int32) if path in TABLES else ...
        arrays[f"{prefix}grad_{name}"] = gradient[rows].astype(np.float32)
        if path in TABLES:
            arrays[f"grad_{name}_rows"] = rows
    return arrays


def make_selection(rule: str, seed: int = 4, table_slots: int = 60, top_t: int = 7) -> Arrays:
    """A selection by a rule, and one step of SGD at a rate of 2 on the rows that it selects."""
    random = np.random.default_rng(seed)
    background = random.integers(0, table_slots, (20, 30))
    batch = random.integers(0, table_slots, (4, 6))
    counts = np.bincount(batch.ravel(), minlength=table_slots)
    each = [np.bincount(one, minlength=table_slots) for one in background]
    df, acc = np.sum(np.array(each) > 0, axis=0), np.sum(each, axis=0)
    scores = oracles.rule_scores(rule, counts, df, acc, len(background))
    order = np.lexsort((np.arange(table_slots), -scores))
    selected = order[:top_t]
    before, dense = random.standard_normal((2, table_slots, 4)).astype(np.float16).astype("f")
    dense[counts == 0] = 0
    masked = np.where(np.isin(np.arange(table_slots), selected)[:, None], dense, 0)
    arrays = {"background_indices": background, "batch_indices": batch, "selected": selected}
    arrays |= {"acc": acc} if rule == "kl_acc" else {}
    return arrays | {
        "df": df,
        "num_background_batches": np.asarray(len(background)),
        "top_t": np.asarray(top_t),
        f"{rule.partition('_')[0]}_float64": np.where(counts > 0, scores, 0),
        "boundary_gap": scores[order[top_t - 1]] - scores[order[top_t]],
        "values_before": before,
        "grad_dense": dense,
        "grad_masked": masked,
        "values_after_sgd_lr2": before - 2 * masked,
    }


def main() -> None:
    PLACE.mkdir(exist_ok=True)
    for name, case in CASES.items():
        arrays = cast(dict[str, Any], make_memory(case))
        np.savez_compressed(PLACE / f"{name}.npz", meta_json=json.dumps(about(case)), **arrays)
        print(name, float(arrays["min_gap"]))
    arrays = cast(dict[str, Any], make_selection("tfidf"))
    np.savez_compressed(PLACE / "tfidf_step.npz", meta_json="{}", **arrays)
    print("tfidf_step", float(arrays["boundary_gap"]))


if __name__ == "__main__":
    main()
