import json
import re
import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from experiments import export
from experiments.evaluate import ModelSection, find_model
from experiments.export import ExportConfig
from smf_jax import checkpoints
from smf_jax.bases.base import load_base
from smf_jax.configuration import flags_of
from smf_jax.continual.grid import grid
from smf_jax.continual.methods import METHODS
from smf_jax.continual.run_directory import RunDirectory
from smf_jax.continual.sections import GridConfig
from smf_jax.data.files import read_records
from smf_jax.data.tokenizer import load_tokenizer
from smf_jax.interop.export.model import load_exported
from smf_jax.interop.huggingface.checkpoint import load_huggingface, save_huggingface
from smf_jax.params import flatten
from tests.interop.gguf.files import write_model

SERVING = Path(__file__).resolve().parents[2] / "docs" / "serving.md"


def trials_of(run: Path, method: str) -> list[str]:
    return sorted(path.name for path in (run / "trials").iterdir() if path.name.startswith(method))


def run_export(**flags) -> int:
    return export.main(ExportConfig.of(**{name: str(value) for name, value in flags.items()}))


def assert_same(found, expected) -> None:
    assert found.keys() == expected.keys()
    for path, leaf in expected.items():
        assert np.asarray(found[path]).tobytes() == np.asarray(leaf).tobytes(), path


def test_a_trial_with_patches(finished, tmp_path, capsys):
    trial = trials_of(finished, "smf")[0]
    assert run_export(run=finished, trial=trial, out=tmp_path / "out") == 0
    base = load_base(str(finished / "base"), "base")
    found = load_exported(tmp_path / "out")
    assert found.config == base.config
    assert len(found.patches) == 2
    assert sum(patch.rows for patch in found.patches) > 0
    assert_same(load_exported(tmp_path / "out", patches=0).params, base.params)
    changed = {p for p, x in base.params.items() if not np.array_equal(x, found.params[p])}
    assert changed == {"memory/pool_0/values"}
    text = (tmp_path / "out" / "README.md").read_text()
    assert text.startswith('---\nlicense: "apache-2.0"\n')
    for told in (f"Trial `{trial}`", "built-in world", "known_base", "2 tasks of 4 facts"):
        assert told in text
    assert "2 patches of" in capsys.readouterr().out
    tokenizer = load_tokenizer(tmp_path / "out")
    assert tokenizer.encode_prompt("The cat") == base.tokenizer.encode_prompt("The cat")


def test_an_earlier_task_and_one_patch_for_all(finished, tmp_path):
    trial = trials_of(finished, "smf")[0]
    assert run_export(run=finished, trial=trial, out=tmp_path / "all") == 0
    flags = ExportConfig.of(run=str(finished), trial=trial, task=0, out=str(tmp_path / "first"))
    assert export.main(flags) == 0
    flags = ExportConfig.of(run=str(finished), trial=trial, stack=True, out=str(tmp_path / "one"))
    assert export.main(flags) == 0
    first, one, both = (load_exported(tmp_path / name) for name in ("first", "one", "all"))
    assert (len(first.patches), len(one.patches), len(both.patches)) == (1, 1, 2)
    assert_same(first.params, load_exported(tmp_path / "all", patches=1).params)
    assert_same(one.params, both.params)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_methods_without_patches_are_in_the_base(method, finished, tmp_path):
    trial = trials_of(finished, method)[0]
    assert run_export(run=finished, trial=trial, out=tmp_path / "out") == 0
    base = load_base(str(finished / "base"), "base")
    own = RunDirectory(str(finished)).config().own(method)
    trained = checkpoints.load(finished / "trials" / trial / "task_01")[0]
    found = load_exported(tmp_path / "out")
    assert not found.patches
    assert_same(found.params, METHODS[method].apply(own, base.params, trained))
    assert any(not np.array_equal(x, found.params[p]) for p, x in base.params.items())


