"""The base of a run."""

from __future__ import annotations

from pathlib import Path

from smf_jax.bases.asked_base import AskedBase
from smf_jax.bases.base import Base, cached_path, load_base
from smf_jax.continual.run_directory import BASE, RunDirectory
from smf_jax.continual.stream_data import is_chosen_by_base, taught_questions
from smf_jax.interop.gguf.package import locate_base
from smf_jax.paths import as_path


def load_run_base(run: RunDirectory, path: str) -> tuple[Base, Path]:
    """The base that a run's trials started from, and where it is: ``path``, or in the run."""
    told = run.config()  # or a directory of another kind would be searched for a base
    if path:
        return load_base(path, "base", told.base.dtype, told.base.base_precision), locate_base(path)
    return load_base(str(run.path / BASE), "base"), run.path / BASE


def ask_untouched(run: str, path: str, base: Base, rows: int) -> AskedBase:
    """Asks the model that the base of a run was before its retrofit; without a run ``base``.

    ``path`` is as for `load_run_base`; ``rows`` are asked at once. Raises as `load_base` does.
    """
    if not run:
        return AskedBase(base, None, None, rows)
    directory = RunDirectory(run)
    told, (base, _) = directory.config(), load_run_base(directory, path)
    cache = as_path(told.base.base_cache)
    if told.retrofit.is_wanted:
        named = told.base.base
        if base.recipe is not None and named == "world":
            named = str(cached_path(base.recipe, str(cache)))
        base = load_base(named, "base", told.base.dtype, told.base.base_precision)
    return AskedBase(base, directory.path, cache, rows)


def taught_in_run(run: str, path: str, base: Base, rows: int) -> frozenset[str]:
    """The keys of the questions that a run teaches, which its `known` probes leave out."""
    told = RunDirectory(run).config()
    asking = ask_untouched(run, path, base, rows) if is_chosen_by_base(told) else None
    return taught_questions(told, base, asking)
