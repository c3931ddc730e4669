import numpy as np
import pandas as pd
import pytest

import gengap
from gengap.measures.spectral_aggregation import AGGREGATES, TRANSFORMS, aggregate, variant

VALUES = np.array([3.0, 0.5, 0.0, 8.0])
WEIGHTS = np.array([3, 16, 24, 5])
# The released formulas, with the zero left out: L1 to L5 by hand.
BY_HAND = {
    "mean_absolute": (3 + 0.5 + 8) / 3,
    "root_mean_square": ((9 + 0.25 + 64) / 3) ** 0.5,
    "geometric_mean": (3 * 0.5 * 8) ** (1 / 3),
    "weighted_mean": (3 * 3 + 16 * 0.5 + 5 * 8) / (3 + 16 + 5),
    "weighted_geometric_mean": (3**3 * 0.5**16 * 8**5) ** (1 / 24),
}
AFTER = {
    "plain": lambda x: x,
    "times_depth": lambda x: 4 * x,
    "root": lambda x: x**0.5,
    "root_of_times_depth": lambda x: 2 * x**0.5,
    "log": np.log,
    "log_of_times_depth": lambda x: np.log(4) + np.log(x),
    "log_of_root": lambda x: np.log(x) / 2,
    "log_of_root_of_times_depth": lambda x: np.log(4 * x) / 2,
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("how", AGGREGATES)
def test_each_aggregation_is_the_one_worked_by_hand(how, transform):
    expected = AFTER[transform](BY_HAND[how])
    found = aggregate(VALUES, WEIGHTS, how=how, transform=transform)
    assert found == pytest.approx(expected, rel=1e-12)


def test_each_aggregation_of_equal_values_is_that_value():
    for how in AGGREGATES:
        assert aggregate(np.full(5, 2.5), np.arange(1, 6), how=how) == pytest.approx(2.5)


def test_nothing_but_zeros_has_no_aggregate_nor_has_a_value_that_is_not_known():
    assert np.isnan(aggregate(np.zeros(3), np.ones(3), how="mean_absolute"))
    assert np.isnan(aggregate(np.array([1, np.nan]), np.ones(2), how="geometric_mean"))


@pytest.mark.parametrize("names", [{"how": "L1"}, {"how": "weighted_mean", "transform": "7"}])
def test_an_unknown_aggregation_is_refused_with_those_there_are(names):
    with pytest.raises(gengap.GengapError, match="unknown aggregation .* expected one of"):
        aggregate(VALUES, WEIGHTS, **names)


def test_values_without_a_weight_each_are_refused():
    with pytest.raises(gengap.GengapError, match="expected one weight for each"):
        aggregate(VALUES, WEIGHTS[:2], how="weighted_mean")


COLUMNS = [
    "stable_quality",
    "effective_rank",
    "frobenius_norm",
    "spectral_norm",
    "condition_number",
]


def spectra() -> pd.DataFrame:
    """Two convolutions and a dense layer; the low-rank values are ten times as large."""
    layers = pd.DataFrame({"kind": ["conv"] * 4 + ["dense"] * 2, "size": 3, "low_rank": False})
    for column in COLUMNS:
        layers[column] = [1.0, 2.0, 4.0, 8.0, 1000.0, 1000.0]
    return pd.concat([layers, layers * [1, 1, 1, *[10] * len(COLUMNS)]]).assign(
        low_rank=np.repeat([False, True], 6)
    )


@pytest.mark.parametrize("low_rank", [False, True])
@pytest.mark.parametrize(
    "name, expected",
    [
        ("stable_quality", lambda scale: scale * 64 ** (1 / 4)),
        ("log_effective_rank", lambda scale: np.log(scale * (85 / 4) ** 0.5) / 2),
        ("log_frobenius_norm", lambda scale: np.log(4 * scale * 64 ** (1 / 4)) / 2),
        ("log_spectral_norm", lambda scale: np.log(4 * scale * 64 ** (1 / 4)) / 2),
        ("log_condition_number", lambda scale: np.log(scale * 64 ** (1 / 4))),
    ],
)
def test_a_variant_takes_the_convolutions_of_both_unfoldings(name, expected, low_rank):
    found = variant(spectra(), name, low_rank=low_rank)
    assert found == pytest.approx(expected(10 if low_rank else 1), rel=1e-12)


@pytest.mark.parametrize(
    "value, reason",
    [
        (np.nan, "infinite or NaN"),
        (np.inf, "condition number is infinite"),
        (0, "the condition number of low-rank parts of all convolutions is 0"),
    ],
)
def test_a_variant_that_is_no_finite_number_is_not_available(value, reason):
    table = spectra().assign(condition_number=float(value))
    with pytest.raises(gengap.NotAvailable, match=reason):
        variant(table, "log_condition_number", low_rank=True)


def test_dense_layers_alone_have_no_variant():
    dense = spectra().query("kind == 'dense'")
    with pytest.raises(gengap.NotAvailable, match="no convolution"):
        variant(dense, "stable_quality", low_rank=False)
