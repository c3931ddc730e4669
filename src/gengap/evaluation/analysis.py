"""How well one quantity predicts another: rank correlation, R2, the scores of measures on tasks,
what hyper-parameters alone tell, and the uncertainty of each."""

from collections.abc import Callable, Iterable, Iterator
from functools import cache

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.model_selection import KFold

from gengap.errors import GengapError
from gengap.evaluation.scores import SCORES, Task, conditional_mutual_information, gap_of, task_of

__all__ = [
    "added_value_table",
    "adjusted_r2",
    "bootstrap_interval",
    "conditional_mutual_information",
    "cross_validated_r2",
    "hyperparameter_baseline",
    "kendall_tau",
    "out_of_fold",
    "r2",
    "rank_correlations",
    "score_table",
]

BASELINE = "hyper-parameters only"  # the name of the baseline among measures


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
    """R2 of the `out_of_fold` predictions of an ordinary least-squares model, all folds pooled."""
    return r2(target, out_of_fold(features, target, folds=folds, seed=seed))


def out_of_fold(
    features: np.ndarray, target: np.ndarray, *, folds: int = 10, seed: int = 0
) -> np.ndarray:
    """Prediction (N,) of each row by ordinary least squares fitted on the folds without it.

    `features` (N, F) or (N,), `target` (N,); an intercept is added, and of many solutions the one
    of least norm is taken. Folds are shuffled by `seed`; as many folds as rows leave out one.

    Raises: ValueError if there are fewer rows than folds.
    """
    target = np.asarray(target, float)
    design = np.column_stack([np.ones(len(target)), np.asarray(features, float)])
    predicted = np.empty(len(target))
    for train, test in KFold(folds, shuffle=True, random_state=seed).split(design):
        coefficients = np.linalg.lstsq(design[train], target[train])[0]
        predicted[test] = design[test] @ coefficients
    return predicted


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
    accuracies = index[["model_id", "test_accuracy"]].assign(gap=gap_of(index))
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


