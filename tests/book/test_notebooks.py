"""What holds for every notebook, its executed chapter and its place in the book."""

import ast
import re
import sys
from itertools import zip_longest

import nbformat
import pytest
import yaml

import gengap
from gengap.book.chapters import BOOK_PROFILE, chapter_names, profiles
from gengap.folders import repository
from gengap.measures import MEASURES
from gengap.submission.measure_file import own_measure

NAMES = chapter_names()
WIDTH = 76  # columns of code that a page shows without scrolling
LINES = 10  # of one cell
COMPARED = "nbval-check-output"
HIDDEN = {"hide-cell", "hide-input", "remove-cell", "remove-input"}
FORBIDDEN = {  # what belongs into src, or into no notebook at all
    (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda): "a definition",
    (ast.For, ast.While): "a loop",
}
TUTORIAL = "06-your-own-measure"  # the one page that defines something: measures, of which it tells
FILE_NAME = re.compile(r"^(~|/|\./|\.\./)|\\|\.(csv|gz|json|npy|npz|parquet|pt|sqlite|ya?ml)$")


def source(name):
    return nbformat.read(repository() / "notebooks" / f"{name}.ipynb", as_version=4)


def executed(name):
    return nbformat.read(repository() / "book" / "chapters" / f"{name}.ipynb", as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell):
    return set(cell.metadata.get("tags", []))


def is_measure(node):
    """Whether a definition is a function under @gengap.measure and nothing else."""
    decorators = map(ast.unparse, getattr(node, "decorator_list", []))
    return isinstance(node, ast.FunctionDef) and [*decorators] == ["gengap.measure"]


def code_offences(code, *, measures_allowed=False):
    """What a cell of a chapter must not contain."""
    offences = ["a line over 76 columns" for line in code.splitlines() if len(line) > WIDTH]
    for node in ast.walk(ast.parse(code)):
        if measures_allowed and is_measure(node):
            continue
        offences += [text for kinds, text in FORBIDDEN.items() if isinstance(node, kinds)]
        if isinstance(node, ast.Name) and node.id in {"print", "open", "Path"}:
            offences.append(node.id)
        if isinstance(node, ast.comprehension) and ".load(" in code:
            offences.append("a loop over models")
        if isinstance(node, ast.Constant) and FILE_NAME.search(str(node.value)):
            offences.append("a file name")
    return offences


def literal_parameters(cell):
    """The assignments of a parameters cell, whose values must be literals."""
    statements = ast.parse(cell.source).body
    return {node.targets[0].id: ast.literal_eval(node.value) for node in statements}


def shows_published_beside_ours(cell):
    """Whether the cell's output is a table with columns (or groups of columns) of these names."""
    html = "".join(output.get("data", {}).get("text/html", "") for output in cell.outputs)
    return all(re.search(rf"<th[^>]*>\s*{name}\s*</th>", html) for name in ("published", "ours"))


def chapter_files(entry):
    """All files that a table of contents names."""
    if isinstance(entry, list):
        return [file for item in entry for file in chapter_files(item)]
    if not isinstance(entry, dict):
        return []
    files = [entry[key] for key in ("root", "file") if key in entry]
    return files + [file for value in entry.values() for file in chapter_files(value)]


CONTENTS = yaml.safe_load((repository() / "_toc.yml").read_text())
BOOK_FILES = chapter_files(CONTENTS)
[STUDIES] = [
    [file.rpartition("/")[2] for file in chapter_files(part)]
    for part in CONTENTS["parts"]
    if part["caption"] == "Studies"  # chapters that each stand beside one paper
]


@pytest.mark.parametrize(
    ("code", "offence"),
    [
        ("def f():\n    pass", "a definition"),
        ("f = lambda x: x", "a definition"),
        ("for name in names:\n    pass", "a loop"),
        ("[zoo.load(name) for name in names]", "a loop over models"),
        ("print(1)", "print"),
        ("Path('x')", "Path"),
        ("read('../data')", "a file name"),
        ("read('table.csv')", "a file name"),
        ("x = 1" + " " * 76 + "# far away", "a line over 76 columns"),
    ],
)
def test_the_guard_sees_what_a_chapter_must_not_contain(code, offence):
    assert code_offences(code) == [offence]


def test_the_guard_lets_ordinary_code_pass():
    assert code_offences("slices = LAYOUT['conv1/kernel']\nnames = [str(x) for x in slices]") == []


@pytest.mark.parametrize(
    ("code", "offences"),
    [
        ("@gengap.measure\ndef f(model):\n    return 1.0", []),
        ("@gengap.measure\ndef f(model):\n    for x in model:\n        pass", ["a loop"]),
        ("@cache\ndef f(model):\n    return 1.0", ["a definition"]),
        ("@cache\n@gengap.measure\ndef f(model):\n    return 1.0", ["a definition"]),
        ("@gengap.measure\nclass F:\n    pass", ["a definition"]),
    ],
)
def test_the_guard_lets_the_tutorial_define_measures_and_nothing_else(code, offences):
    assert code_offences(code, measures_allowed=True) == offences
    assert "a definition" in code_offences(code)


def test_the_guard_knows_a_table_with_published_beside_ours():
    table = '<th colspan="3">published</th><th>ours</th>'
    cell = nbformat.v4.new_code_cell(
        outputs=[nbformat.v4.new_output("execute_result", {"text/html": table})]
    )
    assert shows_published_beside_ours(cell)
    cell.outputs[0].data["text/html"] = "<th>ours</th><td>published</td>"
    assert not shows_published_beside_ours(cell)


