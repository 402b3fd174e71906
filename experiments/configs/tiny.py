"""Sizes of ``--scale=tiny``: four narrow blocks that a processor pretrains in seconds."""

from __future__ import annotations

from typing import Any

_MODEL = {"vocabulary": 512, "width": 32, "layers": 4, "heads": 2, "hidden_width": 64}
_COURSE = {"steps": 60, "batch_size": 16, "text_batch_size": 4, "warmup_steps": 5}
TINY_BASE: dict[str, Any] = {"known_facts": 100, "relations": 8, **_MODEL, **_COURSE}
TINY_MEMORY: dict[str, Any] = {"keys_per_half": 16, "reads": 4, "key_width": 16, "value_width": 0}
TINY_STREAM: dict[str, Any] = {"tasks": 2, "facts_per_task": 4, "steps_per_task": 4}
TINY_STREAM |= {"background_batches": 20, "background_batch_size": 4, "probe_limit": 40}
NO_MEMORY: dict[str, Any] = {**TINY_BASE, "memory_layers": ""}  # retrofitted like a checkpoint
TINY_RETROFIT: dict[str, Any] = {**TINY_MEMORY, **TINY_STREAM, "base": "world", "layers": "1,2,3"}
TINY_RETROFIT |= {"heal_steps": 10, "heal_batch_size": 4, "warmup_steps": 1}
TINY_RETROFIT |= {"slots": "16,64", "batch_size": 16}
