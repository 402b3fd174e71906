"""Windows of the text that a command needs beside its base: to heal on, to round on."""

from __future__ import annotations

from collections.abc import Iterable

from smf_jax.bases.base import Base
from smf_jax.configuration import Configuration
from smf_jax.data.batching import Batch, pack_texts
from smf_jax.errors import blame_flag


def text_windows(texts: Iterable[str], base: Base, config: Configuration, name: str) -> Batch:
    """Windows ``(windows, t)`` of the texts of ``--NAME_texts``, joined end to end.

    ``config`` has ``NAME_length``, tokens of a window, and ``NAME_tokens``, how many are read. A
    ValueError names the flag amiss.
    """
    source, length, tokens = (
        getattr(config, f"{name}_{what}") for what in ("texts", "length", "tokens")
    )
    positions = base.config.max_positions
    if length > positions:
        raise ValueError(
            f"--{name}_length={length} is more than the {positions} positions of the base; lower it"
        )
    if tokens < length:
        raise ValueError(
            f"--{name}_tokens={tokens} does not fill one window of --{name}_length={length}; "
            "raise it"
        )
    with blame_flag(f"--{name}_texts={source}: "):
        return pack_texts(base.tokenizer, texts, length, tokens)
