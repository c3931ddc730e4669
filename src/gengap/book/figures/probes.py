"""Figures of margins, of regressions on them, and of correlations at every epoch."""

import itertools
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from gengap.book.figures.style import COLOURS, WIDTH, name_of, panels_by, words


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
    pairs = itertools.product(enumerate(outcomes), enumerate(families))
    for (row, outcome), (column, family) in pairs:
        panel = panels[column, row] if many else panels[row, column]
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
