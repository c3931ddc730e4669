"""An extension of Sphinx: each measure's definition shows its rank correlations with the gap.

A strip from -1 to 1 with a mark for each family, below the first sentence of the docstring; the
numbers are those of the page of every score. Below are the measures that order networks alike.
"""

import functools
from typing import Any

from pandas import DataFrame
from sphinx.application import Sphinx

from gengap.book import every_score, relatives
from gengap.book.templates import filled
from gengap.measures import MEASURES

HALF, HIGH = 120, 14  # units of a strip: from 0 to 1, and from top to bottom


def strip(measure: str, rows: DataFrame) -> str:
    """HTML of a measure's Kendall's tau in each family; of none, a sentence.

    rows: columns family (the collection's name before its first comma) and value.
    """
    ends = f"{rows['value'].min():.2f} to {rows['value'].max():.2f}".replace("-", "\N{MINUS SIGN}")
    families = [*rows[["family", "value"]].itertuples(index=False, name=None)]
    drawn = {"families": families, "ends": ends, "half": HALF, "high": HIGH}
    return filled("book/strip.html", measure=measure, **drawn)


def add(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Put a measure's strip and its relatives below its first sentence."""
    measure = name.rpartition(".")[2]
    if MEASURES.get(measure) is thing:
        known = _taus()
        html = strip(measure, known[known["measure"] == measure])
        at = lines.index("")
        also = relatives.see_also(measure, relatives.likeness())
        below = ["", ".. container:: strip", "", f"   {also}"] if also else []
        lines[at:at] = ["", ".. raw:: html", "", f"   {html}", *below]


@functools.cache
def _taus() -> DataFrame:
    rows = every_score.rows()
    return rows[rows["score"] == "kendall_tau"].dropna(subset="value")


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", add)
    return {"parallel_read_safe": True}
