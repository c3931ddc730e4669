"""The findings on the front page: sentences whose numbers executed chapters glued.

A chapter glues a text by `myst_nb.glue(key, text, display=False)`. The sentences are in
book/findings.md, and in a line each in book/verdicts.md; `{chapter:key}` stands there for what the
chapter of that name glued.
"""

import ast
import re

import nbformat

from gengap.errors import GengapError
from gengap.folders import repository

PLACE = re.compile(r"\{([\w-]+):(\w+)\}")
GLUED = "application/papermill.record/text/plain"  # how myst_nb keeps what is not displayed


def findings(name: str = "findings.md") -> str:
    """The sentences of a file of the folder book with what the executed chapters glued.

    Raises: GengapError if a chapter did not glue what a sentence asks for.
    """
    text = (repository() / "book" / name).read_text()
    known = {chapter: glued(chapter) for chapter in {place[0] for place in PLACE.findall(text)}}

    def told(place: re.Match) -> str:
        chapter, key = place.groups()
        return taken(known[chapter], key, chapter, f"book/{name}")

    return PLACE.sub(told, text)


def taken(known: dict[str, str], key: str, chapter: str, page: str) -> str:
    """What a page asks for of what a chapter glued.

    Raises: GengapError if the chapter did not glue it.
    """
    if key not in known:
        raise GengapError(
            f"{page} asks for {key!r} of chapter {chapter}, which glues"
            f" {', '.join(known) or 'nothing'}; run it again or mend the page"
        )
    return known[key]


def glued(chapter: str) -> dict[str, str]:
    """Key -> text that an executed chapter of the book glued; none if there is no such chapter."""
    file = repository() / "book" / "chapters" / f"{chapter}.ipynb"
    if not file.exists():
        return {}
    cells = nbformat.read(file, as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return {
        output["metadata"]["scrapbook"]["name"]: ast.literal_eval(output["data"][GLUED])
        for output in outputs
        if GLUED in output.get("data", {})
    }
