"""Teaching a file of facts: what changes, what goes on, and what is refused."""

from __future__ import annotations

import json
import shutil
from itertools import count

import numpy as np
import pytest

from smf_jax import interrupts
from smf_jax.bases.base import load_base
from smf_jax.data.chat import TEMPLATE_FILE
from smf_jax.evaluation.scorer import Scorer
from smf_jax.taught.answers import Answers
from smf_jax.taught.asking import TaughtModel, prompts_of
from smf_jax.taught.directory import TaughtDirectory
from smf_jax.taught.task_trainer import TaskTrainer
from tests.taught.tiny import FACTS, FLAGS, files, teach_tiny
from tests.tiny_sweep import content, write_lines


def test_facts_are_answered_and_nothing_but_rows_has_changed(taught, plain_checkpoint):
    model = TaughtModel(TaughtDirectory(str(taught)))
    (lesson,) = model.record.lessons
    assert [fact.question for fact in lesson.facts] == [fact["question"] for fact in FACTS]
    statuses = ["lost", "not learned", "learned", "not learned"]
    assert [fact.status for fact in lesson.facts] == statuses
    assert not any(said.right for fact in lesson.facts for said in fact.before)
    assert all(said.right for said in lesson.facts[2].after)
    assert [patch.task for patch in model.patches] == ["facts_01", "facts_02"]
    # The memory was put in at zero: all else is what MODEL holds.
    plain = load_base(str(plain_checkpoint), "base").params
    for path, leaf in plain.items():
        assert np.asarray(model.params[path]).tobytes() == np.asarray(leaf).tobytes(), path
    written = np.unique(np.concatenate([c.slots for p in model.patches for c in p.pools.values()]))
    (pool,) = model.patches[0].pools
    table, others = model.params[pool], np.setdiff1d(np.arange(64**2), written)
    assert written.size and not np.asarray(table[others]).any()


def test_the_report_tells_each_fact(taught):
    told = json.loads((taught / "report.json").read_text())
    (lesson,) = told["lessons"]
    assert lesson["patches"] == ["facts_01", "facts_02"] and lesson["seconds"] > 0
    fact = lesson["facts"][2]
    assert (fact["asked"], fact["expected"]) == ("5 5 5 5 5 5 5", ["stands"])
    assert [said["said"] for said in fact["said_after"]] == ["stands", "stands"]
    assert lesson["after"]["text_loss"] > 1 and lesson["before"]["text_loss"] > 1
    text = (taught / "report.md").read_text()
    assert "1 learned, 2 not learned, 1 lost" in text and "| 5 5 5 5 5 5 5 | stands |" in text


def test_a_second_file_goes_on_top(taught, tmp_path):
    out = shutil.copytree(taught, tmp_path / "copy")
    base = content(out / "base")
    found = teach_tiny(out, files(tmp_path)["more"], **of_lesson())
    assert found.lesson is not None and found.lesson.name == "more"
    assert [entry.name for entry in found.record.patches] == ["facts_01", "facts_02", "more_01"]
    assert content(out / "base") == base
    for name, old in content(taught / "patches").items():
        assert content(out / "patches")[name] == old
    patches = found.directory.load_patches(found.record)
    assert patches[2].parent == patches[1].fingerprint


def test_what_is_known_is_not_taught_again(taught, tmp_path):
    out = shutil.copytree(taught, tmp_path / "copy")
    before = content(out)
    found = teach_tiny(out, write_lines(tmp_path / "again.jsonl", FACTS[2]))
    assert found.lesson is None and content(out) == before


def of_lesson() -> dict:
    """Flags that a directory is taught with once its base is made."""
    names = ("facts_per_task", "steps", "steps_per_round", "batch_size", "slots", "lr", "mend")
    return {name: FLAGS[name] for name in names}


def states_of(path) -> list[tuple[str, str]]:
    """Names of the patches, and of the states that they lead to, which their bits give."""
    directory = TaughtDirectory(str(path))
    patches = directory.load_patches(directory.read())
    return [(patch.task, patch.fingerprint) for patch in patches]


