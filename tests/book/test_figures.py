"""The data that figures draw, and that their text is large enough for a phone."""

import io
import warnings
from types import SimpleNamespace

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from IPython.core.formatters import DisplayFormatter
from matplotlib.text import Text
from nbclient import NotebookClient

from gengap.book import figures
from gengap.book.figures.data import as_csv, in_words
from gengap.collections.cnnzoo import SmallCNNZoo
from gengap.collections.demogen import DEMOGEN
from gengap.collections.genprob import GenProb
from gengap.collections.pgdl import PGDL

FAMILIES = ("mnist", "cifar10")


@pytest.fixture(autouse=True)
def style():
    with plt.rc_context():
        figures.use_style()
        yield
    plt.close("all")


@pytest.fixture
def index():
    accuracy = np.linspace(0.1, 0.9, 10)
    parts = [
        {"family": family, "train_accuracy": accuracy, "test_accuracy": accuracy * share}
        for family, share in zip(FAMILIES, (0.95, 0.5))
    ]
    return pd.concat([pd.DataFrame(part) for part in parts], ignore_index=True)


@pytest.fixture
def curve():
    levels = {
        "family": FAMILIES,
        "predictor": ("linear", "lgbm"),
        "networks": (10, 100),
        "repeat": range(3),
    }
    table = pd.MultiIndex.from_product(levels.values(), names=levels).to_frame(index=False)
    return table.assign(r2=table["networks"] / 200 + table["repeat"] / 10)


@pytest.fixture
def published():
    pairs = pd.MultiIndex.from_product([FAMILIES, ("linear", "lgbm")])
    return pd.Series([0.8, 0.99, 0.7, 0.98], index=pairs)


@pytest.fixture
def transfer():
    pairs = [(a, b) for a in FAMILIES for b in FAMILIES]
    table = pd.DataFrame(pairs, columns=["trained_on", "tested_on"])
    return table.assign(tau=[0.9, 0.6, -0.3, 0.8])


@pytest.fixture
def importance():
    levels = {"family": FAMILIES, "layer": ("conv1", "dense"), "tensor": ("bias", "kernel")}
    table = pd.MultiIndex.from_product(levels.values(), names=levels).to_frame(index=False)
    return pd.concat([table.assign(gain=0.1), table.assign(gain=0.15)])


@pytest.fixture
def phases():
    """Scores of three measures in two phases."""
    values = {"public": [30.0, 10.0, 5.0], "final": [1.0, 12.0, 4.0]}
    return pd.DataFrame(values, index=["wcv", "mixup_margin", "vc_dimension"])


@pytest.fixture
def judged():
    """Scores of two measures and the baseline on two tasks."""
    value = {"family": FAMILIES, "measure": ("margin", "vr", "alone")}
    table = pd.MultiIndex.from_product(value.values(), names=value).to_frame(index=False)
    table["value"] = [0.2, 0.1, 0.3, 0.05, np.nan, 0.4]
    table["low"], table["high"] = table["value"] - 0.05, table["value"] + 0.05
    return table.assign(null_05=0.01, null_95=0.08)


def test_the_heat_map_has_tasks_in_its_columns_and_blanks_where_there_is_no_score(phases):
    phases.columns = ["task1_v4", "task8_fashion_mnist"]
    phases.iloc[0, 1] = np.nan
    heat = figures.score_heat_map(phases).axes[0]
    assert [label.get_text() for label in heat.get_xticklabels()] == ["T1", "T8"]
    shown = heat.collections[0].get_array()
    assert shown.mask[0, 1] and shown.mask.sum() == 1
    assert shown[1, 1] == 12


def test_the_signed_heat_map_is_blank_without_a_value_and_marked_where_asked(phases):
    values = phases / 100
    values.iloc[0, 1] = np.nan
    axes = figures.signed_heat_map(values, marked=values > 0.2).axes[0]
    shown = axes.collections[0].get_array()
    assert shown.mask[0, 1] and shown.mask.sum() == 1 and shown[1, 1] == 0.12
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), [[0.5, 0.5]])
    assert axes.get_yticklabels()[1].get_text() == "mixup margin"


