"""How well one quantity predicts another: rank correlation, R2 and their uncertainty."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import statsmodels.api as sm
from scipy import stats
from sklearn.model_selection import KFold


def kendall_tau(x: np.ndarray, y: np.ndarray) -> float:
    """Kendall's tau-b of two vectors (N,), which corrects for ties; NaN if one is constant.

    Source: Kendall 1945; scipy.stats.kendalltau.
    """
    return float(stats.kendalltau(x, y, variant="b").statistic)


def r2(target: np.ndarray, predicted: np.ndarray) -> float:
    """Share of the target's variance that the prediction explains, both (N,).

    1 - sum (y - p)^2 / sum (y - mean y)^2: 1 is perfect, 0 no better than the mean, negative worse.
    NaN if the target is constant.
    """
    target, predicted = np.asarray(target, float), np.asarray(predicted, float)
    total = np.sum((target - target.mean()) ** 2)
    return float(1 - np.sum((target - predicted) ** 2) / total) if total > 0 else float("nan")


def adjusted_r2(target: np.ndarray, predicted: np.ndarray, features: int) -> float:
    """R2 of a linear model fitted on these N rows, corrected for its number of `features`.

    1 - (1 - R2)(N - 1)/(N - features - 1); the intercept is not a feature.

    Raises: ValueError if N - features - 1 is not positive.
    """
    freedom = len(target) - features - 1
    if freedom <= 0:
        raise ValueError(f"{len(target)} rows leave no freedom for {features} features")
    return 1 - (1 - r2(target, predicted)) * (len(target) - 1) / freedom


def cross_validated_r2(
    features: np.ndarray, target: np.ndarray, *, folds: int = 10, seed: int = 0
) -> float:
    """R2 of the out-of-fold predictions of an ordinary least-squares model, all folds pooled.

    `features` (N, F) or (N,), `target` (N,); an intercept is added. Folds are shuffled by `seed`.

    Raises: ValueError if there are fewer rows than folds.
    """
    design = sm.add_constant(np.asarray(features, float), has_constant="add")
    target = np.asarray(target, float)
    predicted = np.empty(len(target))
    for train, test in KFold(folds, shuffle=True, random_state=seed).split(design):
        predicted[test] = sm.OLS(target[train], design[train]).fit().predict(design[test])
    return r2(target, predicted)


def bootstrap_interval(
    statistic: Callable[..., float],
    *arrays: np.ndarray,
    samples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of `statistic(*arrays)`; rows are drawn jointly.

    The arrays share their first axis (N,). Returns the (low, high) ends.

    Source: Efron 1979; scipy.stats.bootstrap.
    """
    rows = np.arange(len(arrays[0]))
    result = stats.bootstrap(
        (rows,),
        lambda drawn: statistic(*(np.asarray(array)[drawn] for array in arrays)),
        vectorized=False,
        n_resamples=samples,
        confidence_level=confidence,
        method="percentile",
        rng=seed,
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def rank_correlations(values: pd.DataFrame, index: pd.DataFrame) -> pd.DataFrame:
    """Kendall's tau of each measure with test accuracy and with the generalization gap, by family.

    `values` is a measure table (columns family, model_id, measure, value), `index` the index of its
    models. Indexed by family and measure; columns models (that have a value), median (of the
    values), test accuracy and gap (train minus test accuracy), both tau.
    """
    accuracies = index[["model_id", "test_accuracy"]]
    accuracies = accuracies.assign(gap=index["train_accuracy"] - index["test_accuracy"])
    groups = values.merge(accuracies, on="model_id").groupby(["family", "measure"])
    return groups.apply(_rank_correlation).astype({"models": int})


def _rank_correlation(models: pd.DataFrame) -> pd.Series:
    models = models.dropna(subset=["value", "test_accuracy", "gap"])
    found = {"models": len(models), "median": models["value"].median()}
    for label, column in (("test accuracy", "test_accuracy"), ("gap", "gap")):
        enough = len(models) > 1
        tau = kendall_tau(models["value"], models[column]) if enough else float("nan")
        found[label] = tau
    return pd.Series(found)
