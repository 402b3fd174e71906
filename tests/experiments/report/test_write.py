"""The report: complete whatever a run holds, and readable by machines."""

from __future__ import annotations

import csv
import io
import re
import shutil

import numpy as np
import pytest
from matplotlib.image import imread

from experiments.report.__main__ import ReportConfig, main
from experiments.report.summary import summarise
from experiments.report.write import Planned, draw_report, summary_csv
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.run_directory import RunDirectory
from tests.experiments.report.tiny import HEALTH, parse

FAILURE = dict(
    seen=None,
    unseen=None,
    stream_seen=None,
    stream_unseen=None,
    retention=None,
    known=None,
    text_loss=None,
    failed_step=17,
)


def slots_of(rows) -> dict[str, list[np.ndarray]]:
    return {row["trial"]: [np.arange(9)] * 3 for row in rows if row["method"] == "smf"}


def test_a_report_has_its_table_and_pictures(tmp_path, make_rows):
    rows = make_rows() + make_rows("full", end=0.2, known=0.5)
    table = draw_report(tmp_path, rows, slots_of(rows))
    text = (tmp_path / "report.md").read_text()
    assert table in text
    assert text.startswith(f"# {tmp_path.name}\n")
    assert [line[0] for line in parse(table)[2:]] == [
        "**smf-tfidf-sgd-t64-lr30**",
        "full-adamw-lr30",
    ]
    for name in ("frontier", "retention", "slots"):
        assert f"({name}.png)" in text
        picture = imread(tmp_path / f"{name}.png")
        assert picture.shape[1] == 1600
        assert picture.std() > 0.01  # something is drawn


def test_failed_and_unfinished_trials_are_named(tmp_path, make_rows):
    failing = make_rows(learning_rate=1e3, tasks=2)
    failing[1] |= FAILURE
    table = draw_report(tmp_path, make_rows() + failing + make_rows(slots=512, tasks=2), {})
    text = (tmp_path / "report.md").read_text()
    assert "- smf-tfidf-sgd-t64-lr1000-s0 failed at task 1, step 17" in text
    assert "- smf-tfidf-sgd-t512-lr30-s0 has finished 2 of 3 tasks" in text
    assert len(parse(table)) == 3  # header, rule, the finished one


def test_what_a_run_was_to_come_to_and_has_not_is_told(tmp_path, make_rows):
    """Trials of a share that was never started, the end of a stream, a first row that is lost."""
    rows = make_rows(tasks=2) + make_rows("full", tasks=2)[1:]
    planned = Planned(("smf-tfidf-sgd-t64-lr30-s0", "smf-tfidf-sgd-t64-lr30-s1"), 3)
    draw_report(tmp_path, rows, {}, planned=planned)
    text = (tmp_path / "report.md").read_text()
    told = text.partition("Not in the means and the pictures:\n\n")[2].partition("\n\n")[0]
    assert told.splitlines() == [
        "- all trials from task 3 on: the run is of 3",
        "- smf-tfidf-sgd-t64-lr30-s1 has no row of its first task",
        "- full-adamw-lr30-s0 has no row of its first task",
    ]
    draw_report(tmp_path, make_rows(), {}, planned=Planned(planned.trials[:1], 3))
    assert "Not in the means" not in (tmp_path / "report.md").read_text()


def test_the_plan_of_a_run_is_its_grid(capsys):
    config = SweepConfig.of(methods="full,smf", slots="16,64", lr="1", seeds="0,1", tasks=7)
    planned = Planned.of(config)
    assert planned is not None and planned.tasks == 7
    assert len(planned.trials) == 2 + 4 and planned.trials[0] == "full-adamw-lr1-s0"
    old = config.with_values(methods="full,gone")
    assert Planned.of(old) is None
    assert "still to come is not told: --methods=full,gone: 'gone'" in capsys.readouterr().out


@pytest.mark.parametrize("case", ["one trial of one task", "no memory", "all failed", "nothing"])
def test_a_report_is_written_whatever_a_run_holds(tmp_path, make_rows, case):
    rows = {
        "one trial of one task": make_rows(tasks=1),
        "no memory": make_rows("full") + make_rows("lora"),
        "all failed": make_rows(tasks=1, **FAILURE),
        "nothing": [],
    }[case]
    (tmp_path / "slots.png").write_bytes(b"of an earlier report")
    draw_report(tmp_path, rows, {})
    written = {path.name for path in tmp_path.iterdir()}
    drawn = (
        {"frontier.png"}
        if case in ("all failed", "nothing")
        else {
            "frontier.png",
            "retention.png",
        }
    )
    assert written == drawn | {"summary.csv", "report.md", "report.html"}
    text = (tmp_path / "report.md").read_text()
    assert all(name in text for name in drawn)
    assert "slots.png" not in text


