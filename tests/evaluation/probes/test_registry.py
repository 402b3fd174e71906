"""The probes that --probes names: their kinds, their files, their limits, their errors."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from smf_jax.bases.base import Base, abstract_params_of, load_base
from smf_jax.data.readers import Reader
from smf_jax.evaluation.probe import ProbeContext, ProbeOptions, refer_to_base
from smf_jax.evaluation.probes.multiple_choice import ChoiceProbe
from smf_jax.evaluation.probes.open import OpenProbe
from smf_jax.evaluation.probes.registry import KINDS, find_metrics, parse_probes, read_probes
from smf_jax.evaluation.probes.text import LossProbe, PerplexityProbe
from smf_jax.evaluation.scorer import Scorer
from tests.tiny_sweep import write_lines

QUESTIONS = [{"question": f"Who made {n}?", "answers": [f"M {n}", "M"]} for n in range(6)]
SUMS = [{"question": f"{n} + 1?", "answer": f"It is {n + 1}.\n#### {n + 1}"} for n in range(4)]
OPTIONS = dict(opa="the hill", opb="a boy", opc="snow", opd="Ann")


@pytest.fixture(scope="module")
def base(tiny_base) -> Base:
    """An outline: encoding must not need a single number of the base."""
    base = load_base(str(tiny_base), "base")
    return dataclasses.replace(base, params=abstract_params_of(base.config))


@pytest.fixture
def files(tmp_path) -> dict[str, str]:
    lines = [line for n in range(3) for line in (f"Go: {n}. he", "1", "a.", "bb.", "c.", "d.")]
    text = " Title \n \n One line .  Another \n\n\n last " * 9
    (tmp_path / "wiki.txt").write_text(text)
    medical = [{"question": f"Is it {n}?", "cop": 1 + n % 4, **OPTIONS} for n in range(5)]
    return {
        "f1": str(write_lines(tmp_path / "nq.jsonl", *QUESTIONS)),
        "gsm8k": str(write_lines(tmp_path / "gsm.jsonl", *SUMS)),
        "hellaswag": str(write_lines(tmp_path / "hella.txt", *lines)),
        "medmcqa": str(write_lines(tmp_path / "med.jsonl", *medical)),
        "ppl": str(tmp_path / "wiki.txt"),
    }


def read(text: str, base: Base, **options):
    using = ProbeContext(
        Reader(), base.tokenizer, base.config.max_positions, ProbeOptions(**options)
    )
    return read_probes(text, using)


def decoded(base: Base, ids) -> str:
    return base.tokenizer.decode([int(i) for i in ids if i != base.tokenizer.bos])


def test_every_kind_is_read_and_encoded(base, files):
    probes = read(",".join(f"my.{kind}={kind}:{path}" for kind, path in files.items()), base)
    assert list(probes.named) == [f"my.{kind}" for kind in files]
    assert not probes.questions and not probes.texts
    f1, gsm, hella, med, ppl = probes.named.values()
    assert isinstance(f1, OpenProbe) and f1.answers[2] == ("M 2", "M")
    assert decoded(base, f1.prompts[2]) == "Question: Who made 2?\nAnswer:"
    assert isinstance(gsm, LossProbe)
    answer = gsm.batch.targets[1][gsm.batch.weights[1] > 0]
    assert decoded(base, answer).strip() == "It is 2.\n#### 2"
    whole = decoded(base, gsm.batch.tokens[1][gsm.batch.valid[1]])
    assert whole.startswith("Question: 1 + 1?\nAnswer: It is 2.")
    assert isinstance(hella, ChoiceProbe) and isinstance(med, ChoiceProbe)
    assert hella.right.tolist() == [1, 1, 1] and med.right.tolist() == [0, 1, 2, 3, 0]
    row = decoded(base, hella.batch.tokens[5][hella.batch.valid[5]])
    assert row.startswith("Go: 1. he bb")
    assert med.characters[0].tolist() == [8, 5, 4, 3]
    assert isinstance(ppl, PerplexityProbe)
    assert ppl.batch.tokens.shape[1] == base.config.max_positions  # below 1,024


def test_a_text_is_read_as_it_stands(base, files):
    ppl = read(f"w=ppl:{files['ppl']}", base, window=16, stride=8).named["w"]
    assert isinstance(ppl, LossProbe)
    ids = [base.tokenizer.bos, *base.tokenizer.encode(Path(files["ppl"]).read_text())]
    assert ppl.batch.targets[ppl.batch.weights > 0].tolist() == ids[1:]


def test_records_become_one_text_with_blank_lines_between(base, tmp_path):
    file = write_lines(tmp_path / "t.jsonl", *[{"text": f"Text {n}."} for n in range(30)])
    ppl = read(f"w=ppl:{file}", base, window=16, stride=8).named["w"]
    assert isinstance(ppl, LossProbe)
    text = "\n\n".join(f"Text {n}." for n in range(30))
    ids = [base.tokenizer.bos, *base.tokenizer.encode(text)]
    assert ppl.batch.targets[ppl.batch.weights > 0].tolist() == ids[1:]


def test_limits_cut_every_kind_and_shots_come_on_top(base, files):
    text = ",".join(f"{kind}={kind}:{path}" for kind, path in files.items())
    probes = read(text, base, limit=2, shots=1, window=16, stride=8)
    counts = {name: dict(probe.about) for name, probe in probes.named.items()}
    assert [each.get("items", each.get("windows")) for each in counts.values()] == [2] * 5
    f1 = probes.named["f1"]
    assert isinstance(f1, OpenProbe) and f1.answers == (("M 1", "M"), ("M 2", "M"))
    assert decoded(base, f1.prompts[0]) == (
        "Question: Who made 0?\nAnswer: M 0\n\nQuestion: Who made 1?\nAnswer:"
    )
    everything = read(text, base, limit=None, window=16, stride=8).named
    assert everything["f1"].about == {"items": 6}
    assert everything["ppl"].about["windows"] > 2


def test_the_first_windows_of_a_text_do_not_depend_on_the_limit(base, files):
    few, whole = (
        read(f"w=ppl:{files['ppl']}", base, limit=limit, window=16, stride=8).named["w"]
        for limit in (3, None)
    )
    assert isinstance(few, LossProbe) and isinstance(whole, LossProbe)
    np.testing.assert_array_equal(few.batch.tokens, whole.batch.tokens[:3])


def test_items_without_a_kind_are_exact_or_text_by_what_the_file_holds(base, files):
    items = parse_probes(f"a={files['f1']},b={files['ppl']},c=text:{files['ppl']}")
    assert [item.kind for item in items] == ["exact", "text", "text"]
    assert parse_probes("t=tfds:trivia_qa:test,f=f1:tfds:trivia_qa:test")[1] == (
        "f",
        "f1",
        "tfds:trivia_qa:test",
    )
    probes = read(f"a={files['f1']},b=text:{files['ppl']}", base)
    assert list(probes.questions) == ["a"] and list(probes.texts) == ["b"]
    assert next(probe.about for probe in probes.whole().values()) == {"items": 6}


def test_questions_may_stand_in_fields_that_are_named(base, tmp_path):
    file = write_lines(tmp_path / "q.jsonl", {"a": {"q": "Who?", "all": ["M"]}, "text": "x"})
    reader = Reader(question_field="a.q", answers_field="a.all")
    using = ProbeContext(reader, base.tokenizer, base.config.max_positions, ProbeOptions())
    assert read_probes(f"nq={file}", using).questions["nq"].questions == 1
    assert parse_probes(f"nq={file}")[0].kind == "text"


def test_a_file_whose_name_has_a_colon_needs_no_kind(base, tmp_path):
    odd = write_lines(tmp_path / "a:b.jsonl", *QUESTIONS)
    assert [item.source for item in parse_probes(f"a={odd}")] == [str(odd)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nq", "'nq' should be NAME=FILE or NAME=KIND:FILE"),
        ("=f1:a.jsonl", "'=f1:a.jsonl' should be"),
        ("a b=f1:a.jsonl", "'a b=f1:a.jsonl' should be .* of letters, digits"),
        ("x=ppl:a.txt,x=ppl:b.txt", "'x=ppl:b.txt' should be .* with a name of its own"),
        ("nq=f2:a.jsonl", f"'nq=f2:a.jsonl': kind 'f2' is unknown; .*{', '.join(KINDS)}"),
        ("nq=f1:", "'nq=f1:': names no file"),
    ],
)
def test_items_of_another_form_are_refused_by_name(text, message):
    with pytest.raises(ValueError, match=f"^--probes={text}: .*{message}"):
        parse_probes(text)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("nq=f1:{hellaswag}", {}, "^--probes: nq=f1:.*hella.txt: .*plain text has no fields"),
        ("h=hellaswag:{f1}", {}, "^--probes: h=hellaswag:.*nq.jsonl: .*expected .txt"),
        ("m=medmcqa:{f1}", {}, "^--probes: m=medmcqa:.*line 1: no opa"),
        ("nq=f1:none.jsonl", {}, "--probes=none.jsonl: no such file"),
        (
            "nq=f1:{f1}",
            dict(shots=9),
            "^--probes: nq=f1:.*nq.jsonl: shots=9 of 6 questions leaves none",
        ),
        ("nq=f1:{f1}", dict(answer_tokens=512), "the prompt of 'Who made .*512 positions"),
        ("w=ppl:{ppl}", dict(window=513), "^--ppl_window=513 is more than the model's 512"),
        ("w=ppl:{ppl}", dict(window=8, stride=8), "^--ppl_window=8, --ppl_stride=8: .*stride"),
    ],
)
def test_what_cannot_be_probed_is_refused_before_compute(base, files, text, options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read(text.format(**files), base, **options)


def test_every_probe_measures_what_its_kind_says_it_does(files, tiny_base):
    base = load_base(str(tiny_base), "base")
    asked = dict.fromkeys(("exact", "known", "probability", "same", "kl_prompts"), files["f1"])
    items = files | asked | {"text": files["ppl"], "kl": files["ppl"]}
    assert items.keys() == KINDS.keys()
    text = ",".join(f"{kind}={kind}:{path}" for kind, path in items.items())
    probes = read(text, base, limit=2, answer_tokens=2, window=16, stride=8).whole()
    scorer = Scorer(base.model, 8)
    refer_to_base(probes, scorer, base.params)
    for kind, probe in probes.items():
        assert probe.metrics == KINDS[kind].metrics
        assert list(probe.measure(scorer, base.params)) == [m.name for m in probe.metrics]
        assert [metric.headline for metric in probe.metrics].index(True) == 0
        assert sum(metric.headline for metric in probe.metrics) == 1


def headlines(*keys: str, text: str = "") -> list[str]:
    return [key for key, metric in find_metrics(keys, text).items() if metric.headline]


def test_the_number_to_look_at_of_each_probe_is_known_without_its_kind():
    keys = ("nq_f1", "nq_exact", "h_acc_norm", "h_acc", "gsm_loss", "w_perplexity", "w_loss")
    assert headlines(*keys) == ["nq_f1", "h_acc_norm", "gsm_loss", "w_perplexity"]
    assert {key for key, metric in find_metrics(keys).items() if not metric.higher_is_better} == {
        "gsm_loss",
        "w_perplexity",
        "w_loss",
    }


def test_a_metric_is_that_of_the_kind_that_the_run_was_told():
    # By its name alone this loss would be that of a probe that has no perplexity.
    assert headlines("w_loss") == ["w_loss"]
    assert headlines("w_loss", text="q=file.jsonl,w=ppl:gone.txt") == []
    assert headlines("a_b_acc_norm", "a_b_acc", text="a_b=medmcqa:x.jsonl") == ["a_b_acc_norm"]
    assert find_metrics(["w_speed", "acc"]) == {}


def test_every_kind_is_written_down(request):
    text = (request.config.rootpath / "docs" / "probes.md").read_text()
    assert all(f"`{kind}`" in text for kind in KINDS)
    assert json.dumps("Question: {}\nAnswer:")[1:-1] in text
