"""The same memory block in PyTorch: ``EmbeddingBag(sparse=True)`` and SGD, the best of its ways.

Only the table trains and is differentiated; lookup and gate run without a graph.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from benchmarks.block import LEARNING_RATE, Block


class TorchBlock:
    """The block, its table in an `EmbeddingBag`; calling it makes one step of SGD.

    Everything of the block, whose gate is silu, is copied into tensors.
    """

    def __init__(self, given: Block, threads: int) -> None:
        torch: Any = importlib.import_module("torch")
        torch.set_num_threads(threads)
        tensor = lambda array: torch.as_tensor(np.array(array))  # noqa: E731
        self._torch, self._shape = torch, given.shape
        self._keys = tensor(given.params["keys"])
        self._maps = {
            name: (tensor(given.params[name]["kernel"]), tensor(given.params[name]["bias"]))
            for name in ("query", "gate", "output")
        }
        self._inputs = [(tensor(x[0]), tensor(upstream[0])) for x, upstream in given.inputs]
        table = tensor(given.table())
        self.bag = torch.nn.EmbeddingBag(*table.shape, mode="sum", sparse=True, _weight=table)
        self._optimizer = torch.optim.SGD(self.bag.parameters(), lr=LEARNING_RATE)

    def output(self, number: int) -> Any:
        """The block's output ``(t, d)`` for one of the inputs, with a graph to the table."""
        torch, tokens = self._torch, self._shape.tokens
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
        torch, memory = self._torch, self._shape.memory
        queries = self._linear("query", x).reshape(len(x), memory.heads, 2, -1)
        (first, i), (second, j) = (
            torch.einsum("thc,hnc->thn", queries[:, :, half], self._keys[:, half]).topk(
                memory.reads
            )
            for half in (0, 1)
        )
        sums = (first[..., :, None] + second[..., None, :]).flatten(-2)
        scores, winners = sums.topk(memory.reads)
        rows = i.gather(-1, winners // memory.reads) * memory.keys_per_half
        return rows + j.gather(-1, winners % memory.reads), torch.softmax(scores, -1)
