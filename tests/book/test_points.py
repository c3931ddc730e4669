"""Figures of which each point is a network: what they draw, and what a pointer is told."""

import io
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from IPython.core.formatters import DisplayFormatter
from PIL import Image

from gengap.book import figures
from gengap.book.figures.points import VEGA_LITE, bundle


@pytest.fixture
def networks():
    """Ten networks of two families each, of one batch size and two depths."""
    accuracy = np.linspace(0.1, 0.9, 10)
    parts = [
        pd.DataFrame(
            {"family": family, "train_accuracy": accuracy, "test_accuracy": share * accuracy}
        )
        for family, share in (("mnist", 0.95), ("cifar10", 0.5))
    ]
    table = pd.concat(parts, ignore_index=True)
    names = "network " + table.index.astype(str)
    gap = table["train_accuracy"] - table["test_accuracy"]
    return table.assign(model_id=names, gap=gap, hp_bs=32, hp_depth=[3, 6] * 10, seconds=1.5)


def drawn(chart):
    """Of each panel its title, the encoding of its points, and their table."""
    spec = chart.to_dict()
    for panel in spec["concat"]:
        points = panel["layer"][-1]
        name = points.get("data", panel.get("data"))["name"]
        yield panel["title"], points["encoding"], pd.DataFrame(spec["datasets"][name])


def test_a_measure_is_drawn_against_the_gap_a_panel_a_family_and_a_colour_a_setting(networks):
    hyper = networks["hp_depth"].map("depth {}".format)
    table = networks.assign(value=2 * networks["gap"], hyper=hyper)
    panels = [*drawn(figures.measure_against_gap(table, "twice the gap"))]
    assert [title for title, _, _ in panels] == ["MNIST", "CIFAR-10, grey"]
    for (_, encoding, rows), (_, own) in zip(panels, table.groupby("family", sort=False)):
        assert (encoding["x"]["field"], encoding["y"]["field"]) == ("value", "gap")
        assert encoding["x"]["title"] == "twice the gap"
        np.testing.assert_allclose(rows[["value", "gap"]], own[["value", "gap"]], rtol=1e-3)
        assert encoding["color"]["field"] == "hyper" and set(rows["hyper"]) == {
            "depth 3",
            "depth 6",
        }


def test_a_pointer_is_told_the_network_its_accuracies_and_the_settings_that_vary(networks):
    chart = figures.predicted_gaps(networks.assign(predicted=networks["gap"] + 1))
    for _, encoding, rows in drawn(chart):
        told = {tip["field"]: tip["title"] for tip in encoding["tooltip"]}
        assert {"model_id", "train_accuracy", "test_accuracy", "hp_depth"} < set(told)
        assert told["hp_depth"] == "depth" and told["predicted"] == "predicted gap"
        assert not {"hp_bs", "seconds"} & set(
            rows
        )  # the one is the same for all, the other no setting


def test_the_diagonal_spans_what_both_axes_show(networks):
    spec = figures.predicted_gaps(networks.assign(predicted=networks["gap"] / 2)).to_dict()
    line = spec["concat"][1]["layer"][0]
    ends = pd.DataFrame(spec["datasets"][line["data"]["name"]])
    np.testing.assert_allclose(ends["gap"], ends["predicted"])
    np.testing.assert_allclose(ends["gap"], [0.05, 0.225])  # gaps to 0.45, predictions from 0.025


def test_accuracies_of_all_families_are_in_one_panel(networks):
    [(_, encoding, rows)] = drawn(figures.train_against_test(networks))
    assert len(rows) == 20 and set(rows["hyper"]) == {"MNIST", "CIFAR-10, grey"}
    assert encoding["x"]["title"] == "training accuracy"


def test_families_are_coloured_in_their_order_as_in_other_figures(networks):
    backwards = networks[::-1]
    for rows in (networks, backwards):
        [(_, encoding, _)] = drawn(figures.train_against_test(rows))
        assert encoding["color"]["sort"] == [*dict.fromkeys(rows["family"].map(figures.NAMES))]


def test_predictions_are_drawn_in_the_reading_that_was_asked_for(networks):
    predictions = networks.rename(columns={"test_accuracy": "target"}).assign(
        leak_free=0.5, leaky=1
    )
    for _, encoding, rows in drawn(figures.predicted_against_true(predictions)):
        assert encoding["y"]["field"] == "leak_free" and set(rows["leak_free"]) == {0.5}


def test_epochs_have_a_panel_each(networks):
    table = networks.rename(columns={"gap": "value", "test_accuracy": "outcome"})
    table = table.assign(epoch=[0, 10] * 10, hyper="width 5")
    chart = figures.probed_epochs(table, measure="rank", outcome="test accuracy")
    panels = [*drawn(chart)]
    assert [title for title, _, _ in panels] == ["epoch 0", "epoch 10"]
    assert [len(rows) for _, _, rows in panels] == [10, 10]
    assert panels[0][1]["x"]["title"] == "rank"


def test_a_notebook_keeps_image_specification_data_and_words(networks, monkeypatch):
    shell = SimpleNamespace(display_formatter=DisplayFormatter())
    monkeypatch.setattr("gengap.book.figures.style.get_ipython", lambda: shell)
    figures.use_style()
    chart = figures.train_against_test(networks)
    kept, _ = shell.display_formatter.format(chart)
    assert kept[VEGA_LITE] == chart.to_dict()
    assert Image.open(io.BytesIO(kept["image/png"])).width > 400
    rows = pd.read_csv(io.StringIO(kept["text/csv"]))
    np.testing.assert_allclose(rows["train_accuracy"], networks["train_accuracy"], rtol=1e-3)
    assert kept["text/plain"] == (
        "Figure. Panels: all networks. Across: training accuracy. Upwards: test accuracy."
        " Colours: CIFAR-10, grey; MNIST."
    )
    assert bundle(chart.to_dict())["image/png"] == kept["image/png"]
