"""Explained variance, least squares out of fold, and which features are independent."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from pandas import DataFrame
from sklearn.model_selection import KFold

FOLDS = 10


def r2(target: np.ndarray, predicted: np.ndarray) -> float:
    """Share of the target's variance that the prediction explains, both (N,).

    1 - sum (y - p)^2 / sum (y - mean y)^2: 1 is perfect, 0 no better than the mean, negative worse.
    NaN if the target is constant.
    """
    target, predicted = np.asarray(target, float), np.asarray(predicted, float)
    total = np.sum((target - target.mean()) ** 2)
    return float(1 - np.sum((target - predicted) ** 2) / total) if total > 0 else float("nan")


def cross_validated_r2(
    features: np.ndarray, target: np.ndarray, *, folds: int = FOLDS, seed: int = 0
) -> float:
    """R2 of the `out_of_fold` predictions of an ordinary least-squares model, all folds pooled."""
    in_fold = folds_of(np.arange(len(target)), folds=folds, seed=seed)
    return r2(target, out_of_fold(features, target, in_fold))


def out_of_fold(features: np.ndarray, target: np.ndarray, in_fold: np.ndarray) -> np.ndarray:
    """Prediction (N,) of each row by ordinary least squares fitted on the folds without it.

    `features` (N, F) or (N,), `target` (N,), `in_fold` (N,) of `folds_of`. There is an intercept,
    and of many solutions the slopes of least norm are taken.
    """
    target = np.asarray(target, float)
    features = np.asarray(features, float).reshape(len(target), -1)
    predicted = np.empty(len(target))
    for train, test in splits(in_fold):
        mean, level = features[train].mean(axis=0), target[train].mean()
        slopes = np.linalg.lstsq(features[train] - mean, target[train] - level)[0]
        predicted[test] = level + (features[test] - mean) @ slopes
    return predicted


def folds_of(groups: np.ndarray, *, folds: int = FOLDS, seed: int = 0) -> np.ndarray:
    """(N,) int: the fold in which each row is held out, rows of one group in the same.

    `groups` (N,): a number for each row; with a group for each row this is ordinary
    cross-validation. Groups are shuffled by `seed`; there are at most as many folds as groups.

    Raises: ValueError for a single group.
    """
    codes, kinds = pd.factorize(groups)
    in_fold = np.empty(len(kinds), int)
    splitter = KFold(min(folds, len(kinds)), shuffle=True, random_state=seed)
    for fold, (_, held_out) in enumerate(splitter.split(in_fold)):
        in_fold[held_out] = fold
    return in_fold[codes]


def splits(in_fold: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each fold the positions of the rows to fit on, and of those held out."""
    for fold in np.unique(in_fold):
        yield np.flatnonzero(in_fold != fold), np.flatnonzero(in_fold == fold)


def independent_columns(features: DataFrame) -> DataFrame:
    """The columns that do not follow linearly from an intercept and the columns before them."""
    values = features.to_numpy(float)
    spread = values.std(axis=0)
    scaled = (values - values.mean(axis=0)) / np.where(spread > 0, spread, 1)
    design = np.column_stack([np.ones(len(values)), scaled])
    ranks = [np.linalg.matrix_rank(design[:, :width]) for width in range(1, design.shape[1] + 1)]
    return features.loc[:, np.diff(ranks) > 0]
