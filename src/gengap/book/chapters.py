"""Chapters: run the parameterized notebooks and render the book."""

import importlib.metadata
import json
import os
import platform
import re
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import nbformat
import yaml
from tqdm import tqdm

from gengap.book import every_score
from gengap.book.front_page import findings
from gengap.errors import GengapError
from gengap.folders import cache, repository, write_atomically
from gengap.tables import engine
from gengap.tables.work import BUDGET

# Kernels under papermill and under nbval (book/chapters/conftest.py) run alike: outputs differ in
# the last digits between numbers of threads, and a progress bar is no output.
KERNEL_ENVIRONMENT = engine.ONE_THREAD | {"TQDM_DISABLE": "1"}
BOOK_PROFILE = "replica"  # the committed book shows this profile and no other
FETCHED = "<cache>/"  # in profiles.yml: below here `gengap fetch NAME` puts the collection NAME
# Tags of cells: what is said of the book's profile alone, and what a collection is needed for.
ONLY_BOOK, NEEDS = "only-replica", "needs-"
WARNING = re.compile(r"UserWarning: (.*)")
# What the numbers in chapters, and the pages, come out of; the status page names their versions.
PACKAGES = (
    "torch",
    "numpy",
    "scipy",
    "pandas",
    "scikit-learn",
    "statsmodels",
    "lightgbm",
    "POT",
    "matplotlib",
    "papermill",
    "jupyter-book",
)


@dataclass(frozen=True)
class Run:
    """One chapter to execute."""

    source: Path  # notebooks/<name>.ipynb
    destination: Path  # the executed notebook
    folder: Path  # the kernel's working folder
    parameters: dict  # injected after the notebook's own defaults
    profile: str
    absent: tuple[str, ...]  # collections that the profile takes from the cache, where they are not


def chapter_names() -> list[str]:
    """The names of all chapters, in reading order."""
    return sorted(path.stem for path in (repository() / "notebooks").glob("*.ipynb"))


def profiles() -> dict[str, dict[str, dict]]:
    """Profile to chapter to parameters, from notebooks/profiles.yml."""
    written = yaml.safe_load((repository() / "notebooks" / "profiles.yml").read_text())
    return {
        profile: {name: parameters or {} for name, parameters in (chapters or {}).items()}
        for profile, chapters in written.items()
    }


def run_chapters(
    names: list[str] | None = None,
    *,
    profile: str = BOOK_PROFILE,
    parameters: dict | None = None,
    jobs: int | None = None,
    budget: float = 60,
) -> list[Path]:
    """Execute chapters, one process each, and return the paths of the executed notebooks.

    `names`: chapters (default: all). `profile`: an entry of notebooks/profiles.yml. `parameters`:
    name to value, over the profile's. `jobs`: how many at once (default: the number of cores).
    `budget`: minutes that a table may compute in a chapter; see `within_budget`.

    Of another profile than the book's, cells tagged `only-replica` are left out, and cells tagged
    `needs-NAME` where the collection NAME is not where `gengap fetch` puts it; the page says so.
    Warnings of the package are taken out of the page, and repeated here, without paths.

    The book's own chapters, book/chapters, are written only for the book's profile without further
    parameters; everything else goes to _build/runs/<profile>. An unchanged run gives an unchanged
    file; a chapter that fails leaves the old file as it was, and the others go on.

    Raises: GengapError for an unknown chapter, profile or parameter, before anything runs; and at
    the end for the chapters that failed, with cell and error.
    """
    runs = [_planned(name, profile, parameters or {}) for name in _known(names or chapter_names())]
    seconds, failures = _execute_all(runs, jobs or engine.cores(), budget)
    if profile == BOOK_PROFILE and not parameters:
        records = {name: _record(spent) for name, spent in seconds.items()}
        _write(_records_file(), json.dumps({**_records(), **records}, indent=1))
    if failures:
        raise GengapError("; ".join(sorted(failures)))
    return [run.destination for run in runs]


def build_book() -> Path:
    """Render the book with warnings as errors and return the path of its index.html.

    Raises: GengapError if a chapter was never executed, or if anything is amiss in the pages;
    jupyter-book says what.
    """
    root = repository()
    # Included by book/status.md, book/intro.md and book/every-score.md.
    included = {"status.md": _status(), **every_score.pages()}
    included |= {name: findings(name) for name in ("findings.md", "verdicts.md")}
    for name, text in included.items():
        _write(root / "_build" / name, text)
    # All pages anew: Sphinx does not repeat the warnings of a page that it takes from its cache.
    options = ["--all", "--warningiserror", "--nitpick", "--keep-going"]
    command = [Path(sys.executable).with_name("jupyter-book"), "build", ".", *options]
    if not engine.run_command(command, root):
        raise GengapError("jupyter-book ended with the warnings above: mend them and build again")
    return root / "_build" / "html" / "index.html"


