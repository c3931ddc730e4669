"""The book's figures in one style.

Each function takes plain data and returns the Figure; it puts no number into a title. Those here
are drawn by Matplotlib, those of `points` by Altair.
"""

import itertools
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from gengap.book.figures.points import (
    measure_against_gap,
    predicted_against_true,
    predicted_gaps,
    probed_epochs,
    train_against_test,
)
from gengap.book.figures.style import (
    COLOURS,
    NAMES,
    WIDTH,
    name_of,
    panels_by,
    short_name,
    use_style,
    words,
)


def accuracy_histograms(index: pd.DataFrame) -> Figure:
    """How many networks reach which test accuracy, a panel per family of the index."""
    bins = np.linspace(0, 1, 41)
    return _histograms(index["test_accuracy"], index["family"], bins, label="test accuracy")


def gap_histograms(index: pd.DataFrame) -> Figure:
    """How many networks have which generalization gap, a panel per family of the index."""
    gaps = index["train_accuracy"] - index["test_accuracy"]
    bins = np.linspace(gaps.min(), gaps.max(), 31)
    return _histograms(gaps, index["family"], bins, label="gap")


def importance_by_layer(importance: pd.DataFrame) -> Figure:
    """Share of the gain by layer, biases and kernels apart, a bar per family.

    `importance` has columns family, layer, tensor and gain, as `Fits.importances` gives.
    """
    named = importance.assign(
        tensor=importance["layer"] + " " + importance["tensor"],
        family=importance["family"].map(name_of),
    )
    shares = named.groupby(["tensor", "family"], sort=False)["gain"].sum().reset_index()
    figure, axes = plt.subplots(figsize=(WIDTH, WIDTH))
    colours = COLOURS[: shares["family"].nunique()]
    sns.barplot(shares, y="tensor", x="gain", hue="family", palette=colours, ax=axes)
    axes.set(xlabel="share of gain", ylabel="")
    axes.legend(title="")
    return figure


def learning_curve(curve: pd.DataFrame, published: pd.Series, *, networks: int) -> Figure:
    """R2 against the number of training networks, a panel per family, a line per predictor.

    `curve` has columns family, predictor, networks, repeat and r2: lines are medians, bands the
    range over repeats. `published` holds the reported R2, indexed by family and predictor; it is
    marked by hollow points at `networks`.
    """
    figure, panels = panels_by(curve, "family", height=0.44 * WIDTH, sharex=True)
    for panel, part, _ in panels:
        for predictor, colour in zip(part["predictor"].unique(), COLOURS):
            drawn = part[part["predictor"] == predictor].groupby("networks")["r2"]
            median = drawn.median()
            panel.plot(median, marker="o", markersize=3, color=colour, label=predictor)
            panel.fill_between(median.index, drawn.min(), drawn.max(), color=colour, alpha=0.15)
            point = networks, published[part["family"].iloc[0], predictor]
            panel.plot(*point, "o", color=colour, markerfacecolor="white")
        panel.set(xscale="log", ylim=(-0.1, 1.05))
        panel.axvline(networks, color="0.8", linewidth=1, zorder=0)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=3)
    figure.supylabel("$R^2$", fontsize=10)
    figure.supxlabel(f"training networks (published: {networks:,})", fontsize=10)
    return figure


def transfer_matrix(transfer: pd.DataFrame) -> Figure:
    """Kendall's tau as a heat map; columns trained_on, tested_on and tau, one row a pair."""
    order = transfer["trained_on"].unique()
    matrix = transfer.pivot(index="trained_on", columns="tested_on", values="tau")
    matrix = matrix.loc[order, order].rename(index=name_of, columns=name_of)
    figure, axes = plt.subplots(figsize=(WIDTH, 0.75 * WIDTH))
    sns.heatmap(matrix, annot=True, fmt=".2f", cmap="cividis", square=True, ax=axes)
    axes.set(xlabel="tested on", ylabel="trained on")
    axes.tick_params(axis="y", rotation=0)
    axes.set_xticklabels(axes.get_xticklabels(), rotation=20, ha="right")
    return figure


