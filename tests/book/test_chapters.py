"""Running chapters and rendering the book, in a small checkout made for the test."""

import ast
import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version

import nbformat
import pandas as pd
import pytest
import yaml

import gengap
from gengap.book import chapters
from gengap.book.run_pages import render_runs
from gengap.cli.chapters import run as run_command
from gengap.errors import GengapError
from gengap.folders import repository
from gengap.tables import engine

PARAMETERS = ("size = 3  # models\nname = 'replica'", ["parameters", "remove-cell"])
RESULT = ("sum(range(size)), name", [])
SURROUNDINGS = (
    "import os\nos.path.relpath(os.getcwd(), '../..'), os.environ['OMP_NUM_THREADS']",
    [],
)
# Values of a measure, and fits of which one kills its process the first time; where they were.
LONG_WORK = """import os, signal
from pathlib import Path
import gengap
from gengap.tables.fits import kept_results
from tiny_collection import TinyCollection

folder = name
def rows(number):
    died = Path(folder, "died")
    if number == 1 and not died.exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return [{"third": number / 3, "where": Path.cwd().name}]

fits = [(f"{n}", lambda n=n: rows(n)) for n in range(4)]
found = dict(kept_results("some.fits", "rows", "code", fits))
table = gengap.measure_table(TinyCollection(folder), "raw_parameter_norm")
places = {row["where"].rstrip("0123456789") for [row] in found.values()}
[found[n][0]["third"] for n in range(4)], table["value"].tolist(), places"""
FAILURE = ("raise ValueError('too few\\nmodels')", [])


def write_notebook(path, *sources):
    cells = [nbformat.v4.new_code_cell(text, metadata={"tags": tags}) for text, tags in sources]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)


def shown(path):
    """What each code cell of an executed notebook shows."""
    cells = nbformat.read(path, as_version=4).cells
    return [cell.outputs[0].data["text/plain"] for cell in cells if cell.get("outputs")]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(chapters, "repository", lambda: tmp_path)
    write_notebook(tmp_path / "notebooks" / "01-works.ipynb", PARAMETERS, RESULT, SURROUNDINGS)
    write_notebook(tmp_path / "notebooks" / "02-fails.ipynb", PARAMETERS, FAILURE)
    replica = {"01-works": {"size": 4}, "02-fails": None}
    profiles = {"replica": replica, "published": {"02-fails": {}}}
    (tmp_path / "notebooks" / "profiles.yml").write_text(yaml.safe_dump(profiles))
    return tmp_path


def test_a_failing_chapter_keeps_its_old_file_and_the_others_are_executed_reproducibly(checkout):
    old = checkout / "book" / "chapters" / "02-fails.ipynb"
    old.parent.mkdir(parents=True)
    old.write_text("the old chapter")
    failed = "^chapter 02-fails failed in code cell 2: ValueError: too few models$"
    with pytest.raises(GengapError, match=failed):
        chapters.run_chapters(jobs=1)
    assert old.read_text() == "the old chapter"
    assert sorted(path.name for path in old.parent.iterdir()) == ["01-works.ipynb", old.name]
    executed = old.with_name("01-works.ipynb")
    assert shown(executed) == ["(6, 'replica')", "('book/chapters', '1')"]
    assert list(json.loads((checkout / "_build" / "executions.json").read_text())) == ["01-works"]
    first = executed.read_bytes()
    assert chapters.run_chapters(["01-works", "01-works"]) == [executed]
    assert executed.read_bytes() == first, "an unchanged run must give an unchanged file"


def test_a_parameter_given_by_hand_leaves_the_book_alone(checkout):
    (executed,) = chapters.run_chapters(["01-works"], parameters={"name": "mine"})
    assert executed == checkout / "_build" / "runs" / "replica" / "01-works.ipynb"
    assert shown(executed)[0] == "(6, 'mine')"
    assert not list((checkout / "book" / "chapters").iterdir())


