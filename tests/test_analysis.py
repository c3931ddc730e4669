"""Scores against closed forms and against scipy, sklearn and statsmodels."""

import itertools

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold, cross_val_predict

from gengap.analysis import adjusted_r2, bootstrap_interval, cross_validated_r2, kendall_tau, r2


@pytest.fixture
def sample():
    """A linear relation with noise: features (60, 3) and target (60,)."""
    generator = np.random.default_rng(5)
    features = generator.normal(size=(60, 3))
    return features, features @ [1.0, -0.5, 0.0] + 0.3 * generator.normal(size=60)


def test_tau_counts_concordant_minus_discordant_pairs_and_corrects_for_ties():
    x, y = [1, 2, 2, 3, 5, 4], [2, 1, 3, 3, 4, 4]
    pairs = list(itertools.combinations(range(6), 2))
    signs = [np.sign(x[i] - x[j]) * np.sign(y[i] - y[j]) for i, j in pairs]
    untied = [sum(v[i] != v[j] for i, j in pairs) for v in (x, y)]
    assert kendall_tau(x, y) == pytest.approx(sum(signs) / np.sqrt(untied[0] * untied[1]))


def test_tau_equals_scipys_and_is_one_for_any_increasing_map(sample):
    _, y = sample
    assert kendall_tau(y, np.exp(y)) == pytest.approx(1)
    assert kendall_tau(y, -y) == pytest.approx(-1)
    assert kendall_tau(y, np.cos(7 * y)) == stats.kendalltau(y, np.cos(7 * y)).statistic


def test_tau_and_r2_of_a_constant_are_nan():
    assert np.isnan(kendall_tau(np.ones(5), np.arange(5)))
    assert np.isnan(r2(np.ones(5), np.arange(5)))


def test_r2_is_one_for_the_truth_and_zero_for_the_mean(sample):
    _, y = sample
    assert r2(y, y) == 1
    assert r2(y, np.full_like(y, y.mean())) == pytest.approx(0)


def test_r2_equals_sklearns_on_float32_too(sample):
    x, y = sample
    assert r2(y, x[:, 0]) == pytest.approx(r2_score(y, x[:, 0]), abs=1e-12)
    assert r2(y.astype(np.float32), x[:, 0]) == pytest.approx(r2_score(y, x[:, 0]), abs=1e-6)


def test_adjusted_r2_equals_statsmodels(sample):
    x, y = sample
    fit = sm.OLS(y, sm.add_constant(x)).fit()
    assert adjusted_r2(y, fit.fittedvalues, 3) == pytest.approx(fit.rsquared_adj, abs=1e-12)


def test_adjusted_r2_refuses_more_features_than_rows_allow():
    with pytest.raises(ValueError, match="4 rows.*3 features"):
        adjusted_r2(np.arange(4.0), np.arange(4.0), 3)


def test_cross_validated_r2_equals_sklearns_pooled_predictions(sample):
    x, y = sample
    folds = KFold(10, shuffle=True, random_state=3)
    expected = r2_score(y, cross_val_predict(LinearRegression(), x, y, cv=folds))
    assert cross_validated_r2(x, y, folds=10, seed=3) == pytest.approx(expected, abs=1e-10)


def test_cross_validated_r2_of_noise_is_not_positive_while_the_fitted_one_is():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(50, 20)), generator.normal(size=50)
    assert sm.OLS(y, sm.add_constant(x)).fit().rsquared > 0.2
    assert cross_validated_r2(x, y) < 0


def test_cross_validated_r2_takes_one_feature_as_a_vector(sample):
    x, y = sample
    assert cross_validated_r2(x[:, 0], y) == cross_validated_r2(x[:, :1], y)


def test_bootstrap_interval_of_a_mean_is_the_normal_one(sample):
    _, y = sample
    low, high = bootstrap_interval(np.mean, y, samples=4000)
    error = y.std() / np.sqrt(len(y))
    assert low == pytest.approx(y.mean() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(y.mean() + 1.96 * error, abs=0.15 * error)


def test_bootstrap_draws_rows_jointly_and_repeats_with_its_seed(sample):
    x, y = sample
    low, high = bootstrap_interval(kendall_tau, x[:, 0], y, samples=200, seed=1)
    assert low < kendall_tau(x[:, 0], y) < high
    assert (low, high) == bootstrap_interval(kendall_tau, x[:, 0], y, samples=200, seed=1)
    assert bootstrap_interval(kendall_tau, y, np.exp(y), samples=50) == pytest.approx((1, 1))


def test_a_wider_confidence_gives_a_wider_interval(sample):
    x, y = sample
    narrow = bootstrap_interval(r2, y, x[:, 0], confidence=0.5, samples=300)
    wide = bootstrap_interval(r2, y, x[:, 0], confidence=0.99, samples=300)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
