"""Peak memory of a process, read by the process itself, and of children started to be measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_STATUS = Path("/proc/self/status")
_SECONDS = 600


def peak_resident_bytes() -> int | None:
    """The most memory that this process held; ``None`` off Linux.

    ``ru_maxrss`` would not do: a child inherits that of its parent.
    """
    if not _STATUS.exists():
        return None
    lines = (line.split() for line in _STATUS.read_text().splitlines())
    return next((int(words[1]) * 1024 for words in lines if words[0] == "VmHWM:"), None)


def tell_peak() -> None:
    """What a child prints at its end."""
    print(json.dumps({"peak_bytes": peak_resident_bytes()}))


def peak_of(module: str, task: dict[str, Any]) -> int:
    """The peak memory of ``python -m module TASK``, a process with nothing else in it.

    Args:
      module: whose last line is what `tell_peak` prints.
      task: given to it as JSON.

    Raises:
      ValueError: if the child failed or could not tell, with its last line.
    """
    command = [sys.executable, "-m", module, json.dumps(task)]
    # On a CPU nothing else is wanted: the plugins of other platforms take memory too.
    child = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    if child.returncode:
        last = (child.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(f"{module} ended with status {child.returncode}: {last}")
    peak = json.loads(child.stdout.strip().splitlines()[-1])["peak_bytes"]
    if peak is None:
        raise ValueError("this system does not tell the peak memory of a process")
    return peak
