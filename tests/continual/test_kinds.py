"""Kinds of question: what is asked, never taught, counted as it is decoded, and refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from smf_jax.bases.base import load_base
from smf_jax.continual.kinds import encode_kinds, kind_columns, kinds_of
from smf_jax.continual.results import ResultRow
from smf_jax.continual.run_directory import RunDirectory
from smf_jax.continual.scores import require_kinds
from smf_jax.continual.stream_data import load_stream_data
from smf_jax.continual.stream_tasks import questions_of
from smf_jax.data.facts import Asked, Question, Task
from smf_jax.data.questions import question_fact
from smf_jax.evaluation.in_context import in_context_probe
from smf_jax.evaluation.scorer import Scorer
from smf_jax.models.completion import complete_texts
from tests.continual.same_runs import assert_goes_on, assert_same_run
from tests.evaluation.tiny import tokenizer
from tests.tiny_sweep import rows_of, write_lines

FULL = "full-adamw-lr0.01-s0"
HOW = dict(methods="full", lr="0.01", optimizer="adamw", steps_per_task=30, facts_per_task=3)
HOW |= dict(in_context=True, probe_answer_tokens=4)
MAKERS = ("Ann", "Ben", "Carl", "Dora", "Emma", "Fred")


def record(number: int, maker: str) -> dict:
    """A fact whose first kind asks as it is taught, so that a tiny model answers some of it."""
    asked = {
        "plain": {"question": f"Q: Who made thing {number}?\nA:", "answers": [maker, "nobody"]},
        "reversed": {"question": f"What did {maker} make? The", "answer": f"thing {number}"},
        "document": [
            {"question": f"A long day ended.\n\nThing {number} was made by", "answer": maker},
            {"question": f"Quiz: Who made thing {number}? It is", "answer": maker},
        ],
    }
    return {"question": f"Who made thing {number}?", "answer": maker, "asked": asked}


RECORDS = [record(number, maker) for number, maker in enumerate(MAKERS)]


def fact(name: str, *kinds: str):
    asked = (Asked(kind, Question(f"{kind} of {name}?", ("yes",))) for kind in kinds)
    return replace(question_fact(name, Question(f"What of {name}?", ("no",))), asked=tuple(asked))


@pytest.fixture(scope="module")
def how(tmp_path_factory) -> dict:
    place = tmp_path_factory.mktemp("kinds")
    return HOW | {"stream": str(write_lines(place / "stream.jsonl", *RECORDS))}


@pytest.fixture(scope="module")
def run(sweeper, tmp_path_factory, how):
    out = tmp_path_factory.mktemp("runs") / "kinds"
    assert sweeper(out, **how) == 0
    return out


def said(base, params, prompt: str) -> str:
    return complete_texts(base.model, params, base.tokenizer, [prompt], max_tokens=12)[0]


def counted(base, params, tasks) -> dict[str, float]:
    """The share of each kind, by decoding every question and comparing texts."""
    shares = {}
    for kind in ("plain", "reversed", "document"):
        asked = [q for task in tasks for fact in task.facts for q in fact.of_kind(kind)]
        right = [said(base, params, q.text) in {f" {a}" for a in q.answers} for q in asked]
        shares[kind] = sum(right) / len(right)
    return shares


def test_every_kind_is_counted_as_greedy_decoding_answers_it(run, sweeper, how):
    base = load_base(str(run / "base"), "base")
    data, directory = load_stream_data(sweeper.config(run, **how), base), RunDirectory(str(run))
    rows, found = rows_of(run), set()
    assert len(rows) == 2
    for number, row in enumerate(rows):
        tasks = data.tasks[: number + 1]
        trial = directory.find_trial(FULL, number)
        params = directory.load_model(*trial, base.params, base.fingerprint())
        for model, ending in ((params, ""), (base.params, "_base")):
            shares = counted(base, model, tasks)
            for kind, share in shares.items():
                assert row[f"asked_{kind}{ending}"] == pytest.approx(share), (number, kind)
            assert row[f"strict{ending}"] == pytest.approx(sum(shares.values()) / 3)
            found |= {*shares.values()}
    assert len(found) > 2  # neither all wrong nor all right


def test_the_base_is_asked_the_kinds_with_a_tasks_facts_in_its_prompt(run, sweeper, how):
    base = load_base(str(run / "base"), "base")
    data, scorer = load_stream_data(sweeper.config(run, **how), base), Scorer(base.model, 32)
    for row, task in zip(rows_of(run), data.tasks, strict=True):
        shares = []
        for kind in ("plain", "reversed", "document"):
            asked = [q for fact in task.facts for q in fact.of_kind(kind)]
            positions = base.config.max_positions
            probe = in_context_probe(base.tokenizer, task.facts, asked, positions, 4)
            assert probe is not None
            shares.append(probe.measure(scorer, base.params)["exact"])
            assert row[f"asked_{kind}_in_context"] == shares[-1]
        assert row["strict_in_context"] == pytest.approx(np.mean(shares))


def test_rows_are_read_as_they_are_written_and_told(run, sweeper, how, tmp_path, capsys):
    for row in rows_of(run):
        row = {key: value for key, value in row.items() if key != "sha256"} | {"seconds": 1.0}
        assert ResultRow.from_json(row).to_json() == row
    assert sweeper(tmp_path / "again", **how) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if "strict " in line]
    for row, line in zip(rows_of(run), told, strict=True):
        assert f"strict {row['strict']:.1%};" in line
    assert_same_run(run, tmp_path / "again")


def test_a_run_that_is_killed_comes_to_the_same_rows(run, sweeper, how, tmp_path):
    assert_goes_on(sweeper, how, run, tmp_path / "killed", "half a row")


def test_the_kinds_change_nothing_of_what_is_taught(tiny_base, sweeper, how, tmp_path):
    base = load_base(str(tiny_base), "base")
    bare = [{key: each[key] for key in ("question", "answer")} for each in RECORDS]
    without = how | {"stream": str(write_lines(tmp_path / "stream.jsonl", *bare))}
    one, other = (load_stream_data(sweeper.config("run", **each), base) for each in (how, without))
    assert list(one.kinds) == ["plain", "reversed", "document"] and not other.kinds
    for name in ("examples", "seen", "unseen", "general"):
        np.testing.assert_equal(
            [leaf.tolist() for leaf in arrays(getattr(one, name))],
            [leaf.tolist() for leaf in arrays(getattr(other, name))],
        )


def arrays(value) -> list[np.ndarray]:
    """All arrays in what a stream's data holds, in order."""
    if isinstance(value, np.ndarray):
        return [value]
    if hasattr(value, "__dict__"):
        value = list(vars(value).values())
    return (
        [leaf for each in value for leaf in arrays(each)] if isinstance(value, list | tuple) else []
    )