def test_slopes_name_the_leader_of_each_phase_and_draw_every_measure(phases):
    [axes] = figures.phase_slopes(phases).axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["wcv", "mixup margin"]
    drawn = {tuple(line.get_ydata()) for line in axes.lines}
    assert drawn == set(map(tuple, phases.to_numpy()))


def test_random_scores_are_drawn_with_their_mean():
    panels = figures.random_score_histograms({"32 networks": np.array([0.1, 0.3])}).axes
    assert sum(bar.get_height() for bar in panels[0].patches) == 2
    assert panels[0].lines[0].get_xdata()[0] == pytest.approx(20)


def test_scores_are_sorted_over_chance_with_the_baseline_as_a_line(judged):
    first, second = figures.scores_against_chance(judged, baseline="alone").axes
    points, line = first.lines
    np.testing.assert_allclose(points.get_xdata(), [10, 20, 30])
    assert [label.get_text() for label in first.get_yticklabels()] == ["vr", "margin", "alone"]
    assert line.get_xdata()[0] == pytest.approx(30)
    assert len(second.get_yticklabels()) == 2  # the measure without a score is left out


@pytest.fixture
def regressed():
    rows = [("mnist", "h1", 0.5, True), ("mnist", "h1", -3.0, False), ("mnist", "loss", 0.2, True)]
    return pd.DataFrame(rows, columns=["family", "predictor", "k_fold_r2", "default"])


@pytest.fixture
def margins():
    draws = np.random.default_rng(0).normal(size=(2, 2, 200))
    rows = [
        {"network": f"network {at}", "stage": stage, "margin": value + at}
        for at in range(2)
        for place, stage in enumerate(("inputs", "h1"))
        for value in draws[at, place]
    ]
    return pd.DataFrame(rows)


def test_regressions_span_all_forms_and_mark_the_default_one(regressed):
    [panel] = figures.regressions(regressed).axes
    assert [text.get_text() for text in panel.get_yticklabels()] == ["loss", "h1"]
    np.testing.assert_allclose(panel.lines[0].get_xdata(), [0.2, 0.5])
    spans = [segment[:, 0].tolist() for segment in panel.collections[0].get_segments()]
    assert spans == [[0.2, 0.2], [0.0, 0.5]]  # what is worse than the mean ends at the axis


