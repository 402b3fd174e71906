"""The background's rows of other questions: whose they are, what they look like, how many."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from smf_jax.bases.base import Base, abstract_params_of, load_base
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.format_rows import LEAST, FormatRows
from smf_jax.continual.stream_data import StreamData, load_stream_data
from smf_jax.data.questions import QUESTION_FORMATS
from smf_jax.data.shares import question_key, share_of
from tests.continual.test_stream_data import texts_of
from tests.tiny_sweep import write_lines

TEXTS = [f"Who made thing number {n}?" for n in range(500)]
ASIDE = [text for text in TEXTS if share_of(text) == "aside"]


@pytest.fixture(scope="module")
def base(plain_checkpoint) -> Base:
    """An outline that takes prompts of several questions."""
    base = load_base(str(plain_checkpoint))
    config = dataclasses.replace(base.config, max_positions=256)
    return dataclasses.replace(base, config=config, params=abstract_params_of(config))


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("formats")
    asked = [{"question": text, "answers": [f"Maker {n}"]} for n, text in enumerate(TEXTS)]
    named = [{"question": f"Who sold {n}?", "answers": [f"Seller {n}"]} for n in range(40)]
    # What the stream asks, in other letters; and what its facts answer, in other words.
    named += [{"question": text.upper(), "answers": ["nobody"]} for text in TEXTS]
    named += [{"question": f"Whose is {n}?", "answers": [f"maker {n}."]} for n in range(500)]
    texts = [{"text": f"Thing number {n} stands beside thing {n + 1}."} for n in range(400)]
    return {
        "stream": str(write_lines(folder / "stream.jsonl", *asked)),
        "fewer": str(write_lines(folder / "fewer.jsonl", *asked[:20])),
        "few": str(write_lines(folder / "few.jsonl", *asked[:50])),
        "named": str(write_lines(folder / "named.jsonl", *named)),
        "background": str(write_lines(folder / "general.jsonl", *texts)),
    }


def read(files, base, **changes) -> StreamData:
    given = dict(stream=files["stream"], background=files["background"], tasks=2, probe_limit=9)
    given |= dict(facts_per_task=50, background_batches=3, background_batch_size=16)
    return load_stream_data(SweepConfig.of(**{**given, **changes}), base)


def formats_of(data: StreamData) -> FormatRows:
    assert data.general is not None and data.general.formats is not None
    return data.general.formats


def asked_in(texts: list[str]) -> set[str]:
    """The questions of worded rows."""
    return {question_key(text[text.index("Who") : text.index("?") + 1]) for text in texts}


def test_half_of_a_batch_is_other_questions_in_the_streams_wordings(base, files):
    data = read(files, base)
    formats, general = formats_of(data), data.general
    assert general is not None
    taught = {fact.question.text for task in data.tasks for fact in task.facts if fact.question}
    assert len(taught) == 100 and not taught & set(ASIDE)
    texts = texts_of(base, formats.worded)
    assert asked_in(texts) <= set(map(question_key, ASIDE))
    wordings = {f.format(ASIDE[0]) for f in QUESTION_FORMATS[:10]}
    assert len(texts) == 3 * 16 and formats.prompts is None
    assert any(text.startswith(w) for text in texts for w in wordings)
    (batch,) = data.background_batches(3, 16)
    assert batch.tokens.shape == (3, 16, general.rows.tokens.shape[1])
    rows = {row.tobytes() for row in formats.worded.tokens}
    mixed = [[row.tobytes() in rows for row in one] for one in batch.tokens]
    assert mixed == [[False] * 8 + [True] * 8] * 3
    (again,) = read(files, base).background_batches(3, 16)
    np.testing.assert_array_equal(batch.tokens, again.tokens)
    named = f"general.jsonl, and {len(ASIDE)} other questions of stream.jsonl in the stream's wo"
    assert general.corpus.startswith(named)
    # Healing and replay see the text that they saw before.
    alone = read(files, base, background_formats="none")
    assert alone.general is not None and alone.general.corpus == "general.jsonl"
    width = min(alone.general.rows.tokens.shape[1], general.rows.tokens.shape[1])
    assert alone.general.rows.tokens[0, :width].tolist() == general.rows.tokens[0, :width].tolist()
    (plain,) = alone.background_batches(3, 16)
    known = {row.tobytes() for row in alone.general.rows.tokens}
    assert all(row.tobytes() in known for row in plain.tokens.reshape(-1, plain.tokens.shape[-1]))


@pytest.mark.parametrize("share, worded", [(0.25, 4), (0.01, 1), (0.99, 15)])
def test_the_share_is_that_of_the_flag_and_text_is_never_gone(base, files, share, worded):
    formats = formats_of(read(files, base, background_format_share=share))
    assert formats.counts(16) == (16 - worded, worded, 0)


def test_prompts_with_examples_join_where_probes_have_them(base, files):
    probes = f"known=known:{files['stream']}"
    data = read(files, base, probes=probes, probe_shots=2, probe_answer_tokens=4)
    formats = formats_of(data)
    assert formats.counts(16) == (8, 6, 2) and formats.prompts is not None
    texts = texts_of(base, formats.prompts)
    assert len(texts) == 3 * 2
    for text in texts:
        shown = text.split("\n\n")
        assert len(shown) == 3 and all(
            each.startswith("Question: Who") and "\nAnswer: Maker" in each for each in shown
        )
        assert len({question_key(each.split("\n")[0]) for each in shown}) == 3
        assert all(each.split("\n")[0].removeprefix("Question: ") in ASIDE for each in shown)
    mixed, prompts = data.background_batches(3, 16)
    assert mixed.tokens.shape[:2] == (3, 14) and prompts.tokens.shape[:2] == (3, 2)
    assert prompts.tokens.shape[2] > mixed.tokens.shape[2]
    assert formats_of(read(files, base, probes=probes, probe_answer_tokens=4)).prompts is None


def test_neither_the_streams_facts_nor_a_probes_questions_are_in_it(base, files):
    first = f"old=f1:{files['named']}"
    named: dict[str, Any] = dict(background_questions=files["named"], probes=first)
    data = read(files, base, **named, background_batches=300, probe_limit=3)
    taught = {fact.question.text for task in data.tasks for fact in task.facts if fact.question}
    assert taught & set(ASIDE)  # the file of the stream is taught whole
    rows = "\n".join(texts_of(base, formats_of(data).worded))
    left = [f"Who sold {n}?" for n in range(3, 40)]
    assert all(text not in rows for text in ("Who sold 0?", "Who sold 1?", "Who sold 2?"))
    assert sum(text in rows for text in left) > 20
    answers = {fact.answers[0] for task in data.tasks for fact in task.facts}
    assert not any(f" {answer.lower()}." in rows for answer in answers)
    assert not any(text.upper() in rows for text in taught)
    with pytest.raises(ValueError, match="--background_formats=auto: of 1040 other .* 0 ask"):
        read(files, base, **named, facts_per_task=250, probe_limit=40)
    with pytest.raises(ValueError, match=f"of 1040 other .* 31 ask .*, of {LEAST} that"):
        read(files, base, **named, facts_per_task=250, probe_limit=9)


def test_few_questions_that_probes_leave_are_told_of(base, files, tmp_path, capsys):
    asked = [{"question": text, "answers": ["Maker"]} for text in ASIDE[LEAST - 1 :]]
    probes = f"old=f1:{write_lines(tmp_path / 'asked.jsonl', *asked)}"
    read(files, base, probes=probes, probe_limit=len(asked) - 1)
    assert "the background repeats few" not in capsys.readouterr().out
    assert formats_of(read(files, base, probes=probes, probe_limit=len(asked)))
    told = f"of {len(ASIDE)} other questions of {files['stream']} {LEAST - 1} ask something else"
    assert f"the background repeats few questions, which rank as its own: {told}" in (
        capsys.readouterr().out
    )


def test_what_is_in_it_is_part_of_its_name(base, files):
    one = formats_of(read(files, base)).about
    assert one == formats_of(read(files, base)).about
    others = read(files, base, background_questions=files["named"])
    assert formats_of(others).about != one and "of named.jsonl" in formats_of(others).about
    more = read(files, base, background_batches=4)
    assert formats_of(more).about.rpartition("[")[2] != one.rpartition("[")[2]


def test_a_small_file_is_taught_whole_and_told(base, files, capsys):
    small = dict(stream=files["few"], facts_per_task=25)
    data = read(files, base, **small)
    assert data.general is not None and data.general.formats is None
    assert len({fact.name for task in data.tasks for fact in task.facts}) == 50
    told = capsys.readouterr().out
    assert "the background is text alone" in told and f"of which {LEAST} are needed" in told
    with pytest.raises(ValueError, match="--background_formats=stream: .*few.jsonl gives"):
        read(files, base, **small, background_formats="stream")
    with pytest.raises(ValueError, match="--background_formats=auto: .*fewer.jsonl gives 20 other"):
        read(files, base, background_questions=files["fewer"])


def test_the_stream_does_not_hang_on_whether_there_is_a_background(base, files):
    dense = read(files, base, background="")
    assert dense.general is None and dense.tasks == read(files, base).tasks


def test_a_built_in_world_keeps_its_own_background(tiny_base, files):
    world = load_base(str(tiny_base))
    given = dict(stream="", tasks=1, facts_per_task=2, background="")
    data = read(files, world, **given)
    assert data.general is not None and data.general.formats is None
    with pytest.raises(ValueError, match="--background_formats=stream: the built-in world's"):
        read(files, world, **given, background_formats="stream")
    with pytest.raises(ValueError, match="--background_questions=.* is for --background_formats"):
        read(files, world, **given, background_questions=files["named"])
    asked = read(files, world, background_formats="stream")  # of a file, if it is asked for
    assert formats_of(asked).worded.tokens.shape[0] == 3 * 16


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_is_between_none_and_all(share):
    with pytest.raises(ValueError, match=f"--background_format_share={share}: expected"):
        SweepConfig.of(background_format_share=share)