def test_a_plain_checkpoint_keeps_its_files_and_licence(plain_checkpoint, tmp_path):
    base = Path(shutil.copytree(plain_checkpoint, tmp_path / "base"))
    (base / "README.md").write_text("---\ntags: [x]\nlicense: mit\n---\n# theirs\n")
    (base / "chat_template.jinja").write_text("{{ messages }}")
    assert run_export(base=base, out=tmp_path / "out", base_model="them/theirs") == 0
    expected = flatten(load_huggingface(base)[1])
    assert_same(flatten(load_huggingface(tmp_path / "out")[1]), expected)
    assert_same(load_exported(tmp_path / "out").params, expected)
    text = (tmp_path / "out" / "README.md").read_text()
    assert 'license: "mit"\n' in text
    assert 'base_model: "them/theirs"\n' in text
    for name in ("chat_template.jinja", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (base / name).read_bytes()
    assert not (tmp_path / "out" / "pytorch_memory.py").exists()


def test_a_gguf_file_is_exported_for_transformers_with_its_licence(tmp_path):
    path = write_model(tmp_path / "tiny.gguf")
    assert run_export(base=path, out=tmp_path / "out") == 0
    base = load_base(str(path))
    config, params = load_huggingface(tmp_path / "out")
    assert config == base.config
    assert_same(flatten(params), base.params)
    assert_same(load_base(str(tmp_path / "out")).params, base.params)
    tokenizer, text = load_tokenizer(tmp_path / "out", config.vocabulary), "The cat<|im_end|> 1984"
    assert tokenizer.encode(text) == base.tokenizer.encode(text)
    assert tokenizer.stops == base.tokenizer.stops
    told = (tmp_path / "out" / "README.md").read_text()
    assert 'license: "mit"\n' in told and "Base: GGUF file tiny.gguf." in told


def test_a_family_s_tokenizer_is_written_as_the_one_that_was_read(plain_checkpoint, tmp_path):
    base = Path(shutil.copytree(plain_checkpoint, tmp_path / "base"))
    told = json.loads((base / "tokenizer_config.json").read_text())
    family = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "added_tokens_decoder": {}}
    (base / "tokenizer_config.json").write_text(json.dumps(told | family))
    (base / "special_tokens_map.json").write_text('{"pad_token": "<other>"}')
    (base / "generation_config.json").write_text('{"eos_token_id": [2, 7], "top_p": 0.9}')
    assert run_export(base=base, out=tmp_path / "out") == 0
    config, params = load_huggingface(base)
    save_huggingface(tmp_path / "plain", config, params, companions=base)
    for out in (tmp_path / "out", tmp_path / "plain"):
        # Classes make transformers follow recipes of their own; so does what they are told.
        assert json.loads((out / "tokenizer_config.json").read_text()) == told
        assert not (out / "special_tokens_map.json").exists()
        assert json.loads((out / "generation_config.json").read_text()) == {
            "eos_token_id": [2, 7],
            "top_p": 0.9,
            "pad_token_id": 0,
            "bos_token_id": 1,
        }
        assert load_tokenizer(out).stops == (2, 7)


def test_live_2000_prompts_are_the_same_tokens_in_transformers(shared, tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs it: make test-parity")
    base, out = shared / "data" / "models" / "tinystories656k", tmp_path / "out"
    assert run_export(base=base, out=out) == 0
    file = shared / "data" / "heldout" / "nq_open_dev3610.jsonl.xz"
    prompts = [record["question"] for _, record in islice(read_records(file), 1980)]
    for mark in ("<|end_story|>", "<unk>", "▁", "\n"):
        prompts += [
            mark,
            f"a{mark}",
            f" {mark} b",
            f"{mark}{mark}",
            f"I don't  {mark}mean 12,5 é 東",
        ]
    assert len(prompts) == 2000
    ours, theirs = load_tokenizer(out), transformers.AutoTokenizer.from_pretrained(out)
    expected = [ours.encode_prompt(prompt) for prompt in prompts]
    assert [theirs(prompt).input_ids for prompt in prompts] == expected
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (1, 2, 0)
    padded = theirs(prompts[:32], padding=True).input_ids
    assert max(map(max, padded)) < 2048 and len({len(ids) for ids in padded}) == 1


def test_an_exported_model_is_a_base_again(finished, tmp_path):
    trial = trials_of(finished, "smf")[0]
    assert run_export(run=finished, trial=trial, out=tmp_path / "out") == 0
    base = load_base(str(tmp_path / "out"), "base")
    found = load_exported(tmp_path / "out")
    assert base.config == found.config
    assert_same(base.params, found.params)
    assert run_export(base=tmp_path / "out", out=tmp_path / "again") == 0
    assert_same(load_exported(tmp_path / "again").params, found.params)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"base": "x"}, "--out is empty"),
        ({"out": "{new}"}, "--base and --run are empty"),
        ({"base": "x", "out": "{new}", "trial": "smf"}, "--trial=smf needs --run"),
        ({"base": "{new}", "out": "{new}"}, "--base=.* no such directory"),
        ({"run": "{new}", "out": "{new}"}, "--run=.* is no run of a sweep"),
        ({"run": "{run}", "out": "{new}"}, r"has 6 trials; name one with --trial: full"),
        (
            {"run": "{run}", "out": "{new}", "trial": "smf"},
            "--trial=smf: .* has no such trial",
        ),
        ({"run": "{run}", "out": "{run}"}, "--out=.* exists; choose another"),
        ({"base": "x", "out": "{new}", "dtype": "int8"}, "--dtype=int8 is unknown"),
    ],
)
def test_bad_flags_are_refused(flags, message, finished, tmp_path):
    given = {k: v.format(new=tmp_path / "new", run=finished) for k, v in flags.items()}
    with pytest.raises((ValueError, FileNotFoundError, FileExistsError), match=message):
        run_export(**given)
    assert not (tmp_path / "new").exists()


