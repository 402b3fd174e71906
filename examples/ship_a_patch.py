"""A patch goes to somebody else: ``python -m examples.ship_a_patch BASE OUT``.

Here a fact is taught and what changed is written as one small file. There, with the same base, the
file is read and applied; a base that differs in one of the rows refuses it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import smf_jax as smf
from smf_jax.tables import put

FACT = smf.Paraphrase("The night train to Alder Mill leaves from", " Lisbon")
# No background is at hand, so slots are ranked by counts alone.
HOW = {"config": smf.SparseConfig(rule="tf"), "steps": 20, "learning_rate": 60.0, "budget": 64}


def here(base: smf.Base, file: Path) -> smf.Patch:
    """Teaches the fact and writes the patch."""
    batch = smf.encode_paraphrases(base.tokenizer, [FACT] * 4, length=32)
    patch = smf.teach(base.model, base.params, batch, None, task="night train", **HOW)
    smf.save_patch(file, patch)
    return patch


def there(base: smf.Base, file: Path) -> smf.Params:
    """Reads the patch and applies it."""
    return smf.apply_patch(base.params, smf.load_patch(file))


def main(path: str, out: str) -> None:
    """Ships the patch, and shows that another base refuses it."""
    base, file = smf.load_base(path, "base"), Path(out) / "night_train.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    patch = here(base, file)
    print(f"{file}: {patch.rows} rows, {file.stat().st_size:,} bytes")
    taught = there(base, file)
    said = smf.complete_texts(base.model, taught, base.tokenizer, [FACT.prompt], max_tokens=4)
    print(f"{FACT.prompt}{said[0]}")
    pool, change = next(iter(patch.pools.items()))
    slot, row = change.slots[:1], change.old[:1] + 1
    other = {**base.params, pool: put(base.params[pool], slot, row)}
    try:
        smf.apply_patch(other, patch)
    except ValueError as refusal:
        print(f"another base: {refusal}")


if __name__ == "__main__":
    main(*sys.argv[1:])
