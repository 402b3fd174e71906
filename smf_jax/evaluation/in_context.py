"""A ceiling that is no method: the facts of a task stand in the prompt, and nothing is trained."""

from __future__ import annotations

from collections.abc import Sequence

from smf_jax.data.facts import Fact, first_paraphrases
from smf_jax.data.tokenizer import Tokenizer
from smf_jax.evaluation.probes.open import END, OpenProbe


def in_context_probe(
    tokenizer: Tokenizer, facts: Sequence[Fact], asked: int, positions: int, steps: int
) -> OpenProbe | None:
    """Facts in a paraphrase that they are trained in, then one of them asked in an unseen one.

    Each is asked in its first ``asked`` unseen paraphrases, behind all of them in their order, with
    a blank line between (2607.11020's in-context line). ``None`` where a prompt and an answer of
    ``steps`` tokens need more than ``positions``: so many facts fit into no prompt.
    """
    told = "".join(f"{fact.train[0].prompt}{fact.train[0].answer}{END}{END}" for fact in facts)
    pairs = [
        (tokenizer.encode_prompt(told + paraphrase.prompt), fact.answers)
        for fact in first_paraphrases(facts, "held_out", asked)
        for paraphrase in fact.held_out
    ]
    if max(len(ids) for ids, _ in pairs) + steps > positions:
        return None
    prompts, answers = zip(*pairs, strict=True)
    return OpenProbe(tokenizer, prompts, answers, steps)
