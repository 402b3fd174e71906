"""What loading a checkpoint takes: seconds and memory, and what the process holds of it then.

``python -m benchmarks.load --base=DIR --out=FILE`` loads a Hugging Face checkpoint, such as one of
``benchmarks.random_checkpoint``, or a GGUF file in each way asked for, alone in a process.
"""

import json
import sys
import time
from dataclasses import dataclass
from typing import Any

import jax

from benchmarks.machine import ask_child, describe_machine, peak_bytes
from experiments.cli import run
from smf_jax.bases.base import load_base
from smf_jax.checkpoints.files import write_text
from smf_jax.configuration import Configuration, PathText, setting
from smf_jax.errors import require_writable
from smf_jax.params import count_bytes
from smf_jax.paths import as_path
from smf_jax.progress import say

WAYS = ("bfloat16", "float32", "int8", "int4", "nf4")
OVER_LEAVES, BESIDE = 1.3, 2**29  # what the peak in bfloat16 may be: the leaves are a file's size


@dataclass(frozen=True)
class LoadConfig(Configuration):
    """What ``benchmarks.load`` is told."""

    base: PathText = setting(
        "", "directory of a Hugging Face checkpoint, or a GGUF file", heading="Model"
    )
    ways: str = setting(
        ",".join(WAYS), f"any of {', '.join(WAYS)}, separated by commas", heading="Model"
    )
    out: PathText = setting("", "JSON file to write; none if empty", heading="Output")

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := sorted(set(self.ways.split(",")) - set(WAYS)):
            raise ValueError(f"--ways={self.ways}: {unknown} are none of {', '.join(WAYS)}")


def load(base: str, way: str) -> dict[str, Any]:
    """Loads a base: seconds, the bytes of its leaves, of the process now and at its peak."""
    jax.block_until_ready(jax.numpy.zeros(()))
    kinds = {precision: (None, precision) for precision in ("int8", "int4", "nf4")}
    began = time.perf_counter()
    found = load_base(base, "base", *kinds.get(way, (way,)))  # pyright: ignore[reportArgumentType]
    jax.block_until_ready(found.params)
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "leaf_bytes": count_bytes(found.params),
        "held_bytes": held_bytes(),
        "peak_bytes": peak_bytes(),
    }


def held_bytes() -> int | None:
    """What the process holds now; ``None`` where the system does not tell."""
    try:
        with open("/proc/self/statm") as told:
            return int(told.read().split()[1]) * 4096
    except OSError:
        return None


def main(flags: LoadConfig) -> int:
    """Loads it in each way and tells; 1 if bfloat16's peak is beyond its bound."""
    if not flags.base:
        raise ValueError("--base is empty; name a Hugging Face checkpoint or a GGUF file")
    if flags.out:
        require_writable(flags.out, "out")
    base = as_path(flags.base)
    files = [base] if base.is_file() else base.glob("*.safetensors")
    stored = sum(file.stat().st_size for file in files)
    report: dict[str, Any] = {"machine": describe_machine(), "file_bytes": stored, "ways": {}}
    for way in flags.ways.split(","):
        told = ask_child("benchmarks.load", {"base": flags.base, "way": way})
        if way == "bfloat16":
            told["within"] = told["peak_bytes"] <= OVER_LEAVES * told["leaf_bytes"] + BESIDE
        report["ways"][way] = told
        sizes = (f"{name[:-6]} {told[name] / 2**30:.3f} GiB" for name in told if "bytes" in name)
        say(f"{way}: {told['seconds']:.1f} s, {', '.join(sizes)}")
        if flags.out:
            write_text(as_path(flags.out), json.dumps(report, indent=1) + "\n")
    return 0 if all(told.get("within", True) for told in report["ways"].values()) else 1


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1].startswith("{"):
        print(json.dumps(load(**json.loads(sys.argv[1]))))
    else:
        example = "python -m benchmarks.load --base=qwen_random --out=load.json"
        run(main, LoadConfig, "tell what loading a checkpoint takes", example)
