"""An extension of Sphinx: every chapter folds its code and ends with how to run it again.

The section is made of the chapter's notebook when the page is rendered, and is in no notebook.
"""

import importlib.metadata
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import nbformat
from papermill import inspect_notebook
from sphinx.application import Sphinx

from gengap.book.chapters import executions
from gengap.book.templates import filled
from gengap.folders import data, repository

ABOUT_CODE = {"06-your-own-measure"}  # what it tells is code, which stays open
# What a parameter means where its notebook leaves it to the line above.
MEANINGS = {
    "root": "folder of that collection; None: the embedded replica",
    "seed": "of what is drawn at random",
}
OPENED = re.compile(r'open_collection\(\s*"(\w+)"')
REPORTED = re.compile(r'reported\(\s*"(\w+)"')
CITED = re.compile(r"\{cite:\w+\}`([\w,]+)`")


def prepare(app: Sphinx, page: str, source: list[str]) -> None:
    """The chapter that Sphinx is about to read gets the section, and folds what code it shows."""
    name = Path(page).name
    if (original := repository() / "notebooks" / f"{name}.ipynb").exists():
        chapter = nbformat.reads(source[0], as_version=4)
        if name not in ABOUT_CODE:
            for cell in [cell for cell in chapter.cells if cell.cell_type == "code"]:
                tags = cell.metadata.setdefault("tags", [])
                if not any(tag.startswith(("hide-", "remove-")) for tag in tags):
                    tags.append("hide-input")
        box = run_box(original, app.config.copyright)
        chapter.cells.append(nbformat.v4.new_markdown_cell(box, id="run-again"))
        source[0] = nbformat.writes(chapter)


def run_box(notebook: Path, year: str) -> str:
    """Markdown on a chapter: commands, parameters, the last execution, its data, how to cite it."""
    name = notebook.stem
    cells = nbformat.read(notebook, as_version=4).cells
    parameters = [*inspect_notebook(notebook).values()]
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    return filled(
        "book/run_box.md",
        name=name,
        number=next((p for p in parameters if p["default"] != "None"), None),
        parameters=parameters,
        meaning=meaning,
        quote=shlex.quote,
        last_execution=last_execution(name),
        sources=sources(code),
        bibtex=bibtex(cells, name, year),
    )


def meaning(name: str, told: str) -> str:
    """What a parameter means: the comment beside it, or what its name says."""
    return told or next((text for part, text in MEANINGS.items() if part in name), "")


def last_execution(name: str) -> str:
    """When the chapter was executed on this machine, and in what time."""
    record = executions().get(name)
    if record is None:
        return "**Last run.** Not on the machine that rendered this page; {doc}`../status`."
    return f"**Last run.** {record['finished']} UTC, in {record['seconds']:.0f} seconds."


def sources(code: str) -> list[str]:
    """The data behind a page, as a list: replicas and tables of the collections that it opens."""
    lines = []
    for collection in dict.fromkeys(OPENED.findall(code)):
        tables = sorted((data() / "tables").glob(f"{collection}*.parquet"))
        links = ", ".join(f"{{download}}`{t.name} </data/tables/{t.name}>`" for t in tables)
        lines.append(
            f"- networks `data/replicas/{collection}`, values of measures and fits {links}"
        )
    if names := dict.fromkeys(REPORTED.findall(code)):
        links = ", ".join(f"{{download}}`{n}.csv </data/published/{n}.csv>`" for n in names)
        lines.append(f"- numbers that papers report: {links}")
    return ["**Data.** What the page reads:\n", *lines] if lines else []


def bibtex(cells: Sequence[nbformat.NotebookNode], name: str, year: str) -> str:
    """Entries for the chapter itself, and for what its texts cite, each once."""
    bibliography = (repository() / "book" / "references.bib").read_text()
    texts = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    cited = dict.fromkeys(key for keys in CITED.findall(texts) for key in keys.split(","))
    found = [re.findall(rf"^@\w+\{{{key},.*?^\}}", bibliography, re.M | re.S)[0] for key in cited]
    title = texts.splitlines()[0].lstrip("# ")
    own = {
        "author": "{The gengap contributors}",
        "title": "gengap: a compendium of reproduced results on predicting generalization",
        "note": f"Chapter {name}: {title}",
        "version": importlib.metadata.version("gengap"),
        "year": year,
    }
    fields = ",\n".join(f"  {key} = {{{value}}}" for key, value in own.items())
    return "\n\n".join([f"@software{{gengap{year},\n{fields}\n}}", *found])


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("source-read", prepare)
    return {"parallel_read_safe": True}
