"""Tells how far golden vectors, see `smf_jax.interop.golden`, are from what is computed here."""

from __future__ import annotations

from dataclasses import dataclass

from experiments.cli import run
from smf_jax.configuration import Configuration
from smf_jax.data.readers import existing
from smf_jax.errors import blame_flag
from smf_jax.interop.golden import TOLERANCE, check_golden
from smf_jax.progress import say


@dataclass(frozen=True)
class CheckGoldenConfig(Configuration):
    """What ``experiments.check_golden`` is told."""

    files: tuple[str, ...] = ()


def main(config: CheckGoldenConfig) -> int:
    """Compares every array of the files; returns 1 if one differs."""
    if not config.files:
        raise ValueError("name the files to check: python -m experiments.check_golden FILE.npz …")
    failed = False
    for name in config.files:
        path = existing(name, "files")
        with blame_flag(f"{name}: "):
            found = check_golden(path)
        say(f"{path.name}: {len(found)} arrays, tolerance {TOLERANCE:g} of the largest number")
        for each in found:
            mark = "" if each.agrees else "   DIFFERS"
            say(f"  {each.name:32} {each.difference:.2e}{mark}")
        failed |= not all(each.agrees for each in found)
    return int(failed)


if __name__ == "__main__":
    run(
        main,
        CheckGoldenConfig,
        "compare golden vectors with what is computed here",
        "python -m experiments.check_golden ../shared/golden/*.npz",
        positional="files",
    )
