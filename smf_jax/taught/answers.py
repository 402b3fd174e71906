"""What a model says to questions, and whether that is right."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from smf_jax.data.batching import needed_length
from smf_jax.data.facts import Fact, Paraphrase
from smf_jax.data.tokenizer import Ids, Tokenizer
from smf_jax.evaluation.asking import MULTIPLE
from smf_jax.evaluation.normalisation import exact_score
from smf_jax.evaluation.probes.known import KnownProbe
from smf_jax.evaluation.probes.open import END
from smf_jax.evaluation.scorer import Scorer, answer_texts
from smf_jax.params import Params
from smf_jax.taught.record import Said, TaughtFact

# Questions that are asked at once: as many are asked of a task as of a whole file.
ROWS = 16


class Answers:
    """Greedy answers of one architecture, in few compiled shapes."""

    def __init__(self, scorer: Scorer, tokenizer: Tokenizer) -> None:
        """Asks nothing yet; as many questions as the scorer has rows are asked at once."""
        self.scorer, self.tokenizer = scorer, tokenizer

    def to(self, params: Params, prompts: Sequence[Ids], steps: int) -> list[str]:
        """The first line of what a model says to each prompt, of ``steps`` tokens at most."""
        if not prompts:
            return []
        # Filled up to whole batches, as few questions are to need no program of their own.
        asked = [*prompts, *[prompts[0]] * (-len(prompts) % self.scorer.rows)]
        texts = answer_texts(self.scorer, params, self.tokenizer, asked, steps, [END], MULTIPLE)
        return [text.strip() for text in texts[: len(prompts)]]

    def about(self, params: Params, facts: Sequence[Fact], steps: int) -> list[tuple[Said, ...]]:
        """What a model says of each fact, asked in the wordings that it is not trained in."""
        asked = [([wording.prompt for wording in fact.held_out], fact.answers) for fact in facts]
        return self._said(params, asked, steps)

    def again(self, params: Params, facts: Sequence[TaughtFact]) -> list[tuple[Said, ...]]:
        """What a model says of each fact, asked as it was before."""
        asked = [([said.asked for said in fact.before], fact.answers) for fact in facts]
        steps = answer_steps(self.tokenizer, [fact.answers for fact in facts])
        return self._said(params, asked, steps)

    def _said(
        self, params: Params, asked: Sequence[tuple[list[str], tuple[str, ...]]], steps: int
    ) -> list[tuple[Said, ...]]:
        prompts = [self.tokenizer.encode_prompt(text) for texts, _ in asked for text in texts]
        said = iter(self.to(params, prompts, steps))
        return [
            tuple(Said(text, heard := next(said), is_right(heard, answers)) for text in texts)
            for texts, answers in asked
        ]

    def kept(self, params: Params, probe: KnownProbe) -> list[bool]:
        """Which known questions a model answers."""
        texts = self.to(params, probe.prompts, probe.steps)
        return [is_right(text, answers) for text, answers in zip(texts, probe.answers, strict=True)]


def is_right(said: str, answers: Sequence[str]) -> bool:
    """Whether what was said is an accepted answer, after SQuAD's normalisation."""
    return bool(exact_score(said, answers))


def answer_steps(tokenizer: Tokenizer, answers: Iterable[Sequence[str]], multiple: int = 8) -> int:
    """Tokens that the longest accepted answer needs with what ends it, in whole multiples."""
    told = [Paraphrase("", f" {answer}") for of_fact in answers for answer in of_fact]
    return needed_length(tokenizer, told, multiple) + multiple
