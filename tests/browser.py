"""A headless Chromium for tests of pages, where there is one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    """The browser; tests that need it skip, and say so, where it is not installed."""
    binary = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("no chromium with its chromedriver: apt-get install chromium chromium-driver")
    options = ChromeOptions()
    options.binary_location = binary
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=1000,1100"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = Chrome(options, ChromeService(driver))
    yield found
    found.quit()


def complaints(browser: Chrome) -> list[str]:
    """What the browser said of errors in a page."""
    logs = browser.get_log("browser")
    return [each["message"] for each in logs if each["level"] == "SEVERE"]
