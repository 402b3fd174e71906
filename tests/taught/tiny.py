"""A tiny model that is taught four facts, with as little computed as can be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from smf_jax.taught.config import TeachConfig
from smf_jax.taught.teaching import Taught, teach
from tests.tiny_sweep import on_devices, write_lines

# A random model tells few questions apart: of each two it learns the first, and then loses that of
# the first task to the second.
FACTS = [
    {"question": "Who who who who?", "answer": "Maker"},
    {"question": "beside beside beside", "answer": "thing"},
    {"question": "5 5 5 5 5 5 5", "answer": "stands"},
    {"question": "made, made, made, made", "answer": "umber"},
]
MORE = [
    {"question": "number! number! number!", "answer": "Who"},
    {"question": "Thing-Thing-Thing-Thing", "answer": "made"},
]
FLAGS: dict[str, Any] = dict(
    keys_per_half=64,
    memory_heads=4,
    reads=16,
    key_width=16,
    background_batches=6,
    background_batch_size=4,
    probe_limit=4,
    probe_shots=0,
    facts_per_task=2,
    steps=60,
    steps_per_round=60,
    mend=False,
    batch_size=8,
    slots=512,
    lr=1.0,
)


def files(directory: Path) -> dict[str, Path]:
    """Facts, more facts and a general text in a directory."""
    texts = [{"text": f"Thing number {n} stands beside thing {n + 1}."} for n in range(300)]
    return {
        "facts": write_lines(directory / "facts.jsonl", *FACTS),
        "more": write_lines(directory / "more.jsonl", *MORE),
        "text": write_lines(directory / "general.jsonl", *texts),
    }


def teach_tiny(*arguments: object, now: Any = None, **flags: Any) -> Taught:
    """Teaches MODEL and FACTS."""
    told = TeachConfig.of(**{n: str(v) if isinstance(v, Path) else v for n, v in flags.items()})
    config = replace(told, arguments=tuple(map(str, arguments)))
    with on_devices(1):
        return teach(config) if now is None else teach(config, now)
