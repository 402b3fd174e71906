"""README and docs: every command they print is one, and what a newcomer copies runs."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from benchmarks.flags import BenchmarkConfig
from benchmarks.load import LoadConfig
from benchmarks.patches import PatchesConfig
from examples.writes import WritesConfig
from experiments import evaluate, sweep
from experiments.ablate import AblateConfig
from experiments.answers import AnswersConfig
from experiments.cli import parse
from experiments.compare import CompareConfig
from experiments.evaluate import EvaluateConfig
from experiments.export import ExportConfig
from experiments.patch import PatchConfig
from experiments.report.__main__ import ReportConfig
from experiments.studies.heal import HealStudyConfig
from smf_jax.__main__ import VERBS
from smf_jax.bases.pretrain_config import PretrainConfig
from smf_jax.bases.quantise_config import QuantiseConfig
from smf_jax.bases.retrofit_config import RetrofitCommandConfig
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.grid import grid
from smf_jax.continual.trial import shard
from tests.tiny_sweep import on_devices, write_lines

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))
CONFIGS = {
    "benchmarks": BenchmarkConfig,
    "benchmarks.load": LoadConfig,
    "benchmarks.patches": PatchesConfig,
    "experiments.sweep": SweepConfig,
    "experiments.pretrain": PretrainConfig,
    "experiments.retrofit": RetrofitCommandConfig,
    "experiments.quantise": QuantiseConfig,
    "experiments.evaluate": EvaluateConfig,
    "experiments.export": ExportConfig,
    "experiments.compare": CompareConfig,
    "experiments.patch": PatchConfig,
    "experiments.ablate": AblateConfig,
    "experiments.answers": AnswersConfig,
    "experiments.report": ReportConfig,
    "experiments.studies.heal": HealStudyConfig,
    "experiments.benchmark": BenchmarkConfig,
    "examples.writes": WritesConfig,
    **{f"smf {name}": verb.config for name, verb in VERBS.items()},
}
# Scripts that take words, or flags of their own.
WITHOUT_FLAGS = {
    *("benchmarks.random_checkpoint", "benchmarks.foreign_table", "benchmarks.host_table"),
    *("examples.new_token", "tests.kills", "tests.damage", "tests.fuzz"),
}


@dataclass(frozen=True)
class Command:
    page: str
    module: str
    arguments: tuple[str, ...]


def commands() -> list[Command]:
    """The commands of all pages: those of code blocks, and those within a line."""
    found = []
    for page in PAGES:
        text = (ROOT / page).read_text().replace("\\\n", " ")
        blocks = [block for _, block in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)]
        lines = [line.partition(" #")[0] for block in blocks for line in block.splitlines()]
        lines += re.findall(r"`(python -m [^`]*)`", text.replace("\n", " "))
        for line in lines:
            if line.startswith("python -m "):
                _, _, module, *arguments = shlex.split(line.replace("…", ""))
                if module == "smf_jax":
                    module = f"smf {arguments.pop(0)}"
                found.append(Command(page, module, tuple(arguments)))
            elif line.startswith("smf "):
                _, verb, *arguments = shlex.split(line)
                found.append(Command(page, f"smf {verb}", tuple(arguments)))
    return found


def on_disk(arguments: Sequence[str]) -> list[str]:
    """Arguments without URLs, whose stores nobody reaches from here."""
    return [argument.replace("gs://", "/") for argument in arguments]


def test_the_pages_are_read():
    assert len(commands()) > 15
    assert {"README.md", "docs/serving.md"} <= {command.page for command in commands()}


@pytest.mark.parametrize("command", commands(), ids=lambda c: f"{c.page} {c.module}")
def test_every_command_is_one_with_flags_that_it_has(command):
    if not command.module.startswith("smf "):
        assert importlib.util.find_spec(command.module) is not None, command
    if command.module in CONFIGS:
        parse(CONFIGS[command.module], on_disk(command.arguments))
    else:
        assert command.module in WITHOUT_FLAGS, "a command that is not known here"


def test_every_flag_and_module_that_a_page_names_exists():
    flags = set().union(*(config().values() for config in CONFIGS.values()))
    for page in PAGES:
        text = (ROOT / page).read_text()
        for flag in re.findall(r"`--(no)?([a-z_0-9]+)", text):
            assert flag[1] in flags | {"help", "helpfull", "shape"}, (page, flag)
        for path in re.findall(r"`((?:smf_jax|experiments|benchmarks|examples)/[\w/.]+)`", text):
            assert (ROOT / path).exists(), (page, path)
        for link in re.findall(r"\]\(((?!http)[^)#]+)\)", text):
            assert ((ROOT / page).parent / link).exists(), (page, link)


def test_the_shares_of_a_cluster_are_a_whole_grid():
    """Each example as its tool reads it: eight shares of one grid, with flags that there are."""
    text = (ROOT / "docs" / "clusters.md").read_text()
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", text, re.M | re.S)
    assert [kind for kind, _ in blocks].count("bash") == 5
    commands_of = []
    for kind, block in blocks:
        if kind == "bash":
            subprocess.run(["bash", "-n"], input=block.encode(), check=True)
            commands_of += [line for line in block.splitlines() if "experiments.sweep" in line]
        else:
            job = yaml.safe_load(block)
            assert job["kind"] == "Job" and job["apiVersion"] == "batch/v1"
            spec = job["spec"]
            assert (spec["completionMode"], spec["completions"]) == ("Indexed", 8)
            (container,) = spec["template"]["spec"]["containers"]
            assert container["command"] == ["sh", "-c"] and len(container["args"]) == 1
            commands_of += container["args"]
    (array,) = re.findall(r"^#SBATCH --array=(\S+)", text, re.M)
    assert array == "0-7"
    assert all(re.fullmatch(r"--[a-z-]+(=\S+)?", option) for option in sbatch_options(text))
    assert len(commands_of) == 5
    grids = set()
    for command in commands_of:
        arguments = command.partition("experiments.sweep ")[2].rstrip('"& ')
        config = parse(SweepConfig, on_disk(shlex.split(arguments)))[0]
        trials = grid(config.grid, config.own)
        if config.launch.launcher == "none":
            variable = config.grid.shard.partition("/")[0]
            shares = [config.grid.shard.replace(variable, str(i)) for i in range(8)]
        else:
            shares = [f"{i}/{config.launch.jobs}" for i in range(config.launch.jobs)]
        dealt = [trial.id for share in shares for trial in shard(trials, share)]
        assert sorted(dealt) == sorted(trial.id for trial in trials) and config.run.resume
        grids.add(tuple(sorted(dealt)))
    assert len(grids) == 1


def sbatch_options(text: str) -> list[str]:
    return re.findall(r"^#SBATCH (.*)$", text, re.M)


def test_the_code_of_the_readme_teaches_a_fact_and_takes_it_back(
    tiny_base, tmp_path, monkeypatch, capsys
):
    (code,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    (tmp_path / "bases").mkdir()
    (tmp_path / "bases" / "mine").symlink_to(tiny_base)
    (tmp_path / "general.txt").write_text("A boy rides down the hill.\nThe sun is warm.\n" * 99)
    monkeypatch.chdir(tmp_path)
    # A base of one block and 24 facts needs more than the README's base does.
    told = "steps=40, learning_rate=30.0"
    assert told in code
    config = 'config=smf.SparseConfig(optimizer=smf.OptimizerConfig("adamw"))'
    code = code.replace(told, f"steps=100, learning_rate=0.3, budget=256, {config}")
    with on_devices(1):
        exec(compile(code, "README.md", "exec"), {})
    before, after = capsys.readouterr().out.splitlines()
    assert "Lisbon" not in before and "Lisbon" in after


def test_the_sweep_of_the_readme_runs_on_a_checkpoint(sweeper, plain_checkpoint, tmp_path):
    """The README's own flags, on a checkpoint of two layers and files of a few lines."""
    told = next(c for c in commands() if c.page == "README.md" and c.module == "experiments.sweep")
    questions = [{"question": f"Who made thing {n}?", "answers": [f"Maker {n}"]} for n in range(9)]
    texts = [{"text": f"Thing number {n} stands beside thing {n + 1}."} for n in range(400)]
    wiki = tmp_path / "wiki.txt"
    wiki.write_text("\n".join(line["text"] for line in texts))
    files = {
        "path/to/Qwen2.5-0.5B": plain_checkpoint,
        "questions.jsonl.gz": write_lines(tmp_path / "questions.jsonl", *questions),
        "nq_open.jsonl": write_lines(tmp_path / "nq.jsonl", *questions[:3]),
        "wikipedia.jsonl.xz": write_lines(tmp_path / "general.jsonl", *texts),
        "wikitext2_test.txt": wiki,
        "runs/qwen": tmp_path / "run",
        "--dtype=bfloat16": "--dtype=float32",  # six times slower on a processor
        "--layers=6,12,18": "--layers=0,1",
    }
    arguments = " ".join(told.arguments)
    for name, file in files.items():
        assert name in arguments, name
        arguments = arguments.replace(name, str(file))
    small = "--methods=smf --slots=16 --tasks=1 --facts_per_task=3 --steps_per_task=2 --reads=3 "
    small += "--keys_per_half=8 --background_batches=2 --probe_limit=9 "
    small += "--recount_batches=0 --batch_size=8"
    config = parse(SweepConfig, [*arguments.split(), *small.split()])[0]
    with on_devices(1):
        assert sweep.main(config) == 0
    row = json.loads((tmp_path / "run" / "results.jsonl").read_text())
    assert row["known_base"] == 0 and row["text_loss_base"] > 1  # of nq, of wikitext


def test_the_evaluation_of_the_docs_runs_on_a_run(sweeper, tmp_path):
    run = tmp_path / "run"
    assert sweeper(run, methods="full", lr="0.01", optimizer="adamw", tasks=2) == 0
    told = next(c for c in commands() if "--task=3" in c.arguments)
    questions = [{"question": f"Who made thing {n}?", "answers": [f"Maker {n}"]} for n in range(3)]
    file = write_lines(tmp_path / "nq.jsonl", *questions)
    arguments = " ".join(told.arguments).replace("runs/world", str(run))
    arguments = arguments.replace("=ID", "=full-adamw-lr0.01-s0").replace("--task=3", "--task=1")
    arguments = arguments.replace("nq_open.jsonl", str(file))
    arguments = arguments.replace("after.json", str(tmp_path / "after.json"))
    config = parse(EvaluateConfig, [*arguments.split(), "--probe_answer_tokens=2"])[0]
    with on_devices(1):
        assert evaluate.main(config) == 0
    assert (tmp_path / "after.json").exists()
