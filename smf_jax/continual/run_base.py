"""The base of a run."""

from __future__ import annotations

from pathlib import Path

from smf_jax.continual.base import Base, load_base
from smf_jax.continual.run_directory import BASE, RunDirectory
from smf_jax.interop.gguf.package import locate_base


def load_run_base(run: RunDirectory, path: str) -> tuple[Base, Path]:
    """The base that a run's trials started from, and where it is: ``path``, or in the run."""
    told = run.config()  # or a directory of another kind would be searched for a base
    if path:
        return load_base(path, "base", told.base.dtype), locate_base(path)
    return load_base(str(run.path / BASE), "base"), run.path / BASE
