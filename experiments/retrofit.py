"""Puts a memory into a pretrained decoder, on text if given, and writes a base for a sweep."""

from __future__ import annotations

from experiments.cli import run
from smf_jax.bases.base import check_output, load_base, save_base
from smf_jax.bases.retrofit_config import RetrofitCommandConfig
from smf_jax.bases.retrofitting import check_retrofit, retrofit_base
from smf_jax.bases.text_windows import text_windows
from smf_jax.continual.inputs import digest_inputs
from smf_jax.data.readers import Reader
from smf_jax.progress import say


def main(config: RetrofitCommandConfig) -> int:
    """Makes the retrofitted base at ``--out``."""
    out = check_output(config.run.out, "out", config.run.overwrite)
    if config.retrofit.retrofit == "none":
        raise ValueError("--retrofit=none is unknown; choose add or replace")
    texts = config.text.heal_texts
    reader = Reader(**config.data.values())
    inputs = digest_inputs(reader, base=config.source.base, heal_texts=texts)
    source = config.source
    base = load_base(source.base, "base", source.dtype, source.base_precision)
    check_retrofit(config.retrofit, base, bool(texts), "--heal_texts")
    windows = None
    if texts:
        windows = text_windows(reader.texts(texts, "heal_texts"), base, config.text, "heal")
    base = retrofit_base(config.retrofit, base, windows, config.text.seed)
    base_fingerprint = save_base(out, base, config.run.overwrite, inputs)
    say(f"{out}: base {base_fingerprint[:12]}, {base.size()}")
    return 0


if __name__ == "__main__":
    run(
        main,
        RetrofitCommandConfig,
        "put a memory into a pretrained decoder",
        "python -m experiments.retrofit --base=DIR --retrofit=add --layers=6,12,18 "
        "--heal_texts=text.jsonl --out=bases/mine",
    )
