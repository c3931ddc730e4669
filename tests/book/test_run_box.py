"""The section "Run this chapter" that rendering adds to every chapter."""

import json
import re
from types import SimpleNamespace

import nbformat
import pytest
from papermill import inspect_notebook
from pybtex.database import parse_string

from gengap.book import chapters, run_box
from gengap.book.chapters import chapter_names
from gengap.folders import repository

NOTEBOOKS = repository() / "notebooks"


@pytest.fixture(params=chapter_names())
def notebook(request):
    return NOTEBOOKS / f"{request.param}.ipynb"


def test_each_parameter_stands_there_with_its_default_and_a_meaning(notebook):
    rows = re.findall(r"^\| `(\w+)` \| `(.*)` \| (.+) \|$", run_box.run_box(notebook, "2026"), re.M)
    expected = {p["name"]: p["default"] for p in inspect_notebook(notebook).values()}
    assert {name: default for name, default, _ in rows} == expected != {}


def test_each_file_that_it_links_to_is_there(notebook):
    linked = re.findall(r"\{download\}`[^<]*<(/[^>]+)>`", run_box.run_box(notebook, "2026"))
    assert f"/notebooks/{notebook.name}" in linked and len(linked) > 1
    assert not [file for file in linked if not (repository() / file.lstrip("/")).is_file()]


def test_its_entries_are_what_bibtex_reads(notebook):
    [text] = re.findall(r"```bibtex\n(.*?)\n```", run_box.run_box(notebook, "2026"), re.S)
    entries = parse_string(text, "bibtex").entries
    assert entries["gengap2026"].fields["note"].startswith(f"Chapter {notebook.stem}: ")
    cells = nbformat.read(notebook, as_version=4).cells
    texts = "".join(cell.source for cell in cells if cell.cell_type == "markdown")
    cited = re.findall(r"\{cite:\w\}`([\w,]+)`", texts)
    assert set(entries) == {"gengap2026", *",".join(cited).split(",")} - {""}


def test_the_data_are_those_of_the_collections_and_papers_that_the_code_reads():
    code = 'gengap.open_collection(\n    "pgdl", root=root)\nbeside(reported("pgdl_scores"), ours)'
    head, networks, numbers = run_box.sources(code)
    assert "data/replicas/pgdl`" in networks and "/data/tables/pgdl.spectra.parquet" in networks
    assert "/data/published/pgdl_scores.csv" in numbers
    assert run_box.sources("1 + 1") == []


def test_the_last_run_is_told_where_it_was_on_this_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(chapters, "repository", lambda: tmp_path)
    assert "Not on the machine" in run_box.last_execution("01-zoo")
    (tmp_path / "_build").mkdir()
    record = {"01-zoo": {"seconds": 65.2, "finished": "2026-05-04 10:00"}}
    (tmp_path / "_build" / "executions.json").write_text(json.dumps(record))
    assert run_box.last_execution("01-zoo").endswith("2026-05-04 10:00 UTC, in 65 seconds.")


def test_only_a_chapter_gets_the_section_and_its_code_stays_as_it_is():
    page = (repository() / "book" / "chapters" / "09-collections.ipynb").read_text()
    app = SimpleNamespace(config=SimpleNamespace(copyright="2026"))
    read, other = [page], ["# A page"]
    run_box.prepare(app, "book/chapters/09-collections", read)
    run_box.prepare(app, "book/methods", other)
    assert other == ["# A page"]
    before, after = (nbformat.reads(text, as_version=4).cells for text in (page, read[0]))
    assert after[-1].source.startswith("## Run this chapter") and len(after) == len(before) + 1
    assert [cell.source for cell in after[:-1]] == [cell.source for cell in before]


@pytest.mark.parametrize(
    ("name", "folded"), [("01-small-cnn-zoo", True), *[(n, False) for n in run_box.ABOUT_CODE]]
)
def test_code_is_folded_but_where_it_is_what_a_chapter_tells(name, folded):
    read = [(NOTEBOOKS / f"{name}.ipynb").read_text()]
    app = SimpleNamespace(config=SimpleNamespace(copyright="2026"))
    run_box.prepare(app, f"book/chapters/{name}", read)
    cells = [c for c in nbformat.reads(read[0], as_version=4).cells if c.cell_type == "code"]
    closed = [
        any(t in ("hide-input", "remove-cell") for t in c.metadata.get("tags", ())) for c in cells
    ]
    assert all(closed) is folded
