"""Ranks of measures, and how far a ranking in one family tells that in another."""

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pandas as pd
from pandas import DataFrame
from scipy import stats

from gengap.evaluation.baselines import NETWORKS
from gengap.evaluation.judgement import criterion_of, families_of, judges
from gengap.evaluation.resampling import margin
from gengap.evaluation.scores import plain_spearman
from gengap.evaluation.tasks import Task, task_of


def rank_table(values: DataFrame, index: DataFrame, **options) -> DataFrame:
    """The rank of each measure among all in each family, 1 the best by a score.

    Arguments as for `goodness_of`. Returns a row per family and measure that has a score there:
    rank, low and high (2.5 and 97.5 percentiles over bootstraps of the family's networks), measures
    (how many are ranked). Equal scores share their mean rank.
    """
    rows = []
    for family, goodness in goodness_of(values, index, **options).items():
        rows.append(ranks_of(goodness).assign(family=family, measures=goodness.shape[1]))
    columns = ["family", "measure", "rank", "low", "high", "measures"]
    return pd.concat(rows, ignore_index=True)[columns] if rows else DataFrame(columns=columns)


def ranks_of(goodness: DataFrame) -> DataFrame:
    """The rank of each column by its first row, 1 the largest, with ends over the other rows.

    Returns a row per column: measure (its name), rank, low and high (2.5 and 97.5 percentiles).
    """
    ranks = stats.rankdata(-goodness.to_numpy(), axis=1)
    low, high = np.percentile(ranks[1:], [2.5, 97.5], axis=0)
    return DataFrame({"measure": goodness.columns, "rank": ranks[0], "low": low, "high": high})


def rank_stability(values: DataFrame, index: DataFrame, **options) -> DataFrame:
    """How well the ranking of measures in one family tells that in another.

    Arguments as for `goodness_of`. Returns a row per pair of families: family, other, measures
    (that have a score in both), spearman (the rank correlation of their scores there), and low and
    high: -+ 1.96 standard deviations over bootstraps of the networks of both families, drawn
    independently. Bootstraps add noise to scores, which lowers the correlation of a sample, so
    that percentiles would lie too low. NaN for fewer than 3 common measures.
    """
    rows = []
    goodness = goodness_of(values, index, **options)
    for (family, one), (other, two) in combinations(goodness.items(), 2):
        common = one.columns.intersection(two.columns)
        # Bootstraps of two families are drawn independently: any pairs of them will do.
        number = min(len(one), len(two)) if len(common) > 2 else 0
        pair = (side[common][:number].to_numpy() for side in (one, two))
        found = plain_spearman(*pair) if number else np.full(2, np.nan)
        half = margin(found[1:])
        ends = max(found[0] - half, -1), min(found[0] + half, 1)
        rows.append((family, other, len(common), found[0], *ends))
    return DataFrame(rows, columns=["family", "other", "measures", "spearman", "low", "high"])


def goodness_of(
    values: DataFrame,
    index: DataFrame,
    score: str = "kendall_tau",
    *,
    samples: int = 200,
    seed: int = 0,
    task: Callable[..., Task] = task_of,
) -> dict[str, DataFrame]:
    """By family that has the score: a row for its networks, then for each bootstrap of them.

    score: a name of `SCORES`; the other arguments are as for `judged`. A column for each measure,
    larger is better. Measures meet the same
    bootstraps, but those that lack the value of some networks meet bootstraps of the others.
    """
    criterion, found = criterion_of(score), {}
    for family, models, measures in families_of(values, index):
        prepare, columns = judges(models, np.full(len(models), np.nan), samples, 0, seed, task), {}
        for measure in measures:
            column = measures[measure].to_numpy(float)
            known = ~np.isnan(column)
            if known.sum() < NETWORKS or prepare(known).lacks(criterion):
                continue
            value, drawn = prepare(known).scores(column[known], criterion)
            columns[measure] = criterion.better * np.append(value, drawn)
        if columns:
            found[family] = DataFrame(columns).dropna()
    return found
