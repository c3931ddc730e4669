"""Bootstraps and permutations against closed forms; what clusters and strata keep together."""

import numpy as np
import pytest

from gengap.evaluation.regression import r2
from gengap.evaluation.resampling import (
    bootstrap_interval,
    bootstraps,
    margin,
    percentiles,
    permutations,
)
from gengap.evaluation.scores import plain_tau

CLUSTERS = np.array([3, 1, 3, 7, 1, 8, 9, 5, 5, 5])  # two of two rows, three of one, one of three


@pytest.fixture
def sample():
    """A linear relation with noise: features (60, 3) and target (60,)."""
    generator = np.random.default_rng(5)
    features = generator.normal(size=(60, 3))
    return features, features @ [1.0, -0.5, 0.0] + 0.3 * generator.normal(size=60)


def test_bootstrap_interval_of_a_mean_is_the_normal_one(sample):
    _, y = sample
    low, high = bootstrap_interval(np.mean, y, samples=4000)
    error = y.std() / np.sqrt(len(y))
    assert low == pytest.approx(y.mean() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(y.mean() + 1.96 * error, abs=0.15 * error)


def test_bootstrap_draws_rows_jointly_and_repeats_with_its_seed(sample):
    x, y = sample
    low, high = bootstrap_interval(plain_tau, x[:, 0], y, samples=200, seed=1)
    assert low < plain_tau(x[:, 0], y) < high
    assert (low, high) == bootstrap_interval(plain_tau, x[:, 0], y, samples=200, seed=1)
    assert bootstrap_interval(plain_tau, y, np.exp(y), samples=50) == pytest.approx((1, 1))


def test_a_wider_confidence_gives_a_wider_interval(sample):
    x, y = sample
    narrow = bootstrap_interval(r2, y, x[:, 0], confidence=0.5, samples=300)
    wide = bootstrap_interval(r2, y, x[:, 0], confidence=0.99, samples=300)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def generator():
    return np.random.default_rng(4)


def test_bootstraps_draw_as_many_rows_as_there_are_each_as_likely():
    drawn = bootstraps(12, 4000, generator())
    assert drawn.shape == (4000, 12) and (drawn.sum(axis=1) == 12).all()
    assert drawn.mean(axis=0) == pytest.approx(np.ones(12), abs=0.08)
    assert drawn.var(axis=0) == pytest.approx(np.full(12, 11 / 12), abs=0.1)


def test_clusters_are_drawn_whole_and_as_many_in_each_stratum_as_there_are():
    strata = np.array([0, 0, 0, 1, 0, 1, 1, 1, 1, 1])
    drawn = bootstraps(10, 500, generator(), clusters=CLUSTERS, strata=strata)
    for cluster in np.unique(CLUSTERS):
        assert (np.ptp(drawn[:, cluster == CLUSTERS], axis=1) == 0).all()
    first = drawn[:, [0, 1]]  # one row of each cluster of a stratum
    assert (first.sum(axis=1) == 2).all()
    assert (drawn[:, [3, 5, 6, 7]].sum(axis=1) == 4).all()
    assert (drawn == 0).any(axis=0).all()


def test_an_interval_of_clusters_is_that_of_their_means():
    values = np.random.default_rng(0).normal(size=40)
    alone = bootstrap_interval(np.mean, values, samples=2000)
    twins = np.repeat(values, 2)
    together = bootstrap_interval(np.mean, twins, samples=2000, clusters=np.repeat(range(40), 2))
    assert together == pytest.approx(alone, abs=1e-12)
    apart = bootstrap_interval(np.mean, twins, samples=2000)
    assert np.ptp(apart) == pytest.approx(np.ptp(alone) / 2**0.5, rel=0.1)


def test_permutations_are_orders_of_all_rows_each_place_as_likely():
    orders = permutations(6, 6000, generator())
    assert (np.sort(orders, axis=1) == np.arange(6)).all()
    for place in range(6):
        counts = np.bincount(orders[:, place], minlength=6)
        assert counts == pytest.approx(np.full(6, 1000), abs=150)


def test_no_permuted_row_leaves_its_stratum():
    strata = np.array(list("aabbbbcab"))
    orders = permutations(9, 200, generator(), strata=strata)
    assert (strata[orders] == strata).all()
    assert (orders[:, 6] == 6).all() and len(np.unique(orders[:, 0])) == 3


def test_clusters_change_places_with_those_of_their_size_and_keep_their_order():
    orders = permutations(10, 300, generator(), clusters=CLUSTERS)
    moved = CLUSTERS[orders]
    for cluster in np.unique(CLUSTERS):
        own = cluster == CLUSTERS
        assert (np.ptp(moved[:, own], axis=1) == 0).all()
        assert (np.diff(orders[:, own], axis=1) > 0).all()
    assert set(moved[:, 0]) == {3, 1} and set(moved[:, 3]) == {7, 8, 9} and set(moved[:, 7]) == {5}


def test_a_cluster_in_two_strata_is_refused():
    for routine in (bootstraps, permutations):
        with pytest.raises(ValueError, match="a cluster lies in two strata"):
            routine(3, 5, generator(), clusters=[0, 0, 1], strata=[0, 1, 1])


def test_ends_and_margins_leave_out_what_is_no_number():
    values = np.append(np.arange(101.0), np.nan)
    assert percentiles(values) == pytest.approx((2.5, 97.5))
    assert margin(values) == pytest.approx(1.96 * np.arange(101).std())
    assert np.isnan([*percentiles([np.nan]), margin(np.array([np.nan]))]).all()
