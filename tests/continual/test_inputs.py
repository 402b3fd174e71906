"""What a run was made from: a resume finds it as it was, or names the file that changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from experiments import sweep
from smf_jax import checkpoints
from smf_jax.bases.base import load_base, save_base
from smf_jax.checkpoints.files import sha256_of_file
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.inputs import digest_inputs
from smf_jax.continual.run_config import CONFIG
from smf_jax.continual.run_directory import RunDirectory
from smf_jax.data.readers import Reader
from tests.fixtures import NO_COMPUTE
from tests.interop.gguf.files import write_model
from tests.tiny_sweep import write_lines


def questions(path: Path, answer: str = "Oro") -> Path:
    return write_lines(path, *({"question": f"Who made {n}?", "answer": answer} for n in "abcd"))


@pytest.fixture
def given(tmp_path, plain_checkpoint) -> dict[str, str]:
    """Flags of a sweep that name something of every kind."""
    home = tmp_path / "given"
    (home / "text").mkdir(parents=True)
    for name in ("one.txt", "two.txt"):
        (home / "text" / name).write_text("Once there was a maker. " * 50)
    (home / "text" / "notes").write_text("No text.")
    shutil.copytree(plain_checkpoint, home / "plain")
    probes = (questions(home / "nq.jsonl"), questions(home / "known.jsonl"))
    return dict(
        base=str(home / "plain"),
        stream=str(questions(home / "stream.jsonl")),
        background=str(home / "text"),
        probes=f"nq=f1:{probes[0]},known={probes[1]}",
    )


def edit(path: str) -> Callable[[Path], object]:
    """Changes a byte in the middle of a file."""

    def edits(home: Path) -> None:
        data = bytearray((home / path).read_bytes())
        data[len(data) // 2] ^= 1
        (home / path).write_bytes(bytes(data))

    return edits


EDITS = {
    "stream.jsonl": ("--stream=.*stream.jsonl .stream.jsonl", edit("stream.jsonl")),
    "nq.jsonl": ("--probes=nq=.*nq.jsonl .nq.jsonl", edit("nq.jsonl")),
    "known.jsonl": ("--probes=known=.* .known.jsonl", edit("known.jsonl")),
    "a text": ("--background=.*text .two.txt", edit("text/two.txt")),
    "a new text": (
        "--background=.*text .zero.jsonl",
        lambda home: write_lines(home / "text" / "zero.jsonl", {"text": "More."}),
    ),
    "a text less": ("--background=.*text .one.txt", lambda h: (h / "text" / "one.txt").unlink()),
    "weights": ("--base=.*plain .model.safetensors", edit("plain/model.safetensors")),
    "a model's config": ("--base=.*plain .config.json", edit("plain/config.json")),
    "tokenizer": ("--base=.*plain .tokenizer.json", edit("plain/tokenizer.json")),
    "a template": (
        "--base=.*plain .chat_template.jinja",
        lambda home: (home / "plain" / "chat_template.jinja").write_text("{{ messages }}"),
    ),
}


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("shard", ["0/1", "1/2"])
def test_what_changed_is_refused_with_its_flag_and_file(given, tmp_path, name, shard):
    message, change = EDITS[name]
    config = SweepConfig.of(**given, out=str(tmp_path / "run"))
    RunDirectory(config.run.out).open(config)
    again = config.with_values(resume=True, shard=shard)
    RunDirectory(config.run.out, shard).check(again)
    change(tmp_path / "given")
    with pytest.raises(
        ValueError,
        match=f"--(resume|shard=1/2) of .*run with other content .*: {message}.; restore",
    ):
        RunDirectory(config.run.out, shard).check(again)


def test_a_sweep_refuses_before_it_reads_or_computes(given, tmp_path):
    config = SweepConfig.of(**given, out=str(tmp_path / "run"), resume=True)
    RunDirectory(config.run.out).open(config)
    questions(Path(given["stream"]), "Ora")
    with pytest.raises(ValueError, match=r"other content .*: --stream=.*stream\.jsonl"):
        sweep.main(config, NO_COMPUTE)


def test_files_may_move(given, tmp_path):
    config = SweepConfig.of(**given, out=str(tmp_path / "run"))
    RunDirectory(config.run.out).open(config)
    (tmp_path / "given").rename(tmp_path / "elsewhere")
    moved = {
        flag: value.replace(str(tmp_path / "given"), str(tmp_path / "elsewhere"))
        for flag, value in given.items()
    }
    again = config.with_values(**moved, resume=True)
    RunDirectory(config.run.out).open(again)
    assert RunDirectory(config.run.out).config() == again.resolved()
    Path(moved["stream"]).rename(tmp_path / "renamed.jsonl")
    again = again.with_values(stream=str(tmp_path / "renamed.jsonl"))
    RunDirectory(config.run.out).check(again)
    questions(tmp_path / "renamed.jsonl", "Ora")
    with pytest.raises(ValueError, match="other flags: --stream was .* content .* .renamed.jsonl."):
        RunDirectory(config.run.out).check(again)
    with pytest.raises(ValueError, match="--probes was .*known.*, is 'nq=f1:"):
        told = moved["probes"].partition(",")[0]
        RunDirectory(config.run.out).check(again.with_values(stream=moved["stream"], probes=told))


def test_a_run_of_an_earlier_version_recorded_none(given, tmp_path):
    config = SweepConfig.of(**given, out=str(tmp_path / "run"), resume=True)
    RunDirectory(config.run.out).open(config)
    told = json.loads((tmp_path / "run" / CONFIG).read_text())
    assert told["inputs"].keys() == {"base", "stream", "background", "probes=nq", "probes=known"}
    del told["inputs"], told["sha256"]
    (tmp_path / "run" / CONFIG).write_text(json.dumps(told))
    questions(Path(given["stream"]), "Ora")
    RunDirectory(config.run.out).open(config)
    assert "stream" in json.loads((tmp_path / "run" / CONFIG).read_text())["inputs"]


def test_saved_bases_and_backgrounds_go_by_what_they_hold(plain_checkpoint, tmp_path):
    base = load_base(str(plain_checkpoint), "base")
    for name in "ab":  # Orbax writes the time into its files
        save_base(tmp_path / name, base)
        checkpoints.save(tmp_path / name / "background", {"a": np.arange(3)}, {"kind": "x"})

    def digests(name: str):
        found = digest_inputs(
            Reader(), base=str(tmp_path / name), background=str(tmp_path / name / "background")
        )
        return {flag: each["files"] for flag, each in found.items()}

    before = digests("a")
    assert digests("b") == before
    assert before["base"].keys() > {"leaves", "tokenizer.json"}
    assert before["background"].keys() == {"."}
    edit("b/tokenizer.json")(tmp_path)
    assert digests("b")["base"] != before["base"]
    path = tmp_path / "b" / "background"
    checkpoints.save(path, {"a": np.arange(3)}, {"kind": "y"}, overwrite=True)
    assert digests("b")["background"] != before["background"]


def test_what_is_not_there_is_left_to_its_reader(tmp_path):
    absent = dict(base=str(tmp_path / "no"), stream="tfds:nothing:train", texts=str(tmp_path / "x"))
    assert digest_inputs(Reader(), **absent) == {}


def test_of_a_gguf_file_the_file_is_digested(tmp_path, monkeypatch):
    path = write_model(tmp_path / "tiny.gguf")
    monkeypatch.setattr("smf_jax.interop.gguf.package.metadata.files", lambda name: [Held()])

    class Held:
        suffix = ".gguf"

        def locate(self) -> Path:
            return path

    by_path = digest_inputs(Reader(), base=str(path))["base"]
    by_package = digest_inputs(Reader(), base="package:tiny-model")["base"]
    assert by_path == {"path": str(path), "files": {".": sha256_of_file(path)}}
    assert by_package == {"path": "package:tiny-model", "files": by_path["files"]}
    config = SweepConfig.of(base="package:tiny-model", out=str(tmp_path / "run"), resume=True)
    RunDirectory(config.run.out).open(config)
    RunDirectory(config.run.out).check(config.with_values(base=str(path)))  # it only moved
    edit("tiny.gguf")(tmp_path)
    with pytest.raises(ValueError, match="other content .*: --base=package:tiny-model"):
        RunDirectory(config.run.out).check(config)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="^--base=package:nobody-s: the package is not installed"):
        digest_inputs(Reader(), base="package:nobody-s")