def test_a_question_of_a_kind_is_not_asked_as_known(tiny_base, sweeper, how, tmp_path):
    base = load_base(str(tiny_base), "base")
    reversed_ = RECORDS[0]["asked"]["reversed"]
    file = write_lines(tmp_path / "known.jsonl", reversed_, {"question": "Why?", "answer": "so"})
    config = sweeper.config("run", **how, probes=f"other=known:{file}")
    probe = load_stream_data(config, base).named["other"]
    asked = [base.tokenizer.decode(list(ids)) for ids in vars(probe)["prompts"]]
    assert len(asked) == 1 and "Why?" in asked[0]


def test_a_question_in_a_format_of_streams_counts_as_the_bare_one():
    asked = (Asked("direct", Question("Question: Who sings?\nAnswer:", ("I",))),)
    tasks = [Task("one", (replace(fact("a"), asked=asked),))]
    assert questions_of(tasks) == ["What of a?", "Who sings?"]


def test_a_run_whose_base_was_not_asked_in_kinds_is_told_so():
    """As one that an earlier version began, which did not read the field."""
    scores = {"seen": [], "unseen": [], "ahead": [0.0], "asked_plain": [0.0]}
    require_kinds(scores, ["plain"])
    told = "its base was not asked in the kinds of question reversed, document, .*another --out"
    with pytest.raises(ValueError, match=told):
        require_kinds(scores, ["plain", "reversed", "document"])


def test_a_fact_that_lacks_a_kind_is_refused_before_anything_is_computed(refused, tmp_path):
    lacking = RECORDS[2] | {"asked": {"plain": RECORDS[2]["asked"]["plain"]}}
    file = write_lines(tmp_path / "set.jsonl", *RECORDS[:2], lacking)
    told = r"--stream=.*set.jsonl: set:3 has no question of kind 'reversed', in which set:1 is ask"
    refused(told, stream=str(file), tasks=1, facts_per_task=2)


def test_kinds_are_those_of_all_facts_in_the_order_of_the_first():
    assert kinds_of([fact("a", "x", "y"), fact("b", "y", "x")]) == ("x", "y")
    assert kinds_of([fact("a"), fact("b")]) == ()
    with pytest.raises(ValueError, match="a has no question of kind 'x', in which b is asked"):
        kinds_of([fact("a"), fact("b", "x")])


@pytest.mark.parametrize("kind", ["x_base", "x_in_context", "strict"])
def test_a_kind_that_would_be_another_key_is_refused(kind):
    with pytest.raises(ValueError, match=f"a is asked in the kind '{kind}': .*; rename it"):
        kinds_of([fact("a", kind)])


def test_a_question_that_is_longer_than_the_model_is_refused():
    tasks = [Task("one", (fact("a", "x"),))]
    assert encode_kinds(tokenizer(), 64, tasks)["x"][0].questions == 1
    with pytest.raises(ValueError, match="the longest question of kind 'x' takes .* at most 4"):
        encode_kinds(tokenizer(), 4, tasks)


def test_columns_are_means_over_the_tasks_so_far_and_told_of_the_last():
    now, base = {"x": [1.0, 0.5], "y": [0.0, 0.5]}, {"x": [0.0, 0.5, 1.0], "y": [0.0, 0.0, 1.0]}
    told = {"x": [1.0, 0.5, 1.0], "y": [1.0, None, 1.0]}
    assert kind_columns(now, base, told, 1) == {
        "asked_x": 0.75,
        "asked_y": 0.25,
        "strict": 0.5,
        "asked_x_base": 0.25,
        "asked_y_base": 0.0,
        "strict_base": 0.125,
        "asked_x_in_context": 0.5,
        "asked_y_in_context": None,
        "strict_in_context": None,
    }
    assert "strict_in_context" not in kind_columns(now, base, {}, 1)
    assert kind_columns({}, {}, {}, 0) == {}
