"""Explained variance and least squares against closed forms, sklearn and statsmodels."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold, cross_val_predict

from gengap.evaluation.regression import (
    cross_validated_r2,
    folds_of,
    independent_columns,
    out_of_fold,
    r2,
    splits,
)


@pytest.fixture
def sample():
    """A linear relation with noise: features (60, 3) and target (60,)."""
    generator = np.random.default_rng(5)
    features = generator.normal(size=(60, 3))
    return features, features @ [1.0, -0.5, 0.0] + 0.3 * generator.normal(size=60)


def test_r2_is_one_for_the_truth_and_zero_for_the_mean(sample):
    _, y = sample
    assert r2(y, y) == 1
    assert r2(y, np.full_like(y, y.mean())) == pytest.approx(0)


def test_r2_equals_sklearns_on_float32_too(sample):
    x, y = sample
    assert r2(y, x[:, 0]) == pytest.approx(r2_score(y, x[:, 0]), abs=1e-12)
    assert r2(y.astype(np.float32), x[:, 0]) == pytest.approx(r2_score(y, x[:, 0]), abs=1e-6)


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


def test_leaving_out_one_row_equals_the_closed_form(sample):
    x, y = sample
    design = sm.add_constant(x)
    hat = design @ np.linalg.pinv(design)
    expected = y - (y - hat @ y) / (1 - np.diag(hat))
    assert out_of_fold(x, y, np.arange(len(y))) == pytest.approx(expected, abs=1e-12)


def test_out_of_fold_predictions_bear_a_feature_given_twice(sample):
    x, y = sample
    twice = np.column_stack([x, x, np.ones(len(y))])
    in_fold = folds_of(np.arange(len(y)))
    assert out_of_fold(twice, y, in_fold) == pytest.approx(out_of_fold(x, y, in_fold), abs=1e-12)


# Measures on tasks

SIZES = (3, 2, 2, 3)


def test_r2_of_a_constant_is_nan():
    assert np.isnan(r2(np.ones(5), np.arange(5)))


def test_folds_hold_out_each_row_once_and_groups_whole():
    groups = np.repeat(np.arange(30), 2)
    in_fold = folds_of(groups, folds=7, seed=1)
    assert set(in_fold) == set(range(7))
    assert (in_fold[::2] == in_fold[1::2]).all()
    held_out = np.concatenate([test for _, test in splits(in_fold)])
    assert sorted(held_out) == list(range(60))
    alone = KFold(7, shuffle=True, random_state=1).split(np.arange(60))
    for (_, expected), (_, found) in zip(alone, splits(folds_of(np.arange(60), folds=7, seed=1))):
        assert found.tolist() == expected.tolist()


def test_a_column_that_follows_from_those_before_it_is_dropped():
    columns = {"a": [0.0, 1, 0, 1], "not a": [1.0, 0, 1, 0], "one": 1.0, "b": [0.0, 0, 1, 5]}
    assert list(independent_columns(pd.DataFrame(columns))) == ["a", "b"]
