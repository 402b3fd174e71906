"""Golden vectors as tests read them; `smf_jax.golden` checks whole files."""

from __future__ import annotations

from smf_jax.golden import load_golden

load = load_golden
