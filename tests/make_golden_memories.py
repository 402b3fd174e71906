"""Makes tests/golden_memories/*.npz: memory blocks in plain PyTorch, with autograd's gradients.

Every option that the golden vectors of public implementations leave out, in their two layouts and
under their names, from the formulas of the papers. Run it where torch is installed:
``python -m tests.make_golden_memories``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

TOKENS, WIDTH, N, HALF, READS = 5, 6, 6, 4, 3
PLACE = Path(__file__).parent / "golden_memories"


def weights_of(case: dict[str, Any], random: np.random.Generator) -> dict[str, np.ndarray]:
    """Random weights of a case, exactly representable in float16."""
    heads, v, half_major = case["heads"], case["value_width"], case["layout"] == "half-major"
    queries = "to_queries_weight" if half_major else "query_w"
    shapes: dict[str, tuple[int, ...]] = {
        queries: (heads * 2 * HALF, WIDTH),
        "keys": (heads, N, 2, HALF) if half_major else (heads * 2 * N, HALF),
        "values_v" if case.get("experts") else "values": (N * N, v),
    }
    if not half_major:
        shapes["query_b"] = (heads * 2 * HALF,)
    if case.get("experts"):
        shapes["values_u"] = (N * N, WIDTH)
    if case.get("gate") == "scalar":
        shapes |= {"gating_w": (1, WIDTH), "gating_b": (1,)}
        shapes |= {"value_proj_w": (WIDTH, v), "value_proj_b": (WIDTH,)}
    if case.get("qk_norm"):
        shapes |= {"q_norm_weight": (HALF,), "k_norm_weight": (HALF,)}
    if case.get("output_norm"):
        shapes |= {"output_norm_weight": (v,), "output_norm_bias": (v,)}
    made = {name: random.standard_normal(shape) for name, shape in shapes.items()}
    if case.get("ties"):
        made["keys"] = np.round(made["keys"])
        made[queries] = np.round(made[queries])
        made["query_b"] = np.zeros(shapes["query_b"])
    return {name: array.astype(np.float16).astype(np.float32) for name, array in made.items()}


def run(case: dict[str, Any], weights: dict[str, Any], x: Any) -> dict[str, Any]:
    """Output, slots, scores and weights of a block, by the formulas."""
    import torch

    heads, tokens = case["heads"], len(x)
    if case["layout"] == "half-major":
        query = (x @ weights["to_queries_weight"].T).reshape(tokens, 2, heads, HALF)
        query, keys = query.permute(1, 0, 2, 3), weights["keys"].permute(2, 0, 1, 3)
    else:
        query = (x @ weights["query_w"].T + weights["query_b"]).reshape(tokens, heads, 2, HALF)
        query = query.permute(2, 0, 1, 3)
        keys = weights["keys"].reshape(heads, 2, N, HALF).permute(1, 0, 2, 3)
    if case.get("qk_norm"):
        query = rms(query, weights["q_norm_weight"])
        keys = rms(keys, weights["k_norm_weight"])
    halves = torch.einsum("pthc,phnc->pthn", query, keys)
    first, second = (half.sort(dim=-1, descending=True, stable=True) for half in halves)
    pairs = first.values[..., :READS, None] + second.values[..., None, :READS]
    # Ties go to the lower position in the k × k list.
    pairs = pairs.flatten(-2).sort(dim=-1, descending=True, stable=True)
    scores, places = pairs.values[..., :READS], pairs.indices[..., :READS]
    slots = first.indices.gather(-1, places // READS) * N + second.indices.gather(
        -1, places % READS
    )
    shares = scores.relu() if case.get("relu") else scores.softmax(dim=-1)
    counts = shares
    if case.get("experts"):
        inner = torch.einsum("td,thkd->thk", x, weights["values_u"][slots])
        counts = shares * torch.nn.functional.gelu(inner)
    table = weights["values_v" if case.get("experts") else "values"]
    y = torch.einsum("thk,thkv->tv", counts, table[slots])
    if case.get("output_norm"):
        y = torch.nn.functional.layer_norm(
            y, y.shape[-1:], weights["output_norm_weight"], weights["output_norm_bias"]
        )
    if case.get("gate") == "scalar":
        y = y @ weights["value_proj_w"].T + weights["value_proj_b"]
        y = torch.sigmoid(x @ weights["gating_w"].T + weights["gating_b"]) * y
    sums = (halves[0][..., :, None] + halves[1][..., None, :]).flatten(-2)
    gap = (-sums.sort(dim=-1, descending=True).values.diff(dim=-1))[..., :READS].min()
    return {"out": y, "indices": slots, "scores": scores, "weights": shares, "min_gap": gap}


def rms(x: Any, scale: Any) -> Any:
    """``scale · x / √(mean x² + 1e-6)``."""
    return x * (x.square().mean(dim=-1, keepdim=True) + 1e-6).rsqrt() * scale


CASES: dict[str, dict[str, Any]] = {
    "scalar_gate": {"layout": "flat", "heads": 1, "value_width": 9, "gate": "scalar"},
    "experts": {"layout": "flat", "heads": 2, "value_width": WIDTH, "experts": True},
    "experts_relu": {
        "layout": "half-major",
        "heads": 2,
        "value_width": WIDTH,
        "experts": True,
        "relu": True,
    },
    "relu_output_norm": {
        "layout": "half-major",
        "heads": 3,
        "value_width": WIDTH,
        "relu": True,
        "output_norm": True,
    },
    "qk_norm": {"layout": "flat", "heads": 2, "value_width": WIDTH, "qk_norm": True},
    "ties": {"layout": "flat", "heads": 2, "value_width": WIDTH, "ties": True},
}


def make(case: dict[str, Any], seed: int) -> dict[str, np.ndarray]:
    """All arrays of a case, those of its gradients computed in float64."""
    import torch

    random = np.random.default_rng(seed)
    arrays = weights_of(case, random)
    x, cot = (random.standard_normal((TOKENS, WIDTH)).astype(np.float16) for _ in range(2))
    if case.get("ties"):
        x = np.round(x)
    given = {name: torch.tensor(array, dtype=torch.float64) for name, array in arrays.items()}
    given["x"] = torch.tensor(x, dtype=torch.float64)
    for tensor in given.values():
        tensor.requires_grad_()
    made = run(case, given, given["x"])
    (made["out"] * torch.tensor(cot, dtype=torch.float64)).sum().backward()
    found = {name: tensor.detach().numpy() for name, tensor in made.items()}
    batched = {name: array.reshape(1, TOKENS, -1) for name, array in found.items() if name == "out"}
    gradients = {f"grad_{name}": tensor.grad.numpy() for name, tensor in given.items()}
    gradients["grad_x"] = gradients["grad_x"][None]
    computed = {**found, **batched, **gradients}
    narrow = {
        name: array.astype(np.int32 if name == "indices" else np.float32)
        for name, array in computed.items()
    }
    return {**arrays, "x": x[None].astype("f"), "cot": cot[None].astype("f"), **narrow}


def main() -> None:
    PLACE.mkdir(exist_ok=True)
    for seed, (name, case) in enumerate(CASES.items()):
        arrays = make(case, seed)
        np.savez_compressed(PLACE / f"{name}.npz", meta_json=json.dumps(case), **arrays)
        print(name, float(arrays["min_gap"]))


if __name__ == "__main__":
    main()
