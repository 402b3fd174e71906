"""Makes a base for a sweep: a small decoder with memories, taught facts of the built-in world."""

from __future__ import annotations

from experiments.cli import run
from smf_jax.bases.base import check_output, save_base
from smf_jax.bases.pretrain_config import PretrainConfig
from smf_jax.bases.pretraining import pretrain
from smf_jax.continual.inputs import digest_inputs
from smf_jax.data.readers import Reader
from smf_jax.progress import say


def main(config: PretrainConfig) -> int:
    """Makes the base at ``--out``."""
    out = check_output(config.run.out, "out", config.run.overwrite)
    inputs = digest_inputs(Reader(**config.data.values()), texts=config.world.texts)
    base = pretrain(config)
    base_fingerprint = save_base(out, base, config.run.overwrite, inputs)
    say(f"{out}: base {base_fingerprint[:12]}, {base.size()}")
    return 0


if __name__ == "__main__":
    run(
        main,
        PretrainConfig,
        "train a base on the built-in world",
        "python -m experiments.pretrain --out=bases/mine --steps=1000",
    )
