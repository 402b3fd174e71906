"""Asks the models of a trial each fact of its stream, and keeps what they say beside the trial.

A sweep measures whether an answer is the taught one, word for word, and never writes one out. What
is asked here are the models that a run has kept, so that a resume or another order of the trials
changes nothing; `experiments.report` shows the answers in the page of the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.cli import run
from smf_jax.configuration import Configuration, PathText, setting
from smf_jax.continual.run_base import ask_untouched, load_run_base
from smf_jax.continual.run_directory import RunDirectory
from smf_jax.continual.stream_data import ASKED, is_chosen_by_base, load_stream_data
from smf_jax.continual.trial import Trial
from smf_jax.data.facts import Fact, Task, first_paraphrases
from smf_jax.evaluation.scorer import Scorer
from smf_jax.params import Params
from smf_jax.progress import progress_bar, say
from smf_jax.taught.answers import Answers, answer_steps
from smf_jax.taught.record import Said


@dataclass(frozen=True)
class AnswersConfig(Configuration):
    """What ``experiments.answers`` is told."""

    run: PathText = setting("", "directory of a run", first=True)
    trial: str = setting("", "id of a trial; may be empty where the run has only one", first=True)
    base: PathText = setting("", "the base, where it is not in the run", first=True)


def answer_rows(
    answers: Answers, tasks: Sequence[Task], base: Params, models: Mapping[int, Params]
) -> list[dict[str, Any]]:
    """A row for each fact and wording: what the base says, and the model after tasks.

    ``models`` are those after each task, by its number from 0; the last of them was taught as many
    as are asked. Wordings are some that facts are not trained in, as the sweep asks them.
    """
    last = max(models)
    facts = [first_paraphrases(task.facts, "held_out", ASKED) for task in tasks[: last + 1]]
    every = [fact for of_task in facts for fact in of_task]
    steps = answer_steps(answers.tokenizer, [fact.answers for fact in every])
    said_by_base = iter(answers.about(base, every, steps))
    said_at_end = iter(answers.about(models[last], every, steps))
    rows = []
    with progress_bar(last + 1, "asking", "task") as progress:
        for number, of_task in enumerate(facts):
            after: Sequence[tuple[Said, ...] | None] = [None] * len(of_task)
            if number in models:
                after = answers.about(models[number], of_task, steps)
            for fact, heard in zip(of_task, after, strict=True):
                rows += _rows(number, fact, next(said_by_base), heard, next(said_at_end))
            progress(number + 1)
    return rows


def _rows(
    task: int,
    fact: Fact,
    base: Sequence[Said],
    after: Sequence[Said] | None,
    end: Sequence[Said],
) -> list[dict[str, Any]]:
    """The rows of one fact; ``after`` is ``None`` where the model after its task is not kept."""
    return [
        {
            "task": task,
            "fact": fact.name,
            "asked": each.asked,
            "expected": list(fact.answers),
            "base": base[place].said,
            "after_task": None if after is None else after[place].said,
            "at_end": each.said,
            "right": each.right,
        }
        for place, each in enumerate(end)
    ]


class _Models(Mapping[int, Params]):
    """The models of a trial after each task that is kept, read when they are asked for."""

    def __init__(self, directory: RunDirectory, trial: Trial, base: Params, digest: str) -> None:
        self._load = lambda task: directory.load_model(trial, task, base, digest)
        self._tasks = directory.kept_tasks(trial)

    def __getitem__(self, task: int) -> Params:
        return self._load(task)

    def __contains__(self, task: object) -> bool:
        return task in self._tasks  # that of a mapping would load it

    def __iter__(self):
        return iter(self._tasks)

    def __len__(self) -> int:
        return len(self._tasks)


def main(config: AnswersConfig) -> int:
    """Asks, and writes ``trials/ID/answers.jsonl`` over an earlier one."""
    if not config.run:
        raise ValueError("--run is empty; name the directory of a run")
    directory = RunDirectory(config.run)
    told = directory.config()
    trial, last = directory.find_trial(config.trial)
    base, _ = load_run_base(directory, config.base)
    asking = None
    if is_chosen_by_base(told):
        asking = ask_untouched(config.run, config.base, base, told.probes.eval_batch_size)
    data = load_stream_data(told, base, asking)
    answers = Answers(Scorer(base.model, told.probes.eval_batch_size), base.tokenizer)
    models = _Models(directory, trial, base.params, base.fingerprint())
    rows = answer_rows(answers, data.tasks, base.params, models)
    file = directory.write_answers(trial, rows)
    right = sum(row["right"] for row in rows)
    say(f"{trial.id}, after task {last}: {right} of {len(rows)} answers are right; {file}")
    return 0


if __name__ == "__main__":
    run(
        main,
        AnswersConfig,
        "ask the models of a trial each fact of its stream",
        "python -m experiments.answers --run=runs/NAME --trial=ID",
    )
