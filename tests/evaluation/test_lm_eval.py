"""The harness sees our model: its tasks score what our own probes and a plain loop give."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest

pytest.importorskip("lm_eval", reason='lm_eval is absent: pip install "smf_jax[lm-eval]"')

from lm_eval import simple_evaluate  # pyright: ignore[reportMissingImports]
from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

from experiments import evaluate
from experiments.evaluate import EvaluateConfig
from smf_jax.data.multiple_choice import Choice, read_hellaswag
from smf_jax.data.tokenizer import load_tokenizer
from smf_jax.evaluation.lm_eval import SmfLM
from smf_jax.evaluation.probes.multiple_choice import choice_probe
from smf_jax.evaluation.scorer import Scorer
from smf_jax.interop.huggingface.checkpoint import load_huggingface
from smf_jax.models.decoder import Decoder
from smf_jax.params import flatten
from tests.evaluation.tiny import (
    ITEMS,
    POSITIONS,
    SENTENCES,
    log_probabilities,
    model,
    params,
    token_logits,
    tokenizer,
)

# `datasets` leaves its files to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

CHOICE_TASK = """\
task: local_choice
dataset_path: json
dataset_kwargs:
  data_files:
    validation: {path}
output_type: multiple_choice
validation_split: validation
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: endings
doc_to_target: right
metric_list:
  - metric: acc
  - metric: acc_norm
  - metric: acc_bytes
"""
OPEN_TASK = """\
task: local_open
dataset_path: json
dataset_kwargs:
  data_files:
    validation: {path}
output_type: generate_until
validation_split: validation
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs:
  until: ["\\n"]
  max_gen_toks: 6
metric_list:
  - metric: exact_match
"""


@pytest.fixture
def score(tmp_path, monkeypatch):
    """Runs a local task, offline, and returns its metrics."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def run(lm: SmfLM, task: str, records: list[dict]) -> dict:
        data = tmp_path / "data.jsonl"
        data.write_text("".join(f"{json.dumps(record)}\n" for record in records))
        (tmp_path / "task.yaml").write_text(task.format(path=data))
        found = simple_evaluate(
            model=lm,
            tasks=[task.split()[1]],
            task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
            bootstrap_iters=0,
        )
        return found["results"][task.split()[1]]

    return run


def records_of(items) -> list[dict]:
    return [dict(prompt=i.prompt, endings=list(i.endings), right=i.right) for i in items]


def require_equal(metrics: dict, ours: dict) -> None:
    assert {name: metrics[f"{name},none"] for name in ("acc", "acc_norm", "acc_bytes")} == {
        name: pytest.approx(ours[name]) for name in ("acc", "acc_norm", "acc_bytes")
    }


@pytest.fixture(scope="module")
def lm() -> SmfLM:
    return SmfLM(model(), params(), tokenizer(), rows=5, max_gen_toks=6)


def test_a_task_scores_what_our_probe_scores(score, lm):
    # Every item twice, with another ending for the right one: neither all nor none is right.
    items = [*ITEMS, *(Choice(i.prompt, i.endings, (i.right + 1) % 4) for i in ITEMS)]
    ours = choice_probe(tokenizer(), items, POSITIONS).measure(lm.scorer, params())
    require_equal(score(lm, CHOICE_TASK, records_of(items)), ours)


def test_hellaswag_on_a_real_model_scores_what_our_probe_scores(score, shared):
    directory = shared / "data" / "models" / "tinystories656k"
    config, params = load_huggingface(directory, "float32")
    tokens, real = load_tokenizer(directory, config.vocabulary), flatten(params)
    items = read_hellaswag(shared / "data" / "heldout" / "hellaswag_val_full.txt.bz2")[:60]
    lm = SmfLM(Decoder(config), real, tokens)
    probe = choice_probe(tokens, items, config.max_positions)
    ours = probe.measure(Scorer(Decoder(config), 60), real)
    require_equal(score(lm, CHOICE_TASK, records_of(items)), ours)


def asked(*arguments) -> SimpleNamespace:
    return SimpleNamespace(args=arguments)


def test_a_text_without_context_stands_after_bos(lm):
    ids = [tokenizer().bos, *tokenizer().encode("Ann Lee")]
    ((total, greedy),) = lm.loglikelihood([asked("", "Ann Lee")], disable_tqdm=True)
    assert total == pytest.approx(log_probabilities(ids).sum(), rel=1e-5)
    assert greedy is False


def test_a_continuation_is_greedy_if_it_is_what_the_model_says(lm):
    context = "Question: Who made the bridge?\nAnswer:"
    ids = [tokenizer().bos, *tokenizer().encode(context)]
    best = int(token_logits(ids)[-1].argmax())
    ((_, greedy),) = lm._loglikelihood_tokens([(None, ids, [best])])
    assert greedy is True


