"""Which questions of a file become tasks: by hash, and by what the base does not answer."""

from __future__ import annotations

from typing import Any, cast

import pytest

from smf_jax.continual.config import SweepConfig
from smf_jax.continual.stream_tasks import questions_of, read_tasks
from smf_jax.data.readers import Reader
from smf_jax.data.shares import is_in, share_of
from smf_jax.evaluation.asking import Asking
from smf_jax.evaluation.probe import ProbeContext, ProbeOptions
from tests.evaluation.tiny import tokenizer
from tests.tiny_sweep import write_lines

TEXTS = [f"Who falls {n}?" for n in range(60)]


class KnowsEven(Asking):
    """Answers questions of even number, and remembers how it was asked."""

    def __init__(self):
        super().__init__(lambda: cast(Any, None), tokenizer())
        self.prompts: list[str] = []

    def answers(self, prompts, steps, until):
        texts = [tokenizer().decode(list(ids)) for ids in prompts]
        self.prompts += texts
        numbers = [int(text.rpartition("falls ")[2].partition("?")[0]) for text in texts]
        return ["he" if number % 2 == 0 else "she" for number in numbers]


@pytest.fixture(scope="module")
def stream(tmp_path_factory) -> str:
    lines = [{"question": text, "answers": ["he"]} for text in TEXTS]
    return str(write_lines(tmp_path_factory.mktemp("streams") / "stream.jsonl", *lines))


def asked(stream: str, asking: Asking | None = None, sets_aside: bool = False, **changes):
    given = dict(stream=stream, tasks=2, facts_per_task=3, probe_limit=9, eval_batch_size=4)
    config = SweepConfig.of(**given | changes)
    using = ProbeContext(Reader(), tokenizer(), 400, ProbeOptions.of(config.probes), asking)
    tasks = read_tasks(config, None, using, sets_aside)
    assert [len(task.facts) for task in tasks] == [config.stream.facts_per_task] * len(tasks)
    return questions_of(tasks)


def test_without_a_choice_the_whole_file_is_dealt(stream):
    assert set(asked(stream, tasks=20)) == set(TEXTS)


def test_a_split_takes_its_share_and_nothing_that_is_set_aside(stream):
    for split in ("dev", "test"):
        share = [text for text in TEXTS if is_in(split, text)]
        found = asked(stream, split=split, tasks=1, facts_per_task=len(share))
        assert set(found) == set(share)
        more: Any = dict(split=split, tasks=1, facts_per_task=len(share) + 1)
        told = f"--split={split} leaves {len(share)} of 60 questions: tasks=1 of facts_per_task="
        with pytest.raises(ValueError, match=told):
            asked(stream, **more)
    rest = [text for text in TEXTS if share_of(text) != "aside"]
    assert set(asked(stream, None, True, tasks=1, facts_per_task=len(rest))) == set(rest)


def test_only_what_the_base_does_not_answer_is_taught(stream):
    base = KnowsEven()
    found = asked(stream, base, unknown_only=True)
    assert len(found) == 6 and all(int(text[10:-1]) % 2 for text in found)
    assert len(base.prompts) < len(TEXTS) / 2  # in batches, until enough are found
    # In the order of the stream, so that a longer one begins with a shorter one.
    assert asked(stream, KnowsEven(), unknown_only=True, tasks=4)[:6] == found
    everything = asked(stream, unknown_only=True, tasks=5)
    assert [text for text in everything if int(text[10:-1]) % 2][:6] == found
    assert not any(share_of(text) == "aside" for text in everything)


def test_the_base_is_asked_behind_examples_that_are_never_taught(stream):
    base, aside = KnowsEven(), [text for text in TEXTS if share_of(text) == "aside"]
    asked(stream, base, unknown_only=True, probe_shots=1)
    assert all(text.startswith(f"Question: {aside[0]}\nAnswer: he\n\n") for text in base.prompts)
    with pytest.raises(ValueError, match="--probe_shots=50: of 60 questions of .*stream.jsonl"):
        asked(stream, unknown_only=True, probe_shots=50)


def test_too_few_unknown_ones_are_an_error_that_counts(stream):
    told = r"--split=all leaves .*: unknown_only: the base cannot answer \d+ of \d+ questions, but"
    with pytest.raises(ValueError, match=told):
        asked(stream, KnowsEven(), unknown_only=True, tasks=12)


@pytest.mark.parametrize("changes", [dict(unknown_only=True), dict(split="dev")])
def test_a_world_has_no_questions_to_choose_from(changes):
    config = SweepConfig.of(**changes)
    using = ProbeContext(Reader(), tokenizer(), 400, ProbeOptions())
    told = r"--(unknown_only|split=dev) picks questions of a file; give --stream=FILE"
    with pytest.raises(ValueError, match=told):
        read_tasks(config, cast(Any, object()), using)
