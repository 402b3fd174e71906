"""What a model knew before anything was changed: is it still answered?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from smf_jax.data.facts import Question
from smf_jax.data.shares import is_in, question_key, share_of
from smf_jax.evaluation.probe import Metric, ProbeContext, ProbeKind
from smf_jax.evaluation.probes.open import END, OpenProbe, open_probe
from smf_jax.evaluation.scorer import Scorer
from smf_jax.params import Params
from smf_jax.progress import say


class KnownProbe(OpenProbe):
    """Open questions that the untouched model answers right; of it ``kept`` is 1."""

    metrics: ClassVar[tuple[Metric, ...]] = (Metric("kept", headline=True), Metric("f1"))

    def measure(self, scorer: Scorer, params: Params) -> dict[str, float]:
        """The share that is ``kept``, exact match, and mean ``f1``; 0 to 1."""
        found = super().measure(scorer, params)
        return {"kept": found["exact"], "f1": found["f1"]}


def examples_of(questions: Sequence[Question], shots: int, source: str) -> list[Question]:
    """The first so many questions of a source that are set aside: never taught, never asked.

    A ValueError if there are too few.
    """
    aside = [question for question in questions if share_of(question.text) == "aside"]
    if len(aside) < shots:
        raise ValueError(
            f"--probe_shots={shots}: of {len(questions)} questions of {source} {len(aside)} are "
            "set aside to be shown; give more questions or fewer shots"
        )
    return aside[:shots]


def _read(source: str, using: ProbeContext) -> KnownProbe:
    options, questions = using.options, using.reader.open_questions(source, "probes")
    distinct: dict[str, Question] = {}
    for each in questions:
        distinct.setdefault(question_key(each.text), each)
    candidates = [
        each
        for key, each in distinct.items()
        if is_in(options.split, each.text) and key not in using.taught
    ]
    if not candidates:
        raise ValueError(
            f"none of {len(questions)} questions is of --split={options.split} and not taught; "
            "give more questions, or --split=all"
        )
    shown = examples_of(questions, options.shots, source)
    told = (options.shots, options.answer_tokens, options.chat)
    probe = open_probe(using.tokenizer, [*shown, *candidates], using.positions, *told)
    probe = KnownProbe(probe.tokenizer, probe.prompts, probe.answers, probe.steps)
    if using.asking is None:
        return probe
    asked = list(zip(probe.prompts, probe.answers, strict=True))
    how = (probe.steps, [END], options.rows)
    places = using.asking.first(asked, True, options.limit, *how)
    if not places:
        raise ValueError(
            f"the base answers none of {len(asked)} questions; give easier ones, or examples "
            "before each by --probe_shots"
        )
    say(f"{source}: {len(places)} questions that the base knows, of the first {places[-1] + 1}")
    prompts, answers = (
        [each[place] for place in places] for each in (probe.prompts, probe.answers)
    )
    return replace(probe, prompts=tuple(prompts), answers=tuple(answers))


KNOWN = ProbeKind("known", KnownProbe, _read)
