"""The book's figures in one style: readable at phone width, safe for the colour-blind.

Each function takes plain data and returns the Figure; it puts no number into a title.
"""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

# Okabe and Ito 2008: told apart with every kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
WIDTH = 4.8  # inches: text of 10 points is still read when a phone shrinks the page's column
NAMES = {
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10, grey",
    "svhn_cropped": "SVHN, grey",
    "vgg_fashion_mnist": "replica, VGG-like",
    "nin_fashion_mnist": "replica, NiN",
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
    """Set the style for all figures that follow."""
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


def accuracy_histograms(index: pd.DataFrame) -> Figure:
    """How many networks reach which test accuracy, a panel per family of the index."""
    bins = np.linspace(0, 1, 41)
    return _histograms(index["test_accuracy"], index["family"], bins, label="test accuracy")


def gap_histograms(index: pd.DataFrame) -> Figure:
    """How many networks have which generalization gap, a panel per family of the index."""
    gaps = index["train_accuracy"] - index["test_accuracy"]
    bins = np.linspace(gaps.min(), gaps.max(), 31)
    return _histograms(gaps, index["family"], bins, label="gap")


def train_against_test(index: pd.DataFrame) -> Figure:
    """Test against training accuracy of each network, families by colour, with the diagonal."""
    figure, axes = plt.subplots(figsize=(WIDTH, 0.8 * WIDTH))
    for family, colour in zip(index["family"].unique(), COLOURS):
        part = index[index["family"] == family]
        points = part["train_accuracy"], part["test_accuracy"]
        axes.scatter(*points, s=8, alpha=0.5, color=colour, label=_name(family))
    _diagonal(axes)
    axes.set(xlabel="training accuracy", ylabel="test accuracy")
    axes.legend(markerscale=2)
    return figure


def predicted_against_true(predictions: pd.DataFrame, *, reading: str = "leak_free") -> Figure:
    """Predicted against true test accuracy, a panel per family.

    `predictions` has columns family, target, and the predictions in the column `reading`.
    """
    families = predictions["family"].unique()
    figure, panels = _rows(len(families), height=0.62 * WIDTH, sharex=True)
    for panel, family, colour in zip(panels, families, COLOURS):
        part = predictions[predictions["family"] == family]
        panel.scatter(part["target"], part[reading], s=8, alpha=0.6, color=colour)
        _diagonal(panel)
        panel.set_title(_name(family), loc="left")
    figure.supylabel("predicted test accuracy", fontsize=10)
    panels[-1].set_xlabel("true test accuracy")
    return figure


def importance_by_layer(importance: pd.DataFrame) -> Figure:
    """Share of the gain by layer, biases and kernels apart, a bar per family.

    `importance` has columns family, layer, tensor and gain, as `predictors.importance_table` gives.
    """
    named = importance.assign(
        tensor=importance["layer"] + " " + importance["tensor"],
        family=importance["family"].map(_name),
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
    families = curve["family"].unique()
    figure, panels = _rows(len(families), height=0.55 * WIDTH, sharex=True)
    for panel, family in zip(panels, families):
        part = curve[curve["family"] == family]
        for predictor, colour in zip(part["predictor"].unique(), COLOURS):
            drawn = part[part["predictor"] == predictor].groupby("networks")["r2"]
            median = drawn.median()
            panel.plot(median, marker="o", markersize=3, color=colour, label=predictor)
            panel.fill_between(median.index, drawn.min(), drawn.max(), color=colour, alpha=0.15)
            point = networks, published[family, predictor]
            panel.plot(*point, "o", color=colour, markerfacecolor="white")
        panel.set(xscale="log", ylim=(-0.1, 1.05), ylabel="$R^2$")
        panel.axvline(networks, color="0.8", linewidth=1, zorder=0)
        panel.set_title(_name(family), loc="left")
    panels[0].legend(loc="lower right")
    panels[-1].set_xlabel(f"training networks (published: {networks:,})")
    return figure


def transfer_matrix(transfer: pd.DataFrame) -> Figure:
    """Kendall's tau as a heat map; columns trained_on, tested_on and tau, one row a pair."""
    order = transfer["trained_on"].unique()
    matrix = transfer.pivot(index="trained_on", columns="tested_on", values="tau")
    matrix = matrix.loc[order, order].rename(index=_name, columns=_name)
    figure, axes = plt.subplots(figsize=(WIDTH, 0.75 * WIDTH))
    limits = {"vmin": 0, "vmax": 1}
    sns.heatmap(matrix, annot=True, fmt=".2f", cmap="cividis", square=True, ax=axes, **limits)
    axes.set(xlabel="tested on", ylabel="trained on")
    axes.tick_params(axis="y", rotation=0)
    axes.set_xticklabels(axes.get_xticklabels(), rotation=20, ha="right")
    return figure


def score_heat_map(scores: pd.DataFrame) -> Figure:
    """Scores as a heat map, a row per measure and a column per task; where there is none, blank.

    `scores` is indexed by measure with a column per task.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 0.2 * len(scores) + 0.9))
    shown = scores.rename(columns=_short_name)
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
    axes.set_yticks(np.arange(len(values)) + 0.5, [_words(name) for name in values.index])
    axes.xaxis.tick_top()
    axes.tick_params(axis="x", rotation=90)
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
        axes.plot(scores.loc[leader].to_numpy(), color=colour, marker="o", label=leader)
    axes.set_xticks(range(len(scores.columns)), scores.columns)
    axes.set(ylabel="mean score x 100", ylim=(0, None))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1))
    return figure


def random_score_histograms(scores: dict[str, np.ndarray]) -> Figure:
    """What random measures score, a panel per task; `scores` maps a task's label to draws."""
    figure, panels = _rows(len(scores), height=1.0, sharex=True)
    for panel, (label, draws) in zip(panels, scores.items()):
        panel.hist(100 * draws, bins=np.linspace(0, 100 * _largest(scores), 40), color=COLOURS[0])
        panel.axvline(100 * draws.mean(), color=COLOURS[1], linewidth=1.5)
        panel.set_title(label, loc="left")
        panel.set_yticks([])
    panels[-1].set_xlabel("score x 100 of a random measure (line: mean)")
    return figure


def scores_against_chance(scores: pd.DataFrame, *, baseline: str) -> Figure:
    """Each measure's score with its interval, over what chance scores, a panel per family.

    `scores` has columns measure, family, value, low, high, null_05 and null_95 (fractions). The
    grey bar is the central 90 % of the permutation null; the vertical line is the score of the row
    named `baseline`.
    """
    families = scores["family"].unique()
    height = 0.17 * scores["measure"].nunique() + 0.5
    figure, panels = _rows(len(families), height=height, sharex=True)
    for panel, family, colour in zip(panels, families, itertools.cycle(COLOURS)):
        part = scores[scores["family"] == family].dropna(subset="value").sort_values("value")
        places = range(len(part))
        panel.hlines(places, 100 * part["null_05"], 100 * part["null_95"], color="0.85", lw=5)
        panel.hlines(places, 100 * part["low"], 100 * part["high"], color=colour, linewidth=1)
        panel.plot(100 * part["value"], places, "o", color=colour, markersize=3)
        line = 100 * part.loc[part["measure"] == baseline, "value"]
        panel.axvline(float(line.iloc[0]), color="0.3", linewidth=1, linestyle="--")
        panel.set_yticks(places, part["measure"], fontsize=9)
        panel.set_ylim(-0.7, len(part) - 0.3)
        panel.set_title(_name(family), loc="left")
    panels[-1].set_xlabel("CMI x 100")
    return figure


def measure_against_gap(table: pd.DataFrame) -> Figure:
    """A measure against the gap, a panel per family; columns family, value, gap and hyper.

    Colours tell apart the values of `hyper`, one hyper-parameter (as text).
    """
    figure, panels = _coloured_points(table, "value", "gap")
    for panel in panels:
        panel.set_ylabel("gap")
    panels[-1].set_xlabel("measure")
    return figure


def predicted_gaps(predictions: pd.DataFrame) -> Figure:
    """Predicted against true gap, a panel per family; columns family, gap, predicted and hyper.

    Colours tell apart the values of `hyper`, one hyper-parameter (as text); on the line the
    prediction is true.
    """
    figure, panels = _coloured_points(predictions, "gap", "predicted")
    for panel in panels:
        panel.axline((0, 0), slope=1, color="0.6", linewidth=1, zorder=0)
        panel.set_ylabel("predicted gap")
    panels[-1].set_xlabel("gap")
    return figure


def margin_densities(margins: pd.DataFrame) -> Figure:
    """Densities of margins, a panel per stage and a line per network.

    `margins` has columns network (its label), stage and margin. The axis ends where the largest 1 %
    of a panel's margins begin; the line at 0 is the decision boundary.
    """
    stages = margins["stage"].unique()
    figure, panels = _rows(len(stages), height=0.36 * WIDTH)
    for panel, stage in zip(panels, stages):
        part = margins[margins["stage"] == stage]
        limits = part["margin"].quantile([0.005, 0.99])
        for (label, own), colour in zip(part.groupby("network", sort=False), COLOURS):
            # On shared limits, so that a narrow and a wide distribution are drawn as finely.
            options = {"clip": tuple(limits), "gridsize": 400, "common_norm": False}
            sns.kdeplot(own["margin"], color=colour, label=label, ax=panel, **options)
        panel.axvline(0, color="0.6", linewidth=1, zorder=0)
        panel.set(xlabel="", ylabel="", yticks=[])
        panel.set_title(stage, loc="left")
    panels[0].legend()
    panels[-1].set_xlabel("margin over total variation")
    figure.supylabel("density of training images", fontsize=10)
    return figure


def regressions(table: pd.DataFrame) -> Figure:
    """How well each predictor does, a panel per family.

    `table` has columns family, predictor, k_fold_r2 and default. A predictor has a row for each of
    its forms: the line spans them, the point is the default one. Below zero, where a prediction is
    worse than the mean, the axis ends.
    """
    families, names = table["family"].unique(), list(table["predictor"].unique())[::-1]
    height = 0.24 * len(names) + 0.4
    figure, panels = _rows(len(families), height=height, sharex=True)
    for panel, family, colour in zip(panels, families, COLOURS):
        part = table[table["family"] == family].assign(r2=lambda rows: rows["k_fold_r2"].clip(0))
        spans = part.groupby("predictor")["r2"].agg(["min", "max"]).reindex(names)
        points = part[part["default"]].set_index("predictor")["r2"].reindex(names)
        panel.hlines(range(len(names)), spans["min"], spans["max"], color="0.8", linewidth=3)
        panel.plot(points, range(len(names)), "o", color=colour, markersize=4)
        panel.set_yticks(range(len(names)), names)
        panel.set(xlim=(-0.02, 1.02))
        panel.set_title(_name(family), loc="left")
    panels[-1].set_xlabel("$R^2$ out of fold")
    return figure


def probe_curves(curves: pd.DataFrame) -> Figure:
    """How measures correlate with outcomes, epoch by epoch, a line per measure with its band.

    `curves` has columns outcome (a row of panels each), family (a column of panels each), measure,
    epoch, correlation, low and high; where low and high are NaN there is no band.
    """
    outcomes, families = curves["outcome"].unique(), curves["family"].unique()
    size = WIDTH, len(outcomes) * 0.5 * WIDTH + 0.5
    figure, panels = plt.subplots(
        len(outcomes), len(families), figsize=size, squeeze=False, sharey="row", sharex="col"
    )
    for (row, outcome), (column, family) in itertools.product(
        enumerate(outcomes), enumerate(families)
    ):
        panel = panels[row, column]
        chosen = curves[(curves["outcome"] == outcome) & (curves["family"] == family)]
        for measure, colour in zip(sorted(curves["measure"].unique()), COLOURS):
            line = chosen[chosen["measure"] == measure].sort_values("epoch")
            panel.plot(line["epoch"], line["correlation"], color=colour, label=_words(measure))
            panel.fill_between(line["epoch"], line["low"], line["high"], color=colour, alpha=0.12)
        panel.axhline(0, color="0.8", linewidth=1, zorder=0)
        panel.set(ylim=(-1.05, 1.05))
        panel.set_title(f"{_name(family)}\n{_words(outcome)}", loc="left")
    for panel in panels[-1]:
        panel.set_xlabel("epoch")
    figure.supylabel("correlation", fontsize=10)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def probed_epochs(table: pd.DataFrame, *, measure: str, outcome: str) -> Figure:
    """A measure against an outcome at several epochs, a panel each.

    `table` has columns epoch, value, outcome and hyper: colours tell apart the values of `hyper`,
    one hyper-parameter (as text). measure, outcome: what the axes say.
    """
    epochs = sorted(table["epoch"].unique())
    columns = 2
    rows = -(-(len(epochs) + 1) // columns)  # the last place is the legend's
    size = WIDTH, rows * 0.45 * WIDTH
    figure, panels = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for panel, epoch in zip(panels.flat, epochs):
        part = table[table["epoch"] == epoch]
        for value, colour in zip(sorted(table["hyper"].unique()), COLOURS):
            chosen = part[part["hyper"] == value]
            panel.scatter(chosen["value"], chosen["outcome"], s=12, color=colour, label=value)
        panel.set_title(f"epoch {epoch}", loc="left")
    for panel in panels.flat[len(epochs) :]:
        panel.axis("off")
    panels.flat[len(epochs)].legend(*panels[0, 0].get_legend_handles_labels(), loc="center")
    figure.supxlabel(measure, fontsize=10)
    figure.supylabel(outcome, fontsize=10)
    return figure


def _coloured_points(table: pd.DataFrame, x: str, y: str) -> tuple[Figure, np.ndarray]:
    """Column y against column x, a panel per family and a colour per value of `hyper`."""
    families = table["family"].unique()
    figure, panels = _rows(len(families), height=0.55 * WIDTH)
    for panel, family in zip(panels, families):
        part = table[table["family"] == family]
        for value, colour in zip(sorted(part["hyper"].unique()), COLOURS):
            chosen = part[part["hyper"] == value]
            panel.scatter(chosen[x], chosen[y], s=14, color=colour, label=value)
        panel.set_title(_name(family), loc="left")
        panel.legend()
    return figure, panels


def _histograms(values: pd.Series, families: pd.Series, bins: np.ndarray, *, label: str) -> Figure:
    """How many values of each family fall into which bin, a panel per family."""
    names = families.unique()
    figure, panels = _rows(len(names), height=1.3, sharex=True)
    for panel, family, colour in zip(panels, names, itertools.cycle(COLOURS)):
        panel.hist(values[families == family], bins=bins, color=colour)
        panel.set_title(_name(family), loc="left")
    figure.supylabel("networks", fontsize=10)
    panels[-1].set_xlabel(label)
    return figure


def _rows(count: int, *, height: float, **options) -> tuple[Figure, np.ndarray]:
    """Panels below one another, which a phone shows as large as a desktop does."""
    size = WIDTH, count * height
    figure, panels = plt.subplots(count, 1, figsize=size, squeeze=False, **options)
    return figure, panels[:, 0]


def _diagonal(axes: plt.Axes) -> None:
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, zorder=0)
    axes.set(xlim=(0, 1), ylim=(0, 1))


def _name(family: str) -> str:
    return NAMES.get(family, family)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _short_name(family: str) -> str:
    return _name(family).replace("task ", "T").replace("replica, ", "")


def _largest(scores: dict[str, np.ndarray]) -> float:
    return max(float(draws.max()) for draws in scores.values())
