"""Chromium, and the book as `make book` left it."""

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from gengap.folders import repository

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 120_000  # milliseconds: a page that is slow on a busy machine is no fault


def installed() -> str | None:
    """Chromium by apt-get where this process may: as root, and not in CI, which has tried."""
    if os.geteuid() == 0 and shutil.which("apt-get") and not os.environ.get("CI"):
        wait = "-oDPkg::Lock::Timeout=300"  # for another worker that installs it
        install = ["apt-get", "install", "--yes", "--no-install-recommends", wait, "chromium"]
        for command in (["apt-get", "update", wait], install):
            with contextlib.suppress(subprocess.SubprocessError, OSError):
                subprocess.run(command, timeout=300, capture_output=True)
    return chromium()


def chromium() -> str | None:
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@pytest.fixture(scope="session")
def built() -> Path:
    """The folder of the rendered book."""
    folder = repository() / "_build" / "html"
    if not (folder / "book" / "intro.html").exists():
        pytest.skip("no book is built: `make book` does so")
    return folder


@pytest.fixture(scope="session")
def window():
    """A window of Chromium, the machine's: playwright's own cannot be fetched everywhere."""
    found = chromium() or installed()
    if found is None:
        pytest.skip("there is no Chromium: `apt-get install chromium` installs it")
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=found)
        window = browser.new_context(viewport={"width": 1280, "height": 900})
        window.set_default_timeout(PATIENCE)
        yield window
        browser.close()
