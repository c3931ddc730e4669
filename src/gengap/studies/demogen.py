"""Features of margin signatures, and how well the gap is predicted from them and from the rest.

`signature_table` makes features, a row per network, of the long table that
`gengap.measures.margin_signatures` makes; `linear_fit.regression` fits the gap on them.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, combinations, product
from typing import Any

import numpy as np
import pandas as pd
from pandas import DataFrame, Series

from gengap.errors import GengapError
from gengap.evaluation.baselines import BASELINE, hyperparameters_alone, main_effects
from gengap.evaluation.regression import independent_columns, r2
from gengap.evaluation.resampling import bootstrap_interval
from gengap.evaluation.scores import plain_tau
from gengap.evaluation.tasks import gap_of, task_of
from gengap.measures.margin_signatures import OUTPUT, STATISTICS, check_kind
from gengap.studies.linear_fit import column_name, regression

HIDDEN = "all hidden"  # the stages of the default form
EFFECTS = "main effects"  # of hyper-parameters, as features of a linear regression


def signature_table(
    signatures: DataFrame,
    *,
    kind: str = "quartile",
    normalized: bool = True,
    log: bool = True,
    stages: Sequence[str] | None = None,
) -> DataFrame:
    """Features of networks: a row per model_id, a column per (stage, statistic).

    signatures: as `signatures` returns them. normalized: divided by the stage's normalizer. log:
    the natural logarithm afterwards. stages: those named, in that order; without them all but the
    logits, which are not hidden.
    NaN where there is no signature (its note says why), nothing to normalize by, or the value is
    not positive and its logarithm is asked for.

    Source: Jiang et al. 2019, abstract: several layers, normalized, in log space, as by default.
    Raises: GengapError if the kind or a stage is unknown or a network is there twice.
    """
    check_kind(kind)
    rows = signatures[signatures["kind"] == kind]
    known = list(rows["stage"].unique())
    stages = _hidden(known) if stages is None else list(stages)
    if unknown := [stage for stage in stages if stage not in known]:
        raise GengapError(f"no signatures at {unknown[0]!r}; there are: {', '.join(known)}")
    keys = ["model_id", "stage", "statistic"]
    if (twice := rows.duplicated(keys)).any():
        raise GengapError(f"{rows['model_id'][twice].iloc[0]!r} has two signatures; keep one")
    value, normalizer = rows["value"], rows["normalizer"]
    if normalized:
        value = value / normalizer.where(np.isfinite(normalizer) & (normalizer > 0))
    if log:
        value = np.log(value.where(value > 0))
    wide = rows.assign(value=value).pivot(index="model_id", columns=keys[1:], values="value")
    columns = pd.MultiIndex.from_product([stages, STATISTICS[kind]], names=keys[1:])
    return wide.reindex(index=rows["model_id"].unique(), columns=columns).rename_axis("model_id")


def that_fit(index: DataFrame, fitted: float, *, few: int = 30) -> Series:
    """Which networks fit their images: those with a training accuracy of `fitted` or more.

    Of a family with only a few of them, too few for twenty features, the better half.
    """
    accuracy, family = index["train_accuracy"], index["family"]
    enough = (accuracy >= fitted).groupby(family).transform("sum") > few
    return accuracy >= accuracy.groupby(family).transform("median").where(~enough, fitted)


def _hidden(stages: Sequence[str]) -> list[str]:
    return [stage for stage in stages if stage != OUTPUT]


def transfer(
    features: DataFrame, gap: Series, family: Series, *, folds: int = 10, seed: int = 0
) -> DataFrame:
    """Predictions of each family's gaps by the regression fitted on each family.

    features, gap and family by model_id. A family's prediction of itself is out of fold.
    Returns a row per pair of families and network: fitted_on, family, model_id, gap, predicted,
    note. Where the fit is impossible predictions are NaN and the note says why.
    """
    family = family.reindex(features.index)
    parts = []
    for source in family.unique():
        own = features[family == source]
        predicted, note = Series(np.nan, features.index), ""
        try:
            fit = regression(own, gap, folds=folds, seed=seed)
        except GengapError as error:
            note = str(error)
        else:
            intercept, *slopes = fit.coefficients["estimate"]
            predicted[:] = intercept + features.to_numpy(float) @ slopes
            predicted[own.index] = fit.models["out_of_fold"]
        columns = {"fitted_on": source, "family": family, "gap": gap.reindex(features.index)}
        parts.append(DataFrame(columns | {"predicted": predicted, "note": note}))
    rows = pd.concat(parts).rename_axis("model_id").reset_index()
    return rows[["fitted_on", "family", "model_id", "gap", "predicted", "note"]]


def transfer_table(predictions: DataFrame) -> DataFrame:
    """How well each family's regression predicts each family, from what `transfer` returns.

    Returns a row per fitted_on and family: models, r2 (negative where the families' gaps lie apart:
    worse than the mean), kendall_tau, mse, note.
    """
    rows = []
    for (source, target), models in predictions.groupby(["fitted_on", "family"], sort=False):
        truth, predicted = models["gap"].to_numpy(), models["predicted"].to_numpy()
        found = {
            "fitted_on": source,
            "family": target,
            "models": len(models),
            "r2": r2(truth, predicted),
            "kendall_tau": plain_tau(truth, predicted),
            "mse": float(np.mean((truth - predicted) ** 2)),
            "note": models["note"].iloc[0],
        }
        rows.append(found)
    return DataFrame(rows)


def ablation_table(
    signatures: DataFrame,
    index: DataFrame,
    *,
    measures: DataFrame | None = None,
    folds: int = 10,
    seed: int = 0,
) -> DataFrame:
    """How well each form of the signature predicts the gap, and other predictors beside it.

    signatures: as `signatures` returns them. index: of the same collection, with the columns hp_*.
    measures: as `measure_table` returns them.

    Returns a row per family, predictor, kind, log and normalized. Predictors are "all hidden", each
    stage alone, each measure (one number a network) and the baseline of hyper-parameters, of which
    there is no adjusted R2 (see `hyperparameters_alone`). Columns: default (of the forms of a
    predictor the one: the default of `signature_table`, of a measure the plain value), models,
    left_out, features, adjusted_r2, k_fold_r2, mse (see `Regression`), note. Networks with a note
    among their signatures are left out of all rows of the family, so that all rows compare the same
    networks. Where a fit is impossible its numbers are NaN, and the note says why. Families without
    signatures have no rows.

    Raises: GengapError if a network that is not left out has no gap.
    """
    rows = []
    broken = set(signatures.loc[signatures["note"] != "", "model_id"])
    for family, models in index.groupby("family", sort=False):
        own = signatures[signatures["model_id"].isin(models["model_id"])]
        known = models[models["model_id"].isin(set(own["model_id"]) - broken)]
        if known.empty:
            continue
        gap = gap_of(known).set_axis(known["model_id"])
        own = own[own["model_id"].isin(known["model_id"])]
        counts = {"models": len(known), "left_out": len(models) - len(known)}
        for variant, features in _variants(own, measures):
            judged = _judged(features.reindex(known["model_id"]), gap, folds, seed)
            rows.append({"family": family} | variant | counts | judged)
        alone = _of_predictions(gap, hyperparameters_alone(known, seed=seed))
        variant = {"family": family, "predictor": BASELINE, "default": True}
        rows.append(variant | counts | alone)
    return DataFrame(rows, columns=ABLATION_COLUMNS)


ABLATION_COLUMNS = ["family", "predictor", "kind", "log", "normalized", "default", "models"]
ABLATION_COLUMNS += ["left_out", "features", "adjusted_r2", "k_fold_r2", "mse", "note"]


def _variants(
    signatures: DataFrame, measures: DataFrame | None
) -> Iterator[tuple[dict, DataFrame]]:
    """Each choice with its features, a row per network."""
    stages = list(signatures["stage"].unique())
    predictors = {HIDDEN: _hidden(stages)} | {stage: [stage] for stage in stages}
    choices = product(predictors, STATISTICS, (True, False), (True, False))
    for name, kind, log, normalized in choices:
        form: dict[str, Any] = {"kind": kind, "log": log, "normalized": normalized}
        default = {"default": kind == "quartile" and log and normalized}
        features = signature_table(signatures, stages=predictors[name], **form)
        yield {"predictor": name} | form | default, features
    if measures is not None:
        wide = measures.pivot(index="model_id", columns="measure", values="value")
        for name, log in product(wide, (True, False)):
            values = np.log(_sizes(wide[[name]])) if log else wide[[name]]
            yield {"predictor": name, "log": log, "default": not log}, values


def _sizes(values: DataFrame) -> DataFrame:
    """Values of one sign without it; where signs differ, what is not positive is NaN."""
    sizes = values.abs() if (values < 0).all(axis=None) else values
    return sizes.where(sizes > 0)


def joint_table(
    predictors: Mapping[str, DataFrame],
    index: DataFrame,
    *,
    folds: int = 10,
    samples: int = 1000,
    seed: int = 0,
) -> DataFrame:
    """How well predictors do alone, in pairs and so on: what each adds to the others.

    predictors: name -> features by model_id. index: the networks to be told apart, with the columns
    hp_*, whose main effects are a predictor too.

    Returns a row per family and set of predictors: predictors (their names), features, adjusted_r2,
    k_fold_r2, low and high (95 % bootstrap over the networks' predictions out of fold, copies
    together), mse, note. First comes the baseline of hyper-parameters, which is no linear
    regression (see `hyperparameters_alone`). Only networks that have all features count. What
    follows from features before it is left out.
    """
    rows = []
    for family, models in index.groupby("family", sort=False):
        blocks = {name: _flat(table, models["model_id"]) for name, table in predictors.items()}
        known = pd.concat(blocks, axis=1).notna().all(axis=1)
        models = models[known.to_numpy()]
        blocks = {EFFECTS: main_effects(models)} | {name: x[known] for name, x in blocks.items()}
        gap = gap_of(models).set_axis(models["model_id"])
        resampled = {"samples": samples, "clusters": task_of(models).copies}
        alone = _of_predictions(gap, hyperparameters_alone(models, seed=seed), seed, **resampled)
        rows.append({"family": family, "predictors": BASELINE} | alone)
        sets = (combinations(blocks, size) for size in range(1, len(blocks) + 1))
        for names in chain.from_iterable(sets):
            features = independent_columns(pd.concat([blocks[name] for name in names], axis=1))
            judged = _judged(features, gap, folds, seed, **resampled)
            rows.append({"family": family, "predictors": " + ".join(names)} | judged)
    return DataFrame(rows, columns=JOINT_COLUMNS)


JOINT_COLUMNS = ["family", "predictors", "features", "adjusted_r2", "k_fold_r2", "low", "high"]
JOINT_COLUMNS += ["mse", "note"]


def _flat(table: DataFrame, models: Series) -> DataFrame:
    return table.reindex(models).set_axis([column_name(column) for column in table], axis=1)


def _judged(features: DataFrame, gap: Series, folds: int, seed: int, **resampled) -> dict:
    """One row's numbers of a linear regression; resampled: as for `_of_predictions`."""
    count = {"features": features.shape[1]}
    try:
        fit = regression(features, gap, folds=folds, seed=seed)
    except GengapError as error:
        return count | {"note": str(error)}
    found = _of_predictions(fit.models["gap"], fit.models["out_of_fold"], seed, **resampled)
    return count | {"adjusted_r2": fit.adjusted_r2} | found


def _of_predictions(gap, predicted, seed: int = 0, *, samples=0, clusters=None) -> dict:
    """How well gaps are predicted out of fold; with `samples`, the interval of the R2 as well."""
    pair = np.asarray(gap, float), np.asarray(predicted, float)
    if np.isnan(pair[1]).any():
        return {"note": "too few networks, or no hyper-parameter varies"}
    found = {"k_fold_r2": r2(*pair), "mse": float(np.mean((pair[0] - pair[1]) ** 2)), "note": ""}
    if samples:
        ends = bootstrap_interval(r2, *pair, samples=samples, seed=seed, clusters=clusters)
        found |= dict(zip(("low", "high"), ends))
    return found