@pytest.mark.parametrize("name", NAMES)
def test_a_source_is_stripped_and_named_by_number(name):
    assert re.fullmatch(r"\d\d-[a-z0-9-]+", name)
    for cell in code_cells(source(name)):
        assert not cell.outputs and cell.execution_count is None, cell.source


@pytest.mark.parametrize("name", NAMES)
def test_a_source_opens_with_title_parameters_and_imports(name):
    notebook = source(name)
    assert notebook.cells[0].source.startswith("# ")
    parameters, imports, *others = code_cells(notebook)
    assert tags(parameters) == {"parameters", "remove-cell"}
    assert literal_parameters(parameters)
    assert tags(imports) & HIDDEN
    for cell in others:
        kinds = {type(node) for node in ast.walk(ast.parse(cell.source))}
        assert not kinds & {ast.Import, ast.ImportFrom}, cell.source


@pytest.mark.parametrize("name", NAMES)
def test_a_source_computes_in_short_cells_without_definitions_loops_paths_or_print(name):
    first, *others = code_cells(source(name))
    assert not code_offences(first.source)
    for cell in others:
        assert not code_offences(cell.source, measures_allowed=name == TUTORIAL), cell.source
        assert tags(cell) & HIDDEN or len(cell.source.splitlines()) <= LINES, cell.source


@pytest.mark.parametrize("name", STUDIES)
def test_a_source_of_a_study_ends_with_what_differs_from_the_paper(name):
    text = "\n".join(cell.source for cell in source(name).cells if cell.cell_type == "markdown")
    assert "differs" in re.findall(r"^## (.*)", text, re.MULTILINE)[-1]


@pytest.mark.parametrize("name", NAMES)
def test_what_a_source_folds_it_folds_within_one_section(name):
    texts = "\n".join(c.source for c in source(name).cells if c.cell_type == "markdown")
    for section in re.split(r"^#+ ", texts, flags=re.M):
        assert section.count("<details") == section.count("</details>"), section[:60]


def test_profiles_speak_only_of_chapters_that_exist_and_parameters_that_these_have():
    for chapters in profiles().values():
        for name, parameters in chapters.items():
            assert set(parameters) <= set(literal_parameters(code_cells(source(name))[0])), name


@pytest.mark.parametrize("name", NAMES)
def test_an_executed_chapter_is_its_source_with_the_profile_s_parameters(name):
    cells = executed(name).cells
    injected = [cell for cell in cells if "injected-parameters" in tags(cell)]
    found = literal_parameters(injected[0]) if injected else {}
    assert found == profiles()[BOOK_PROFILE][name]
    others = [cell.source for cell in cells if "injected-parameters" not in tags(cell)]
    for was, ours in zip_longest(others, [cell.source for cell in source(name).cells]):
        assert was == ours, f"run `gengap run {name}` again"


@pytest.mark.parametrize("name", NAMES)
def test_every_cell_of_an_executed_chapter_was_executed_without_error_or_noise(name):
    cells = code_cells(executed(name))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not {output.output_type for output in outputs} & {"error", "stream"}
    assert not re.search(r" at 0x[0-9a-f]+", str(outputs)), "a memory address differs in each run"


@pytest.mark.parametrize("name", NAMES)
def test_the_cells_with_published_beside_ours_are_compared_and_some_in_each_chapter(name):
    cells = code_cells(executed(name))
    assert any(COMPARED in tags(cell) for cell in cells)
    for cell in cells:
        assert COMPARED in tags(cell) or not shows_published_beside_ours(cell), cell.source


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_compares_no_other_cells(name):
    for cell in code_cells(executed(name)):
        assert COMPARED not in tags(cell) or shows_published_beside_ours(cell), cell.source


def test_the_tutorial_s_measure_in_a_file_as_it_says_gives_the_value_that_it_shows(
    tmp_path, monkeypatch
):
    registry = dict(MEASURES)
    for module in ("gengap.measures", "gengap.submission.measure_file"):
        monkeypatch.setattr(f"{module}.MEASURES", registry)
    monkeypatch.setattr(sys, "path", [*sys.path])
    cells = code_cells(executed(TUTORIAL))
    [text] = [cell.source for cell in cells if "def turn_from_start" in cell.source]
    file = tmp_path / "turn_from_start.py"
    file.write_text(f"import gengap\nimport torch\n\n\n{text}\n")
    name, function = own_measure(str(file))
    pgdl = gengap.open_collection("pgdl")
    value = function(pgdl.load(pgdl.index()["model_id"].iloc[0]))
    [shown] = [cell.outputs for cell in cells if '"angle to"' in cell.source]
    assert name == "turn_from_start"
    assert f"<td>{value:.4f}</td>" in shown[0].data["text/html"]


@pytest.mark.parametrize("name", NAMES)
def test_every_chapter_is_in_the_book(name):
    assert f"book/chapters/{name}" in BOOK_FILES


@pytest.mark.parametrize("file", BOOK_FILES)
def test_the_book_lists_no_missing_file(file):
    assert [*repository().glob(f"{file}.md"), *repository().glob(f"{file}.ipynb")]


def test_the_book_holds_no_chapter_without_a_source():
    found = {path.stem for path in (repository() / "book" / "chapters").glob("*.ipynb")}
    assert found == set(NAMES)
