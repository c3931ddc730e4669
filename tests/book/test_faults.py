"""The page of faults: each test that it names is there."""

import ast
import re

import pytest

from gengap.folders import repository

PAGE = (repository() / "book" / "faults.md").read_text()
NAMED = re.findall(r"`(tests/[\w/]+\.py)`, `(test_\w+)`", PAGE)


def test_every_fault_has_a_test():
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and "fault |" not in line]
    assert len(NAMED) == len([row for row in rows if "tests/" in row]) > 20


@pytest.mark.parametrize("file, name", NAMED)
def test_a_test_that_the_page_names_exists(file, name):
    tree = ast.parse((repository() / file).read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