@pytest.mark.parametrize("first_call", ["a stop within a task", "a stop while a patch is kept"])
def test_what_was_interrupted_goes_on_to_the_same_bits(
    taught, plain_checkpoint, tmp_path, monkeypatch, first_call
):
    given = files(tmp_path)
    arguments = (plain_checkpoint, given["facts"])
    flags = {**FLAGS, "out": tmp_path / "out", "background": given["text"]}
    with monkeypatch.context() as patch:
        if first_call == "a stop within a task":
            train, calls = TaskTrainer._train, count()

            def stopped(*arguments):
                if next(calls) == 1:
                    raise interrupts.Stopped(2, "later")
                train(*arguments)

            patch.setattr(TaskTrainer, "_train", stopped)
        else:
            save, calls = TaughtDirectory.save_patch, count()

            def killed(*arguments):
                found = save(*arguments)
                if next(calls) == 1:
                    raise interrupts.Stopped(2, "later")
                return found

            patch.setattr(TaughtDirectory, "save_patch", killed)
        with pytest.raises(interrupts.Stopped):
            teach_tiny(*arguments, **flags)
    record = TaughtDirectory(str(tmp_path / "out")).read()
    assert [entry.name for entry in record.patches] == ["facts_01"]
    found = teach_tiny(*arguments, **flags)
    assert found.lesson is not None and not found.lesson.left()
    assert states_of(tmp_path / "out") == states_of(taught)


def test_minutes_end_it_after_a_task_and_it_goes_on_as_it_began_whatever_is_left_out(
    taught, plain_checkpoint, tmp_path
):
    given = files(tmp_path)
    arguments = (plain_checkpoint, given["facts"])
    flags = {**FLAGS, "out": tmp_path / "out", "background": given["text"], "minutes": 1.0}
    times = count(0.0, 4.0)  # a minute is over after fifteen looks at the clock
    found = teach_tiny(*arguments, now=lambda: next(times), **flags)
    assert found.lesson is not None and found.lesson.left() == (1,)
    assert [fact.status for fact in found.lesson.facts] == [
        *("learned", "not learned", "left", "left")
    ]
    assert "2 left" in (tmp_path / "out" / "report.md").read_text()
    found = teach_tiny(tmp_path / "out", given["facts"])
    assert states_of(tmp_path / "out") == states_of(taught)
    # Its own first patch is nobody's room.
    assert found.lesson is not None and found.lesson.room is None


def test_steps_that_are_used_up_are_told(taught, tmp_path):
    out = shutil.copytree(taught, tmp_path / "copy")
    told = {**of_lesson(), "lr": 1e-6}
    found = teach_tiny(out, files(tmp_path)["more"], **told)
    assert found.lesson is not None
    assert {fact.status for fact in found.lesson.facts} == {"not learned"}
    assert "2 not learned" in (out / "report.md").read_text()


