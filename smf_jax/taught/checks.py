"""What is measured of a taught model beside its facts: known answers, and the loss of a text."""

from __future__ import annotations

from dataclasses import replace

from smf_jax.bases.base import Base
from smf_jax.data.shares import question_key
from smf_jax.evaluation.probes.known import KnownProbe
from smf_jax.evaluation.probes.text import LossProbe
from smf_jax.params import Params
from smf_jax.taught.answers import Answers
from smf_jax.taught.directory import TaughtDirectory
from smf_jax.taught.record import Checks, Record


class Checked:
    """The checks of one model, read once."""

    def __init__(self, directory: TaughtDirectory, base: Base, record: Record) -> None:
        """Leaves out what the model was taught: an answer that was changed is no loss."""
        known, text = directory.load_known(base), directory.load_text()
        self._known = None if known is None else _untaught(known, base, record)
        self._text = None if text is None else LossProbe(text, "windows")

    def of(self, answers: Answers, params: Params) -> Checks:
        """Measures a model."""
        kept = None if self._known is None else answers.kept(params, self._known)
        loss = None if self._text is None else self._text.measure(answers.scorer, params)["loss"]
        if kept is None:
            return Checks(text_loss=loss)
        return Checks(sum(kept), len(kept), loss)


def _untaught(probe: KnownProbe, base: Base, record: Record) -> KnownProbe | None:
    taught = {question_key(fact.question) for lesson in record.lessons for fact in lesson.facts}
    places = [
        place
        for place, prompt in enumerate(probe.prompts)
        if question_key(question_in(base, list(prompt))) not in taught
    ]
    if not places:
        return None
    return replace(
        probe,
        prompts=tuple(probe.prompts[place] for place in places),
        answers=tuple(probe.answers[place] for place in places),
    )


def question_in(base: Base, prompt: list[int]) -> str:
    """The question that a prompt of kind `known` asks, behind its examples."""
    text = base.tokenizer.decode(prompt)
    return text.rpartition("Question: ")[2].removesuffix("\nAnswer:")