def margin_densities(margins: pd.DataFrame) -> Figure:
    """Densities of margins, a panel per stage and a line per network.

    `margins` has columns network (its label), stage and margin. The axis ends where the largest 1 %
    of a panel's margins begin; the line at 0 is the decision boundary. Densities and the ends of
    the axis have three digits, in which processors agree.
    """
    figure, panels = panels_by(margins, "stage", height=0.36 * WIDTH)
    for panel, part, _ in panels:
        limits = [float(f"{limit:.3g}") for limit in part["margin"].quantile([0.005, 0.99])]
        for (label, own), colour in zip(part.groupby("network", sort=False), COLOURS):
            # On shared limits, so that a narrow and a wide distribution are drawn as finely.
            options = {"clip": limits, "gridsize": 400, "common_norm": False}
            sns.kdeplot(own["margin"], color=colour, label=label, ax=panel, **options)
            density: Any = panel.lines[-1].get_ydata()
            panel.lines[-1].set_ydata([float(f"{y:.3g}") for y in density])
        panel.axvline(0, color="0.6", linewidth=1, zorder=0)
        panel.set(xlabel="", ylabel="", yticks=[])
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper left", ncols=2)
    figure.supxlabel("margin over total variation", fontsize=10)
    figure.supylabel("density of training images", fontsize=10)
    return figure


def regressions(table: pd.DataFrame) -> Figure:
    """How well each predictor does, a panel per family.

    `table` has columns family, predictor, k_fold_r2 and default. A predictor has a row for each of
    its forms: the line spans them, the point is the default one. Below zero, where a prediction is
    worse than the mean, the axis ends.
    """
    names = list(table["predictor"].unique())[::-1]
    r2 = table.assign(r2=table["k_fold_r2"].clip(0))
    # Names are long: one column.
    figure, panels = panels_by(r2, "family", height=0.24 * len(names) + 0.4, columns=1, sharex=True)
    for panel, part, colour in panels:
        spans = part.groupby("predictor")["r2"].agg(["min", "max"]).reindex(names)
        points = part[part["default"]].set_index("predictor")["r2"].reindex(names)
        panel.hlines(range(len(names)), spans["min"], spans["max"], color="0.8", linewidth=3)
        panel.plot(points, range(len(names)), "o", color=colour, markersize=4)
        panel.set_yticks(range(len(names)), map(words, names))
        panel.set(xlim=(-0.02, 1.02))
    figure.axes[-1].set_xlabel("$R^2$ out of fold")
    return figure


def probe_curves(curves: pd.DataFrame) -> Figure | None:
    """How measures correlate with outcomes, epoch by epoch, a line per measure with its band.

    `curves` has columns outcome (a row of panels each), family (a column of panels each; of more
    than two, a row), measure, epoch, correlation, low and high; where low and high are NaN there is
    no band. None without rows.
    """
    if curves.empty:
        return None
    outcomes, families = curves["outcome"].unique(), curves["family"].unique()
    many = len(families) > 2
    shape = (len(families), len(outcomes)) if many else (len(outcomes), len(families))
    size = WIDTH, shape[0] * 0.5 * WIDTH + 0.5
    shared: dict[str, Any] = {"sharey": "row", "sharex": "none" if many else "col"}
    figure, panels = plt.subplots(*shape, figsize=size, squeeze=False, **shared)
    by_family = panels if many else panels.T
    for panel, (family, outcome) in zip(by_family.flat, itertools.product(families, outcomes)):
        chosen = curves[(curves["outcome"] == outcome) & (curves["family"] == family)]
        for measure, colour in zip(sorted(curves["measure"].unique()), COLOURS):
            line = chosen[chosen["measure"] == measure].sort_values("epoch")
            panel.plot(line["epoch"], line["correlation"], color=colour, label=words(measure))
            panel.fill_between(line["epoch"], line["low"], line["high"], color=colour, alpha=0.12)
        panel.axhline(0, color="0.8", linewidth=1, zorder=0)
        panel.set(ylim=(-1.05, 1.05))
        panel.set_title(f"{name_of(family)}\n{words(outcome)}", loc="left")
    for panel in panels[-1]:
        panel.set_xlabel("epoch")
    figure.supylabel("correlation", fontsize=10)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


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
    labels = np.repeat([*scores], [len(draws) for draws in scores.values()])
    table = pd.DataFrame({"task": labels, "score": 100 * np.concatenate([*scores.values()])})
    figure, panels = panels_by(table, "task", height=1.0, sharex=True)
    bins = [*np.linspace(0, table["score"].max(), 40)]
    for panel, part, _ in panels:
        panel.hist(part["score"], bins=bins, color=COLOURS[0])
        panel.axvline(part["score"].mean(), color=COLOURS[1], linewidth=1.5)
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


def _histograms(values: pd.Series, families: pd.Series, bins: np.ndarray, *, label: str) -> Figure:
    """How many values of each family fall into which bin, a panel per family."""
    table = pd.DataFrame({"value": values, "family": families})
    figure, panels = panels_by(table, "family", height=1.1, sharex=True)
    for panel, part, colour in panels:
        panel.hist(part["value"], bins=[*bins], color=colour)
    figure.supylabel("networks", fontsize=10)
    figure.supxlabel(label, fontsize=10)
    return figure
