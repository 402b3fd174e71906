"""A stream of facts, task after task: ``python -m examples.teach_facts BASE``.

BASE is what ``python -m experiments.pretrain --out=BASE`` has made. Every task leaves a
patch on top of those before it; known facts are asked before and after.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import smf_jax as smf
from smf_jax.bases.pretraining import recipe_of
from smf_jax.data.facts import train_paraphrases
from smf_jax.data.world.world import make_world


def accuracy(base: smf.Base, params: smf.Params, facts: Sequence[smf.Fact]) -> float:
    """Share of facts whose first held-out paraphrase is continued with the answer."""
    asked = [fact.held_out[0] for fact in facts]
    prompts = [paraphrase.prompt for paraphrase in asked]
    answers = smf.complete_texts(base.model, params, base.tokenizer, prompts, max_tokens=8)
    right = [said == each.answer for said, each in zip(answers, asked, strict=True)]
    return sum(right) / len(right)


def main(path: str, tasks: int = 3, facts: int = 4, steps: int = 20) -> list[smf.Patch]:
    """Teaches a few tasks of the built-in world to a base of it; returns the patches."""
    base = smf.load_base(path, "base")
    recipe = recipe_of(base)
    if recipe is None:
        raise ValueError(f"{path} is no built-in base; make one with experiments.pretrain")
    world = make_world(recipe.world_config(tasks, facts))
    known = world.kept[:20]
    everything = [*train_paraphrases(world.known), *(p for f in known for p in f.held_out)]
    length = smf.needed_length(base.tokenizer, everything) + 8
    text = smf.encode_paraphrases(base.tokenizer, train_paraphrases(world.known), length)
    background = smf.measure_background(base.model, base.params, smf.chunked(text, 16))
    params, patches = base.params, []
    print(f"known before: {accuracy(base, params, known):.0%}")
    for task in world.tasks:
        batch = smf.encode_paraphrases(base.tokenizer, train_paraphrases(task.facts), length)
        patch = smf.teach(
            base.model,
            params,
            batch,
            background,
            steps=steps,
            budget=64,
            task=task.name,
            parent=patches[-1] if patches else None,
        )
        params = smf.apply_patch(params, patch)
        patches.append(patch)
        learned, kept = (accuracy(base, params, asked) for asked in (task.facts, known))
        print(f"{task.name}: {patch.rows} rows, learned {learned:.0%}, known {kept:.0%}")
    for patch in reversed(patches):
        params = smf.revert_patch(params, patch)
    same = all((params[name] == leaf).all() for name, leaf in base.params.items())
    print(f"all taken back, every bit as before: {same}")
    return patches


if __name__ == "__main__":
    main(sys.argv[1])
