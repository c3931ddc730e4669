"""What one knows of networks without a measure: the baselines that a measure must beat.

There is one baseline of hyper-parameters, on every page: the prediction out of fold that is hardest
to beat (`hyperparameters_alone`).
"""

import numpy as np
import pandas as pd
from pandas import DataFrame, Series
from scipy import stats
from sklearn.ensemble import RandomForestRegressor
from sklearn.model_selection import cross_val_predict

from gengap.evaluation.regression import independent_columns, out_of_fold, r2, splits
from gengap.evaluation.resampling import bootstraps, percentiles
from gengap.evaluation.tasks import hyperparameters, is_drawn, task_of

BASELINE = "hyper-parameters only"  # its name among measures
TRAIN_ACCURACY, TRAIN_LOSS = "train accuracy only", "train loss only"
BASELINES = (BASELINE, TRAIN_ACCURACY, TRAIN_LOSS)
NETWORKS = 20  # of fewer networks nothing is judged
NOTHING = 1e-9  # less than this of a rank is rounding
TREES = 100  # of the forest that predicts the gap from hyper-parameters alone


def baselines(models: DataFrame, *, seed: int = 0) -> DataFrame:
    """What one knows of a family's networks without a measure, as measures, by model_id.

    The gap as the hyper-parameters alone predict it, the training accuracy, and the training loss,
    with a minus since networks that fit closely have a low one.
    """
    columns = {
        BASELINE: hyperparameters_alone(models, seed=seed),
        TRAIN_ACCURACY: models["train_accuracy"].to_numpy(float),
        TRAIN_LOSS: -models["train_loss"].to_numpy(float),
    }
    return DataFrame(columns, index=pd.Index(models["model_id"]))


def hyperparameters_alone(models: DataFrame, *, seed: int = 0) -> np.ndarray:
    """(n,) the gap of each network as hyper-parameters predict it, fitted on the other folds.

    The best of least squares, without and with products of two features, and of a random forest, by
    squared error out of fold: the choice favours the baseline, which measures must beat. Features
    are an indicator of each value; of hyper-parameters drawn at random the rank and its square.
    Copies are in the same fold, so that none is predicted from its twin. NaN if no
    hyper-parameter varies or there are fewer than `NETWORKS` networks.
    """
    task, features = task_of(models, seed=seed), settings_features(models).to_numpy()
    if not features.shape[1] or len(models) < NETWORKS:
        return np.full(len(models), np.nan)
    fits = (
        out_of_fold(features, task.gap, task.in_fold),
        out_of_fold(_with_products(features), task.gap, task.in_fold),
        _forest(features, task.gap, task.in_fold, seed),
    )
    return min(fits, key=lambda predicted: np.sum((predicted - task.gap) ** 2))


def _with_products(features: np.ndarray) -> np.ndarray:
    """The features, then the products of each two."""
    one, other = np.triu_indices(features.shape[1], 1)
    return np.column_stack([features, features[:, one] * features[:, other]])


def _forest(features, target, in_fold, seed) -> np.ndarray:
    forest = RandomForestRegressor(TREES, random_state=seed)
    return cross_val_predict(forest, features, target, cv=list(splits(in_fold)))


def settings_features(models: DataFrame) -> DataFrame:
    """Features of a family's hyper-parameters alone, by model_id: an indicator of each value.

    A column for each value of each hyper-parameter: 1 where a network has that value, else 0. Of a
    hyper-parameter drawn at random, the rank and its square.
    """
    varied = hyperparameters(models)
    parts = [features_of(name.removeprefix("hp_"), varied[name]) for name in varied]
    found = pd.concat(parts, axis=1) if parts else DataFrame(index=models.index)
    return found.set_axis(pd.Index(models["model_id"]), axis=0)


def features_of(name: str, values: Series) -> DataFrame:
    """Of one hyper-parameter the columns that `settings_features` has of it."""
    if not is_drawn(values):
        texts = values.astype(str)
        ordered = Series(pd.Categorical(texts, categories=texts.unique()), values.index)
        return pd.get_dummies(ordered, prefix=name, prefix_sep=" = ", dtype=float)
    ranks = stats.rankdata(values) / len(values) - 0.5
    return DataFrame({f"rank of {name}": ranks, f"its square, {name}": ranks**2}, values.index)


def main_effects(models: DataFrame) -> DataFrame:
    """`settings_features` of which none follows from an intercept and those before it."""
    return independent_columns(settings_features(models))


def added_value_table(
    values: DataFrame, index: DataFrame, *, samples: int = 1000, seed: int = 0
) -> DataFrame:
    """What each measure adds to the hyper-parameters when both predict the gap.

    values: by model_id, a column for each measure. What the baseline `hyperparameters_alone` leaves
    of the gap is fitted, by one slope, on what the main effects of hyper-parameters leave of the
    measure's rank in the family; all out of fold. Returns a row per measure and family:
    r2_hyperparameters, r2_with_measure (the baseline and that fit added up; either may be
    negative), gain (their difference), low and high (95 % paired bootstrap over networks, copies
    together, of the gain in squared error, over the gap's variance; the two predictions are kept).
    NaN where a network has no value.

    Source:
        Robinson 1988, the partially linear model; Chernozhukov et al. 2018, its fit on folds.
    """
    rows = []
    for family, models in index.groupby("family", sort=False):
        task, features = task_of(models, seed=seed), settings_features(models).to_numpy()
        alone = hyperparameters_alone(models, seed=seed)
        labels = {"family": family, "r2_hyperparameters": r2(task.gap, alone)}
        for name, column in values.reindex(models["model_id"]).dropna(axis=1, how="all").items():
            gain = _gain(task, features, alone, column.to_numpy(float), samples, seed)
            rows.append(labels | {"measure": name} | gain)
    ends = ["r2_hyperparameters", "r2_with_measure", "gain", "low", "high"]
    return DataFrame(rows, columns=["measure", "family", *ends])


def _gain(task, features, alone, values, samples, seed) -> dict[str, float]:
    if np.isnan(values).any() or np.isnan(alone).any():
        return {}
    ranks, left = stats.rankdata(values) / len(values), task.gap - alone
    own = ranks - out_of_fold(features, ranks, task.in_fold)
    own[np.abs(own) < NOTHING] = 0
    both = alone.copy()
    for train, test in splits(task.in_fold):
        slope = own[train] @ left[train] / max(own[train] @ own[train], NOTHING)
        both[test] += slope * own[test]
    gains = (left**2 - (task.gap - both) ** 2) / np.var(task.gap)
    generator = np.random.default_rng(seed)
    drawn = bootstraps(len(gains), samples, generator, clusters=task.copies)
    low, high = percentiles(drawn @ gains / drawn.sum(axis=1))
    return {"r2_with_measure": r2(task.gap, both), "gain": gains.mean(), "low": low, "high": high}
