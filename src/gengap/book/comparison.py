"""Two runs of a chapter side by side: the tables in which they differ."""

import re
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path

import nbformat
from bs4 import BeautifulSoup, Tag
from pandas import DataFrame

from gengap.errors import GengapError

COLUMNS = ["section", "table", "cells", "differ", "first difference"]
Table = dict[tuple[str, str], str]  # row's and column's labels -> what the cell shows


def compared(one: Path, other: Path) -> DataFrame:
    """The tables of two executed notebooks of one chapter that differ, a row each.

    A table is that of a code cell which both have; its cells are compared by their labels, whatever
    their order. Columns: section (the heading above), table (its number in the chapter), cells (in
    either), differ (how many are not alike, or are in one alone) and first difference.

    Raises:
        GengapError: if a file is no executed notebook, or the two share no cell with a table.
    """
    first, second = dict(_tables(one)), dict(_tables(other))
    if not (common := [source for source in first if source in second]):
        raise GengapError(
            f"{one} and {other} have no table of the same code; give two runs of one chapter"
        )
    rows = []
    for number, source in enumerate(common, 1):
        (section, table), (_, against) = first[source], second[source]
        labels = list(dict.fromkeys([*table, *against]))
        unlike = [label for label in labels if table.get(label) != against.get(label)]
        if unlike:
            told = _told(unlike[0], table, against)
            rows.append((section, number, len(labels), len(unlike), told))
    return DataFrame(rows, columns=COLUMNS)


def _tables(run: Path) -> Iterator[tuple[str, tuple[str, Table]]]:
    """Source of each cell that shows a table, with the heading above it and the table."""
    try:
        notebook = nbformat.read(run, as_version=4)
    except (OSError, ValueError, AttributeError) as error:
        raise GengapError(
            f"{run} is no notebook ({type(error).__name__}: {error}); give an executed chapter, as"
            " `gengap run` writes and names it"
        ) from error
    section = run.stem
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            headings = re.findall(r"^#+ (.*)$", cell.source, re.MULTILINE)
            section = headings[-1] if headings else section
        for output in cell.get("outputs", ()):
            if "<table" in (html := output.get("data", {}).get("text/html", "")):
                yield cell.source, (section, _cells(html))


def _cells(html: str) -> Table:
    """The cells of an HTML table by their labels, which spanning heads give to each they span."""
    rows = BeautifulSoup(html, "html.parser").find("table").find_all("tr")
    heads = [_spread(row) for row in rows if not row.find("td")]
    names = [" ".join(filter(None, parts)) for parts in zip_longest(*heads, fillvalue="")]
    found, above = {}, []
    for row in rows:
        labels, values = _texts(row.find_all("th")), _texts(row.find_all("td"))
        if values:
            # Of labels in several columns a row repeats only those that change.
            above = above[: max(0, len(above) - len(labels))] + labels
            row_label = " ".join(above)
            named = zip(names[-len(values) :], values, strict=True)
            found |= {(row_label, name): value for name, value in named}
    return found


def _spread(head: Tag) -> list[str]:
    """The texts of a row of the table's head, each as often as the columns that it spans."""
    parts = head.find_all("th")
    return [
        text
        for part, text in zip(parts, _texts(parts), strict=True)
        for _ in range(int(part.get("colspan", 1)))
    ]


def _texts(parts: Iterable[Tag]) -> list[str]:
    return [part.get_text(strip=True) for part in parts]


def _told(label: tuple[str, str], one: Table, other: Table) -> str:
    place = ", ".join(filter(None, label))
    return f"{place}: {one.get(label, 'absent')} -> {other.get(label, 'absent')}"
