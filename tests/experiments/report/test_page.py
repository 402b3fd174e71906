"""The page of a run: whole in itself, and what it shows."""

from __future__ import annotations

import re

import numpy as np

from experiments.report.page import sweep_page, taught_page
from experiments.report.summary import average, summarise

# What fetches something once a page is opened: the script of plotly names addresses that it never
# asks for by itself.
FETCHES = re.compile(r"<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=")


def body(page: str) -> str:
    """The page without plotly's own script."""
    return page[page.index("<body>") :]


def test_a_sweep_has_its_figures_and_nothing_is_fetched(make_rows):
    rows = make_rows() + make_rows(slots=512, end=0.5) + make_rows(method="full", known=0.4)
    averages = average(summarise(rows))
    slots = {setting.trial.id: [np.arange(9), np.arange(5, 30)] for setting in averages[:2]}
    page = sweep_page("a <run>", averages, slots)
    assert not FETCHES.search(page) and "<h1>a &lt;run&gt;</h1>" in page
    titles = re.findall("<h2>(.*?)</h2>", page)
    assert titles == [
        "Learned against forgotten",
        "Retention over time",
        "Tasks of a trial",
        "Slot maps",
    ]
    text = body(page)
    assert '"label":"all methods"' in text and '"label":"full"' in text
    assert "known kept 95.0%" in text and "100 rows a task" not in text
    assert text.count("Plotly.newPlot") == 4


def test_a_run_without_a_finished_trial_has_a_page():
    page = sweep_page("run", (), {})
    assert "<h1>run</h1>" in page and "<h2>" not in page


def test_a_taught_model_shows_each_fact_as_text():
    fact = {
        "asked": "who <b>made</b> it?",
        "expected": ["me"],
        "status": "learned",
        "said_before": [{"said": ""}, {"said": "you"}],
        "said_after": [{"said": "me"}, {"said": "me"}],
    }
    told = {"lessons": [{"name": "facts", "file": "f.jsonl", "facts": [fact]}]}
    page = body(taught_page("mine", told, {"facts_01": np.array([3, 5])}))
    cells = re.findall("<td>(.*?)</td>", page)
    assert cells == ["who &lt;b&gt;made&lt;/b&gt; it?", "me", "(nothing) / you", "me", "learned"]
    assert "facts_01" in page and page.count("Plotly.newPlot") == 1
