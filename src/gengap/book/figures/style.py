"""The style of all figures, and what they share.

They are readable at the width of a phone, and safe for the colour-blind.
"""

import itertools
import re
import tomllib
from pathlib import Path

import altair as alt
import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from IPython import get_ipython
from matplotlib.figure import Figure

from gengap.book.figures.data import CSV, as_csv, in_words

# Okabe and Ito 2008: told apart with every kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
WIDTH = 4.8  # inches: text of 10 points is still read when a phone shrinks the page's column
PEOPLE = re.compile("davies bouldin|fisher rao|frobenius|gauss newton|hessian|jacobian")
NAMES = tomllib.loads(Path(__file__).with_name("names.toml").read_text())


def use_style() -> None:
    """Set the style for all figures that follow; a notebook keeps their words and data besides.

    A Series is shown as a table there, too.
    """
    sns.set_theme(context="paper", style="ticks", palette=COLOURS)
    plt.rcParams |= {"font.size": 10, "legend.fontsize": 9, "legend.frameon": False}
    plt.rcParams |= {"axes.labelsize": 10, "axes.titlesize": 10}
    plt.rcParams |= {"xtick.labelsize": 9, "ytick.labelsize": 9}
    plt.rcParams |= {"figure.dpi": 110, "figure.constrained_layout.use": True}
    plt.rcParams |= {"axes.spines.top": False, "axes.spines.right": False}
    if shell := get_ipython():
        plt.switch_backend(plt.get_backend())  # a notebook's forgets formatters as it is loaded
        formatters = shell.display_formatter.formatters
        formatters["text/csv"] = CSV(parent=shell.display_formatter)
        formatters["text/csv"].for_type(Figure, as_csv)
        formatters["text/html"].for_type(pd.Series, _as_table)
        alt.renderers.enable("book")
        plain = formatters["text/plain"]
        plain.for_type(Figure, lambda figure, printer, _: printer.text(in_words(figure)))


def _as_table(series: pd.Series) -> str:
    return series.to_frame("value" if series.name is None else series.name).to_html()


def panels_by(
    table: pd.DataFrame, column: str, *, height: float, columns: int = 2, **options
) -> tuple[Figure, list[tuple[plt.Axes, pd.DataFrame, str]]]:
    """A panel for each value of a column, its title; with its rows and colour.

    Panels stand in rows of two, or below one another where there are no more than two.
    """
    groups = table.groupby(column, sort=False)
    columns = columns if len(groups) > 2 else 1
    lines = -(-len(groups) // columns)
    size = WIDTH, lines * height
    figure, panels = plt.subplots(lines, columns, figsize=size, squeeze=False, **options)
    for place in range(len(groups), panels.size):
        panels.flat[place].remove()
        panels.flat[place - columns].tick_params(labelbottom=True)  # now the last of its column
    parts = []
    for panel, (name, rows), colour in zip(panels.flat, groups, itertools.cycle(COLOURS)):
        panel.set_title(name_of(name), loc="left")
        parts.append((panel, rows, colour))
    return figure, parts


def name_of(family: str) -> str:
    return NAMES.get(family, family)


def words(name: str) -> str:
    """A measure, a recorded number or a setting as readers know it."""
    told = name.replace("kendall", "Kendall's").replace("_", " ").replace("train ", "training ")
    told = told.replace("low rank", "low-rank").replace("vc dim", "VC dim")
    return PEOPLE.sub(lambda found: found[0].title(), told.replace("pac bayes", "PAC-Bayes"))


def short_name(family: str) -> str:
    return name_of(family).replace("task ", "T").replace("replica, ", "")
