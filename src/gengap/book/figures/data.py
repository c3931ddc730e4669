"""What a figure draws, as CSV.

A notebook keeps it beside the figure's image, and the book offers it below: see
`gengap.book.numbered`.
"""

from collections.abc import Iterator
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
from traitlets import ObjectName, Unicode

DIGITS = 5


class CSV(BaseFormatter):
    """How IPython asks for what it displays as CSV."""

    format_type = Unicode("text/csv")
    print_method = ObjectName("_repr_csv_")


def as_csv(figure: Figure) -> str:
    """A row for each point, bar, end of a line and cell of a heat map, by panel and series.

    `across` and `upwards` are what the axes count, or the names written there; a series is what the
    legend calls it. What marks a place of the axes, such as a line at zero, is left out.
    """
    panels = [axes for axes in figure.axes if axes.axison and axes.get_label() != "<colorbar>"]
    rows = [(axes.get_title("left"), *row) for axes in panels for row in _rows(axes)]
    table = pd.DataFrame(rows, columns=["panel", "series", "across", "upwards", "value"])
    filled = table.replace("", None).dropna(axis="columns", how="all")
    return filled.to_csv(index=False, float_format=f"%.{DIGITS}g")


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


def _names(ticks: np.ndarray, labels: list) -> dict[float, str]:
    """What is written at the ticks of an axis that is no scale of numbers."""
    texts = [label.get_text() for label in labels]
    return {
        float(tick): " ".join(text.split())
        for tick, text in zip(ticks, texts)
        if any(map(str.isalpha, text.replace("mathdefault", "")))
    }
