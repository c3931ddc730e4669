"""What a figure shows: its data as CSV, and its parts in words for readers who do not see it.

A notebook keeps both beside the figure's image. The book offers the data below it, by
`gengap.book.numbered`, and takes the words as its alternative text, by `gengap.book.docstrings`.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from IPython.core.formatters import BaseFormatter
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.colors import to_rgba
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.lines import AxLine
from matplotlib.patches import Patch
from matplotlib.text import Text
from traitlets import ObjectName, Unicode

DIGITS = 5
MANY = 20  # of more rows or columns the first and the last are named


class CSV(BaseFormatter):
    """How IPython asks for what it displays as CSV."""

    format_type = Unicode("text/csv")
    print_method = ObjectName("_repr_csv_")


def as_csv(figure: Figure) -> str:
    """A row for each point, bar, end of a line and cell of a heat map, by panel and series.

    `across` and `upwards` are what the axes count, or the names written there; a series is what the
    legend calls it. What marks a place of the axes, such as a line at zero, is left out.
    """
    rows = [(axes.get_title("left"), *row) for axes in _panels(figure) for row in _rows(axes)]
    table = pd.DataFrame(rows, columns=["panel", "series", "across", "upwards", "value"])
    filled = table.replace("", None).dropna(axis="columns", how="all")
    return filled.to_csv(index=False, float_format=f"%.{DIGITS}g")


def in_words(figure: Figure) -> str:
    """Sentences on a figure: its panels, axes and heat map, and what its colours tell apart."""
    panels = _panels(figure)
    legends = [*figure.legends, *filter(None, (axes.get_legend() for axes in figure.axes))]
    meshes = [m for axes in panels for m in axes.collections if isinstance(m, QuadMesh)]
    shades: list[Any] = [mesh.get_array() for mesh in meshes]
    told = [
        _listed("figure with panels", (axes.get_title("left") for axes in panels)) or "Figure.",
        *(f"Colours from {shade.min():.2f} to {shade.max():.2f}." for shade in shades),
        _listed("across", [figure.get_supxlabel(), *(axes.get_xlabel() for axes in panels)]),
        _listed("columns", (name for axes in panels for name in _ends(axes.get_xticklabels()))),
        _listed("upwards", [figure.get_supylabel(), *(axes.get_ylabel() for axes in panels)]),
        _listed("rows", (name for axes in panels for name in _ends(axes.get_yticklabels()))),
        _listed("colours", (text.get_text() for found in legends for text in found.get_texts())),
    ]
    return " ".join(filter(None, told))


def _panels(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.axison and axes.get_label() != "<colorbar>"]


def _rows(axes: Axes) -> Iterator[tuple]:
    across = _names(axes.get_xticks(), axes.get_xticklabels())
    upwards = _names(axes.get_yticks(), axes.get_yticklabels())
    for name, points in _series(axes):
        for x, y, *value in points:
            if np.isfinite([x, y]).all():
                yield name, _named(x, across), _named(y, upwards), *(value or [None])


def _series(axes: Axes) -> Iterator[tuple[str, Any]]:
    """What is drawn, and its points; of cells with their values."""
    for line in axes.lines:
        if line.get_transform() == axes.transData and not isinstance(line, AxLine):
            yield _label(line), line.get_xydata()
    for drawn in axes.collections:
        if isinstance(drawn, QuadMesh):
            values: np.ndarray = np.ma.filled(np.ma.asarray(drawn.get_array(), float), np.nan)
            rows, columns = np.indices(values.shape) + 0.5
            yield "", zip(columns.flat, rows.flat, values.flat)
        elif isinstance(drawn, PathCollection):
            yield _label(drawn), np.asarray(drawn.get_offsets(), float)
        else:  # intervals and bands
            for path in drawn.get_paths():
                yield _label(drawn) or "interval", path.vertices
    legend = axes.get_legend()
    # Seaborn names bars in the legend alone, by their colour.
    handles = zip(legend.legend_handles, legend.get_texts()) if legend else ()
    named = {to_rgba(h.get_facecolor()): t.get_text() for h, t in handles if isinstance(h, Patch)}
    for bars in axes.containers:
        if isinstance(bars, BarContainer):
            ends = [bar.get_bbox() for bar in bars]
            level = bars.orientation == "horizontal"
            yield (
                _label(bars) or named.get(to_rgba(bars[0].get_facecolor()), ""),
                [(e.x1, (e.y0 + e.y1) / 2) if level else ((e.x0 + e.x1) / 2, e.y1) for e in ends],
            )


def _label(drawn: Artist | BarContainer) -> str:
    """What the legend calls it; names that Matplotlib gives begin with a line."""
    name = str(drawn.get_label())
    return "" if name.startswith("_") else name


def _named(place: float, names: dict[float, str]) -> float | str:
    """The name at a place, or beside it, where bars of several series share one."""
    nearest = min(names, key=lambda tick: abs(tick - place), default=np.inf)
    return names[nearest] if abs(nearest - place) < 0.45 else place


def _names(ticks: np.ndarray, labels: list[Text]) -> dict[float, str]:
    """What is written at the ticks of an axis that is no scale of numbers."""
    return {float(tick): name for tick, label in zip(ticks, labels) if (name := _name(label))}


def _name(label: Text) -> str:
    """What is written at a tick; empty if that is a number."""
    text = " ".join(label.get_text().split())
    return text if any(map(str.isalpha, text.replace("mathdefault", ""))) else ""


def _ends(labels: list[Text]) -> list[str]:
    """Labels of ticks that are no numbers; of many the ends."""
    names = [text for label in labels if (text := _name(label))]
    return names if len(names) <= MANY else [f"{len(names)}, from {names[0]} to {names[-1]}"]


def _listed(what: str, names: Iterable[str]) -> str:
    """What, and the different names; empty if there are none."""
    found = [" ".join(name.split()) for name in dict.fromkeys(names) if name]
    return f"{what.capitalize()}: {'; '.join(found)}." if found else ""
