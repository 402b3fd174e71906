"""The harness sees our model: its tasks score what our own probes and a plain loop give."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest

pytest.importorskip("lm_eval", reason='lm_eval is absent: pip install "smf_jax[lm-eval]"')

from lm_eval import simple_evaluate  # pyright: ignore[reportMissingImports]
from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

from experiments import evaluate
from experiments.evaluate import EvaluateConfig
from smf_jax.data.chat import ChatTemplate
from smf_jax.data.multiple_choice import Choice, read_hellaswag
from smf_jax.data.tokenizer import load_tokenizer
from smf_jax.evaluation import lm_eval
from smf_jax.evaluation.lm_eval import SmfLM, run_tasks
from smf_jax.evaluation.probes.multiple_choice import choice_probe
from smf_jax.evaluation.scorer import Scorer
from smf_jax.interop.huggingface.checkpoint import load_huggingface
from smf_jax.models.config import ModelConfig
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
from tests.models.tiny import FAMILIES, random_params

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
def only_local(monkeypatch):
    """Leaves out the harness's own tasks, whose thousands of files take a while to list."""
    monkeypatch.setattr(lm_eval, "TaskManager", partial(TaskManager, include_defaults=False))


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


def greedy_text(prompt: str, steps: int, config: ModelConfig | None = None) -> str:
    ids = [tokenizer().bos, *tokenizer().encode(prompt)]
    start = len(ids)
    for _ in range(steps):
        ids.append(int(token_logits(ids, config)[-1].argmax()))
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


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_scores_and_answers(name):
    """Likelihoods, whole texts and answers are those of its logits, one text at a time."""
    config = replace(FAMILIES[name], vocabulary=tokenizer().size, max_positions=POSITIONS)
    of_family = SmfLM(Decoder(config), flatten(random_params(config)), tokenizer(), rows=2)
    said = [("Who made the bridge?", " Ann Lee"), ("", "A boy rides"), ("He laughs,", " and")]
    found = of_family.loglikelihood([asked(*pair) for pair in said], disable_tqdm=True)
    for (context, follows), (total, _) in zip(said, found, strict=True):
        before = len(tokenizer().encode(context))
        whole = [*tokenizer().begin, *tokenizer().encode(context + follows)]
        expected = log_probabilities(whole, config)[before:].sum()
        assert total == pytest.approx(expected, rel=1e-5)
    (rolling,) = of_family.loglikelihood_rolling([asked("A boy rides")])
    assert rolling == pytest.approx(found[1][0], rel=1e-5)
    answers = of_family.generate_until([asked(said[0][0], {"until": [], "max_gen_toks": 4})])
    assert answers == [greedy_text(said[0][0], 4, config)]


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


def test_a_continuation_inside_a_token_of_its_context_scores_nothing(score, lm, capsys):
    # As the harness's models without an assertion have it: a sum over no token.
    whole, begun = tokenizer().encode("the bridge"), tokenizer().encode("the br")
    assert len(whole) < len(begun)
    said = asked("Ann", " Lee")
    expected = lm.loglikelihood([said], disable_tqdm=True)
    found = lm.loglikelihood([asked("the br", "idge"), said], disable_tqdm=True)
    assert found == [(0.0, True), *expected]
    assert "1 of 2 continuations are one token with their context" in capsys.readouterr().out
    task = CHOICE_TASK.replace("metric_list", 'target_delimiter: ""\nmetric_list')
    records = [dict(prompt="the br", endings=[" by", "idge"], right=right) for right in (0, 1)]
    assert score(lm, task, records)["acc,none"] == 0.5


TURNS = ChatTemplate(
    "{{ tone }}{% for m in messages %}{% if m.role == 'system' and loop.last %}"
    "{{ raise_exception('nobody asked') }}{% endif %}<{{ m.role }}>{{ m.content }}|{% endfor %}"
    "{% if add_generation_prompt %}<he>{% endif %}",
    named=(("loud", "!"),),
    arguments={"tone": "calm"},
)
ASKED = [{"role": "user", "content": "Who?"}]


def test_chats_are_rendered_by_the_tokenizer_s_template(lm):
    chatty = SmfLM(model(), params(), dataclasses.replace(tokenizer(), chat=TURNS))
    assert chatty.chat_template(True) == TURNS.text
    assert chatty.chat_template(False) is None
    assert chatty.apply_chat_template(ASKED) == "calm<user>Who?|<he>"
    begun = [*ASKED, {"role": "assistant", "content": "Ann "}]
    assert chatty.apply_chat_template(begun, False) == "calm<user>Who?|<assistant>Ann "
    # What refuses a system's words is asked without them, as the harness's own models are.
    system = [{"role": "system", "content": "Be short."}]
    assert chatty.apply_chat_template([*ASKED, *system]) == "calm<user>Who?|<he>"
    assert chatty.chat_template("loud") == chatty.apply_chat_template(ASKED) == "!"
    with pytest.raises(ValueError, match="no chat template is named 'soft', only default, loud"):
        chatty.chat_template("soft")
    with pytest.raises(ValueError, match="the tokenizer has no chat template"):
        lm.chat_template(True)
    # Requests that are kept belong to one tokenizer, template and choice of words.
    other = dataclasses.replace(TURNS, arguments={"tone": "loud"})
    lms = (lm, chatty, SmfLM(model(), params(), dataclasses.replace(tokenizer(), chat=other)))
    assert len({each.tokenizer_name for each in lms}) == 3
    assert SmfLM(model(), params(), tokenizer()).tokenizer_name == lm.tokenizer_name


@pytest.mark.usefixtures("only_local")
def test_tasks_are_put_as_chats_when_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    task = OPEN_TASK.format(path=tmp_path / "data.jsonl")
    (tmp_path / "data.jsonl").write_text('{"prompt": "Who made", "answer": "x"}\n')
    (tmp_path / "task.yaml").write_text(task)
    chatty = SmfLM(model(), params(), dataclasses.replace(tokenizer(), chat=TURNS), 5, 6)
    prompts = []
    monkeypatch.setattr(
        SmfLM,
        "generate_until",
        lambda _, requests: [prompts.append(r.args[0]) or "" for r in requests],
    )
    for chat in (True, False):
        assert list(run_tasks(chatty, ["local_open"], None, str(tmp_path), chat))
    assert prompts == ["calm<user>Who made|<he>", "Who made"]


@pytest.mark.usefixtures("only_local")
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
    other = tmp_path / "other.json"
    unknown = EvaluateConfig.of(**given | {"harness": "local_choice,no_such", "out": str(other)})
    with pytest.raises(ValueError, match=r"^--harness=local_choice,no_such: .*no task no_such"):
        evaluate.main(unknown)
    assert not other.exists()  # before anything was measured
    # One that fails leaves what was measured before it.
    sampled = OPEN_TASK.format(path=data).replace("max_gen_toks", "do_sample: true\n  max_gen_toks")
    (tasks / "open.yaml").write_text(sampled.replace("answer", "endings"))
    late = EvaluateConfig.of(**given | {"harness": "local_choice,local_open", "out": str(other)})
    with pytest.raises(ValueError, match=r"^--harness=local_open: do_sample=True"):
        evaluate.main(late)
    kept = json.loads(other.read_text())
    assert kept["harness"] == found["harness"]
    assert kept["probes"]["hella"]["scores"] == found["probes"]["hella"]["scores"]
