"""What a figure shows, in words, for readers who do not see it.

A notebook keeps them as the figure's plain text, and the book takes them as the alternative text of
its image: `gengap.book.docstrings` does so.
"""

from collections.abc import Iterable
from typing import Any

from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.text import Text

MANY = 20  # of more rows or columns the first and the last are named


def in_words(figure: Figure) -> str:
    """Sentences on a figure: its panels, axes and heat map, and what its colours tell apart."""
    panels = [axes for axes in figure.axes if axes.axison and axes.get_label() != "<colorbar>"]
    legends = [*figure.legends, *filter(None, (axes.get_legend() for axes in figure.axes))]
    meshes = [m for axes in panels for m in axes.collections if isinstance(m, QuadMesh)]
    shades: list[Any] = [mesh.get_array() for mesh in meshes]
    told = [
        _listed("figure with panels", (axes.get_title("left") for axes in panels)) or "Figure.",
        *(f"Colours from {shade.min():.2f} to {shade.max():.2f}." for shade in shades),
        _listed("across", [figure.get_supxlabel(), *(axes.get_xlabel() for axes in panels)]),
        _listed("columns", (name for axes in panels for name in _names(axes.get_xticklabels()))),
        _listed("upwards", [figure.get_supylabel(), *(axes.get_ylabel() for axes in panels)]),
        _listed("rows", (name for axes in panels for name in _names(axes.get_yticklabels()))),
        _listed("colours", (text.get_text() for found in legends for text in found.get_texts())),
    ]
    return " ".join(filter(None, told))


def _names(ticks: list[Text]) -> list[str]:
    """Labels of ticks that are no numbers; of many the ends."""
    texts = [tick.get_text().replace("mathdefault", "") for tick in ticks]
    names = [text for text in texts if any(map(str.isalpha, text))]
    return names if len(names) <= MANY else [f"{len(names)}, from {names[0]} to {names[-1]}"]


def _listed(what: str, names: Iterable[str]) -> str:
    """What, and the different names; empty if there are none."""
    found = [" ".join(name.split()) for name in dict.fromkeys(names) if name]
    return f"{what.capitalize()}: {'; '.join(found)}." if found else ""