def test_long_names_of_predictors_leave_room_for_three_families(regressed):
    regressed["predictor"] += " with the longest of names, of forty letters"
    parts = [regressed.assign(family=family) for family in ("mnist", "cifar10", "svhn_cropped")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures.regressions(pd.concat(parts)).draw_without_rendering()


def test_densities_of_margins_have_a_panel_per_stage_and_a_line_per_network(margins):
    panels = figures.margin_densities(margins).axes
    assert [panel.get_title("left") for panel in panels] == ["inputs", "h1"]
    for panel in panels:
        *densities, boundary = panel.lines
        assert len(densities) == 2 and set(boundary.get_xdata()) == {0}
        for line in densities:
            assert np.trapezoid(line.get_ydata(), line.get_xdata()) == pytest.approx(1, abs=0.05)


def test_gap_histograms_count_every_network(index):
    panels = figures.gap_histograms(index).axes
    assert [sum(bar.get_height() for bar in panel.patches) for panel in panels] == [10, 10]


def test_histograms_count_every_network_of_their_family(index):
    panels = figures.accuracy_histograms(index).axes
    assert [panel.get_title("left") for panel in panels] == ["MNIST", "CIFAR-10, grey"]
    for panel in panels:
        assert sum(bar.get_height() for bar in panel.patches) == 10


def test_the_curve_draws_medians_ranges_and_the_published_points(curve, published):
    panels = figures.learning_curve(curve, published, networks=15_000).axes
    lines = {line.get_label(): line for line in panels[1].lines}
    np.testing.assert_allclose(lines["lgbm"].get_xydata(), [[10, 0.15], [100, 0.6]])
    marked = [tuple(line.get_xydata()[0]) for line in panels[1].lines if len(line.get_xdata()) == 1]
    assert marked == [(15_000, 0.7), (15_000, 0.98)]
    assert "15,000" in panels[1].figure.get_supxlabel()


def test_the_transfer_matrix_has_training_families_in_its_rows(transfer):
    heat = figures.transfer_matrix(transfer).axes[0]
    np.testing.assert_allclose(heat.collections[0].get_array(), [[0.9, 0.6], [-0.3, 0.8]])
    assert heat.get_ylabel() == "trained on"


def test_importance_sums_the_features_of_a_tensor(importance):
    [axes] = figures.importance_by_layer(importance).axes
    widths = [bar.get_width() for container in axes.containers for bar in container]
    np.testing.assert_allclose(widths, 0.25)
    assert [label.get_text() for label in axes.get_yticklabels()][0] == "conv1 bias"


@pytest.fixture
def probed():
    """Curves of two measures for two outcomes, with a band in one family only."""
    levels = {"outcome": ("test_accuracy", "gap"), "family": ("published", "SGD_FashionMNIST")}
    levels |= {"measure": ("rank", "norm"), "epoch": range(3)}
    table = pd.MultiIndex.from_product(levels.values(), names=levels).to_frame(index=False)
    table["correlation"] = table["epoch"] / 4
    ours = table["family"] != "published"
    table["low"] = (table["correlation"] - 0.1).where(ours)
    return table.assign(high=(table["correlation"] + 0.1).where(ours))


def test_probe_curves_have_outcomes_below_and_families_beside_each_other(probed):
    figure = figures.probe_curves(probed)
    titles = [panel.get_title(loc="left") for panel in figure.axes]
    pair = ["published", "replica, SGD"]
    assert titles == [f"{name}\n{of}" for of in ("test accuracy", "gap") for name in pair]
    for panel in figure.axes:
        drawn = {line.get_label(): line for line in panel.lines}
        np.testing.assert_allclose(drawn["norm"].get_ydata(), [0, 0.25, 0.5])
    without, with_band = (panel.collections[0].get_paths() for panel in figure.axes[:2])
    assert without == []
    assert with_band[0].vertices[:, 1].max() == pytest.approx(0.6)


def test_of_no_networks_nothing_is_drawn(probed):
    assert figures.probe_curves(probed.iloc[:0]) is None
    none = pd.DataFrame(columns=["family", "value", "gap"])
    assert figures.measure_against_gap(none, "a measure") is None


def test_no_text_is_smaller_than_nine_points_and_no_figure_wider_than_a_phone_shrinks(
    index,
    curve,
    published,
    transfer,
    importance,
    phases,
    judged,
    regressed,
    margins,
    probed,
):
    drawn = [
        figures.accuracy_histograms(index),
        figures.learning_curve(curve, published, networks=15_000),
        figures.transfer_matrix(transfer),
        figures.importance_by_layer(importance),
        figures.gap_histograms(index),
        figures.score_heat_map(phases),
        figures.phase_slopes(phases),
        figures.signed_heat_map(phases / 100),
        figures.random_score_histograms({"32 networks": np.array([0.1, 0.3])}),
        figures.scores_against_chance(judged, baseline="alone"),
        figures.regressions(regressed),
        figures.margin_densities(margins),
        figures.probe_curves(probed),
    ]
    for figure in drawn:
        assert figure.get_figwidth() == figures.WIDTH
        texts = [text for text in figure.findobj(Text) if text.get_text()]
        assert min(text.get_fontsize() for text in texts) >= 9


def test_a_figure_is_told_in_words(phases, probed):
    heat = figures.signed_heat_map(phases / 100)
    assert in_words(heat) == (
        "Figure. Colours from 0.01 to 0.30. Columns: public; final."
        " Rows: wcv; mixup margin; VC dimension."
    )
    curves = in_words(figures.probe_curves(probed))
    assert curves.startswith("Figure with panels: published test accuracy; replica, SGD test")
    assert curves.endswith("Across: epoch. Upwards: correlation. Colours: norm; rank.")


def test_a_notebook_keeps_words_and_data_beside_the_image(phases, monkeypatch):
    shell = SimpleNamespace(display_formatter=DisplayFormatter())
    monkeypatch.setattr("gengap.book.figures.style.get_ipython", lambda: shell)
    figures.use_style()
    figure = figures.phase_slopes(phases)
    kept, _ = shell.display_formatter.format(figure, include={"text/plain", "text/csv"})
    assert kept == {"text/plain": in_words(figure), "text/csv": as_csv(figure)}


def test_a_kernel_keeps_them_whatever_its_first_figure_loads():
    source = """import pandas as pd
from gengap.book import figures
figures.use_style()
_ = figures.signed_heat_map(pd.DataFrame({"a": [0.1, 0.2]}, index=["x_y", "z"]))"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    NotebookClient(notebook).execute()
    [output] = notebook.cells[0].outputs
    assert output["data"]["text/plain"].startswith("Figure. Colours from 0.10 to 0.20.")
    assert output["data"]["text/csv"] == "across,upwards,value\na,x y,0.1\na,z,0.2\n"


def test_a_notebook_shows_a_series_as_a_table(monkeypatch):
    shell = SimpleNamespace(display_formatter=DisplayFormatter())
    monkeypatch.setattr("gengap.book.figures.style.get_ipython", lambda: shell)
    figures.use_style()
    series = pd.Series([1.5, 2.5], index=pd.Index(["a", "b"], name="family"))
    for name in ("gap", None):
        kept, _ = shell.display_formatter.format(series.rename(name), include={"text/html"})
        assert kept == {"text/html": series.to_frame(name or "value").to_html()}


def data_of(figure):
    return pd.read_csv(io.StringIO(as_csv(figure)), keep_default_na=False)


def test_the_data_of_points_are_theirs_by_series():
    figure, axes = plt.subplots()
    axes.scatter([0.3, 0.4], [0, 1], label="alone")
    axes.set_yticks([0, 1], ["mnist", "cifar10"])
    assert data_of(figure)[["series", "across", "upwards"]].values.tolist() == [
        ["alone", 0.3, "mnist"],
        ["alone", 0.4, "cifar10"],
    ]


def test_the_data_of_bars_are_their_ends_by_panel(importance, index):
    shares = data_of(figures.importance_by_layer(importance))
    assert set(shares["upwards"]) == {
        f"{a} {b}" for a in ("conv1", "dense") for b in ("bias", "kernel")
    }
    np.testing.assert_allclose(shares["across"], 0.25)
    assert set(shares["series"]) == {"MNIST", "CIFAR-10, grey"}
    counts = data_of(figures.accuracy_histograms(index))
    assert counts.groupby("panel")["upwards"].sum().tolist() == [10, 10]


def test_the_data_of_intervals_are_their_ends(judged):
    table = data_of(figures.scores_against_chance(judged, baseline="alone"))
    ends = table.query("panel == 'MNIST' and upwards == 'vr' and series == 'interval'")["across"]
    assert sorted(ends.round(6)) == [1, 5, 8, 15]
    [value] = table.query("panel == 'MNIST' and upwards == 'vr' and series == ''")["across"]
    assert value == 10


def test_of_many_rows_the_ends_are_told():
    values = pd.DataFrame(np.eye(25), index=[f"measure_{place}" for place in range(25)])
    assert "Rows: 25, from measure 0 to measure 24." in in_words(figures.signed_heat_map(values))


def test_every_family_of_the_originals_has_a_name_for_readers():
    for collection in (SmallCNNZoo, PGDL, DEMOGEN, GenProb):
        assert {*collection.expected_families} <= figures.NAMES.keys()


def test_the_colours_used_together_stay_apart_without_red_or_green_cones():
    """Distances of linear RGB values as Vienot et al. (1999) simulate them."""
    rgb = np.array([matplotlib.colors.to_rgb(colour) for colour in figures.COLOURS[:3]]) ** 2.2
    for red, blue in (((0.11238, 0.88762, 0), (0.00401, -0.00401, 1)),
                      ((0.29275, 0.70725, 0), (-0.02234, 0.02234, 1))):  # fmt: skip
        seen = rgb @ np.array([red, red, blue]).T
        distances = np.linalg.norm(seen[:, None] - seen[None], axis=-1)
        assert distances[~np.eye(3, dtype=bool)].min() > 0.1
