"""Peak memory of a process, told by itself; children started to be measured. Imports no JAX."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

STATUS = Path("/proc/self/status")


def peak_resident_bytes(status: Path = STATUS) -> int | None:
    """The most memory that this process held; ``None`` off Linux.

    ``ru_maxrss`` would not do: a child inherits that of its parent.
    """
    text = status.read_text() if status.exists() else ""
    lines = (line.split() for line in text.splitlines())
    return next((int(words[1]) * 1024 for words in lines if words[0] == "VmHWM:"), None)


def tell(**figures: Any) -> None:
    """Prints what a child found, and its peak memory, at its end."""
    print(json.dumps({**figures, "peak_bytes": peak_resident_bytes()}))


def ask_child(module: str, task: dict[str, Any]) -> dict[str, Any]:
    """What ``python -m module TASK``, a process with nothing else in it, tells at its end.

    Raises:
      ValueError: if the child failed or could not tell its peak memory, with its last line.
    """
    command = [sys.executable, "-m", module, json.dumps(task)]
    # On a CPU nothing else is wanted: the plugins of other platforms take memory too.
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    child = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if child.returncode:
        last = (child.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(f"{module} ended with status {child.returncode}: {last}")
    told = json.loads(child.stdout.strip().splitlines()[-1])
    if told["peak_bytes"] is None:
        raise ValueError("this system does not tell the peak memory of a process")
    return told
