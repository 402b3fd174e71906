"""A run whose directory, base and data are objects under ``gs://``: the same as on a disk."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from etils import epath

from experiments import compare, evaluate, export, sweep
from experiments.report import __main__ as report
from smf_jax import checkpoints
from smf_jax.bases.base import load_base, save_base
from smf_jax.continual.run_directory import RunDirectory
from smf_jax.continual.sweep import Tools
from smf_jax.interop.export.model import load_exported
from tests.object_store import put
from tests.tiny_sweep import Killed, on_devices, rows_of, write_lines

SMF, FULL = "smf-tfidf-sgd-t16-lr30-s0", "full-adamw-lr0.01-s0"


@pytest.fixture
def run(store, sweeper, finished) -> str:
    """A run in the store that was killed when its first row was written, and resumed."""
    out = "gs://bucket/runs/mine"
    given = dict(methods="smf,full", keep_checkpoints="last", profile="gs://bucket/trace")
    config = sweeper.config(out, **given)

    append = RunDirectory.append

    def kill(self, row):
        append(self, row)
        raise Killed

    with on_devices(2):
        with pytest.raises(Killed), pytest.MonkeyPatch.context() as patch:
            patch.setattr(RunDirectory, "append", kill)
            sweep.main(config, sweeper.tools(config))
        assert len(epath.Path(f"{out}/results.jsonl").read_text().splitlines()) <= 1
        config = config.with_values(resume=True)
        assert sweep.main(config, sweeper.tools(config)) == 0
    return out


def test_all_commands_work_on_a_run_in_a_store(store, run, finished, tmp_path, capsys):
    assert rows_of(run) == [row for row in rows_of(finished) if row["method"] in ("smf", "full")]
    at = epath.Path(run)
    assert {each.name for each in at.iterdir()} == {each.name for each in finished.iterdir()}
    assert at.joinpath("frontier.png").read_bytes()[:4] == b"\x89PNG"
    assert not [each for each in store.objects if "incomplete" in each or "incoming" in each]
    assert [each for each in store.below("gs://bucket/trace") if each.endswith(".xplane.pb")]
    told = (at / "report.md").read_text()

    (at / "report.md").unlink()
    assert report.main(report.ReportConfig((run,))) == 0
    assert (at / "report.md").read_text() == told

    probe = write_lines(tmp_path / "nq.jsonl", {"question": "Where?", "answers": ["there"]})
    epath.Path("gs://bucket/nq.jsonl").write_text(probe.read_text())
    given = dict(trial=FULL, out="gs://bucket/nq.json", probe_limit=1, eval_batch_size=32)
    flags = evaluate.EvaluateConfig.of(run=run, probes="nq=exact:gs://bucket/nq.jsonl", **given)
    assert evaluate.main(flags) == 0
    assert "nq" in json.loads(epath.Path("gs://bucket/nq.json").read_text())["probes"]

    for trial in (SMF, FULL):
        out = f"gs://bucket/exported/{trial}"
        assert export.main(export.ExportConfig.of(run=run, trial=trial, out=out)) == 0
        here = tmp_path / f"out-{trial}"
        flags = export.ExportConfig.of(run=str(finished), trial=trial, out=str(here))
        assert export.main(flags) == 0
        found, expected = load_exported(out), load_exported(here)
        for path, leaf in expected.params.items():
            assert np.array_equal(found.params[path], leaf), path
        assert load_base(out).fingerprint() == load_base(str(here)).fingerprint()

    task = f"{run}/trials/{SMF}/task_01"
    assert compare.main(compare.CompareConfig(checkpoints=(f"{run}/base", task))) == 0
    assert f"written by the tasks of {SMF}" in capsys.readouterr().out


def test_a_base_a_stream_and_a_background_may_lie_in_a_store(store, sweeper, tiny_base, finished):
    put(tiny_base, "gs://bucket/tiny")
    put(finished / "base" / "background", "gs://bucket/background")
    lines = [{"question": f"Where is {n}?", "answers": [f"{n} Road"]} for n in range(8)]
    epath.Path("gs://bucket/q.jsonl").write_text("".join(f"{json.dumps(x)}\n" for x in lines))
    given = dict(base="gs://bucket/tiny", stream="gs://bucket/q.jsonl")
    config = sweeper.config("gs://bucket/r", background="gs://bucket/background", **given)
    tools = dataclasses.replace(Tools(), run_group=lambda *_: None, measure_background=None)
    assert sweep.main(config.with_values(methods="smf", lr="30"), tools, lambda *_: "") == 0
    kept = checkpoints.read_manifest("gs://bucket/r/base/background").fingerprint
    assert kept == checkpoints.read_manifest(finished / "base" / "background").fingerprint


def test_what_was_sent_in_part_is_not_taken_for_a_base(store, tiny_base):
    base = load_base(str(tiny_base))
    store.fails_at = 4
    with pytest.raises(OSError, match="the network is gone"):
        save_base("gs://bucket/tiny", base)
    with pytest.raises(ValueError, match="--base=gs://bucket/tiny is incomplete"):
        load_base("gs://bucket/tiny")
    store.fails_at = None
    save_base("gs://bucket/tiny", base)
    assert load_base("gs://bucket/tiny").fingerprint() == base.fingerprint()
    store.fails_at = 30  # in the second of two times that what replaces a base is sent
    with pytest.raises(OSError, match="the network is gone"):
        save_base("gs://bucket/tiny", base, overwrite=True)
    assert load_base("gs://bucket/tiny.incoming").fingerprint() == base.fingerprint()
