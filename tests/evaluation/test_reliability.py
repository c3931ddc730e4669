"""How much of a gap can be told: against simulated accuracies and by hand."""

import numpy as np
import pandas as pd
import pytest

from gengap import GengapError
from gengap.evaluation.reliability import reliability_table


def index_of(train, test, **columns):
    names = [f"m{at}" for at in range(len(train))]
    rows = pd.DataFrame({"model_id": names, "family": "f"})
    return rows.assign(train_accuracy=train, test_accuracy=test, **columns)


def measured(spread, *, train_images=400, test_images=1000, networks=20_000):
    """Networks whose true gaps have this deviation, their accuracies taken on so many images."""
    random = np.random.default_rng(0)
    test = 0.7 - spread * random.uniform(-(3**0.5), 3**0.5, networks)
    shares = random.binomial(train_images, 0.9, networks) / train_images
    drawn = random.binomial(test_images, test) / test_images
    return index_of(shares, drawn, train_images=train_images, test_images=test_images)


@pytest.mark.parametrize("spread", [0.0, 0.01, 0.02, 0.1])
def test_the_reliability_is_the_share_of_the_variance_that_is_true(spread):
    noise = 0.9 * 0.1 / 400 + (0.7 * 0.3 - spread**2) / 1000
    found = reliability_table(measured(spread)).loc["f"]
    assert found["reliability"] == pytest.approx(spread**2 / (spread**2 + noise), abs=0.03)
    assert (found["networks"], found["note"]) == (20_000, "")


def test_two_networks_by_hand():
    # Gaps 0.2 and 0.4, of variance 0.02; noise (0 + 0.16) / 100 and (0.09 + 0.25) / 100.
    rows = index_of([1.0, 0.9], [0.8, 0.5], train_images=100, test_images=100)
    assert reliability_table(rows).loc["f", "reliability"] == pytest.approx(1 - 0.0025 / 0.02)


def test_what_the_index_does_not_say_leaves_it_unknown_with_the_reason():
    rows = measured(0.1, networks=30)
    for changed, note in (
        (rows.drop(columns="train_images"), "the index does not say train_images"),
        (rows[["model_id", "family", "train_accuracy", "test_accuracy"]], "test_images"),
        (rows.assign(train_accuracy=0.5, test_accuracy=0.25), "all networks have the same gap"),
        (rows.assign(train_accuracy=np.nan, gap=range(30)), "an accuracy is not known"),
    ):
        found = reliability_table(changed).loc["f"]
        assert np.isnan(found["reliability"]) and note in found["note"]
    with pytest.raises(GengapError, match="'m0' has test_images that are not positive"):
        reliability_table(rows.assign(test_images=0))


def test_copies_give_the_intraclass_correlation_worked_by_hand():
    # Two settings of two, means 1 and 4: between 2 (1.5)^2 + 2 (1.5)^2 = 9, within (2 + 2) / 2.
    rows = index_of([0.0] * 4, [0.0] * 4, gap=[0.0, 2, 3, 5], hp_a=[1, 1, 2, 2], hp_copy=[0, 1] * 2)
    assert reliability_table(rows).loc["f", "of_copies"] == pytest.approx((9 - 2) / (9 + 2))
    assert np.isnan(reliability_table(rows.drop(columns="hp_copy")).loc["f", "of_copies"])
    assert np.isnan(reliability_table(rows.iloc[::2]).loc["f", "of_copies"])


def test_copies_of_unequal_number_estimate_the_share_between_settings():
    random, sizes = np.random.default_rng(0), np.tile([1, 2, 4], 300)
    setting = np.repeat(np.arange(900), sizes)
    gap = 3 * random.normal(size=900)[setting] + random.normal(size=len(setting))
    known = {"gap": gap, "hp_a": setting.astype(str), "hp_copy": range(len(gap))}
    found = reliability_table(index_of(np.zeros(len(gap)), np.zeros(len(gap)), **known))
    assert found.loc["f", "of_copies"] == pytest.approx(0.9, abs=0.02)
