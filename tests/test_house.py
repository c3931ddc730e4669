"""The house: who imports whom, how large it is, and the names on its door."""

import ast
import io
import os
import shutil
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

import gengap
from gengap.folders import repository

SOURCES = repository() / "src" / "gengap"
MODULES = sorted(SOURCES.rglob("*.py"))
MOST_LINES = 400  # of a module
MOST_CODE = 13_061  # lines without blanks, comments and docstrings; the goal is 8,000
STARTS_PROCESSES = {"concurrent", "dask", "distributed", "joblib", "multiprocessing", "subprocess"}


def contract_of(sources: Path) -> subprocess.CompletedProcess:
    """What lint-imports says of a package `gengap` in a folder, by this project's contract."""
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    options = ["--config", str(repository() / "pyproject.toml"), "--no-cache"]
    return subprocess.run(
        [sys.executable, "-c", code, *options],
        env={**os.environ, "PYTHONPATH": str(sources)},
        cwd=sources,
        capture_output=True,
        text=True,
    )


def test_the_import_contract_holds():
    told = contract_of(SOURCES.parent)
    assert told.returncode == 0, told.stdout


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("formats/images.py", "from gengap.collections import pgdl", "rooms below"),
        ("measures/norms.py", "from gengap.tables import values", "rooms below"),
        ("evaluation/scores.py", "from gengap.collection import Collection", "no collection"),
        ("submission/page.py", "from gengap.book import chapters", "know chapters"),
        ("measures/stages.py", "from gengap.measures import shared", "in a circle"),
        ("helpers.py", "", "rooms below"),  # a new module at the root has no place
    ],
)
def test_the_import_contract_fails_on_a_forbidden_import(module, line, broken, tmp_path):
    copy = tmp_path / "gengap"
    shutil.copytree(SOURCES, copy, ignore=shutil.ignore_patterns("__pycache__"))
    with (copy / module).open("a") as file:
        file.write(f"\n{line}\n")
    told = contract_of(tmp_path)
    assert told.returncode == 1, told.stdout + told.stderr
    verdicts = [text for text in told.stdout.splitlines() if " BROKEN" in text]
    assert any(broken in verdict for verdict in verdicts), told.stdout


def test_at_most_ten_modules_lie_at_the_root():
    assert len([module for module in SOURCES.glob("*.py") if module.stem != "__init__"]) <= 10


def test_no_module_is_too_long():
    sizes = {str(m.relative_to(SOURCES)): len(m.read_text().splitlines()) for m in MODULES}
    assert not {module for module, lines in sizes.items() if lines > MOST_LINES}


def test_few_modules_start_processes():
    starting = {module.name for module in MODULES if imported(module) & STARTS_PROCESSES}
    assert len(starting) <= 2, starting


def imported(module: Path) -> set[str]:
    """The packages that a module imports, by their first name."""
    nodes = [*ast.walk(ast.parse(module.read_text()))]
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names}


def test_the_house_is_small():
    assert sum(code_lines(module.read_text()) for module in MODULES) <= MOST_CODE


def test_lines_of_code_are_those_that_say_something():
    text = (
        '"""Doc\n\nstring."""\n\nimport os  # a comment\n\n# another\n\ndef f():\n    """Doc."""\n'
    )
    assert code_lines(text) == 2
    assert code_lines(text + '    return """\n\n    text"""\n') == 5


def code_lines(text: str) -> int:
    """Lines of a module without blanks, comments and docstrings."""
    silent = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    lines = {
        line
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type not in silent
        for line in range(token.start[0], token.end[0] + 1)
    }
    return len(lines - docstring_lines(text))


def docstring_lines(text: str) -> set[int]:
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    strings = [
        node.body[0]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None
    ]
    return {line for string in strings for line in range(string.lineno, string.end_lineno + 1)}


@pytest.mark.parametrize("name", gengap.__all__)
def test_a_public_name_is_there_and_documented(name):
    found = getattr(gengap, name)
    assert name in dir(gengap)
    assert f"`{name}`" in (repository() / "README.md").read_text()
    if name != "MEASURES":  # a dictionary has only its class's
        assert len((found.__doc__ or "").splitlines()[0]) > 20


def test_the_public_names_are_those_that_users_call():
    assert set(gengap.__all__) == {
        "Collection",
        "GengapError",
        "MEASURES",
        "Model",
        "NotAvailable",
        "conditional_mutual_information",
        "detail_table",
        "layer_spectra",
        "margin_distribution",
        "measure",
        "measure_table",
        "open_collection",
        "per_image_standardization",
        "total_variation",
        "weight_statistics",
    }
    with pytest.raises(AttributeError, match="no attribute 'margins'"):
        _ = gengap.margins