def _known(names: list[str]) -> list[str]:
    unknown = ", ".join(name for name in names if name not in chapter_names())
    if unknown:
        chapters = ", ".join(chapter_names()) or "none yet"
        raise GengapError(f"there is no chapter {unknown}; the chapters are: {chapters}")
    return list(dict.fromkeys(names))


def _planned(name: str, profile: str, extra: dict) -> Run:
    source = repository() / "notebooks" / f"{name}.ipynb"
    written = {**_profile_parameters(profile, name), **extra}
    _check_parameters(source, written)
    fetched = {
        key: cache() / value.removeprefix(FETCHED)
        for key, value in written.items()
        if str(value).startswith(FETCHED)
    }
    absent = tuple(folder.name for folder in fetched.values() if not folder.exists())
    parameters = written | {key: str(folder) for key, folder in fetched.items()}
    in_book = profile == BOOK_PROFILE and not extra
    folder = _book_folder() if in_book else repository() / "_build" / "runs" / profile
    _book_folder().mkdir(parents=True, exist_ok=True)
    place = folder / source.name
    return Run(source, place, _book_folder(), parameters, profile, absent)


def _profile_parameters(profile: str, name: str) -> dict:
    if profile not in profiles():
        expected = ", ".join(profiles())
        raise GengapError(f"there is no profile {profile}; notebooks/profiles.yml has: {expected}")
    # Without an entry the chapter would run with its defaults and show another profile's numbers.
    if name not in profiles()[profile]:
        raise GengapError(
            f"profile {profile} has no entry for chapter {name}; add its parameters to "
            "notebooks/profiles.yml"
        )
    return profiles()[profile][name]


def _check_parameters(source: Path, parameters: dict) -> None:
    from papermill import inspect_notebook

    known = inspect_notebook(source)
    unknown = ", ".join(name for name in parameters if name not in known)
    if unknown:  # papermill would only warn
        expected = ", ".join(known) or "none"
        raise GengapError(f"chapter {source.stem} has no parameter {unknown}; it has: {expected}")


def _execute_all(runs: list[Run], jobs: int, budget: float) -> tuple[dict[str, float], list[str]]:
    """Seconds by name of the chapters that succeeded, and a sentence for each that failed."""
    seconds, failures = {}, []
    if not runs:
        return seconds, failures
    environment = KERNEL_ENVIRONMENT | {BUDGET: f"{budget:g}"}
    work = {"workers": min(jobs, len(runs)), "environment": environment}
    with tqdm(desc="chapters", total=len(runs), unit="chapter") as progress:
        for place, (spent, told, failure) in engine.results(_executed, runs, **work):
            name = runs[place].source.stem
            if failure:
                failures.append(failure)
            else:
                seconds[name] = spent
            for sentence in told:
                warnings.warn(f"{name}: {sentence}")
            progress.update()
    return seconds, failures


def _executed(_: None, run: Run) -> Iterator[tuple[float, list[str], str]]:
    """A chapter's seconds, its warnings, and a sentence if it failed: the others go on."""
    try:
        yield *_execute(run), ""
    except GengapError as error:
        yield 0.0, [], str(error)


