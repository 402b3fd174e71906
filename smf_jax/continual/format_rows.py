"""Rows of the background in the formats of the stream: its wordings, filled with other questions.

Against an encyclopedia alone the slots of a format look rare, rank first and are rewritten,
although every question reads them.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from smf_jax.bases.base import Base
from smf_jax.checkpoints.manifest import fingerprint
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.stream_tasks import OWN_STREAM, question_of, questions_of
from smf_jax.data.batching import Batch, encode_paraphrases, pad_pairs, split_paraphrases
from smf_jax.data.facts import Fact, Question, Task
from smf_jax.data.shares import question_key, share_of
from smf_jax.evaluation.probe import ProbeContext
from smf_jax.evaluation.probes.change import KL_PROMPTS, SAME
from smf_jax.evaluation.probes.exact import EXACT
from smf_jax.evaluation.probes.known import KNOWN
from smf_jax.evaluation.probes.open import F1, prompts_of
from smf_jax.evaluation.probes.registry import parse_probes
from smf_jax.evaluation.probes.text import GSM8K, PROBABILITY
from smf_jax.paths import as_path
from smf_jax.progress import say

# Questions below which `auto` does without, as they would be a format of their own.
LEAST = 32
# Of the rows with questions, one in so many is a prompt as the probes ask, with its examples.
_ONE_IN = 4
# Kinds of probes that ask behind examples or by a chat template, and others that hold questions.
_ASKING = (F1.name, KNOWN.name, SAME.name)
_HOLDING = (EXACT.name, GSM8K.name, PROBABILITY.name, KL_PROMPTS.name)


@dataclass(frozen=True)
class FormatRows:
    """Other questions in the formats of the stream and of the probes, encoded."""

    worded: Batch  # ``(rows, t)``, in the wordings of the stream
    prompts: Batch | None  # ``(rows, t')``, as probes with examples or a chat template ask
    share: float  # of the rows of a batch of background
    about: str  # what they are, with a digest, as the name of a corpus tells it

    def counts(self, rows: int) -> tuple[int, int, int]:
        """How many of the ``rows`` of a batch are text, worded and prompts."""
        return _counts(rows, self.share, self.prompts is not None)


def read_others(config: SweepConfig, base: Base, using: ProbeContext) -> tuple[Fact, ...]:
    """The questions that may fill the wordings: none where the background is to be text alone.

    They are those of ``--background_questions``, or of the stream's file those that are set aside;
    whether there are enough depends on the files alone, so that the stream does not depend on the
    method that learns it. A ValueError names the flag that does not fit.
    """
    told, stream = config.background, config.stream.stream
    mode, named = told.background_formats, told.background_questions
    is_file = stream not in OWN_STREAM
    if mode == "stream" and not is_file:
        raise ValueError(
            "--background_formats=stream: the built-in world's background is of its formats "
            "already; leave it out, or give --stream=FILE"
        )
    if mode == "none" or not is_file or (mode == "auto" and base.recipe is not None):
        if named:
            raise ValueError(
                f"--background_questions={named} is for --background_formats=stream, and for auto "
                "where a stream of questions is taught to a base that is not built in"
            )
        return ()
    if named:
        others = using.reader.questions(named, "background_questions")
    else:
        facts = using.reader.questions(stream, "stream")
        others = tuple(fact for fact in facts if share_of(question_of(fact).text) == "aside")
    if len(others) >= LEAST:
        return others
    told = (
        f"{named or stream} gives {len(others)} other questions for the background, of which "
        f"{LEAST} are needed: give more by --background_questions=FILE"
    )
    if mode == "stream" or named:
        raise ValueError(f"--background_formats={mode}: {told}")
    if config.background.background and using.asking is None:  # the first of two readings
        say(f"the background is text alone, without the stream's formats: {told}")
    return ()


def encode_others(
    config: SweepConfig,
    using: ProbeContext,
    others: Sequence[Fact],
    tasks: Sequence[Task],
    length: int,
) -> FormatRows:
    """Encodes other questions in rows of ``length`` places, and prompts in as many as they need.

    A question that the stream or a probe asks is left out, and one that has an answer in common
    with a fact of the stream. A ValueError if none is left that fits.
    """
    told = config.background
    left = list(_other_than(others, tasks, _asked_by_probes(config, using)))
    source = told.background_questions or config.stream.stream
    if len(left) < LEAST:
        few = (
            f"of {len(others)} other questions of {source} {len(left)} ask something else than the "
            f"stream and the probes, with other answers, of {LEAST} that the background needs: "
            "give more by --background_questions=FILE"
        )
        if told.background_formats == "stream" or told.background_questions:
            raise ValueError(f"--background_formats={told.background_formats}: {few}")
        say(f"the background repeats few questions, which rank as its own: {few}")
    needed = told.background_batches * told.background_batch_size
    pairs = [pair for fact in left for pair in (*fact.train, *fact.held_out)]
    random.Random("wordings").shuffle(pairs)
    pairs = pairs[: 2 * needed]
    ids = split_paraphrases(using.tokenizer, pairs)
    fitting = [
        pair
        for pair, (prompt, answer) in zip(pairs, ids, strict=True)
        if len(prompt + answer) - 1 <= length
    ][:needed]
    if not fitting:
        raise ValueError(
            f"--background_formats={told.background_formats}: of {len(others)} other questions of "
            f"{source} {len(left)} ask something else than the stream and the probes, with other "
            f"answers, and none fits into {length} tokens: give --background_questions=FILE, or "
            "--background_formats=none"
        )
    worded = encode_paraphrases(using.tokenizer, fitting, length)
    prompts = _prompts(config, using, [question_of(fact) for fact in left])
    about = f"{len(left)} other questions of {as_path(source).name} in the stream's wordings"
    if prompts is not None:
        about += f", some as the probes ask with {using.options.shots} examples"
    arrays = {"worded": worded.tokens} | ({} if prompts is None else {"prompts": prompts.tokens})
    about += f" [{fingerprint(arrays)[:8]}]"
    return FormatRows(worded, prompts, told.background_format_share, about)


def _counts(rows: int, share: float, with_prompts: bool) -> tuple[int, int, int]:
    """Rows of text, of worded questions and of prompts in a batch: of the first two one or more."""
    asked = min(rows - 1, max(1, round(rows * share)))
    prompts = max(1, asked // _ONE_IN) if with_prompts and asked > 1 else 0
    return rows - asked, asked - prompts, prompts


def _other_than(
    others: Iterable[Fact], tasks: Sequence[Task], asked: frozenset[str]
) -> Iterable[Fact]:
    """Those that neither the stream nor a probe asks, and that no fact of the stream answers."""
    taught = [fact for task in tasks for fact in task.facts]
    questions = asked | set(map(question_key, questions_of(tasks)))
    accepted = [fact.answers for fact in taught]
    accepted += [each.question.answers for fact in taught for each in fact.asked]
    answers = {question_key(answer) for each in accepted for answer in each}
    for fact in others:
        in_common = answers & {question_key(answer) for answer in fact.answers}
        if not in_common and question_key(question_of(fact).text) not in questions:
            yield fact


def _asked_by_probes(config: SweepConfig, using: ProbeContext) -> frozenset[str]:
    """Keys of all questions that the probes may ask or show."""
    options, found = using.options, set()
    for item in parse_probes(config.probes.probes, using.reader.fields):
        if item.kind not in (*_ASKING, *_HOLDING):
            continue
        questions = using.reader.open_questions(item.source, "probes")
        if item.kind == KNOWN.name:
            questions = [each for each in questions if share_of(each.text) != "aside"]
        elif options.limit is not None:
            questions = questions[: options.limit + options.shots]
        found |= {question_key(question.text) for question in questions}
    return frozenset(found)


def _prompts(
    config: SweepConfig, using: ProbeContext, questions: Sequence[Question]
) -> Batch | None:
    """Questions as the probes ask them, ``(rows, t')``; ``None`` where that is a plain wording."""
    options, tokenizer = using.options, using.tokenizer
    kinds = {item.kind for item in parse_probes(config.probes.probes, using.reader.fields)}
    if not kinds.intersection(_ASKING) or not (options.shots or options.chat):
        return None
    told, rng, pairs = config.background, random.Random("examples"), []
    *_, rows = _counts(told.background_batch_size, told.background_format_share, True)
    for _ in range(told.background_batches * rows):
        asked, *shown = rng.sample(questions, min(len(questions), 1 + options.shots))
        (prompt,) = prompts_of(tokenizer, shown, [asked], options.chat)
        pair = prompt, [*tokenizer.encode(f" {asked.answers[0]}"), tokenizer.eos]
        if len(prompt + pair[1]) - 1 <= using.positions:
            pairs.append(pair)
    longest = max((len(prompt + answer) - 1 for prompt, answer in pairs), default=0)
    return pad_pairs(pairs, -(-longest // 8) * 8, tokenizer.pad) if pairs else None
