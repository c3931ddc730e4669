"""A linear regression of the generalization gap, and what to doubt in it."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import statsmodels.api as sm
from pandas import DataFrame, Series

from gengap.errors import GengapError
from gengap.evaluation.regression import folds_of, out_of_fold, r2


@dataclass(frozen=True)
class Regression:
    """An ordinary least-squares fit of F features to N gaps, and what to doubt in it."""

    adjusted_r2: float  # on the networks it was fitted on
    k_fold_r2: float  # of predictions by the folds without the network, all folds pooled
    mse: float  # mean squared error of those predictions; gap squared
    coefficients: DataFrame  # F + 1 rows: estimate, low, high (95 %); gap per unit of the feature
    models: DataFrame  # N rows: gap, fitted, out_of_fold, residual, leverage, cooks_distance
    inflation: Series  # F variance inflation factors; 1 if a feature is orthogonal to all others
    condition_number: float  # of the standardized features; 1 if all are orthogonal


def regression(features: DataFrame, gap: Series, *, folds: int = 10, seed: int = 0) -> Regression:
    """Fit the generalization gap by features, with an intercept.

    features: N rows by model_id, F columns. gap: by model_id, at least of those models, a fraction.
    The folds are shuffled by `seed`. Cook's distance of a network that alone decides a coefficient
    (leverage 1) is NaN.

    Source: Jiang et al. 2019, the linear regression of the gap; statsmodels' OLS and OLSInfluence.
    Raises: GengapError if N < F + 2, F = 0 or N < folds, a value or gap is missing, the gap is the
    same for all, a feature is constant, or a feature is a linear combination of others.
    """
    target = gap.reindex(features.index).to_numpy(float)
    values, names = features.to_numpy(float), [column_name(column) for column in features]
    _check_rows(features.index, names, values, target, folds)
    mean, deviation = values.mean(axis=0), values.std(axis=0)
    scaled = (values - mean) / deviation
    _check_independent(scaled, names)
    fit = sm.OLS(target, sm.add_constant(scaled, has_constant="add")).fit()
    in_fold = folds_of(np.arange(len(target)), folds=folds, seed=seed)
    predicted = out_of_fold(scaled, target, in_fold)
    singular = np.linalg.svd(scaled, compute_uv=False)
    correlations = np.atleast_2d(np.corrcoef(scaled, rowvar=False))
    return Regression(
        adjusted_r2=fit.rsquared_adj,
        k_fold_r2=r2(target, predicted),
        mse=float(np.mean((target - predicted) ** 2)),
        coefficients=_coefficients(fit, mean, deviation, names),
        models=_diagnostics(fit, target, predicted, features.index),
        inflation=Series(np.linalg.inv(correlations).diagonal(), index=names),
        condition_number=float(singular[0] / singular[-1]),
    )


def column_name(column) -> str:
    return " ".join(map(str, column)) if isinstance(column, tuple) else str(column)


def _check_rows(models, names, values, target, folds) -> None:
    if not names:
        raise GengapError("no features; give one or more columns")
    if len(models) < len(names) + 2:
        raise GengapError(
            f"{len(models)} models cannot tell {len(names)} features and an intercept apart;"
            f" give {len(names) + 2} models or more, or fewer features"
        )
    if not 2 <= folds <= len(models):
        raise GengapError(f"{folds} folds of {len(models)} models; give 2 to {len(models)}")
    if not np.isfinite(target).all():
        raise GengapError(f"{models[~np.isfinite(target)][0]!r} has no gap; leave it out")
    if (missing := np.argwhere(~np.isfinite(values))).size:
        row, column = missing[0]
        raise GengapError(
            f"{models[row]!r} has no finite value of {names[column]!r}; leave out the model (the"
            " notes of the signatures say why) or the feature"
        )
    if np.ptp(target) == 0:
        raise GengapError(f"all {len(target)} gaps are {target[0]:g}: nothing to explain")
    if (constant := np.flatnonzero(np.ptp(values, axis=0) == 0)).size:
        raise GengapError(f"{names[constant[0]]!r} is the same for all models; leave it out")


def _check_independent(scaled: np.ndarray, names: list[str]) -> None:
    if (rank := np.linalg.matrix_rank(scaled)) < len(names):
        raise GengapError(
            f"of {len(names)} features only {rank} are independent; leave out those that are linear"
            " combinations of others"
        )


def _coefficients(fit, mean, deviation, names) -> DataFrame:
    """Of the features in their own units, from the fit of those with mean 0 and deviation 1.

    Fitted in their own units, features of unlike scales would lose digits.
    """
    units = np.diag(np.append(1, 1 / deviation))
    units[0, 1:] = -mean / deviation
    with np.errstate(invalid="ignore", divide="ignore"):  # its t values, where nothing is left over
        found = fit.t_test(units)
    low, high = found.conf_int(alpha=0.05).T
    index = pd.Index(["intercept", *names], name="feature")
    return DataFrame({"estimate": found.effect, "low": low, "high": high}, index=index)


def _diagnostics(fit, target, predicted, models) -> DataFrame:
    influence = fit.get_influence()
    with np.errstate(invalid="ignore", divide="ignore"):
        distance = influence.cooks_distance[0]
    columns = {
        "gap": target,
        "fitted": fit.fittedvalues,
        "out_of_fold": predicted,
        "residual": fit.resid,
        "leverage": influence.hat_matrix_diag,
        "cooks_distance": distance,
    }
    return DataFrame(columns, index=models)