def test_folders_may_be_named_from_where_the_command_is_given(checkout, monkeypatch):
    monkeypatch.chdir(checkout)
    monkeypatch.setenv("GENGAP_CACHE", "cache")
    (checkout / "cache" / "pgdl").mkdir(parents=True)
    profiles = {"replica": {"01-works": {}}, "published": {"01-works": {"pgdl": "<cache>/pgdl"}}}
    (checkout / "notebooks" / "profiles.yml").write_text(yaml.safe_dump(profiles))
    is_there = "import os\nos.path.isdir(pgdl), os.path.isdir(os.environ['GENGAP_CACHE'])"
    source = checkout / "notebooks" / "01-works.ipynb"
    write_notebook(source, ("", []), ("pgdl = None", ["parameters"]), (is_there, []))
    notebook = nbformat.read(source, as_version=4)
    notebook.cells[0] = nbformat.v4.new_markdown_cell("# A title")
    nbformat.write(notebook, source)
    (executed,) = chapters.run_chapters(["01-works"], profile="published")
    assert shown(executed)[-1] == "(True, True)"


def test_another_profile_takes_its_folders_from_the_cache_and_leaves_out_what_does_not_hold(
    checkout, monkeypatch
):
    monkeypatch.setenv("GENGAP_CACHE", str(checkout / "cache"))
    (checkout / "cache" / "pgdl").mkdir(parents=True)
    folders = {name: f"<cache>/{name}" for name in ("pgdl", "genprob")}
    profiles = {"replica": {"01-works": {}}, "published": {"01-works": folders}}
    (checkout / "notebooks" / "profiles.yml").write_text(yaml.safe_dump(profiles))
    source = checkout / "notebooks" / "01-works.ipynb"
    warning = "import warnings\nwarnings.warn('two networks are left out')\n'warned'"
    write_notebook(
        source,
        ("pgdl = None\ngenprob = None", ["parameters"]),
        ("pgdl", []),
        ("genprob", ["needs-genprob"]),
        ("'found'", ["needs-pgdl"]),
        ("'said of the replica'", ["only-replica"]),
        (warning, []),
    )
    notebook = nbformat.read(source, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_markdown_cell("# A title"))
    words = "# both\n\n<!-- only-replica -->no<!-- end -->all<!-- only-replica -->,\nno<!-- end -->"
    notebook.cells.append(nbformat.v4.new_markdown_cell(words))
    nbformat.write(notebook, source)
    with pytest.warns(UserWarning) as warned:
        [executed] = chapters.run_chapters(["01-works"], profile="published")
    assert {str(w.message) for w in warned if str(w.message).startswith("01-")} == {
        "01-works: two networks are left out",
        "01-works: genprob is not in the cache and is left out",
    }
    assert shown(executed) == [repr(str(checkout / "cache" / "pgdl")), "'found'", "'warned'"]
    cells = nbformat.read(executed, as_version=4).cells
    assert 'pgdl = "<cache>/pgdl"' in cells[2].source and cells[-1].source == "# both\n\nall"
    title = nbformat.read(executed, as_version=4).cells[0].source
    assert title.splitlines()[2:] == [
        "This page shows the profile **published**. The collection `genprob` is not at hand: left"
        " out."
    ]
    (checkout / "cache" / "pgdl").rename(checkout / "elsewhere")
    notebook.cells = [c for c in notebook.cells if "needs-pgdl" not in c.metadata.get("tags", ())]
    nbformat.write(notebook, source)
    lacking = "pgdl is not in the cache; `gengap fetch pgdl` puts it there"
    with pytest.raises(GengapError, match=f"01-works cannot run: {lacking}"):
        chapters.run_chapters(["01-works"], profile="published")
    (checkout / "notebooks" / "02-fails.ipynb").unlink()
    with pytest.warns(UserWarning, match=f"01-works is left out: {lacking}"):
        assert chapters.run_chapters(profile="published") == []
    with pytest.warns(UserWarning):
        chapters.run_chapters(["01-works"])
    assert shown(checkout / "book" / "chapters" / source.name)[-2:] == [
        "'said of the replica'",
        "'warned'",
    ]


