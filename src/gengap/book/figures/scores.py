"""Figures of gaps, of scores of measures, and of what chance scores."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from gengap.book.figures.style import (
    COLOURS,
    WIDTH,
    grid_of_axes,
    histograms,
    panels_by,
    short_name,
    words,
)


def gap_histograms(index: pd.DataFrame) -> Figure:
    """How many networks have which generalization gap, a panel per family of the index."""
    gaps = index["train_accuracy"] - index["test_accuracy"]
    bins = np.linspace(gaps.min(), gaps.max(), 31)
    return histograms(gaps, index["family"], bins, label="gap")


def score_heat_map(scores: pd.DataFrame) -> Figure:
    """Scores as a heat map, a row per measure and a column per task; where there is none, blank.

    `scores` is indexed by measure with a column per task.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 0.2 * len(scores) + 0.9))
    shown = scores.rename(index=words, columns=short_name)
    options = {"fmt": ".0f", "annot_kws": {"size": 9}, "cbar": False}
    sns.heatmap(shown, annot=True, cmap="cividis", vmin=0, ax=axes, **options)
    axes.set(xlabel="", ylabel="")
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    return figure


def signed_heat_map(values: pd.DataFrame, *, marked: pd.DataFrame | None = None) -> Figure:
    """Correlations, -1 to 1, as a heat map with a row and a column for those of `values`.

    Blank where there is none. marked: the same rows and columns, true where a dot is drawn.
    """
    size = WIDTH, 0.19 * len(values) + 2.2
    figure, axes = plt.subplots(figsize=size)
    bar = {"location": "bottom", "shrink": 0.8, "aspect": 30, "pad": 0.02}
    sns.heatmap(values, cmap="RdBu_r", vmin=-1, vmax=1, cbar_kws=bar, ax=axes)
    if marked is not None:
        rows, columns = np.nonzero(marked.loc[values.index, values.columns].to_numpy(bool))
        axes.plot(columns + 0.5, rows + 0.5, "o", color="black", markersize=2)
    axes.set(xlabel="", ylabel="")
    axes.set_yticks(np.arange(len(values)) + 0.5, [words(name) for name in values.index])
    axes.xaxis.tick_top()
    axes.tick_params(axis="x", rotation=90, labelsize=9)
    axes.tick_params(length=0)
    return figure


def phase_slopes(scores: pd.DataFrame) -> Figure:
    """How the mean score of each measure changes from phase to phase, a line per measure.

    `scores` is indexed by measure with a column per phase, in order of time. The leader of each
    phase is drawn in colour and named.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 0.9 * WIDTH))
    axes.plot(scores.to_numpy().T, color="0.8", linewidth=1)
    for leader, colour in zip(scores.idxmax().unique(), COLOURS):
        axes.plot(scores.loc[leader].to_numpy(), color=colour, marker="o", label=words(leader))
    axes.set_xticks(range(len(scores.columns)), scores.columns)
    axes.set(ylabel="mean score x 100", ylim=(0, None))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1))
    return figure


def random_score_histograms(scores: dict[str, np.ndarray]) -> Figure:
    """What random measures score, a panel per task; `scores` maps a task's label to draws."""
    figure, panels = grid_of_axes(len(scores), height=1.0, sharex=True)
    bins = np.linspace(0, 100 * max(draws.max() for draws in scores.values()), 40)
    for panel, (label, draws) in zip(panels, scores.items()):
        panel.hist(100 * draws, bins=bins, color=COLOURS[0])
        panel.axvline(100 * draws.mean(), color=COLOURS[1], linewidth=1.5)
        panel.set_title(label, loc="left")
        panel.set_yticks([])
    figure.supxlabel("score x 100 of a random measure (line: mean)", fontsize=10)
    return figure


def scores_against_chance(scores: pd.DataFrame, *, baseline: str) -> Figure:
    """Each measure's score with its interval, over what chance scores, a panel per family.

    `scores` has columns measure, family, value, low, high, null_05 and null_95 (fractions). The
    grey bar is the central 90 % of the permutation null; the vertical line is the score of the row
    named `baseline`.
    """
    height = 0.17 * scores["measure"].nunique() + 0.5
    figure, panels = panels_by(scores, "family", height=height, columns=1, sharex=True)
    for panel, part, colour in panels:
        part = part.dropna(subset="value").sort_values("value")
        places = range(len(part))
        panel.hlines(places, 100 * part["null_05"], 100 * part["null_95"], color="0.85", lw=5)
        panel.hlines(places, 100 * part["low"], 100 * part["high"], color=colour, linewidth=1)
        panel.plot(100 * part["value"], places, "o", color=colour, markersize=3)
        line = 100 * part.loc[part["measure"] == baseline, "value"]
        panel.axvline(float(line.iloc[0]), color="0.3", linewidth=1, linestyle="--")
        panel.set_yticks(places, part["measure"].map(words), fontsize=9)
        panel.set_ylim(-0.7, len(part) - 0.3)
    figure.axes[-1].set_xlabel("CMI x 100")
    return figure
