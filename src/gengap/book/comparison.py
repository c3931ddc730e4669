"""Two runs of a chapter side by side: the tables in which they differ."""

import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
from pandas import DataFrame

from gengap.book.html_tables import table_of
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
    """The cells of an HTML table by their labels."""
    head, rows, labels = table_of(html)
    return {
        (" ".join(filter(None, row[:labels])), name): value
        for row in rows
        for name, value in zip(head[labels:], row[labels:], strict=True)
    }


def _told(label: tuple[str, str], one: Table, other: Table) -> str:
    place = ", ".join(filter(None, label))
    return f"{place}: {one.get(label, 'absent')} -> {other.get(label, 'absent')}"
