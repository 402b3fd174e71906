"""The table of kinds of question, in both reports and nowhere else."""

from __future__ import annotations

import csv
import io

from experiments.report.kinds import kinds_cells
from experiments.report.summary import average, summarise
from experiments.report.write import draw_report, summary_csv
from tests.experiments.report.tiny import parse

NOW = dict(asked_direct=0.5, asked_cloze=0.25, strict=0.375)
BASE = dict(asked_direct_base=0.0, asked_cloze_base=0.1, strict_base=0.05)
TOLD = dict(asked_direct_in_context=1.0, asked_cloze_in_context=0.5, strict_in_context=0.75)


def cells(*rows):
    return kinds_cells(average(summarise([row for of_trial in rows for row in of_trial])))


def test_a_line_a_setting_then_the_base_and_the_facts_in_its_prompt(make_rows):
    smf = make_rows(**NOW, **BASE, **TOLD)
    smf[0] |= dict(asked_direct=0.9, strict_in_context=0.6)  # now: the last task; told: the mean
    other = make_rows(seed=1, **NOW | dict(asked_direct=0.7), **BASE, **TOLD)
    full = make_rows("full", **NOW, **BASE, **TOLD)
    assert cells(smf, other, full) == [
        ("setting", "direct", "cloze", "strict"),
        # t(0.975, 1) = 12.706 · s = 0.1414 / √2.
        ("smf-tfidf-sgd-t64-lr30", "60.0 ± 127.1", "25.0 ± 0.0", "37.5 ± 0.0"),
        ("full-adamw-lr30", "50.0", "25.0", "37.5"),
        ("base", "0.0", "10.0", "5.0"),
        ("facts in the prompt", "100.0", "50.0", "70.0"),
    ]


def test_what_is_no_method_is_of_the_first_trial_that_measured_it(make_rows):
    first = make_rows(**NOW | dict(asked_direct_base=None, asked_cloze_base=None, strict_base=None))
    found = cells(first, make_rows("full", **NOW, **BASE, **TOLD))
    assert found[-2:] == [
        ("base", "0.0", "10.0", "5.0"),
        ("facts in the prompt", "100.0", "50.0", "75.0"),
    ]


def test_what_was_not_measured_has_no_line_and_no_table(make_rows):
    assert [line[0] for line in cells(make_rows("full", **NOW, **BASE))] == [
        "setting",
        "full-adamw-lr30",
        "base",
    ]
    assert cells(make_rows()) == [] and cells(make_rows(**NOW, **BASE), make_rows("full")) == []


def test_both_reports_have_the_table_where_there_are_kinds(tmp_path, make_rows):
    rows = make_rows(**NOW, **BASE, **TOLD)
    draw_report(tmp_path, rows, {})
    text, page = ((tmp_path / name).read_text() for name in ("report.md", "report.html"))
    table = text.partition("## Kinds of question\n\n")[2].partition("\n\n")[0]
    assert parse(table)[0] == ["setting", "direct", "cloze", "strict"]
    assert parse(table)[2] == ["smf-tfidf-sgd-t64-lr30", "50.0", "25.0", "37.5"]
    assert "<h2>Kinds of question</h2>" in page and "<td>37.5</td>" in page
    assert "## Probes" not in text  # a kind is no named probe
    draw_report(tmp_path, make_rows(), {})
    for name in ("report.md", "report.html"):
        assert "Kinds of question" not in (tmp_path / name).read_text()


def test_the_summary_has_columns_of_the_kinds(make_rows):
    rows = make_rows(**NOW, **BASE, **TOLD) + make_rows("full")
    smf, full = csv.DictReader(io.StringIO(summary_csv(summarise(rows))))
    assert [smf[key] for key in ("asked_direct", "asked_cloze_base")] == ["0.5", "0.1"]
    assert [smf[key] for key in ("strict", "strict_base", "strict_in_context")] == [
        "0.375",
        "0.05",
        "0.75",
    ]
    assert full["strict"] == full["strict_in_context"] == ""
