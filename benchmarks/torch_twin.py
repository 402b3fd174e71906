"""The same block in PyTorch: ``EmbeddingBag(sparse=True)`` and SGD, only the table in a graph."""

import importlib
from typing import Any

import numpy as np

from benchmarks.block import LEARNING_RATE, Block


class TorchBlock:
    """The block, whose gate is silu, its table in an `EmbeddingBag`; a call is a step of SGD."""

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
        return self._linear("output", self.bag(slots, per_sample_weights=weights) * gate)

    def __call__(self, number: int) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        self.output(number).backward(self._inputs[number % len(self._inputs)][1])
        self._optimizer.step()

    def _linear(self, name: str, x: Any) -> Any:
        kernel, bias = self._maps[name]
        return self._torch.addmm(bias, x, kernel)

    def _lookup(self, x: Any) -> tuple[Any, Any]:
        torch, memory = self._torch, self._shape.memory
        queries = self._linear("query", x).reshape(len(x), memory.heads, 2, -1)
        halves = ((queries[:, :, half], self._keys[:, half]) for half in (0, 1))
        found = (torch.einsum("thc,hnc->thn", *half).topk(memory.reads) for half in halves)
        (first, i), (second, j) = found
        sums = (first[..., :, None] + second[..., None, :]).flatten(-2)
        scores, winners = sums.topk(memory.reads)
        rows = i.gather(-1, winners // memory.reads) * memory.keys_per_half
        return rows + j.gather(-1, winners % memory.reads), torch.softmax(scores, -1)
