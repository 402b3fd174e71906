"""The page in a browser: asked, switched, taught and taken back, and a picture of it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from tests.browser import browser as browser
from tests.browser import complaints
from tests.serving.tiny import ANSWER, QUESTION, serving
from tests.taught.tiny import MORE

TOKEN = "0123456789abcdef0123"


def until(browser, what):
    # The page draws its lists anew: what was found may be gone a moment later.
    wait = WebDriverWait(browser, 120, ignored_exceptions=[StaleElementReferenceException])
    return wait.until(lambda _: what())


def find(browser, selector):
    return browser.find_elements(By.CSS_SELECTOR, selector)


def said(browser) -> list[str]:
    return [each.text for each in find(browser, ".answer .said")]


def fill(browser, name: str, text: str) -> None:
    box = browser.find_element(By.ID, name)
    box.clear()
    box.send_keys(text)


def press(browser, selector: str) -> None:
    until(browser, lambda: browser.find_element(By.CSS_SELECTOR, selector).click() or True)


def picture(browser, name: str) -> None:
    if folder := os.environ.get("SMF_JAX_PICTURES"):
        assert browser.save_screenshot(str(Path(folder, name)))


def test_a_person_asks_switches_teaches_and_takes_back(browser, taught, tmp_path):
    out = shutil.copytree(taught, tmp_path / "model")
    with serving(out) as server:
        browser.get(f"{server.url}/")
        until(browser, lambda: len(find(browser, "#patches > li")) == 2)
        fill(browser, "question", QUESTION)
        press(browser, "#ask-form button")
        until(browser, lambda: len(said(browser)) == 2)
        before, after = said(browser)
        assert after == ANSWER != before
        assert "facts_02" in find(browser, ".answer")[1].text
        press(browser, "[data-patch=facts_02] summary")
        assert ANSWER in browser.find_element(By.CSS_SELECTOR, "[data-patch=facts_02] table").text
        picture(browser, "page.png")
        # A patch that is off, and those that stand on it.
        press(browser, "[id='on-facts_02']")
        until(browser, lambda: said(browser)[1] != ANSWER)
        press(browser, "[id='on-facts_02']")
        until(browser, lambda: said(browser)[1] == ANSWER)
        press(browser, "[id='on-facts_01']")
        until(browser, lambda: said(browser)[1] == before)
        boxes = find(browser, "#patches input")
        assert [box.is_selected() for box in boxes] == [False, False]
        press(browser, "[id='on-facts_02']")
        until(browser, lambda: said(browser)[1] == ANSWER)
        # Taught, with an answer that would be a tag if it were taken for one.
        fill(browser, "teach-question", MORE[1]["question"])
        fill(browser, "teach-answer", "<b>made</b>")
        press(browser, "#teach-form button")
        until(browser, lambda: len(find(browser, "#patches > li")) == 3)
        until(browser, lambda: "fact_1:" in browser.find_element(By.ID, "doing").text)
        press(browser, "[data-patch=fact_1_01] summary")
        table = browser.find_element(By.CSS_SELECTOR, "[data-patch=fact_1_01] table")
        assert "<b>made</b>" in table.text and not find(browser, "table b")
        picture(browser, "taught.png")
        press(browser, "[data-patch=fact_1_01] button")
        until(browser, lambda: len(find(browser, "#patches > li")) == 2)
        assert complaints(browser) == []


def test_the_page_asks_for_the_token_of_its_server(browser, taught, monkeypatch):
    monkeypatch.setenv("SMF_SERVE_TOKEN", TOKEN)
    with serving(taught, host="0.0.0.0", read_only=True) as server:
        browser.get(f"http://127.0.0.1:{server.port}/")
        until(browser, lambda: browser.find_element(By.ID, "token").is_displayed())
        assert not find(browser, "#patches > li")
        fill(browser, "token", TOKEN)
        press(browser, "#token-form button")
        until(browser, lambda: len(find(browser, "#patches > li")) == 2)
        assert not browser.find_element(By.ID, "teach-section").is_displayed()
        assert not find(browser, "#patches button")