def score_table(
    table: pd.DataFrame,
    index: pd.DataFrame,
    *,
    scores: Iterable[str] = tuple(SCORES),
    samples: int = 200,
    permutations: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Scores of measures on tasks, with intervals and what chance alone would score.

    table: columns family, model_id, measure, value. index: of the same collection; each family is
    a task, its grid the columns `hp_*`. scores: names of `gengap.evaluation.scores.SCORES`.

    Returns a row per measure, family and score: value; low and high; null_mean, null_05 and null_95
    (mean and quantiles of the null); p_value; models, that have a value. A measure that lacks the
    value of a network has no score (NaN).

    low, high: value -+ 1.96 standard deviations of the score over `samples` bootstraps of the
    networks, cut to the score's range: where it would lie if the networks were trained anew. Not
    the percentiles: a sample has fewer distinct networks than the task, so that its CMI is too high
    (see `random_scores`) and a percentile interval may lie above the value. On a grid the
    interval is rather too wide, since bootstraps also vary which hyper-parameters are there.

    The null permutes the measure's values among the task's networks, which breaks its link with the
    gap and with the hyper-parameters; p_value is the share of permutations (itself one of them)
    that score as high. All measures of a family meet the same permutations and bootstraps.

    Source: Efron 1979, the bootstrap's normal interval; Phipson and Smyth 2010, the p-value.
    Raises: GengapError if a score's name is unknown or, for cmi, a family is no complete grid.
    """
    scores = list(scores)
    if unknown := [name for name in scores if name not in SCORES]:
        raise GengapError(f"no score {unknown[0]!r}; there are: {', '.join(SCORES)}")
    rows = []
    for family, task, measures in _tasks(table, index):
        generator = np.random.default_rng(seed)
        n = len(task.gap)
        shuffles = generator.permuted(np.tile(np.arange(n), (permutations, 1)), axis=1)
        draws = generator.multinomial(n, np.full(n, 1 / n), size=samples)

        @cache
        def null(score, values, task=task, shuffles=shuffles):
            return SCORES[score](np.array(values)[shuffles], task)

        for name, values in measures.items():
            known = {"measure": name, "family": family, "models": int(values.notna().sum())}
            for score in scores:
                judged = _judged(score, values.to_numpy(), task, null, draws)
                rows.append(known | {"score": score} | judged)
    columns = ["measure", "family", "score", "value", "low", "high", *NULL, "models"]
    return pd.DataFrame(rows, columns=columns)


NULL = ["null_mean", "null_05", "null_95", "p_value"]


def _judged(score, values, task, null, draws) -> dict[str, float]:
    judge, lowest = SCORES[score], 0.0 if score == "cmi" else -1.0
    value = float("nan") if np.isnan(values).any() else float(judge(values, task))
    if np.isnan(value):
        return {}
    margin = 1.96 * np.nanstd(judge(values, task, draws))
    low, high = np.clip([value - margin, value + margin], lowest, 1.0)
    # Of a score of ranks the null depends on the measure's ties alone: most measures share one.
    kept = values if score == "pearson" else stats.rankdata(values, method="dense")
    chance = null(score, tuple(np.sort(kept)))
    reached = (np.sum(chance >= value) + 1) / (len(chance) + 1)
    spread = [chance.mean(), *np.quantile(chance, [0.05, 0.95]), reached]
    return {"value": value, "low": low, "high": high} | dict(zip(NULL, spread, strict=True))


def _tasks(table, index) -> Iterator[tuple[str, Task, pd.DataFrame]]:
    """Each family with its task and its measures: a column each, rows as the task's networks."""
    for family, rows in index.groupby("family", sort=False):
        values = table[table["family"] == family]
        if (twice := values.duplicated(["model_id", "measure"])).any():
            first = values[twice].iloc[0]
            raise GengapError(
                f"the table has {first['measure']!r} of {first['model_id']!r} twice; keep one row"
            )
        if len(values):
            wide = values.pivot(index="model_id", columns="measure", values="value")
            yield family, task_of(rows), wide.reindex(rows["model_id"])


def hyperparameter_baseline(index: pd.DataFrame) -> pd.DataFrame:
    """The gap as the hyper-parameters alone predict it, as a measure that others must beat.

    Least squares on the main effect of each value of each hyper-parameter (each `hp_*` column),
    fitted within the family on all networks but the one predicted. Returns rows of a measure table:
    family, model_id, measure, value.

    Where hyper-parameters tell nothing, such predictions lean against the truth, for leaving out a
    large gap lowers the prediction of it; the sign-blind CMI may take that for information. Kendall's
    tau is then negative.

    Source: the 'metadata floor' of marginal-baseline-eval (AparajeetS, PGDL study), main effects.
    """
    parts = []
    for family, rows in index.groupby("family", sort=False):
        task = task_of(rows)
        value = out_of_fold(main_effects(task).to_numpy(), task.gap, folds=len(rows))
        parts.append(
            pd.DataFrame(
                {
                    "family": family,
                    "model_id": task.models,
                    "measure": BASELINE,
                    "value": value,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def added_value_table(
    table: pd.DataFrame, index: pd.DataFrame, *, samples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """What each measure adds to the hyper-parameters when both predict the gap.

    Both predictions leave out the network predicted (see `hyperparameter_baseline`); the measure
    enters by its rank in the task. Returns a row per measure and family: r2_hyperparameters,
    r2_with_measure (both out of fold, so possibly negative), gain (their difference), low and high
    (95 % paired bootstrap over networks of the gain in squared error, over the gap's variance;
    the two predictions are kept). NaN where a network has no value.
    """
    rows = []
    for family, task, measures in _tasks(table, index):
        effects = main_effects(task).to_numpy()
        alone = out_of_fold(effects, task.gap, folds=len(task.gap))
        for name, values in measures.items():
            gain = _gain(effects, alone, values.to_numpy(), task.gap, samples, seed)
            found = {
                "measure": name,
                "family": family,
                "r2_hyperparameters": r2(task.gap, alone),
            }
            rows.append(found | gain)
    columns = [
        "measure",
        "family",
        "r2_hyperparameters",
        "r2_with_measure",
        "gain",
        "low",
        "high",
    ]
    return pd.DataFrame(rows, columns=columns)


def _gain(effects, alone, values, gap, samples, seed) -> dict[str, float]:
    if np.isnan(values).any():
        return {}
    ranks = stats.rankdata(values) / len(values)
    both = out_of_fold(np.column_stack([effects, ranks]), gap, folds=len(gap))
    gains = ((gap - alone) ** 2 - (gap - both) ** 2) / np.var(gap)
    low, high = bootstrap_interval(np.mean, gains, samples=samples, seed=seed)
    return {
        "r2_with_measure": r2(gap, both),
        "gain": gains.mean(),
        "low": low,
        "high": high,
    }


def main_effects(task: Task) -> pd.DataFrame:
    """Features of a task's hyper-parameters alone, by model_id.

    A column for each value of each hyper-parameter but its first: 1 where a network has that value,
    else 0. Columns that follow from those before them are left out, as of two names of one thing.
    """
    columns = {
        f"{name} = {value}": (task.levels[:, place] == level).astype(float)
        for place, (name, values) in enumerate(task.possible.items())
        for level, value in enumerate(values)
        if level > 0
    }
    effects = pd.DataFrame(columns, index=pd.Index(task.models, name="model_id"))
    return independent_columns(effects)


def independent_columns(features: pd.DataFrame) -> pd.DataFrame:
    """The columns that do not follow linearly from an intercept and the columns before them."""
    values = features.to_numpy(float)
    spread = values.std(axis=0)
    scaled = (values - values.mean(axis=0)) / np.where(spread > 0, spread, 1)
    design = np.column_stack([np.ones(len(values)), scaled])
    ranks = [np.linalg.matrix_rank(design[:, :width]) for width in range(1, design.shape[1] + 1)]
    return features.loc[:, np.diff(ranks) > 0]
