"""What a sweep reads: streams, probes and general text, encoded for the base at hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from smf_jax.bases.base import Base, abstract_params_of, load_base
from smf_jax.bases.pretraining import recipe_of
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.stream_data import chunked, is_measured, load_stream_data
from smf_jax.data.batching import pack_texts
from smf_jax.data.chat import ChatTemplate
from smf_jax.data.world.world import make_world
from smf_jax.evaluation.probes.exact import all_rows
from smf_jax.evaluation.probes.open import OpenProbe
from tests.tiny_sweep import TINY_SWEEP, write_lines


@pytest.fixture(scope="module")
def base(tiny_base) -> Base:
    """An outline: gathering must not need a single number of the base."""
    base = load_base(str(tiny_base), "base")
    return dataclasses.replace(base, params=abstract_params_of(base.config))


@pytest.fixture(scope="module")
def gathered(base):
    return load_stream_data(flags(), base)


def flags(**changes) -> SweepConfig:
    return SweepConfig.of(**{**TINY_SWEEP, **changes})


def texts_of(base: Base, batch) -> list[str]:
    """Every row decoded: what is put in, and the last token it should give."""
    rows = zip(batch.tokens, batch.targets, batch.valid, strict=True)
    ends = [
        (tokens[valid].tolist(), targets[valid].tolist()[-1:]) for tokens, targets, valid in rows
    ]
    return [base.tokenizer.decode(tokens + end) for tokens, end in ends]


def test_a_task_is_taught_in_its_trained_and_asked_in_other_paraphrases(base, gathered):
    assert len(gathered.tasks) == 2
    for place, task in enumerate(gathered.tasks):
        trained = {w.prompt + w.answer for fact in task.facts for w in fact.train}
        asked = {w.prompt + w.answer for fact in task.facts for w in fact.held_out}
        taught = texts_of(base, gathered.examples[place])
        assert len(taught) == 4 * 8 and set(taught) == trained
        seen = texts_of(base, gathered.seen[place].batch)
        unseen = texts_of(base, gathered.unseen[place].batch)
        assert set(seen) < trained and len(seen) == 4 * 2
        assert set(unseen) == asked and not asked & trained
        assert gathered.seen[place].questions == gathered.unseen[place].questions == 8


def test_the_probes_of_the_world_leave_out_what_the_stream_changes(base):
    made_by = recipe_of(base)
    assert made_by is not None
    many = flags(probe_limit=1000)
    world = make_world(made_by.world_config(2, 4, many.stream.changed_share))
    probes = load_stream_data(many, base)
    assert list(probes.questions) == ["known"] and list(probes.texts) == ["neutral"]
    kept = {fact.held_out[0].prompt + fact.held_out[0].answer for fact in world.kept}
    assert set(texts_of(base, probes.questions["known"].batch)) == kept
    assert len(world.changed) == 2 and len(kept) == 22
    # A stream from elsewhere changes nothing.
    assert load_stream_data(flags(), base).questions["known"].questions == TINY_SWEEP["probe_limit"]


def test_a_stream_of_questions_leaves_the_world_as_it_is(base, tmp_path):
    questions = [{"question": f"Who made {n}?", "answers": [f"M {n}"]} for n in range(8)]
    stream = write_lines(tmp_path / "stream.jsonl", *questions)
    found = load_stream_data(flags(stream=str(stream), probe_limit=1000), base)
    assert found.questions["known"].questions == 24
    assert {fact.answers for task in found.tasks for fact in task.facts} == {
        (f"M {n}",) for n in range(8)
    }
    assert found.general is not None  # what the base was taught still is its background


def test_general_text_is_held_out_of_the_background(base, tmp_path):
    texts = [{"text": f"Sentence number {n} has nothing to say."} for n in range(500)]
    file = write_lines(tmp_path / "general.jsonl", *texts)
    found = load_stream_data(flags(background=str(file)), base)
    assert found.general is not None and found.general.corpus == "general.jsonl"
    held_out, rows = found.texts["neutral"], found.general.rows
    assert held_out.tokens.shape[0] == TINY_SWEEP["probe_limit"]
    assert rows.tokens.shape[0] == 4 * 16  # batches of background
    windows = np.concatenate([rows.tokens, held_out.tokens])
    whole = pack_texts(base.tokenizer, (text["text"] for text in texts), windows.shape[1])
    np.testing.assert_array_equal(windows, whole.tokens[: len(windows)])


def test_probes_are_questions_or_text_by_what_the_file_holds(base, tmp_path):
    asked = write_lines(tmp_path / "a.jsonl", {"question": "Who?", "answers": ["M"]})
    told = write_lines(tmp_path / "b.jsonl", *[{"text": f"It is {n} now."} for n in range(99)])
    (tmp_path / "c.txt").write_text("It is late.\n\n" * 99)
    probes = f"asked={asked},told={told},plain={tmp_path / 'c.txt'}"
    found = load_stream_data(flags(probes=probes), base)
    assert list(found.questions) == ["asked"]
    assert list(found.texts) == ["told", "plain"]
    with pytest.raises(ValueError, match="--probes=.*'told=.*' should be NAME=FILE or NAME=KIND:"):
        load_stream_data(flags(probes=f"{probes},told={told}"), base)


def test_packed_batches_hold_as_many_examples_in_fewer_rows(base, tmp_path):
    asked = [{"question": "Who is" + " it" * (n % 9) + "?", "answers": ["?"]} for n in range(8)]
    stream = str(write_lines(tmp_path / "stream.jsonl", *asked))
    gathered = load_stream_data(flags(stream=stream), base)
    packed = load_stream_data(flags(stream=stream, pack=True), base)
    for by_fact in (False, True):
        rows = [of.rows for of in packed.dealt(by_fact)]
        fewer = sum(len(batch.tokens) for batch in rows)
        assert fewer < sum(len(batch.tokens) for batch in gathered.examples)
        for batch, plain in zip(rows, gathered.examples, strict=True):
            held = sum(int(numbers.max()) for numbers in batch.valid)
            assert held == len(plain.tokens) and batch.weights.sum() == pytest.approx(
                plain.weights.sum()
            )
        batches = packed.batches(0, 3, 50, 16, 4, by_fact)
        steps, taken, _ = batches.tokens.shape
        assert steps == 50 and taken - 4 < 16 and batches.valid.dtype == np.int32
        examples = batches.valid[:, :-4].max(axis=2).sum() / steps
        assert 14 < examples < 18
        assert np.all(batches.valid[:, -4:] <= 1)  # general text


def test_batches_depend_on_task_and_seed_alone(gathered):
    one, again = (gathered.batches(0, 3, 5, 8, 0) for _ in range(2))
    for field, same in zip(one, again, strict=True):
        np.testing.assert_array_equal(field, same)
    assert one.tokens.shape[:2] == (5, 8)
    for task, seed in ((0, 4), (1, 3)):
        assert not np.array_equal(gathered.batches(task, seed, 5, 8, 0).tokens, one.tokens)
    # Replay adds rows and does not change those of the task.
    mixed = gathered.batches(0, 3, 5, 8, 4)
    assert mixed.tokens.shape[:2] == (5, 12)
    np.testing.assert_array_equal(mixed.tokens[:, :8], one.tokens)
    general = {row.tobytes() for row in gathered.general.rows.tokens}
    assert {row.tobytes() for row in mixed.tokens[:, 8:].reshape(-1, mixed.tokens.shape[-1])} <= (
        general
    )


def test_the_background_is_the_same_for_every_trial(gathered):
    (one,), (again,) = (gathered.background_batches(3, 4) for _ in range(2))
    np.testing.assert_array_equal(one.tokens, again.tokens)
    assert one.tokens.shape[:2] == (3, 4)
    with pytest.raises(ValueError, match="give --background"):
        dataclasses.replace(gathered, general=None).background_batches(3, 4)


def test_rows_are_joined_and_cut(gathered):
    rows = all_rows(gathered.seen)
    assert rows.tokens.shape[0] == 16
    cut = chunked(rows, 5)
    assert cut.tokens.shape[:2] == (4, 5)
    np.testing.assert_array_equal(cut.tokens.reshape(-1, cut.tokens.shape[-1])[:16], rows.tokens)
    assert not cut.valid[-1, 1:].any() and not cut.weights[-1, 1:].any()


def test_measured_statistics_are_told_from_text(tmp_path, tiny_base):
    assert is_measured(str(tiny_base / "leaves"))
    assert not is_measured("")
    assert not is_measured(str(tmp_path))


def test_a_question_that_is_too_long_for_the_model_is_refused(base):
    short = dataclasses.replace(base, config=dataclasses.replace(base.config, max_positions=8))
    with pytest.raises(ValueError, match="--stream=world: its longest question takes .* at most 8"):
        load_stream_data(flags(), short)


def test_chat_templates_are_given_what_the_flag_says(base, tmp_path):
    pytest.importorskip("jinja2", reason="chat templates need jinja2")
    asked = write_lines(tmp_path / "nq.jsonl", {"question": "Who?", "answers": ["Ann"]})
    given = dict(probes=f"nq=f1:{asked}", probe_chat=True, chat_template_args='{"thinks": false}')
    template = ChatTemplate("{{ 'no' if thinks is false else 'yes' }}{{ messages[0].content }}")
    chatty = dataclasses.replace(base, tokenizer=dataclasses.replace(base.tokenizer, chat=template))
    prompts = []
    for changes in (given, given | {"chat_template_args": ""}):
        (probe,) = load_stream_data(flags(**changes), chatty).named.values()
        assert isinstance(probe, OpenProbe)
        prompts += [base.tokenizer.decode(ids) for ids in probe.prompts]
    question = "Question: Who?\nAnswer:"
    assert prompts == [f"no{question}", f"yes{question}"]
    assert flags(**given).values()["chat_template_args"] == given["chat_template_args"]
    with pytest.raises(ValueError, match=r"--chat_template_args=.*: the tokenizer has no chat"):
        load_stream_data(flags(**given), base)
    with pytest.raises(ValueError, match=r"--chat_template_args=no: no JSON"):
        flags(chat_template_args="no")
