"""A sweep on a table that starts at zero: the numbers of a whole table, wherever it goes."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import compare, evaluate, export, sweep
from experiments.compare import CompareConfig
from experiments.evaluate import EvaluateConfig
from experiments.export import ExportConfig
from smf_jax import checkpoints
from smf_jax.bases.base import load_base
from smf_jax.bases.retrofitting import retrofit_base
from smf_jax.continual.run_directory import RunDirectory
from smf_jax.interop.export import model
from smf_jax.interop.export.model import load_exported
from smf_jax.tables import explicit, is_implicit
from tests.continual.same_runs import assert_goes_on
from tests.tiny_sweep import added_at_zero, of_two_tasks, on_devices, rows_of, write_lines

POOL = "memory/pool_0/values"
# What counts the leaves of the base, of which an implicit table has fewer.
OF_THE_BASE = ("trainable_share", "seconds")


def whole_tables(*told):
    """A retrofit whose tables have all of their rows, of zeros."""
    base = retrofit_base(*told)
    whole = {p: jnp.asarray(explicit(x)) if is_implicit(x) else x for p, x in base.params.items()}
    return dataclasses.replace(base, params=whole)


@pytest.fixture(autouse=True, scope="module")
def as_xla_compiles():
    """Where less is made of programs, as in other tests, a dot product is rounded as it falls."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="module")
def flags(plain_checkpoint, tmp_path_factory):
    place = tmp_path_factory.mktemp("files")
    known = [{"question": f"Who made thing {n}?", "answers": [f"Maker {n}"]} for n in range(3)]
    return dict(
        **added_at_zero(plain_checkpoint, place),
        **of_two_tasks(),
        recount_batches=1,
        probes=f"known=f1:{write_lines(place / 'known.jsonl', *known)}",
        probe_answer_tokens=2,
    )


@pytest.fixture(scope="module")
def runs(sweeper, flags, tmp_path_factory):
    """The same sweep with implicit tables, and with whole ones."""
    place = tmp_path_factory.mktemp("runs")
    for name, retrofits in (("made", retrofit_base), ("whole", whole_tables)):
        config = sweeper.config(place / name, **flags)
        tools = dataclasses.replace(sweeper.tools(config), retrofit_base=retrofits)
        with on_devices(1):
            assert sweep.main(config, tools, lambda *_: "") == 0
    return place / "made", place / "whole"


def smf_of(run):
    return next(row["trial"] for row in rows_of(run) if row["method"] == "smf")


def test_a_run_has_the_numbers_and_the_patches_of_a_whole_table(runs):
    made, whole = map(rows_of, runs)
    assert len(made) == 2
    for one, other in zip(made, whole, strict=True):
        assert {k: v for k, v in one.items() if k not in OF_THE_BASE} == {
            k: v for k, v in other.items() if k not in OF_THE_BASE
        }
    trial = smf_of(runs[0])
    for task in range(2):
        of_both = [checkpoints.load(run / "trials" / trial / f"task_{task:02d}") for run in runs]
        arrays = [found[0] for found in of_both]
        assert arrays[0].keys() == arrays[1].keys()
        assert all(np.array_equal(array, arrays[1][name]) for name, array in arrays[0].items())


def test_the_base_of_a_run_holds_no_row(runs):
    made = load_base(str(runs[0] / "base"), "base")
    table: Any = made.params[POOL]
    assert is_implicit(table) and table.shape == (1024, made.config.width)
    assert table.rows.shape[0] == 1
    manifest = checkpoints.read_manifest(runs[0] / "base" / "leaves")
    assert manifest.fingerprint == made.fingerprint()
    assert manifest.leaves[f"{POOL}/rows"].shape == (0, made.config.width)
    bytes_of = sum(file.stat().st_size for file in (runs[0] / "base").rglob(f"*{POOL[-6:]}*"))
    assert bytes_of < 4096


def test_a_killed_run_goes_on_bit_for_bit(sweeper, flags, runs, tmp_path):
    assert_goes_on(sweeper, flags, runs[0], tmp_path / "run")


def test_it_is_evaluated_compared_and_exported(runs, flags, tmp_path, capsys, monkeypatch):
    trial, made = smf_of(runs[0]), runs[0]
    told = dict(run=str(made), trial=trial, probes=flags["probes"], out=str(tmp_path / "e.json"))
    assert evaluate.main(EvaluateConfig.of(**told, probe_answer_tokens=2)) == 0
    found = json.loads((tmp_path / "e.json").read_text())["probes"]["known"]["scores"]
    last = next(r for r in rows_of(made) if (r["trial"], r["task"]) == (trial, 1))
    assert found["f1"] == last["probe_known_f1"]

    pair = str(made / "base"), str(made / "trials" / trial / "task_01")
    capsys.readouterr()
    assert compare.main(CompareConfig(checkpoints=pair)) == 0
    text = capsys.readouterr().out
    patch = RunDirectory(str(made)).load_patches(RunDirectory(str(made)).find_trial(trial)[0], 2)
    changed = set().union(*(each.pools[POOL].slots.tolist() for each in patch))
    assert f"{POOL}: {len(changed):,} of 1,024 slots" in text

    assert export.main(ExportConfig.of(run=str(made), trial=trial, out=str(tmp_path / "out"))) == 0
    exported = load_exported(tmp_path / "out")
    base = load_base(str(made / "base"), "base")
    trained = RunDirectory(str(made)).load_model(
        *RunDirectory(str(made)).find_trial(trial), base.params, base.fingerprint()
    )
    assert is_implicit(exported.params[POOL])
    assert explicit(exported.params[POOL]).tobytes() == explicit(trained[POOL]).tobytes()
    assert load_base(str(tmp_path / "out"), "base").config == base.config
    monkeypatch.setattr(model, "WHOLE_BYTES", 1024)
    with pytest.raises(ValueError, match="all of its 1,024 rows.* smaller --keys_per_half"):
        export.main(ExportConfig.of(run=str(made), trial=trial, out=str(tmp_path / "again")))
    assert not (tmp_path / "again").exists()


def test_what_needs_whole_tables_is_refused(sweeper, flags, tmp_path):
    with pytest.raises(ValueError, match="--leaky moves every row, .*--memory_init=normal"):
        sweeper(tmp_path / "run", **{**flags, "leaky": True, "methods": "smf"})
    with pytest.raises(ValueError, match="--train_alpha: the memory has no α"):
        sweeper(tmp_path / "run", **{**flags, "train_alpha": True, "methods": "smf"})