def _execute(run: Run) -> tuple[float, list[str]]:
    """Execute one chapter in a process of its own, write it; returns its seconds and warnings."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    started = time.monotonic()
    try:
        notebook = papermill.execute_notebook(
            _cells_of(run),
            None,  # papermill would write a failed run too
            parameters=run.parameters,
            kernel_name="python3",
            progress_bar=False,
            # The kernel's own log, not the chapter's: it calls it an error to be told to end.
            extra_arguments=["--log-level=CRITICAL"],
            cwd=run.folder,
        )
    except PapermillExecutionError as error:
        reason = " ".join(f"{error.ename}: {error.evalue}".split())
        message = f"chapter {run.source.stem} failed in code cell {error.exec_count}: {reason}"
        raise GengapError(message) from None
    except DeadKernelError:
        raise GengapError(f"chapter {run.source.stem} failed: its kernel died") from None
    told = [f"{name} is not in the cache and is left out" for name in run.absent]
    told += _warnings_taken_out(notebook)
    _write(run.destination, nbformat.writes(_normalised(notebook)) + "\n")
    return round(time.monotonic() - started, 1), told


def _cells_of(run: Run) -> nbformat.NotebookNode:
    """The chapter's source; in another profile than the book's, what holds there."""
    notebook = nbformat.read(run.source, as_version=4)
    if run.profile == BOOK_PROFILE:
        return notebook
    tags = {tag for cell in notebook.cells for tag in cell.metadata.get("tags", ())}
    if needed := [name for name in run.absent if NEEDS + name not in tags]:
        raise GengapError(
            f"chapter {run.source.stem} needs {needed[0]}, which is not in {cache()}: `gengap fetch"
            f" {needed[0]}` puts it there"
        )
    without = {ONLY_BOOK, *(NEEDS + name for name in run.absent)}
    notebook.cells = [c for c in notebook.cells if not without & {*c.metadata.get("tags", ())}]
    shown = f"This page shows the profile **{run.profile}**."
    shown += "".join(f" The collection `{name}` is not at hand: left out." for name in run.absent)
    notebook.cells[0].source += f"\n\n{shown}"
    return notebook


def _warnings_taken_out(notebook: nbformat.NotebookNode) -> list[str]:
    """What the package warned of; as outputs, warnings would show the paths of this machine."""
    told = []
    for cell in notebook.cells:
        for output in [o for o in cell.get("outputs", ()) if o.get("name") == "stderr"]:
            if sentences := WARNING.findall(output.text):
                told += sentences
                cell.outputs.remove(output)
    return told


def _normalised(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook without what differs from run to run: timings, paths, versions, random ids."""
    notebook.metadata.pop("papermill")
    notebook.metadata["language_info"] = {"name": "python"}
    for position, cell in enumerate(notebook.cells):
        cell.id = f"cell-{position}"
        for volatile in ("execution", "papermill"):
            cell.metadata.pop(volatile, None)
    return notebook


def _book_folder() -> Path:
    """Holds the executed chapters; nbval runs them here, so papermill does too."""
    return repository() / "book" / "chapters"


def _status() -> str:
    """The status page's tables: what was executed here, when, in what time, and with what.

    Included by a page under version control, and itself not: it differs from day to day.
    """
    chapters = "".join(_status_row(name) for name in chapter_names())
    tested = _tested_versions()
    packages = "".join(
        f"| {package} | {version} | {tested.get(package.lower(), '')} |\n"
        for package, version in _versions().items()
    )
    return (
        f"Rendered on {_now():%Y-%m-%d} with Python {platform.python_version()}"
        f" on {os.cpu_count()} cores. Profile: **{BOOK_PROFILE}**.\n\n"
        "| chapter | executed (UTC) | execution time | outputs compared by the tests |\n"
        f"|---|---|---|---|\n{chapters}\n"
        f"| package | installed | tested together |\n|---|---|---|\n{packages}"
    )


def _status_row(name: str) -> str:
    executed = _book_folder() / f"{name}.ipynb"
    if not executed.exists():
        raise GengapError(f"chapter {name} was never executed; gengap run {name} does so")
    cells = nbformat.read(executed, as_version=4).cells
    compared = sum("nbval-check-output" in cell.metadata.get("tags", []) for cell in cells)
    record, when, elapsed = _records().get(name), "not on this machine", ""
    if record is not None:
        others = record["versions"].items() - _versions().items()
        when = ", with ".join([record["finished"], *(f"{p} {v}" for p, v in sorted(others))])
        elapsed = f"{record['seconds']:.0f} s"
    return f"| {{doc}}`chapters/{name}` | {when} | {elapsed} | {compared} |\n"


def _record(seconds: float) -> dict:
    """What the status page says of a chapter that was executed just now."""
    return {
        "seconds": seconds,
        "finished": f"{_now():%Y-%m-%d %H:%M}",
        "versions": _versions(),
    }


def _now() -> datetime:
    return datetime.now(UTC)


def _versions() -> dict[str, str]:
    return {package: importlib.metadata.version(package) for package in PACKAGES}


def _tested_versions() -> dict[str, str]:
    """Package to the version in constraints.txt."""
    lines = (repository() / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def _records() -> dict[str, dict]:
    return json.loads(_records_file().read_text()) if _records_file().exists() else {}


def _records_file() -> Path:
    return repository() / "_build" / "executions.json"


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda temporary: temporary.write_text(text))