def test_the_summary_has_a_line_a_trial_that_reads_back(make_rows):
    rows = make_rows(learned=0.123456789) + make_rows("full", seed=1, known_base=0.0)
    smf, full = csv.DictReader(io.StringIO(summary_csv(summarise(rows))))
    assert smf["trial"] == "smf-tfidf-sgd-t64-lr30-s0"
    assert (smf["slots"], smf["rule"], smf["learning_rate"]) == ("64", "tfidf", "30")
    assert (smf["tasks"], smf["failed"], smf["learned_unseen"]) == ("3", "", "0.123457")
    assert (full["slots"], full["seed"], full["known_kept"]) == ("", "1", "")


def test_named_probes_and_slot_health_have_their_tables_and_columns(tmp_path, make_rows):
    rows = make_rows(probe_nq_f1=0.2, probe_nq_f1_base=0.4) + make_rows("full")
    draw_report(tmp_path, make_rows(probe_nq_f1=0.2, probe_nq_f1_base=0.4), {}, HEALTH)
    text = (tmp_path / "report.md").read_text()
    assert "## Probes" in text and "20.0 (-50.0 %)" in text
    assert "## Slot health" in text and "busiest 1 %" in text
    smf, full = csv.DictReader(io.StringIO(summary_csv(summarise(rows))))
    assert (smf["probe_nq_f1"], smf["probe_nq_f1_base"]) == ("0.2", "0.4")
    assert (full["probe_nq_f1"], full["probe_nq_f1_base"]) == ("", "")
    draw_report(tmp_path, rows, {}, {"background": None, "recount": None, "trials": {}})
    text = (tmp_path / "report.md").read_text()
    assert "## Probes" not in text and "## Slot health" not in text


def test_a_run_is_drawn_again_from_its_files_to_the_same_bytes(finished, tmp_path, capsys):
    again = tmp_path / finished.name
    shutil.copytree(finished, again)
    drawn = [again / f"{name}.png" for name in ("frontier", "retention", "slots")]
    for path in (again / "report.md", again / "summary.csv", *drawn):
        path.unlink()
    assert main(ReportConfig((str(again),))) == 0
    for name in ("report.md", "summary.csv"):
        assert (again / name).read_bytes() == (finished / name).read_bytes(), name
    for path in drawn:
        np.testing.assert_array_equal(imread(path), imread(finished / path.name))
    assert "smf-tfidf-sgd-t64-lr30" in capsys.readouterr().out


def test_the_shards_of_a_run_make_the_report_of_the_whole(finished, tmp_path):
    parts = tmp_path / finished.name
    shutil.copytree(finished, parts)
    lines = (parts / "results.jsonl").read_text().splitlines(keepends=True)
    (parts / "results.jsonl").unlink()
    for shard, share in enumerate((lines[1::2], lines[::2])):
        (parts / f"results-{shard}-of-2.jsonl").write_text("".join(share))
    trial, last = RunDirectory(str(parts)).find_trial("full-adamw-lr0.01-s0")
    told = {"task": last, "fact": "a", "asked": "<who>?", "expected": ["me"], "right": False}
    told |= {"base": "", "after_task": None, "at_end": "you"}
    RunDirectory(str(parts)).write_answers(trial, [told])
    assert main(ReportConfig((str(parts),))) == 0
    page = (parts / "report.html").read_text()
    cells = re.findall("<td>(.*?)</td>", page[page.index(f"<h2>Facts of {trial.id}</h2>") :])
    wanted = ["&lt;who&gt;?", "me", "(nothing)", "not kept", "you", "wrong"]
    assert cells[:7] == [str(last + 1), *wanted]
    assert (parts / "report.md").read_bytes() == (finished / "report.md").read_bytes()


def test_all_runs_in_a_directory_are_reported_on(finished, tmp_path, capsys):
    for name in ("second", "first"):
        shutil.copytree(finished, tmp_path / name)
        (tmp_path / name / "report.md").unlink()
    (tmp_path / "a_model").mkdir()
    (tmp_path / "a_model" / "config.json").write_text('{"model_type": "llama"}')
    assert main(ReportConfig((str(tmp_path),))) == 0
    said = capsys.readouterr().out
    assert said.index("first/report.md") < said.index("second/report.md")
    text = (finished / "report.md").read_text().split("\n", 1)[1]  # without its title
    for name in ("first", "second"):
        assert (tmp_path / name / "report.md").read_text() == f"# {name}\n{text}"


def test_what_is_no_run_is_not_reported_on(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no run of a sweep"):
        main(ReportConfig((str(tmp_path),)))
    with pytest.raises(ValueError, match="no run given; name its directory"):
        main(ReportConfig())
    assert not list(tmp_path.iterdir())