def test_what_a_chapter_lacks_is_computed_on_a_cluster_to_the_same_values_though_a_worker_dies(
    checkout, scheduler, tiny, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", str(repository() / "tests"))
    write_notebook(checkout / "notebooks" / "01-works.ipynb", PARAMETERS, (LONG_WORK, []))
    with engine.on_scheduler(scheduler):
        [run] = chapters.run_chapters(["01-works"], parameters={"name": str(checkout)})
    assert (checkout / "died").exists()
    kept = [len(pd.read_parquet(file)) for file in (checkout / "tables").glob("*.parquet")]
    assert sorted(kept) == [4, 8]
    here = gengap.measure_table(tiny, "raw_parameter_norm", store=checkout / "here.sqlite")["value"]
    same = [n / 3 for n in range(4)], here.tolist(), {"cluster"}
    assert [*map(ast.literal_eval, shown(run))] == [same]


def test_an_address_without_a_scheduler_is_refused_before_anything_runs(checkout, monkeypatch):
    monkeypatch.setattr(engine, "SECONDS_TO_CONNECT", 1)
    with pytest.raises(GengapError, match="no Dask scheduler answers at 'tcp://127.0.0.1:1'"):
        run_command(["01-works"], scheduler="tcp://127.0.0.1:1")
    assert not (checkout / "book").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"names": ["03-none"]}, "no chapter 03-none; the chapters are: 01-works, 02-fails"),
        ({"profile": "papers"}, "no profile papers; .* has: published, replica"),
        ({"profile": "published"}, "profile published has no entry for chapter 01-works"),
        ({"parameters": {"sizes": 1}}, "01-works has no parameter sizes; it has: size, name"),
        ({"parameters": {"size": "7"}}, "size of 01-works is '7'; expected is int as .* 3"),
        ({"parameters": {"size": True}}, "size of 01-works is True; expected is int"),
        ({"parameters": {"name": [1]}}, "name of 01-works is .1.; expected is str"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_runs(checkout, arguments, sentence):
    with pytest.raises(GengapError, match=sentence):
        chapters.run_chapters(**arguments)
    assert not (checkout / "_build").exists()


def test_a_profile_with_a_parameter_that_the_chapter_lacks_is_refused(checkout):
    profiles = {"replica": {"01-works": {"old_name": 4}}}
    (checkout / "notebooks" / "profiles.yml").write_text(yaml.safe_dump(profiles))
    with pytest.raises(GengapError, match="chapter 01-works has no parameter old_name"):
        chapters.run_chapters(["01-works"])


def test_a_book_with_a_reference_to_nothing_is_refused(checkout, capfd):
    for file in ("_config.yml", "constraints.txt", "book/references.bib"):
        (checkout / file).parent.mkdir(exist_ok=True)
        shutil.copy(repository() / file, checkout / file)
    shutil.copytree(repository() / "book" / "_static", checkout / "book" / "_static")
    for litter in (".pytest_cache", ".venv", "data", "notebooks"):
        (checkout / litter).mkdir(exist_ok=True)
        (checkout / litter / "README.md").write_text("# Not a page of the book\n")
    (checkout / "_toc.yml").write_text("format: jb-book\nroot: book/intro\n")
    (checkout / "book" / "intro.md").write_text("# A book\n\nSee {doc}`nothing`.\n")
    for source in (checkout / "notebooks").glob("*.ipynb"):
        source.unlink()
    with pytest.raises(GengapError, match="jupyter-book"):
        chapters.build_book()
    warnings = capfd.readouterr().err
    assert warnings.count("WARNING") == 1 and "unknown document: 'nothing'" in warnings


def test_a_run_beside_the_book_is_rendered_in_its_look(checkout):
    runs = chapters.run_chapters(["01-works"], parameters={"name": "mine"})
    (page,) = render_runs(runs)
    assert page == checkout / "_build/runs/replica/_build/html/book/chapters/01-works.html"
    html = page.read_text()
    assert "(6, 'mine')" in html
    assert "gengap.css" in html and "sphinx-book-theme" in html
    assert (page.parents[2] / "_static" / "gengap.css").exists()


def test_what_cannot_be_rendered_is_one_sentence_after_what_jupyter_book_says(checkout, capfd):
    broken = checkout / "runs" / "broken.ipynb"
    broken.parent.mkdir()
    broken.write_text("{}")
    with pytest.raises(GengapError, match="cannot render book/chapters/broken, as told above"):
        render_runs([broken])
    assert capfd.readouterr().err


def test_a_book_with_a_chapter_that_was_never_executed_is_refused(checkout):
    with pytest.raises(GengapError, match="chapter 01-works was never executed; gengap run"):
        chapters.build_book()


def test_the_status_says_when_in_what_time_and_with_what_versions_a_chapter_was_executed(
    checkout, monkeypatch
):
    (checkout / "constraints.txt").write_text("# tested together\ntorch==1.0\npot==2.0\n")
    (checkout / "notebooks" / "02-fails.ipynb").unlink()
    monkeypatch.setattr(chapters, "PACKAGES", ("torch", "POT", "numpy"))
    monkeypatch.setattr(chapters, "_now", lambda: datetime(2031, 5, 7, 9, 30, tzinfo=UTC))
    chapters.run_chapters(["01-works"])
    records = json.loads((checkout / "_build" / "executions.json").read_text())
    status = chapters._status().splitlines()
    assert status[0].startswith("Rendered on 2031-05-07 with Python 3.")
    assert status[0].endswith("Profile: **replica**.")
    elapsed = f"{records['01-works']['seconds']:.0f} s"
    assert f"| {{doc}}`chapters/01-works` | 2031-05-07 09:30 | {elapsed} | 0 |" in status
    assert f"| torch | {version('torch')} | 1.0 |" in status
    assert f"| POT | {version('POT')} | 2.0 |" in status
    assert f"| numpy | {version('numpy')} |  |" in status


def test_the_status_says_what_was_executed_with_other_versions_or_elsewhere(checkout):
    (checkout / "constraints.txt").write_text("# tested together\n")
    written = {"seconds": 61.4, "finished": "2031-05-07 09:30"}
    versions = chapters._versions() | {"torch": "0.1"}
    records = {"01-works": {**written, "versions": versions}}
    (checkout / "_build").mkdir()
    (checkout / "_build" / "executions.json").write_text(json.dumps(records))
    for name in ("01-works", "02-fails"):
        write_notebook(checkout / "book" / "chapters" / f"{name}.ipynb", RESULT)
    status = chapters._status()
    assert "| {doc}`chapters/01-works` | 2031-05-07 09:30, with torch 0.1 | 61 s | 0 |" in status
    assert "| {doc}`chapters/02-fails` | not on this machine |  | 0 |" in status


def test_nbval_finds_a_changed_number_in_a_compared_cell_and_only_there(tmp_path):
    chapter = tmp_path / "01-works.ipynb"
    compared = ["nbval-check-output"]
    write_notebook(chapter, ("40 + 2", compared), ("40 + 2", []), ("40 + 2", compared))
    notebook = nbformat.read(chapter, as_version=4)
    for cell, text in zip(notebook.cells, ("42", "43", "43")):
        cell.execution_count = 1
        cell.outputs = [nbformat.v4.new_output("execute_result", {"text/plain": text})]
    nbformat.write(notebook, chapter)
    settings = repository() / "pyproject.toml"
    command = [sys.executable, "-m", "pytest", "-q", "-c", settings, "--rootdir", tmp_path, chapter]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "FAILED 01-works.ipynb::Cell 2" in finished.stdout, finished.stdout
    assert "1 failed, 2 passed" in finished.stdout
