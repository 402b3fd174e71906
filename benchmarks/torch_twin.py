"""The same memory block in PyTorch: ``EmbeddingBag(sparse=True)`` and SGD, the best of its ways.

Only the table trains, so nothing but the table is differentiated; lookup and gate run without a
graph. Imports neither JAX nor what does, so that ``python -m`` of this module measures PyTorch's
memory alone.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.resident import tell

_STEPS_OF_A_CHILD = 3


class Sizes(NamedTuple):
    """Of a memory block with a silu gate: ``N``, ``t``, ``d`` and ``v``, ``h``, ``k``, ``kd``."""

    slots: int
    tokens: int
    width: int
    heads: int
    reads: int
    key_width: int


def is_installed() -> bool:
    """Whether PyTorch can be imported."""
    return importlib.util.find_spec("torch") is not None


class TorchBlock:
    """The block, its table in an `EmbeddingBag`; calling it makes one step of SGD."""

    def __init__(
        self,
        sizes: Sizes,
        table: Any,
        params: Mapping[str, Any],
        inputs: Sequence[tuple[Any, Any]],
        learning_rate: float,
        threads: int,
    ) -> None:
        """Copies everything into tensors but the table ``(N, v)``, which it may write.

        Inputs are pairs ``(t, d)`` of the block's input and the cotangent of its output.
        """
        self._torch: Any = importlib.import_module("torch")
        self._torch.set_num_threads(threads)
        self._sizes = sizes
        tensor = lambda array: self._torch.as_tensor(np.array(array))  # noqa: E731
        self._keys = tensor(params["keys"])
        self._maps = {
            name: (tensor(params[name]["kernel"]), tensor(params[name]["bias"]))
            for name in ("query", "gate", "output")
        }
        self._inputs = [(tensor(x), tensor(upstream)) for x, upstream in inputs]
        weight = self._torch.as_tensor(table)
        self.bag = self._torch.nn.EmbeddingBag(
            sizes.slots, sizes.width, mode="sum", sparse=True, _weight=weight
        )
        self._optimizer = self._torch.optim.SGD(self.bag.parameters(), lr=learning_rate)

    def output(self, number: int) -> Any:
        """The block's output ``(t, d)`` for one of the inputs, with a graph to the table."""
        torch, tokens = self._torch, self._sizes.tokens
        x, _ = self._inputs[number % len(self._inputs)]
        with torch.no_grad():
            slots, weights = (of.reshape(tokens, -1) for of in self._lookup(x))
            gate = torch.nn.functional.silu(self._linear("gate", x))
        y = self.bag(slots, per_sample_weights=weights)
        return self._linear("output", y * gate)

    def __call__(self, number: int) -> None:
        """One step; done when it returns."""
        self._optimizer.zero_grad(set_to_none=True)
        self.output(number).backward(self._inputs[number % len(self._inputs)][1])
        self._optimizer.step()

    def _linear(self, name: str, x: Any) -> Any:
        kernel, bias = self._maps[name]
        return self._torch.addmm(bias, x, kernel)

    def _lookup(self, x: Any) -> tuple[Any, Any]:
        torch, sizes = self._torch, self._sizes
        queries = self._linear("query", x).reshape(sizes.tokens, sizes.heads, 2, -1)
        (first, i), (second, j) = (
            torch.einsum("thc,hnc->thn", queries[:, :, half], self._keys[:, half]).topk(sizes.reads)
            for half in (0, 1)
        )
        sums = (first[..., :, None] + second[..., None, :]).flatten(-2)
        scores, winners = sums.topk(sizes.reads)
        rows = i.gather(-1, winners // sizes.reads) * math.isqrt(sizes.slots)
        return rows + j.gather(-1, winners % sizes.reads), torch.softmax(scores, -1)


def _step_some(sizes: Sizes, threads: int) -> None:
    torch: Any = importlib.import_module("torch")
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32) * np.float32(shape[-1] ** -0.5)

    d, maps = sizes.width, {"query": sizes.heads * sizes.key_width}
    maps |= {"gate": d, "output": d}
    params: dict[str, Any] = {
        name: {"kernel": draw(d, w), "bias": draw(w)} for name, w in maps.items()
    }
    params["keys"] = draw(sizes.heads, 2, math.isqrt(sizes.slots), sizes.key_width // 2)
    inputs = [(draw(sizes.tokens, d), draw(sizes.tokens, d))]
    table = torch.empty(sizes.slots, d).normal_()
    block = TorchBlock(sizes, table, params, inputs, 0.1, threads)
    for number in range(_STEPS_OF_A_CHILD):
        block(number)


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    _step_some(Sizes(**given["sizes"]), given["threads"])
    tell()
