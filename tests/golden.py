"""Golden vectors as tests read them; `smf_jax.interop.golden` checks whole files."""

from __future__ import annotations

from smf_jax.interop.golden import load_golden

load = load_golden