def test_a_task_that_was_not_reached_is_refused(finished, tmp_path):
    trial = trials_of(finished, "smf")[0]
    flags = ExportConfig.of(run=str(finished), trial=trial, task=7, out=str(tmp_path / "new"))
    with pytest.raises(FileNotFoundError, match=r"--task=7: .* has no checkpoint .* tasks 0, 1"):
        export.main(flags)


def test_the_commands_of_the_serving_page_are_right():
    commands = re.findall(r"^python -m experiments.export ([^#\n]+)", SERVING.read_text(), re.M)
    given = [dict(re.findall(r"--(\w+)=(\S+)", command)) for command in commands]
    known = flags_of(ExportConfig()).keys()
    assert len(given) == 2 and all(flags.keys() <= known for flags in given)
    (trial,) = (flags["trial"] for flags in given if "trial" in flags)
    assert trial in {trial.id for trial in grid(GridConfig())}, "a trial of a sweep at its defaults"


def test_the_code_of_the_serving_page_runs(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trial = trials_of(finished, "smf")[0]
    assert run_export(run=finished, trial=trial, out="exported/world") == 0
    blocks = re.findall(r"^```python(| torch)\n(.*?)^```", SERVING.read_text(), re.M | re.S)
    names: dict = {}
    for where, code in blocks:
        if not where:
            exec(compile(code, str(SERVING), "exec"), names)
    assert all(isinstance(answer, str) for answer in names["answers"])
    assert_same(names["again"], names["before"])
    assert any(not np.array_equal(x, names["after"][p]) for p, x in names["before"].items())
    assert_same(flatten(load_huggingface("exported/plain")[1]), flatten(names["params"]))
    for module in ("torch", "transformers"):
        pytest.importorskip(module, reason="needs torch: make test-parity")
    (torch_code,) = (code for where, code in blocks if where)
    exec(compile(torch_code, str(SERVING), "exec"), names)
    text = names["tokenizer"].decode(names["tokenizer"].encode_prompt(names["prompts"][0]))
    answer = names["torch_answer"].strip()
    whole = names["complete_texts"](
        names["model"], names["leaves"], names["tokenizer"], names["prompts"][:1], max_tokens=16
    )
    assert answer == (text + whole[0]).strip()


@pytest.fixture(scope="module")
def half(sweeper, tmp_path_factory) -> Path:
    """A run in bfloat16 on a base of float32."""
    out = tmp_path_factory.mktemp("runs") / "half"
    methods = dict(methods="smf,full", slots="16", lr="smf:30/full:1e-2", tasks=1)
    assert sweeper(out, dtype="bfloat16", steps_per_task=2, **methods) == 0
    return out


@pytest.mark.parametrize("method", ["smf", "full"])
def test_what_a_bfloat16_sweep_leaves_is_read_and_exported(half, method, tmp_path, capsys):
    (trial,) = trials_of(half, method)
    model = ModelSection(run=str(half), trial=trial)
    base, params, _ = find_model(model)
    kept = "bfloat16" if method == "smf" else "float32"  # what full finetuning trains is float32
    assert base.config.dtype == "bfloat16"
    assert params["embedder/embedding"].dtype == kept
    assert run_export(run=half, trial=trial, out=tmp_path / "out") == 0
    assert re.search(f"{kept}.*, computing in bfloat16, . patches", capsys.readouterr().out)
    assert_same(load_exported(tmp_path / "out").params, params)
    told = json.loads((tmp_path / "out" / "config.json").read_text())
    assert told["torch_dtype"] == kept
    # Another dtype is what it is cast to, or refused where patches would not fit.
    wide, params, _ = find_model(replace(model, dtype="float32"))
    assert wide.config.dtype == "float32"
    assert {leaf.dtype.name for leaf in params.values()} == {"float32"}
    given = dict(run=half, trial=trial, dtype="float32", out=tmp_path / "wide")
    if method == "smf":
        with pytest.raises(ValueError, match=f"--dtype=float32: the patches of {trial} fit its"):
            run_export(**given)
    else:
        assert run_export(**given) == 0
        assert_same(load_base(str(tmp_path / "wide")).params, params)
