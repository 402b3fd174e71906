"""The page of a taught model: its facts, asked before and after, and what its patches wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from experiments.report.page import PAGE, can_draw, taught_page
from smf_jax.taught.directory import TaughtDirectory
from smf_jax.taught.report import report


def write_taught_page(path: str) -> Path:
    """Writes `report.html` into the directory of a taught model; returns the file.

    A ValueError where plotly is not installed, or a patch is damaged.
    """
    if not can_draw():
        raise ValueError("the page needs plotly, which is not installed: pip install 'plotly>=6'")
    directory = TaughtDirectory(path)
    record = directory.read()
    patches = directory.load_patches(record)
    paths = sorted({each for patch in patches for each in patch.pools})
    slots = {}
    for patch in patches:
        pools = [
            (place, patch.pools[each]) for place, each in enumerate(paths) if each in patch.pools
        ]
        found = [pool.slots + place * pool.table_slots for place, pool in pools]
        slots[patch.task] = np.concatenate([np.zeros(0, np.int32), *found])
    directory.write_file(PAGE, taught_page(directory.path.absolute().name, report(record), slots))
    return directory.path / PAGE
