"""Probe curves: against scipy, closed forms, and the replica that training kept."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import gengap
from gengap.measures.spectra import network_spectra
from gengap.measures.spectral_aggregation import VARIANTS, variant
from gengap.studies.genprob import (
    at_the_end,
    correlations,
    epoch_table,
    layer_table,
    partial_correlations,
    probe_curves,
    settled_epochs,
    spectral_measures,
)


@pytest.fixture(scope="module")
def genprob():
    return gengap.open_collection("genprob").select("family == 'SGD_FashionMNIST'")


@pytest.fixture(scope="module")
def epochs(genprob):
    return epoch_table(genprob)


@pytest.fixture
def grid():
    """Eight networks of a grid of two hyper-parameters, and their index."""
    index = pd.DataFrame({"model_id": list("abcdefgh"), "family": "one", "epoch": 0.0})
    index["hp_width"] = [0, 0, 0, 0, 1, 1, 1, 1]
    index["hp_rate"] = [0.1, 0.1, 0.2, 0.2] * 2
    index["train_accuracy"] = 0.9
    index["test_accuracy"] = [0.5, 0.51, 0.6, 0.62, 0.7, 0.74, 0.8, 0.88]
    return index


@pytest.fixture
def curves():
    """A measure that settles at epoch 2, and one that does so only at the end."""
    found = {"early": [0.1, 0.5, 0.88, 0.93, 0.9], "late": [0.9, 0.9, 0.9, 0.5, 0.9]}
    wide = pd.DataFrame(found).rename_axis("epoch")
    return wide.melt(ignore_index=False, var_name="measure", value_name="correlation").reset_index()


def by_epoch(values: np.ndarray) -> pd.Series:
    """(networks, epochs) -> by network and epoch."""
    names = [f"network {number}" for number in range(len(values))]
    wide = pd.DataFrame(values, pd.Index(names, name="network"))
    return wide.rename_axis(columns="epoch").stack()


@pytest.mark.parametrize(("ranks", "known"), [(True, stats.spearmanr), (False, stats.pearsonr)])
def test_correlations_are_those_of_scipy_ties_and_missing_values_included(ranks, known):
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 6, size=(2, 20, 12)).astype(float)
    x[generator.random(x.shape) < 0.1] = np.nan
    draws = generator.multinomial(12, np.full(12, 1 / 12), size=6)
    for a, b in zip(x, y, strict=True):
        for drawn, found in zip(draws, correlations(a, b, draws, ranks=ranks), strict=True):
            there = np.repeat(np.arange(12), np.where(np.isfinite(a), drawn, 0))
            assert found == pytest.approx(known(a[there], b[there]).statistic, abs=1e-12)


@pytest.mark.parametrize("x", [[1.0, 1, 1, 1], [1, 2, np.nan, np.nan], [np.nan] * 4])
def test_where_nothing_varies_or_little_is_known_there_is_no_correlation(x):
    y, once = np.arange(4.0), np.ones((1, 4), int)
    for pair in ((np.array(x), y), (y, np.array(x))):
        for ranks in (True, False):
            assert np.isnan(correlations(*pair, once, ranks=ranks)).all()


def test_a_perfect_measure_has_correlation_one_at_every_epoch_with_a_band_around_it():
    outcome = by_epoch(np.random.default_rng(0).random((10, 3)))
    values = pd.DataFrame({"same": outcome, "opposite": -outcome})
    found = probe_curves(values, outcome, samples=50).set_index(["measure", "epoch"])
    assert found.loc["same", ["correlation", "low", "high"]].to_numpy() == pytest.approx(1)
    assert found.loc["opposite", ["correlation", "low", "high"]].to_numpy() == pytest.approx(-1)
    assert (found["networks"] == 10).all()


def test_a_band_is_the_percentile_bootstrap_over_networks():
    generator = np.random.default_rng(1)
    x, y = by_epoch(generator.random((30, 1))), by_epoch(generator.random((30, 1)))
    found = probe_curves(pd.DataFrame({"x": x}), y, samples=2000, ranks=False).iloc[0]
    options = {"n_resamples": 2000, "paired": True, "method": "percentile", "rng": 0}
    known = stats.bootstrap(
        (x, y), lambda a, b: stats.pearsonr(a, b).statistic, vectorized=False, **options
    )
    expected = [known.confidence_interval.low, known.confidence_interval.high]
    assert [found["low"], found["high"]] == pytest.approx(expected, abs=0.03)


def test_a_network_without_a_value_does_not_count_at_that_epoch():
    outcome = by_epoch(np.random.default_rng(0).random((5, 2)))
    values = pd.DataFrame({"some": outcome.copy()})
    values.loc[("network 0", 1), "some"] = np.nan
    found = probe_curves(values, outcome, samples=10)
    assert list(found["networks"]) == [5, 4]
    assert found["correlation"].to_numpy() == pytest.approx(1)


def test_an_outcome_at_the_end_is_that_of_the_last_epoch():
    outcome = by_epoch(np.array([[1.0, 5.0], [2.0, 3.0]]))[::-1]
    found = at_the_end(outcome)
    assert found.index.equals(outcome.index)
    assert found["network 0"].tolist() == [5, 5] and found["network 1"].tolist() == [3, 3]


def test_a_curve_settles_where_it_no_longer_leaves_the_last_value(curves):
    assert dict(settled_epochs(curves)) == {"early": 2, "late": 4}
    assert dict(settled_epochs(curves, within=1)) == {"early": 0, "late": 0}
    curves.loc[(curves["measure"] == "early") & (curves["epoch"] == 3), "correlation"] = np.nan
    curves.loc[(curves["measure"] == "late") & (curves["epoch"] == 4), "correlation"] = np.nan
    found = settled_epochs(curves)
    assert found["early"] == 4 and np.isnan(found["late"])


def test_what_hyper_parameters_explain_is_taken_out(grid):
    outcome = grid.set_index("model_id")["test_accuracy"]
    generator = np.random.default_rng(0)
    values = pd.DataFrame(
        {
            "the outcome": outcome,
            "width": grid["hp_width"].to_numpy() + 1e-9 * generator.random(8),
            "missing": outcome.where(outcome > 0.5),
        }
    )
    found = partial_correlations(values, outcome, grid)
    assert found.loc["the outcome", ["correlation", "partial"]].to_numpy() == pytest.approx(1)
    assert found.loc["width", "explained"] == pytest.approx(0.81, abs=0.15)
    assert abs(found.loc["width", "partial"]) < found.loc["width", "correlation"]
    assert found.loc["missing", ["correlation", "partial"]].isna().all()


def test_partial_correlation_is_that_of_the_residuals(grid):
    """Worked by hand: ranks of a balanced grid lose the means of rows and columns."""
    outcome = grid.set_index("model_id")["test_accuracy"]
    values = pd.Series([3.0, 1, 2, 4, 8, 5, 7, 6], outcome.index)

    def left(ranks):
        cells = ranks.reshape(2, 2, 2)  # width, rate, copy
        rows = cells.mean(axis=(1, 2), keepdims=True)
        columns = cells.mean(axis=(0, 2), keepdims=True)
        return (cells - rows - columns + cells.mean()).ravel()

    pair = [left(stats.rankdata(side)) for side in (values, outcome)]
    expected = np.corrcoef(pair)[0, 1]
    found = partial_correlations(values.to_frame("some"), outcome, grid)
    assert found.loc["some", "partial"] == pytest.approx(expected)
    # With 8 networks and 2 terms, t has 4 degrees of freedom, as a correlation of 6 networks.
    t = expected * np.sqrt(4 / (1 - expected**2))
    assert found.loc["some", "p_value"] == pytest.approx(2 * stats.t.sf(abs(t), 4))


def test_without_terms_the_p_value_is_that_of_scipy():
    generator = np.random.default_rng(0)
    index = pd.DataFrame({"model_id": [f"{i}" for i in range(20)], "family": "one", "hp_a": 1.0})
    index["gap"] = generator.random(20)
    values = pd.Series(generator.random(20), index["model_id"])
    outcome = index.set_index("model_id")["gap"]
    found = partial_correlations(values.to_frame("some"), outcome, index).loc["some"]
    known = stats.spearmanr(values, outcome)
    assert [found["partial"], found["p_value"]] == pytest.approx([*known])
    assert found["explained"] == pytest.approx(0)


def test_the_table_has_every_epoch_of_every_network_with_gap_and_measures(genprob, epochs):
    networks = genprob.index()["model_id"].str.rpartition("/")[0].nunique()
    assert len(epochs) == networks * epochs.index.get_level_values("epoch").nunique()
    assert epochs.index.is_unique and epochs["stable_quality"].notna().all()
    accuracies = epochs["train_accuracy"] - epochs["test_accuracy"]
    assert np.allclose(epochs["gap"], accuracies)


def test_what_training_kept_is_what_the_weights_give_now(genprob, epochs):
    kept = epochs.reset_index().set_index("model_id")
    for model_id in genprob.index()["model_id"].iloc[[0, 20, -1]]:
        model = genprob.load(model_id)
        rows = network_spectra(model.network).assign(model_id=model_id)
        keys = ["layer", "unfolding", "low_rank"]
        shown, known = (
            table.set_index(keys)["rank"].sort_index()
            for table in (layer_table(genprob, model_id, [*keys, "rank"]), rows)
        )
        pd.testing.assert_series_equal(shown, known, check_dtype=False)
        now = spectral_measures(rows).loc[model_id]
        assert kept.loc[model_id, now.index].to_numpy(float) == pytest.approx(
            now, rel=1e-4, nan_ok=True
        )
        for low_rank, name in ((False, "stable_quality"), (True, "low_rank_stable_quality")):
            assert now[name] == pytest.approx(variant(rows, "stable_quality", low_rank=low_rank))


def test_of_empty_low_rank_parts_the_share_is_told():
    """Two convolutions, unfolded both ways, and a dense layer, which does not count."""
    ranks = [[3, 0, 0, 2], [0, 0, 0, 0]]
    rows = pd.DataFrame(
        {"model_id": np.repeat(["a", "b"], 10), "kind": 2 * (8 * ["conv"] + 2 * ["dense"])}
    )
    rows["low_rank"] = 10 * [False, True]
    rows["rank"] = 1.0
    rows.loc[rows["low_rank"] & (rows["kind"] == "conv"), "rank"] = np.ravel(ranks)
    for column in ("size", *(column for column, *_ in VARIANTS.values())):
        rows[column] = rows["rank"]
    assert dict(spectral_measures(rows)["empty_parts"]) == {"a": 0.5, "b": 1.0}


def test_the_kept_records_are_those_in_the_files(genprob, epochs):
    index = genprob.index().set_index("model_id")
    kept = epochs.reset_index().set_index("model_id").loc[index.index, index.columns]
    pd.testing.assert_frame_equal(kept, index, check_dtype=False)


def test_without_kept_tables_everything_comes_from_the_weights(genprob, epochs, monkeypatch):
    few = genprob.select("epoch >= 38")
    monkeypatch.setattr(few, "kept_epochs", lambda: pd.DataFrame(columns=["model_id"]))
    monkeypatch.setattr(few, "kept_spectra", lambda: iter([]))
    rows = [
        network_spectra(few.load(model_id).network).assign(model_id=model_id)
        for model_id in few.index()["model_id"]
    ]
    spectra = pd.concat(rows)
    monkeypatch.setattr(
        "gengap.studies.genprob.detail_parts",
        lambda collection, detail, columns: [spectra[["model_id", *columns]]],
    )
    found = epoch_table(few)
    assert len(found) == len(few.index())
    known = epochs.loc[found.index, "stable_quality"]
    assert found["stable_quality"].to_numpy() == pytest.approx(known.to_numpy(), rel=1e-4)
