"""The tasks of a stream: the built-in world's, or questions of a file, dealt."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from smf_jax.bases.base import Base
from smf_jax.bases.pretraining import recipe_of
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.kinds import kinds_of
from smf_jax.data.facts import Fact, Question, Task, stream_of
from smf_jax.data.questions import bare_question
from smf_jax.data.shares import is_in
from smf_jax.data.world.world import World, make_world
from smf_jax.errors import blame_flag
from smf_jax.evaluation.probe import ProbeContext
from smf_jax.evaluation.probes.known import examples_of
from smf_jax.evaluation.probes.open import END, open_probe
from smf_jax.progress import say

# Values of --stream that name the world of a built-in base.
OWN_STREAM = ("", "world")


def world_of(config: SweepConfig, base: Base) -> World | None:
    """The world of a built-in base, ``None`` of others; a ValueError names the flag amiss."""
    made_by, told = recipe_of(base), config.stream
    if made_by is None:
        return None
    # Another stream than the world's own changes none of the known facts.
    tasks = told.tasks if told.stream in OWN_STREAM else 0
    with blame_flag("--tasks: "):
        return make_world(made_by.world_config(tasks, told.facts_per_task, told.changed_share))


def read_tasks(
    config: SweepConfig, world: World | None, using: ProbeContext, sets_aside: bool = False
) -> tuple[Task, ...]:
    """The stream that the configuration names.

    Of a file those of ``--split`` are taken, with ``sets_aside`` never those that are set aside;
    with ``--unknown_only`` those that the base does not answer, once it may be asked. A ValueError
    or a FileNotFoundError names the flag, and file and line.
    """
    told, split = config.stream, config.probes.split
    relations = tuple(filter(None, told.relation.split(","))) or None
    if told.stream in OWN_STREAM:
        return _own_tasks(config, world)
    facts = using.reader.questions(told.stream, "stream", relations, kinds=True)
    if sets_aside or told.unknown_only or split != "all":
        chosen = tuple(fact for fact in facts if is_in(split, question_of(fact).text))
    else:
        chosen = facts
    with blame_flag(f"--stream={told.stream}: "):
        kinds_of(chosen)  # or a lack would show when the base has told which of them it knows
    pick = None
    if told.unknown_only:
        shown = examples_of([*map(question_of, facts)], using.options.shots, told.stream)
        pick = partial(_unknown, using=using, shown=shown)
    left_out = f"split={split} leaves {len(chosen)} of {len(facts)} questions: "
    with blame_flag("--" if chosen is facts else f"--{left_out}"):
        return stream_of(chosen, told.tasks, told.facts_per_task, told.stream_seed, pick)


def questions_of(tasks: Sequence[Task]) -> list[str]:
    """The questions of a stream, none of a world's; those of other kinds without their format."""
    facts = [fact for task in tasks for fact in task.facts]
    found = [fact.question.text for fact in facts if fact.question is not None]
    return found + [bare_question(each.question.text) for fact in facts for each in fact.asked]


def question_of(fact: Fact) -> Question:
    """The question that a fact of a file was read from."""
    assert fact.question is not None
    return fact.question


def _own_tasks(config: SweepConfig, world: World | None) -> tuple[Task, ...]:
    told = config.stream
    if world is None:
        raise ValueError(
            f"--stream={told.stream or 'world'}: the built-in world belongs to built-in bases, and "
            f"--base={config.base.base} is none; give a file of questions or tfds:NAME:SPLIT"
        )
    for flag, of_file in (
        (f"--relation={told.relation}", bool(told.relation)),
        ("--unknown_only", told.unknown_only),
        (f"--split={config.probes.split}", config.probes.split != "all"),
    ):
        if of_file:
            raise ValueError(f"{flag} picks questions of a file; give --stream=FILE with it")
    return world.tasks


def _unknown(
    facts: Sequence[Fact], needed: int, *, using: ProbeContext, shown: list[Question]
) -> Sequence[Fact]:
    """The first of the facts that the base does not know; of all while it may not be asked."""
    options = using.options
    asked = [*shown, *map(question_of, facts)]
    told = (options.shots, options.answer_tokens, options.chat)
    probe = open_probe(using.tokenizer, asked, using.positions, *told)
    if using.asking is None:
        return facts
    pairs = list(zip(probe.prompts, probe.answers, strict=True))
    how = (probe.steps, [END], options.rows)
    places = using.asking.first(pairs, False, needed, *how)
    if len(places) < needed:
        raise ValueError(
            f"unknown_only: the base cannot answer {len(places)} of {len(facts)} questions, but "
            f"--tasks of --facts_per_task need {needed}: lower one of the two or give more"
        )
    say(f"stream: {needed} questions that the base does not know, of the first {places[-1] + 1}")
    return [facts[place] for place in places]
