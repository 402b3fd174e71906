"""Puts a memory into a pretrained decoder, heals it on text, and writes the base that comes out.

``python -m experiments.retrofit --base=DIR --retrofit=add --heal_texts=FILE --out=bases/mine``
writes what ``sweep --base=bases/mine`` takes.
"""

from __future__ import annotations

from experiments.cli import run
from smf_jax.continual.base import check_output, load_base, save_base
from smf_jax.continual.config import RetrofitFlags
from smf_jax.continual.retrofitting import check_retrofit, heal_windows, retrofit_base
from smf_jax.errors import require_least
from smf_jax.params import count_parameters
from smf_jax.progress import say


def main(flags: RetrofitFlags) -> int:
    """Makes the retrofitted base at ``--out``."""
    out = check_output(flags.out, "out", flags.overwrite)
    if flags.retrofit not in ("add", "replace"):
        raise ValueError(f"--retrofit={flags.retrofit} is unknown; choose add or replace")
    require_least(flags, 1, "heal_length", "heal_tokens")
    base = load_base(flags.base, "base", flags.dtype)
    check_retrofit(flags, base, bool(flags.heal_texts))
    windows = heal_windows(flags, base) if flags.heal_steps else None
    base = retrofit_base(flags, base, windows, flags.seed)
    base_fingerprint = save_base(out, base, flags.overwrite)
    say(f"{out}: base {base_fingerprint[:12]}, {count_parameters(base.params):,} parameters")
    return 0


if __name__ == "__main__":
    run(
        main,
        RetrofitFlags,
        "experiments.retrofit",
        "put a memory into a pretrained decoder and heal it",
        "python -m experiments.retrofit --base=DIR --retrofit=add --layers=6,12,18 "
        "--heal_texts=text.jsonl --out=bases/mine",
    )
