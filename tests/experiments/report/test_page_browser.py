"""The page of a run in a browser: it draws, filters, and asks the network for nothing."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from experiments.report.page import sweep_page
from experiments.report.summary import average, summarise
from tests.browser import browser as browser
from tests.browser import complaints


def visible(browser) -> list[bool]:
    """Which curves of the first figure are shown."""
    told = "return document.querySelector('.js-plotly-plot')._fullData.map(d => d.visible === true)"
    return browser.execute_script(told)


def test_the_page_draws_and_filters(browser, tmp_path, make_rows):
    rows = []
    for seed in range(2):
        for rate, end in ((10.0, 0.5), (30.0, 0.8), (60.0, 0.85)):
            rows += make_rows(learning_rate=rate, end=end, known=1 - end / 20, seed=seed)
            rows += make_rows(learning_rate=rate, slots=512, end=end, known=1 - end / 10, seed=seed)
        rows += make_rows(method="full", learning_rate=1e-3, end=0.6, known=0.4, seed=seed)
    averages = average(summarise(rows))
    rng = np.random.default_rng(0)
    slots = {
        setting.trial.id: [rng.choice(4096, 200, replace=False) for _ in range(3)]
        for setting in averages
    }
    file = tmp_path / "report.html"
    file.write_text(sweep_page("a sweep", averages, slots), encoding="utf-8")
    browser.get(file.as_uri())
    figures = browser.find_elements(By.CSS_SELECTOR, ".js-plotly-plot .main-svg")
    assert figures and visible(browser) == [True] * 3
    browser.execute_script(
        "document.querySelector('.updatemenu-header').dispatchEvent(new Event('click'))"
    )
    WebDriverWait(browser, 30).until(
        lambda _: len(browser.find_elements(By.CSS_SELECTOR, ".updatemenu-dropdown-button")) == 3
    )
    last = "document.querySelectorAll('.updatemenu-dropdown-button')[2]"
    browser.execute_script(f"{last}.dispatchEvent(new Event('click'))")
    WebDriverWait(browser, 30).until(lambda _: sum(visible(browser)) == 1)
    told = browser.execute_script("return performance.getEntriesByType('resource').length")
    assert told == 0 and complaints(browser) == []
    if folder := os.environ.get("SMF_JAX_PICTURES"):
        browser.set_window_size(1100, 2600)
        assert browser.save_screenshot(str(Path(folder, "report.png")))
