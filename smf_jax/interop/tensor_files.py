"""Safetensors files: named arrays, with matrices as PyTorch has them, (out, in)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from smf_jax.checkpoints.files import whole_file


def is_kernel(path: str) -> bool:
    """Whether the leaf at ``path`` is a matrix (in, out), which files hold as (out, in)."""
    return path.endswith("/kernel")


def transposed(path: str, array: Any) -> np.ndarray:
    """The leaf at ``path`` as files hold it, or back: a matrix is transposed, others stay."""
    return np.asarray(array.T if is_kernel(path) else array, order="C")


def shape_problems(given: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """A line for each array, anything with ``shape``, that is missing, unexpected or misshapen."""
    problems = [f"missing: {n} {wanted[n].shape}" for n in sorted(wanted.keys() - given.keys())]
    problems += [f"unexpected: {n} {given[n].shape}" for n in sorted(given.keys() - wanted.keys())]
    return problems + [
        f"shape: {name} is {given[name].shape}, expected {wanted[name].shape}"
        for name in sorted(given.keys() & wanted.keys())
        if given[name].shape != wanted[name].shape
    ]


def write_tensors(file: Path, tensors: Mapping[str, np.ndarray], **header: str) -> None:
    """Writes one file, whole or not at all; ``header`` is its text by key."""
    with whole_file(file) as partial:
        save_file(dict(tensors), partial, metadata={"format": "pt", **header})
        partial.chmod(0o644)  # safetensors makes it for its owner alone


def read_tensors(file: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """All tensors of a file, and the text of its header; raises as `open_tensors`."""
    with open_tensors(file) as opened:
        names = list(opened.keys())
        return {name: opened.get_tensor(name) for name in names}, opened.metadata() or {}


@contextmanager
def open_tensors(file: Path) -> Iterator[Any]:
    """A file opened by ``safetensors.safe_open``; a ValueError tells that it is damaged."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; copy the whole directory again")
    try:
        with safe_open(file, "numpy") as opened:
            yield opened
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{file} ({file.stat().st_size} bytes) is truncated or damaged: {error}; copy the file "
            "again"
        ) from error
