"""Golden vectors as tests read them; `smf_jax.interop.golden` checks whole files.

Those of this repository are made by tests/make_golden_memories.py. Those of public implementations
lie beside the checkout where somebody put them there.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from smf_jax.interop.golden import load_golden

load = load_golden

OWN = Path(__file__).parent / "golden_memories"
PUBLIC = Path(__file__).resolve().parents[2] / "shared" / "golden"


def public(name: str):
    """A file of a public implementation as a parameter of a test, which skips where it is not."""
    absent = pytest.mark.skipif(
        not PUBLIC.is_dir(), reason=f"no golden vectors of public implementations in {PUBLIC}"
    )
    return pytest.param(PUBLIC / f"{name}.npz", id=name, marks=absent)


# TF-IDF selection, masked gradient, one step of SGD at a rate of 2.
SELECTIONS = [pytest.param(OWN / "tfidf_step.npz", id="own"), public("smf_tfidf_dtunai")]
