"""One place for paths: what is named, by a flag or in Python, on a disk or in a store."""

from __future__ import annotations

import ast
import math
import os
import re
from pathlib import Path

import pytest
from etils import epath
from etils.epath import gpath
from etils.epath.backend import fsspec_backend

from benchmarks.flags import BenchmarkConfig
from benchmarks.random_checkpoint import RandomConfig
from experiments.cli import parse
from experiments.compare import CompareConfig
from experiments.evaluate import EvaluateConfig
from experiments.export import ExportConfig
from experiments.studies.heal import HealStudyConfig
from smf_jax.bases.pretrain_config import PretrainConfig
from smf_jax.bases.quantise_config import QuantiseConfig
from smf_jax.bases.retrofit_config import RetrofitCommandConfig
from smf_jax.configuration import flags_of
from smf_jax.continual.config import SweepConfig
from smf_jax.paths import as_path, expand, is_remote, is_whole, local, remove, resolved
from tests.test_imports import modules

COMMANDS = (
    *(SweepConfig, PretrainConfig, RetrofitCommandConfig, QuantiseConfig),
    *(HealStudyConfig, EvaluateConfig),
)
COMMANDS += (ExportConfig, CompareConfig, BenchmarkConfig, RandomConfig)
FLAGS = [
    pytest.param(command, name, id=f"{command.__name__}-{name}")
    for command in COMMANDS
    for name, flag in flags_of(command()).items()
    if flag.is_path
]


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DATA", "/data")
    monkeypatch.delenv("UNSET", raising=False)
    return tmp_path


@pytest.mark.parametrize(("command", "name"), FLAGS)
def test_every_flag_of_a_path_is_expanded_once_for_all(command, name, home):
    def given(text: str) -> str:
        (found,) = (parse(command, [f"--{name}={text}"])[0], command.of(**{name: text}))[:1]
        assert command.of(**{name: text}).values() == found.values()
        return found.values()[name]

    assert given("~/a/b") == f"{home}/a/b"
    assert given("$DATA/${DATA}x/b") == "/data//datax/b"
    assert given("runs/~a$") == "runs/~a$"
    assert command.of(**{name: home / "x"}).values()[name] == f"{home}/x"
    with pytest.raises(ValueError, match=rf"^--{name}=\$UNSET/a: the environment variable UNSET"):
        given("$UNSET/a")
    with pytest.raises(ValueError, match=rf"^--{name}=~nobody_at_all/a: no such user; write \./"):
        given("~nobody_at_all/a")


@pytest.mark.parametrize(("command", "name"), FLAGS)
def test_every_flag_of_a_path_refuses_a_url_that_cannot_be_opened(command, name, monkeypatch, home):
    monkeypatch.chdir(home)
    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
    for url, told in {
        "s3://bucket/a": "needs a package: pip install s3fs",
        "https://host/a": "expected a local path, or a URL of gs://, s3://",
    }.items():
        with pytest.raises(ValueError, match=rf"^--{name}={url}:? {told}"):
            parse(command, [f"--{name}={url}"])
    assert not list(home.iterdir())


@pytest.mark.parametrize("command", COMMANDS)
def test_no_number_is_without_bounds(command):
    for name, flag in flags_of(command()).items():
        bad = {float: (math.nan, math.inf, -math.inf), int: (10**30,)}
        bad[int] += () if "seed" in name else (10**12,)
        for value in bad.get(flag.kind, ()):
            with pytest.raises(ValueError, match=rf"^--{name}={value} ?:?"):
                command.of(**{name: value})


def test_flags_whose_help_speaks_of_files_are_flags_of_paths():
    words = re.compile(r"\b(directory|file|lie|kept|here|profiler)\b")
    others = {
        "probes",
        "background_formats",
        "relation",
        "stream_seed",
        "task",
        "overwrite",
        "shard_mb",
        "harness",
    }
    for command in COMMANDS:
        for name, flag in flags_of(command()).items():
            if flag.kind is str and words.search(flag.help) and name not in others:
                assert flag.is_path, f"--{name}: {flag.help}"


def test_no_module_makes_paths_of_what_it_is_given_by_itself():
    allowed = {"smf_jax.paths", "smf_jax.interop.export.pytorch_memory"}  # the second stands alone
    local_names = re.compile(r"__file__|scratch|folder|/proc|/sys|RESULTS|^$")
    for module in sorted(modules().keys() - allowed):
        if module.startswith("examples."):  # which show how others would write it
            continue
        for node in ast.walk(ast.parse(modules()[module].read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                given = ", ".join(map(ast.unparse, node.args))
                assert called != "Path" or local_names.search(given.strip("'\"")), (module, given)
                assert not called.endswith(("expanduser", "expandvars")), (module, called)


def test_what_is_no_url_stays_a_path(home):
    assert as_path("a/b") == Path("a/b") and type(as_path("a/b")) is type(Path())
    assert as_path(Path("~/x")) == home / "x"
    for text in ("a:b", "tfds:name:split", "tfds:/data/set", "C:/x", "./gs:/x", "/gs/x", "f1"):
        assert not is_remote(text) and isinstance(as_path(text), Path)
    assert expand("~") == str(home)


def test_a_url_keeps_its_slashes(store):
    for text in (
        "gs://bucket/a",
        "gs:/bucket/a",
        Path("gs://bucket/a"),
        epath.Path("gs://bucket/a"),
    ):
        assert os.fspath(as_path(text)) == "gs://bucket/a"
        assert os.fspath(resolved(text) / "b") == "gs://bucket/a/b"
        assert is_remote(text)


def test_a_store_that_does_not_answer_is_told_of(monkeypatch):
    class Away:
        def exists(self, path):
            raise PermissionError("no credentials")

    monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, "gs", Away())
    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
    with pytest.raises(ValueError, match=r"gs://other/a cannot be reached .*no credentials"):
        as_path("gs://other/a")


def test_files_and_directories_are_fetched_and_removed(store):
    root = as_path("gs://bucket")
    for name in ("d/a.txt", "d/e/b.txt"):
        (root / name).write_text(name)
    assert (local("gs://bucket/d/a.txt")).read_text() == "d/a.txt"
    here = local("gs://bucket/d")
    assert (here.name, (here / "e" / "b.txt").read_text()) == ("d", "d/e/b.txt")
    with pytest.raises(FileNotFoundError, match="gs://bucket/c: no such file"):
        local("gs://bucket/c")
    (root / "d" / ".incomplete").write_text("")
    assert not is_whole(root / "d")
    with pytest.raises(ValueError, match="gs://bucket/d is incomplete"):
        local("gs://bucket/d")
    remove(root / "d")
    assert not store.objects


def test_any_backend_of_fsspec_will_do(monkeypatch, home):
    """A file system of fsspec's, as gcsfs is one, in the place of Google's."""
    import fsspec.implementations.dirfs
    import fsspec.implementations.local

    disk = fsspec.implementations.local.LocalFileSystem(auto_mkdir=True)

    class Bucket(fsspec.implementations.dirfs.DirFileSystem):
        def _join(self, path):
            return super()._join(os.fspath(path).removeprefix("gs://"))

    (home / "cloud").mkdir()
    bucket = Bucket(str(home / "cloud"), disk)
    monkeypatch.setattr(type(fsspec_backend), "fs", lambda self, path: bucket)
    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
    (as_path("gs://b/x") / "y").mkdir(parents=True)
    (as_path("gs://b/x") / "y" / "z").write_text("1")
    assert local("gs://b/x").joinpath("y", "z").read_text() == "1"
    assert (home / "cloud" / "b" / "x" / "y" / "z").is_file()
