"""Chapters: run the parameterized notebooks and render the book."""

import ast
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
from typing import Any

import nbformat
import yaml
from tqdm import tqdm

from gengap.book import every_score
from gengap.book.front_page import findings
from gengap.book.templates import filled
from gengap.errors import GengapError, in_one_line
from gengap.folders import cache, repository, write_atomically
from gengap.formats.places import naming, read_json
from gengap.tables import engine
from gengap.tables.work import BUDGET

# Kernels under papermill and under nbval (book/chapters/conftest.py) run alike: outputs differ in
# the last digits between numbers of threads, and a progress bar is no output.
KERNEL_ENVIRONMENT = engine.ONE_THREAD | {"TQDM_DISABLE": "1"}
FOLDERS = ("GENGAP_CACHE", "GENGAP_DATA", "GENGAP_IMAGES")
BOOK_PROFILE = "replica"  # the committed book shows this profile and no other
FETCHED = "<cache>/"  # in profiles.yml: below here `gengap fetch NAME` puts the collection NAME
# Tags of cells: what is said of the book's profile alone, and what a collection is needed for.
ONLY_BOOK, NEEDS = "only-replica", "needs-"
# The first within a paragraph, as a comment that no reader sees.
ONLY_BOOK_WORDS = re.compile(rf"<!-- {ONLY_BOOK} -->.*?<!-- end -->", re.DOTALL)
WARNING = re.compile(r"\w*Warning: (.*)")
# What the numbers in chapters, and the pages, come out of; the status page names their versions.
PACKAGES = ["torch", "numpy", "scipy", "pandas", "scikit-learn", "statsmodels", "lightgbm", "POT"]
PACKAGES += ["matplotlib", "papermill", "jupyter-book"]


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
    file = repository() / "notebooks" / "profiles.yml"
    with naming(file, "correct it"):
        return {
            profile: {name: parameters or {} for name, parameters in (chapters or {}).items()}
            for profile, chapters in yaml.safe_load(file.read_text()).items()
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
    `budget`: minutes that a table may compute in a chapter; see `within_budget`. Within
    `engine.on_scheduler` that cluster computes what chapters lack, and they themselves run here.

    Of another profile than the book's, cells tagged `only-replica` are left out, what stands
    between `<!-- only-replica -->` and `<!-- end -->`, and cells tagged `needs-NAME` where the
    collection NAME is not where `gengap fetch` puts it; the page says so. Without names, chapters
    that are nothing without such a collection are left out. Warnings are taken out of the page, and
    repeated here, without paths.

    The book's own chapters, book/chapters, are written only for the book's profile without further
    parameters; everything else goes to _build/runs/<profile>. An unchanged run gives an unchanged
    file; a chapter that fails leaves the old file as it was, and the others go on.

    Raises: GengapError for an unknown chapter, profile or parameter, before anything runs; and at
    the end for the chapters that failed, with cell and error.
    """
    runs = [_planned(name, profile, parameters or {}) for name in _known(names or chapter_names())]
    for run, lacking in [(run, lacking) for run in runs if (lacking := _lacking(run))]:
        if names:
            raise GengapError(f"chapter {run.source.stem} cannot run: {lacking}")
        warnings.warn(f"{run.source.stem} is left out: {lacking}")
        runs.remove(run)
    seconds, failures = _execute_all(runs, jobs or engine.cores(), budget)
    if profile == BOOK_PROFILE and not parameters:
        records = {name: _record(spent) for name, spent in seconds.items()}
        _write(_records_file(), json.dumps({**executions(), **records}, indent=1))
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
    folder = book_folder() if in_book else repository() / "_build" / "runs" / profile
    book_folder().mkdir(parents=True, exist_ok=True)
    return Run(source, folder / source.name, book_folder(), parameters, profile, absent)


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
    for name, value in parameters.items():
        default = ast.literal_eval(known[name]["default"])
        if value is not None and default is not None and not _is_alike(value, default):
            raise GengapError(
                f"the parameter {name} of {source.stem} is {value!r}; expected is"
                f" {type(default).__name__} as in its default, {default!r}"
            )


def _is_alike(value: Any, default: Any) -> bool:
    """Whether a value may stand for the default of a parameter."""
    wanted = (int, float) if isinstance(default, float) else type(default)
    alike = isinstance(value, wanted) and isinstance(value, bool) == isinstance(default, bool)
    if isinstance(default, list | tuple) and default and alike:
        return all(_is_alike(item, default[0]) for item in value)
    return alike


def _execute_all(runs: list[Run], jobs: int, budget: float) -> tuple[dict[str, float], list[str]]:
    """Seconds by name of the chapters that succeeded, and a sentence for each that failed."""
    # Kernels work in another folder than the one from which the user named these.
    named = {name: os.path.abspath(os.environ[name]) for name in FOLDERS if os.environ.get(name)}
    environment = KERNEL_ENVIRONMENT | {BUDGET: f"{budget:g}"} | named
    # Chapters themselves run here: on a cluster they would hold the workers that they wait for.
    here: dict[str, Any] = {"workers": min(jobs, len(runs)), "scheduler": ""}
    found = engine.results(_executed, runs, environment=environment, **here)
    seconds: dict[str, float] = {}
    failures: list[str] = []
    with tqdm(desc="chapters", total=len(runs), unit="chapter", disable=not runs) as progress:
        for place, (spent, told, failure) in found:
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
        reason = in_one_line(f"{error.ename}: {error.evalue}")
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
    without = {ONLY_BOOK, *(NEEDS + name for name in run.absent)}
    notebook.cells = [c for c in notebook.cells if not without & {*c.metadata.get("tags", ())}]
    for cell in notebook.cells:
        cell.source = ONLY_BOOK_WORDS.sub("", cell.source)
    shown = f"This page shows the profile **{run.profile}**."
    shown += "".join(f" The collection `{name}` is not at hand: left out." for name in run.absent)
    notebook.cells[0].source += f"\n\n{shown}"
    return notebook


def _lacking(run: Run) -> str:
    """An absent collection without which the chapter is nothing, in words; empty if none is."""
    cells = nbformat.read(run.source, as_version=4).cells
    tags = {tag for cell in cells for tag in cell.metadata.get("tags", ())}
    needed = next((name for name in run.absent if NEEDS + name not in tags), None)
    return needed and f"{needed} is not in the cache; `gengap fetch {needed}` puts it there" or ""


def _warnings_taken_out(notebook: nbformat.NotebookNode) -> list[str]:
    """What was warned of; as outputs, warnings would show the paths of this machine."""
    told: dict[str, None] = {}
    for cell in notebook.cells:
        for output in [o for o in cell.get("outputs", ()) if o.get("name") == "stderr"]:
            if sentences := WARNING.findall(output.text):
                told |= dict.fromkeys(sentences)
                cell.outputs.remove(output)
    return [*told]


def _normalised(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook without what differs from run to run or machine to machine."""
    notebook.metadata.pop("papermill")
    notebook.metadata["language_info"] = {"name": "python"}
    for position, cell in enumerate(notebook.cells):
        cell.id = f"cell-{position}"
        if "injected-parameters" in cell.metadata.get("tags", ()):
            cell.source = cell.source.replace(f"{cache()}{os.sep}", FETCHED)
        for volatile in ("execution", "papermill"):
            cell.metadata.pop(volatile, None)
    return notebook


def book_folder() -> Path:
    """Holds the executed chapters; nbval runs them here, so papermill does too."""
    return repository() / "book" / "chapters"


def _status() -> str:
    """The status page's tables: what was executed here, when, in what time, and with what.

    Included by a page under version control, and itself not: it differs from day to day.
    """
    return filled(
        "book/status.md",
        day=_now().date(),
        python=platform.python_version(),
        cores=os.cpu_count(),
        profile=BOOK_PROFILE,
        chapters=[_status_row(name) for name in chapter_names()],
        versions=_versions(),
        tested=_tested_versions(),
    )


def _status_row(name: str) -> tuple[str, str, str, int]:
    """A chapter, when it was executed, in what time, and how many of its outputs are compared."""
    executed = book_folder() / f"{name}.ipynb"
    if not executed.exists():
        raise GengapError(f"chapter {name} was never executed; gengap run {name} does so")
    cells = nbformat.read(executed, as_version=4).cells
    compared = sum("nbval-check-output" in cell.metadata.get("tags", []) for cell in cells)
    record, when, elapsed = executions().get(name), "not on this machine", ""
    if record is not None:
        others = record["versions"].items() - _versions().items()
        when = ", with ".join([record["finished"], *(f"{p} {v}" for p, v in sorted(others))])
        elapsed = f"{record['seconds']:.0f} s"
    return name, when, elapsed, compared


def _record(seconds: float) -> dict:
    """What the status page says of a chapter that was executed just now."""
    return {"seconds": seconds, "finished": f"{_now():%Y-%m-%d %H:%M}", "versions": _versions()}


def _now() -> datetime:
    return datetime.now(UTC)


def _versions() -> dict[str, str]:
    return {package: importlib.metadata.version(package) for package in PACKAGES}


def _tested_versions() -> dict[str, str]:
    """Package to the version in constraints.txt."""
    lines = (repository() / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def executions() -> dict[str, dict]:
    """When, in what time and with what each chapter was executed on this machine."""
    return read_json(_records_file(), "delete it") if _records_file().exists() else {}


def _records_file() -> Path:
    return repository() / "_build" / "executions.json"


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda temporary: temporary.write_text(text))
