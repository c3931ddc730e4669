"""Pages of runs that are not the book's: the same look, beside the executed notebooks."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from gengap.errors import GengapError
from gengap.folders import repository
from gengap.tables import engine

# What pages are made of, besides themselves.
NEEDED = ("_config.yml", "book/_static", "book/references.bib", "data")


def render_runs(runs: Sequence[Path]) -> list[Path]:
    """Render executed chapters as HTML, and return their pages.

    runs: notebooks in one folder, below which the pages come to lie, in `_build/html`. Links to
    pages that are not among them are plain text.

    Raises:
        GengapError: if they cannot be rendered; jupyter-book says why.
    """
    if absent := [run for run in runs if not run.is_file()]:
        raise GengapError(f"{absent[0]} is not there to be rendered; run the chapter again")
    home = runs[0].parent
    source = home / "_sources"  # a folder of this function's own
    shutil.rmtree(source, ignore_errors=True)
    names = [f"book/chapters/{run.stem}" for run in runs]
    (source / "book" / "chapters").mkdir(parents=True)
    for name in NEEDED:
        (source / name).symlink_to(repository() / name)
    for run, name in zip(runs, names, strict=True):
        shutil.copy(run, source / f"{name}.ipynb")
    contents: dict[str, Any] = {"format": "jb-book", "root": names[0]}
    if rest := [{"file": name} for name in names[1:]]:
        contents |= {"chapters": rest}
    (source / "_toc.yml").write_text(yaml.safe_dump(contents))
    command = [Path(sys.executable).with_name("jupyter-book"), "build", source, "-qq", "--all"]
    if not engine.run_command([*command, "--path-output", home], repository(), quiet=True):
        raise GengapError(f"jupyter-book cannot render {', '.join(names)}, as told above")
    return [home / "_build" / "html" / f"{name}.html" for name in names]
