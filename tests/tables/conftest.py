"""What tests of the engine and of what it computes share."""

import os
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def workers_find_the_tests(monkeypatch):
    """Modules of tests can be imported in worker processes."""
    monkeypatch.setenv("PYTHONPATH", str(TESTS), prepend=os.pathsep)