@pytest.mark.parametrize("length", [20, POSITIONS, POSITIONS + 1, 150])
def test_a_rolling_likelihood_scores_each_token_once(lm, length):
    text = tokenizer().decode(tokenizer().encode(" ".join(SENTENCES * 4))[:length])
    ids = tokenizer().encode(text)
    assert len(ids) == length
    whole = [tokenizer().bos, *ids]
    expected, done = 0.0, 0
    while done < length:  # windows as wide as the model; the last reaches back over scored ones
        end = min(length, done + POSITIONS)
        part = whole[: end + 1][-POSITIONS - 1 :]
        expected += log_probabilities(part)[-(end - done) :].sum()
        done = end
    (found,) = lm.loglikelihood_rolling([asked(text)])
    assert found == pytest.approx(expected, rel=1e-5)
    assert math.isfinite(found)


def greedy_text(prompt: str, steps: int) -> str:
    ids = [tokenizer().bos, *tokenizer().encode(prompt)]
    start = len(ids)
    for _ in range(steps):
        ids.append(int(token_logits(ids)[-1].argmax()))
        if ids[-1] == tokenizer().eos:
            ids.pop()
            break
    return tokenizer().decode(ids[start:])


def test_answers_are_greedy_up_to_what_stops_them(lm):
    prompts = ["Who made", "A boy rides", "He laughs, and"]
    whole = [greedy_text(prompt, 6) for prompt in prompts]
    end = whole[0][len(whole[0]) // 2]
    requests = [asked(prompt, {"until": [end]}) for prompt in prompts]
    requests.append(asked(prompts[0], {"until": [], "max_gen_toks": 3}))
    found = lm.generate_until(requests)
    assert found[:3] == [text.partition(end)[0] for text in whole]
    assert found[3] == greedy_text(prompts[0], 3)


def test_an_open_task_runs(score, lm):
    prompts = ["Who made", "A boy rides"]
    answers = [greedy_text(prompt, 6).partition("\n")[0] for prompt in prompts]
    records = [dict(prompt=p, answer=a) for p, a in zip(prompts, answers, strict=True)]
    assert score(lm, OPEN_TASK, records)["exact_match,none"] == 1
    records[0]["answer"] = "something else"
    assert score(lm, OPEN_TASK, records)["exact_match,none"] == 0.5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"do_sample": True}, "do_sample=True, temperature=None: answers are greedy here"),
        ({"temperature": 0.7}, "temperature=0.7"),
        ({"max_gen_toks": POSITIONS}, f"max_gen_toks={POSITIONS}: expected at least 1 and less"),
    ],
)
def test_what_cannot_be_generated_is_refused(lm, given, message):
    with pytest.raises(ValueError, match=message):
        lm.generate_until([asked("Who", given)])


def test_a_prompt_that_is_too_long_loses_its_beginning(lm):
    long = " ".join(SENTENCES * 3)
    ids = [tokenizer().bos, *tokenizer().encode(long)][-(POSITIONS - 6) :]
    assert len(ids) == POSITIONS - 6
    steps = []
    for _ in range(6):
        steps.append(int(token_logits([*ids, *steps])[-1].argmax()))
    text = tokenizer().decode(steps[: steps.index(2)] if 2 in steps else steps)
    assert lm.generate_until([asked(long, {})]) == [text]


def test_the_command_runs_local_tasks_and_names_unknown_ones(tmp_path, shared, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    file = shared / "data" / "heldout" / "hellaswag_val_full.txt.bz2"
    data, tasks = tmp_path / "data.jsonl", tmp_path / "tasks"
    records = records_of(read_hellaswag(file)[:12])
    data.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    tasks.mkdir()
    (tasks / "task.yaml").write_text(CHOICE_TASK.format(path=data))
    given = dict(
        base=str(shared / "data" / "models" / "tinystories656k"),
        probes=f"hella=hellaswag:{file}",
        probe_limit=12,
        harness="local_choice",
        harness_path=str(tasks),
        out=str(tmp_path / "out.json"),
    )
    assert evaluate.main(EvaluateConfig.of(**given)) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    require_equal(found["harness"]["local_choice"], found["probes"]["hella"]["scores"])
    unknown = EvaluateConfig.of(
        **given | {"harness": "no_such", "out": str(tmp_path / "other.json")}
    )
    with pytest.raises(ValueError, match=r"^--harness=no_such: .*no_such"):
        evaluate.main(unknown)
    assert not (tmp_path / "other.json").exists()
