"""Reads a model that smf_jax exported: the base by transformers, the memories by this file.

``load_memories(AutoModelForCausalLM.from_pretrained(directory), directory)`` is all it takes; the
patches in the directory are applied, in order. Needs torch and safetensors.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file


class Memory:
    """A product-key memory: from a block's normalised input to what it adds to the block."""

    def __init__(self, config: dict, weights: dict, tables: dict):
        self.config, self.get, self.tables = config, weights.get, tables

    def linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        bias = self.get(f"{name}.bias")
        return F.linear(x, self.get(f"{name}.weight").to(x), None if bias is None else bias.to(x))

    def layer_norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        scale, bias = self.get(f"{name}.scale"), self.get(f"{name}.bias")
        return F.layer_norm(x.float(), x.shape[-1:], scale, bias, self.epsilon(1e-5))

    def epsilon(self, usual: float) -> float:
        told = self.config.get("norm_epsilon")
        return usual if told is None else told

    def rms_norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return F.rms_norm(x, x.shape[-1:], self.get(name), self.epsilon(1e-6))

    def query(self, x: torch.Tensor) -> torch.Tensor:
        c, q = self.config, self.linear(x, "query").float()
        if c["query_norm"] == "batch":  # by its running statistics
            told = (
                self.get(f"query_norm.{name}") for name in ("mean", "variance", "scale", "bias")
            )
            q = F.batch_norm(q, *told, eps=self.epsilon(1e-5))
        q = q.view(-1, c["heads"], 2, c["key_width"] // 2)
        if c["query_norm"] == "layer":
            return self.layer_norm(q, "query_norm")
        if c["query_norm"] == "rms":
            return self.rms_norm(q, "query_norm.scale")
        return self.rms_norm(q, "query_scale") if c["qk_norm"] else q

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        c, rows = self.config, x.flatten(0, -2)
        keys = self.get("keys").float()
        if c["qk_norm"]:
            keys = self.rms_norm(keys, "key_scale")
        halves = torch.einsum("thpc,hpnc->pthn", self.query(rows), keys)
        (a, i), (b, j) = (half.topk(c["reads"]) for half in halves)
        scores, place = (a[..., :, None] + b[..., None, :]).flatten(-2).topk(c["reads"])
        first, second = place // c["reads"], place % c["reads"]
        slots = (i.gather(-1, first) * c["keys_per_half"] + j.gather(-1, second)).flatten(1)
        weights = (scores.softmax(-1) if c["score"] == "softmax" else scores.relu()).flatten(1)
        if c.get("experts"):
            units = torch.einsum("trd,td->tr", self.tables["expert_inputs"][slots], rows.float())
            weights = weights * F.gelu(units)
        y = F.embedding_bag(slots, self.tables["values"], per_sample_weights=weights, mode="sum")
        y = self.layer_norm(y, "output_norm") if c.get("output_norm") == "layer" else y
        y = y.to(x.dtype)
        if c["gate"] == "silu":
            y = self.linear(y * F.silu(self.linear(rows, "gate")), "output")
        else:
            y = y if self.get("output.weight") is None else self.linear(y, "output")
            y = y * self.linear(rows, "gate").sigmoid() if c["gate"] == "scalar" else y
        alpha = self.get("alpha")
        return (y if alpha is None else alpha.to(y) * y).view_as(x)


def part_of(tensors: dict, prefix: str) -> dict:
    """The tensors whose names begin so, under what follows."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def attach(memory: Memory, block: torch.nn.Module) -> list:
    """Adds a memory to what a block's feed-forward adds, behind the norm of that if there is one.

    Where the memory stands in for the feed-forward, the base's own is zero.
    """
    given = []
    keep = block.mlp.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    last = getattr(block, "post_feedforward_layernorm", block.mlp)
    add = last.register_forward_hook(lambda _, inputs, y: y + memory(given.pop()))
    return [keep, add]


def load_memories(model: torch.nn.Module, directory: str, patches: int | None = None) -> list:
    """Adds the memories of a directory to its base, with so many of its patches applied."""
    about = json.loads(Path(directory, "smf_jax.json").read_text())["metadata"]
    placement = about["model"]["memory"]
    tensors = load_file(Path(directory, "memory.safetensors"))
    for entry in about["patches"][:patches]:
        patch = load_file(Path(directory, entry["file"]))
        for name in {key.rpartition(".")[0] for key in patch}:
            new, old = patch[f"{name}.new"], patch[f"{name}.old"]
            slots = patch.get(f"{name}.slots", ...)
            slots = slots if slots is ... else slots.long()
            assert torch.equal(tensors[name][slots], old), f"{entry['file']} does not fit {name}"
            tensors[name][slots] = new
    hooks = []
    for layer in placement["layers"]:
        pool = placement["layers"][0] if placement["shared_pool"] else layer
        weights, tables = part_of(tensors, f"layers.{layer}."), part_of(tensors, f"pools.{pool}.")
        memory = Memory(placement["memory"], weights, tables)
        hooks += attach(memory, model.model.layers[layer])
    return hooks
