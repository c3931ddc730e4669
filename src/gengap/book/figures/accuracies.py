"""Figures of accuracies, and of predictions of accuracies from weights."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from gengap.book.figures.style import COLOURS, WIDTH, histograms, name_of, panels_by


def accuracy_histograms(index: pd.DataFrame) -> Figure:
    """How many networks reach which test accuracy, a panel per family of the index."""
    bins = np.linspace(0, 1, 41)
    return histograms(index["test_accuracy"], index["family"], bins, label="test accuracy")


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
