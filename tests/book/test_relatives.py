"""Which measures a definition names under *See also*."""

import re

import pandas as pd
import pytest
from scipy.stats import spearmanr

from gengap import folders
from gengap.book import relatives
from gengap.collection import embedded_collections, last_epoch, open_collection
from gengap.measures import MEASURES

NAMES = ["norm", "low_rank_norm", "norm_over_margin", "margin", "sharpness", "flatness", "depth"]


@pytest.fixture
def table():
    """`norm` beside six others."""
    table = pd.DataFrame(1.0, index=NAMES, columns=NAMES)
    table.loc["norm"] = [1, 0.3, 0.2, 0.5, -0.6, float("nan"), 0.1]
    return table


def test_without_one_that_is_alike_the_nearest_is_named(table):
    told = relatives.see_also("norm", table.drop(columns=["low_rank_norm", "norm_over_margin"]))
    assert told == "See also `sharpness` (−0.60), the nearest"


def test_of_many_that_are_alike_three_are_named(table):
    table.loc["norm", ["margin", "sharpness", "flatness", "depth"]] = [0.9, -0.97, 0.95, 0.896]
    told = relatives.see_also("norm", table)
    assert told == "See also `sharpness` (−0.97), `flatness` (0.95), `margin` (0.90) and 1 more"


def test_of_variants_the_one_that_differs_most_is_named(table):
    told = relatives.see_also("margin", table.assign(inverse_margin=0.4, margin_80=-0.1))
    assert told.endswith("and 3 more; its variant `margin_80` (−0.10)")


def test_of_a_measure_without_values_nothing_is_told(table):
    assert relatives.see_also("new", table) == ""


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("path_norm", "path_norm_over_margin", True),
        ("vpm", "vpm_80", True),
        ("vpm", "vr", False),
        ("mixup_error", "mixup_margin", False),
        ("log_sum_of_spectral_norms", "log_product_of_frobenius_norms", False),
    ],
)
def test_a_variant_shares_as_many_words_as_it_differs_in(one, other, expected):
    assert relatives.is_variant(one, other) is relatives.is_variant(other, one) is expected


def test_likeness_is_the_median_of_spearman_s_correlation_by_scipy():
    pair, found = ["stable_quality", "log_condition_number"], []
    for name in embedded_collections():
        rows = pd.read_parquet(folders.data() / "tables" / f"{name}.parquet")
        values = {m: rows[rows["measure"] == m].set_index("model_id")["value"] for m in pair}
        for _, own in last_epoch(open_collection(name).index()).groupby("family"):
            known = pd.DataFrame(values).loc[own["model_id"]].dropna()
            found += [spearmanr(*known.T.to_numpy()).statistic]
    table = relatives.likeness()
    assert table.loc[*pair] == table.loc[*pair[::-1]] == pytest.approx(pd.Series(found).median())


@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_has_relatives_which_are_measures(name):
    named = re.findall("`(.*?)`", relatives.see_also(name, relatives.likeness()))
    assert named and set(named) <= {*MEASURES} - {name}