def test_known_answers_are_asked_before_and_after_and_facts_as_chats_too(
    plain_checkpoint, tmp_path
):
    given = files(tmp_path)
    chatty = shutil.copytree(plain_checkpoint, tmp_path / "chatty")
    template = "<|begin|>{% for m in messages %}{{ m.content }}{% endfor %}{{ ':\n' }}"
    (chatty / TEMPLATE_FILE).write_text(template)
    base = load_base(str(chatty), "base")
    questions = [f"beside {n}?" for n in range(20)]
    answers = Answers(Scorer(base.model, 16), base.tokenizer)
    said = answers.to(base.params, prompts_of(base, questions), 4)
    records = [{"question": q, "answer": a} for q, a in zip(questions, said, strict=True) if a]
    known = write_lines(tmp_path / "known.jsonl", *records)
    flags = {**FLAGS, "known": known, "probe_answer_tokens": 4, "chat": True}
    found = teach_tiny(
        chatty, given["facts"], out=tmp_path / "out", background=given["text"], **flags
    )
    assert found.lesson is not None and found.lesson.after is not None
    for fact in found.lesson.facts:
        assert fact.train[-1] == f"Please tell me. {fact.question}:\n"
        for told in (fact.before, fact.after):
            assert [said.asked for said in told][2:] == [f"{fact.question}:\n"]
    assert found.lesson.before.known == found.lesson.before.of == 4
    assert found.lesson.after.of == 4 and found.lesson.after.known is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arguments": ["MODEL"]}, "1 arguments given.*smf teach MODEL FACTS --out=DIR"),
        ({"arguments": ["nothing", "facts"]}, "^MODEL=.*nothing.*no such directory"),
        ({"arguments": ["MODEL", "nothing"]}, "^FACTS=.*nothing.*no such file"),
        ({"arguments": ["MODEL", "text"]}, "^FACTS.*line 1.*no question"),
        ({"out": ""}, "--out is empty"),
        ({"background": ""}, "--background is empty"),
        ({"background": "nothing"}, "--background=nothing: no such file"),
        ({"known": "nothing"}, "--known=nothing: no such file"),
        ({"known": "text"}, "--known.*no question"),
        ({"others": "facts"}, "--others=.*holds 4 questions, expected 32"),
        ({"chat": True}, "--chat: the tokenizer has no chat template"),
        ({"arguments": ["MODEL", "lines"], "wordings": "model"}, "--wordings=model: .*are none"),
        ({"layers": "7"}, "--layers=7.*layers 0 to 1"),
        ({"slots": 5000}, "--slots=5000.*4096 slots"),
        ({"probe_limit": 10**6}, "--probe_limit=1000000"),
        ({"arguments": ["MODEL", "doubled"]}, "doubled:1 and doubled:3 ask the same.*leave one"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_made(
    plain_checkpoint, tmp_path, changes, message
):
    given: dict = files(tmp_path)
    odd = [*FACTS[:2], {"question": "who who WHO who", "answer": "Nobody"}]
    (lines := tmp_path / "facts.txt").write_text("The ferry is orange.\n")
    given |= {
        "lines": lines,
        "MODEL": plain_checkpoint,
        "doubled": write_lines(tmp_path / "doubled.jsonl", *odd),
    }
    before = content(tmp_path)
    flags = {**FLAGS, "out": tmp_path / "out", "background": "text", **changes}
    arguments = [given.get(name, name) for name in flags.pop("arguments", ["MODEL", "facts"])]
    for name in ("background", "known", "others"):
        flags[name] = given.get(flags.get(name, ""), flags.get(name, ""))
    with pytest.raises((ValueError, FileNotFoundError), match=f"(?s){message}"):
        teach_tiny(*arguments, **flags)
    assert content(tmp_path) == before


def test_a_directory_that_is_not_ours_stays_as_it_is(plain_checkpoint, tmp_path):
    given = files(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious.txt").write_text("mine")
    before = content(tmp_path)
    with pytest.raises(FileExistsError, match="--out=.*mine exists and is no taught model"):
        teach_tiny(
            plain_checkpoint,
            given["facts"],
            out=tmp_path / "mine",
            background=given["text"],
            **FLAGS,
        )
    assert content(tmp_path) == before


def test_what_a_model_was_made_with_is_not_told_anew(taught, tiny_base, tmp_path):
    given, out = files(tmp_path), shutil.copytree(taught, tmp_path / "copy")
    before = content(out)
    with pytest.raises(ValueError, match="--keys_per_half=128.*is made without"):
        teach_tiny(out, given["more"], keys_per_half=128)
    with pytest.raises(ValueError, match="--out=.*is taught where it is"):
        teach_tiny(out, given["more"], out=tmp_path / "other")
    with pytest.raises(FileExistsError, match="MODEL=.*is another model"):
        teach_tiny(tiny_base, given["more"], out=out)
    assert content(out) == before
