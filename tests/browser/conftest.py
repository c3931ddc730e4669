"""Chromium, and the book as `make book` left it."""

import os
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from gengap.folders import repository

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 120_000  # milliseconds: a page that is slow on a busy machine is no fault


def absent(reason: str):
    """Skips; in CI, which builds the book and installs a browser, it fails."""
    if os.environ.get("CI"):
        pytest.fail(f"{reason}, and CI must run the tests of the rendered book")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def built() -> Path:
    """The folder of the rendered book."""
    folder = repository() / "_build" / "html"
    if not (folder / "book" / "intro.html").exists():
        absent("no book is built: `make book` does so")
    return folder


@pytest.fixture(scope="session")
def window():
    """A window of Chromium, the machine's: playwright's own cannot be fetched everywhere."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        absent("there is no Chromium: `apt-get install chromium` installs it")
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=found)
        window = browser.new_context(viewport={"width": 1280, "height": 900})
        window.set_default_timeout(PATIENCE)
        yield window
        browser.close()
