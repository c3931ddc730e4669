"""The style of all figures, and what they share.

They are readable at the width of a phone, and safe for the colour-blind.
"""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython import get_ipython
from matplotlib.figure import Figure

from gengap.book.figures.in_words import in_words

# Okabe and Ito 2008: told apart with every kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
WIDTH = 4.8  # inches: text of 10 points is still read when a phone shrinks the page's column
NAMES = {
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10, grey",
    "svhn_cropped": "SVHN, grey",
    "NIN_FASHION_MNIST": "replica, NiN",
    "RESNET_FASHION_MNIST": "replica, ResNet-32",
    "AdaM_FashionMNIST": "replica, Adam",
    "SGD_FashionMNIST": "replica, SGD",
    "NIN_CIFAR10": "NiN, CIFAR-10",
    "RESNET_CIFAR10": "ResNet-32, CIFAR-10",
    "RESNET_CIFAR100": "ResNet-32, CIFAR-100",
    "task1_v4": "task 1",
    "task2_v1": "task 2",
    **{f"task{number}": f"task {number}" for number in range(4, 10)},
    **{
        f"task{number}_fashion_mnist": f"replica, task {number}" for number in (1, 2, *range(4, 10))
    },
}


def use_style() -> None:
    """Set the style for all figures that follow; a notebook tells them in words besides."""
    sns.set_theme(context="paper", style="ticks", palette=COLOURS)
    plt.rcParams |= {
        "figure.dpi": 110,
        "figure.constrained_layout.use": True,
        "font.size": 10,
        "axes.labelsize": 10,
        "axes.titlesize": 10,
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
        "legend.fontsize": 9,
        "legend.frameon": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    if shell := get_ipython():
        plain = shell.display_formatter.formatters["text/plain"]
        plain.for_type(Figure, lambda figure, printer, _: printer.text(in_words(figure)))


def coloured_points(table: pd.DataFrame, x: str, y: str) -> tuple[Figure, np.ndarray]:
    """Column y against column x, a panel per family and a colour per value of `hyper`."""
    families = table["family"].unique()
    figure, panels = rows_of_axes(len(families), height=0.55 * WIDTH)
    for panel, family in zip(panels, families):
        part = table[table["family"] == family]
        for value, colour in zip(sorted(part["hyper"].unique()), COLOURS):
            chosen = part[part["hyper"] == value]
            panel.scatter(chosen[x], chosen[y], s=14, color=colour, label=value)
        panel.set_title(name_of(family), loc="left")
        panel.legend()
    return figure, panels


def histograms(values: pd.Series, families: pd.Series, bins: np.ndarray, *, label: str) -> Figure:
    """How many values of each family fall into which bin, a panel per family."""
    names = families.unique()
    figure, panels = rows_of_axes(len(names), height=1.3, sharex=True)
    for panel, family, colour in zip(panels, names, itertools.cycle(COLOURS)):
        panel.hist(values[families == family], bins=bins, color=colour)
        panel.set_title(name_of(family), loc="left")
    figure.supylabel("networks", fontsize=10)
    panels[-1].set_xlabel(label)
    return figure


def rows_of_axes(count: int, *, height: float, **options) -> tuple[Figure, np.ndarray]:
    """Panels below one another, which a phone shows as large as a desktop does."""
    size = WIDTH, count * height
    figure, panels = plt.subplots(count, 1, figsize=size, squeeze=False, **options)
    return figure, panels[:, 0]


def diagonal(axes: plt.Axes) -> None:
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, zorder=0)
    axes.set(xlim=(0, 1), ylim=(0, 1))


def name_of(family: str) -> str:
    return NAMES.get(family, family)


def words(name: str) -> str:
    return name.replace("_", " ")


def short_name(family: str) -> str:
    return name_of(family).replace("task ", "T").replace("replica, ", "")
