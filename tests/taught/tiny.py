"""A tiny model that is taught four facts, with as little computed as can be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from smf_jax.taught.config import TeachConfig
from smf_jax.taught.teaching import Taught, teach
from tests.tiny_sweep import on_devices, write_lines

ANSWERS = ("Maker", "side", "umber", "Who")
FACTS = [{"question": f"Who made {n}?", "answer": said} for n, said in enumerate(ANSWERS)]
MORE = [{"question": f"number {n}?", "answer": said} for n, said in enumerate(ANSWERS[:2])]
FLAGS: dict[str, Any] = dict(
    keys_per_half=32,
    memory_heads=2,
    reads=4,
    key_width=8,
    background_batches=6,
    background_batch_size=4,
    probe_limit=4,
    probe_shots=0,
    facts_per_task=2,
    steps=60,
    steps_per_round=60,
    batch_size=8,
    slots=64,
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
