"""lm-evaluation-harness against the server, with the scores of our adapter in one process."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

pytest.importorskip("lm_eval", reason='lm_eval is absent: pip install "lm-eval[api]"')
pytest.importorskip("tenacity", reason='its clients are absent: pip install "lm-eval[api]"')

from lm_eval import simple_evaluate  # pyright: ignore[reportMissingImports]
from lm_eval.api.instance import Instance  # pyright: ignore[reportMissingImports]
from lm_eval.models.openai_completions import (  # pyright: ignore[reportMissingImports]
    LocalCompletionsAPI,
)
from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

from smf_jax.evaluation.lm_eval import SmfLM
from tests.fixtures import make_plain_checkpoint
from tests.serving.tiny import serving
from tests.taught.tiny import FACTS, FLAGS, files, teach_tiny
from tests.tiny_sweep import on_devices, write_lines

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
# An answer alone is decoded by this tokenizer without the space that it begins with; the server
# tells what follows the prompt, space and all.
TASKS = {
    "local_choice": """\
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: 0
metric_list:
  - metric: acc
  - metric: acc_norm
""",
    "local_open": """\
output_type: generate_until
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_target: "{{choices[0]}}"
generation_kwargs:
  until: ["\\n"]
  max_gen_toks: 6
metric_list:
  - metric: exact_match
    regexes_to_ignore: ["^ "]
""",
}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    place = tmp_path_factory.mktemp("harness")
    plain, given = make_plain_checkpoint(place / "plain", begins=False), files(place)
    told = {**FLAGS, "out": place / "model", "background": given["text"], "steps": 20}
    teach_tiny(plain, given["facts"], **{**told, "steps_per_round": 20, "facts_per_task": 4})
    with serving(place / "model", read_only=True) as running:
        yield running


def api(served, model: str, **more) -> LocalCompletionsAPI:
    url, make = f"{served.url}/v1/completions", cast(Any, LocalCompletionsAPI)
    return make(base_url=url, model=model, max_length=64, **more)


def here(served, model: str) -> SmfLM:
    base = served.models.base
    return SmfLM(base.model, served.models.find(model).params, base.tokenizer, rows=4)


@pytest.mark.parametrize("model", ["base", "taught"])
def test_tasks_score_as_they_do_in_one_process(served, model, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    choices = [fact["answer"] for fact in FACTS]
    records = [
        {
            "question": f["question"],
            "choices": [f["answer"], *(c for c in choices if c != f["answer"])],
        }
        for f in FACTS
    ]
    data = write_lines(tmp_path / "data.jsonl", *records)
    for name, task in TASKS.items():
        head = f"task: {name}\ndataset_path: json\nvalidation_split: validation\n"
        head += f"dataset_kwargs:\n  data_files:\n    validation: {data}\n"
        (tmp_path / f"{name}.yaml").write_text(head + task)
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    told = []
    with on_devices(1):
        for lm in (api(served, model, batch_size=4), here(served, model)):
            found = cast(Any, simple_evaluate)(
                lm, tasks=[*TASKS], task_manager=manager, bootstrap_iters=0
            )
            told.append(found["results"])
    assert told[0] == told[1] and set(told[0]) == set(TASKS)


def test_log_probabilities_and_greed_are_those_of_the_adapter(served):
    pairs = [
        ("Thing number 5 stands", " beside 5"),
        ("", "Who made"),
        ("Who who who who?", " Maker"),
    ]
    asked = [
        Instance("loglikelihood", {}, pair, place, ("t", place, 1))
        for place, pair in enumerate(pairs)
    ]
    with on_devices(1):
        found = api(served, "taught").loglikelihood(asked)
        expected = here(served, "taught").loglikelihood(asked)
    np.testing.assert_allclose([f[0] for f in found], [e[0] for e in expected], atol=1e-4)
    assert [f[1] for f in found] == [e[1] for e in expected]
