"""Signatures of margin distributions, and the regression of the generalization gap on them.

A signature sums up the hidden margins of one stage of a network by five numbers. Those of all
stages of all networks are one long table (`signatures`), which is small and is kept;
`signature_table` makes features of it, a row per network, and `regression` fits the gap on them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
import pandas as pd
import statsmodels.api as sm
import torch
from pandas import DataFrame, Series
from torch import Tensor

from gengap.errors import GengapError
from gengap.evaluation.analysis import (
    BASELINE,
    adjusted_r2,
    bootstrap_interval,
    independent_columns,
    kendall_tau,
    main_effects,
    out_of_fold,
    r2,
)
from gengap.evaluation.scores import gap_of, task_of
from gengap.measures.margins import margin_pass, spectral_complexity
from gengap.model import Model

# The five statistics of each kind of signature.
STATISTICS = {
    "quartile": ("lower_fence", "q1", "median", "q3", "upper_fence"),
    "moment": ("moment_1", "moment_2", "moment_3", "moment_4", "moment_5"),
}
FEWEST = 5  # positive margins: five statistics of fewer numbers are not a distribution's
OUTPUT = "logits"  # the stage whose margins are no distances, but differences of logits
WHISKER = 1.5  # interquartile ranges, Tukey's


@dataclass(frozen=True)
class Signature:
    """Five numbers that stand for one distribution of margins."""

    values: dict[str, float]  # by statistic, in the margins' unit, positive; all NaN with a note
    images: int  # margins that were given
    dropped: int  # of them not positive: misclassified, or on the boundary
    note: str  # why the values are NaN, else empty


def signature(margins: Tensor | np.ndarray, *, kind: str = "quartile") -> Signature:
    """The signature of the positive ones among margins (N,).

    kind "quartile": lower fence, first quartile, median, third quartile, upper fence. Quartiles
    interpolate linearly. A fence is the most extreme margin within 1.5 interquartile ranges of its
    quartile (and never between the quartiles), as box plots draw it. The other rule in use, Q1 -
    1.5 IQR itself, is below 0 for most skewed distributions, so has no logarithm; this one is
    a margin that occurs, hence positive. Its price: below a skewed distribution it is the smallest
    margin, which depends on single images and on how many there are.

    kind "moment": (mean of margin^k)^(1/k) for k = 1 to 5. Raw moments, not central ones: of
    positive margins they are positive, where the third central moment of a distribution that leans
    left is negative and of a symmetric one 0, without a logarithm.

    Both kinds scale with the margins, so division of the margins by the total variation divides the
    signature, and is a shift after the logarithm.

    The values are NaN, with a note, if a margin is not finite or fewer than 5 are positive.

    Source: Jiang et al. 2019 (Predicting the Generalization Gap with Margin Distributions); what we
    could read of it says that positive distances alone count. The statistics and their rules are
    our choice. The other rule for fences: generalization-gap-features-tensorflow
    (mostafaelaraby), which takes the logarithm of their absolute value.
    Raises: GengapError if the kind is unknown or the margins are not a vector.
    """
    _check_kind(kind)
    margins = torch.as_tensor(margins).detach().cpu().double().numpy()
    if margins.ndim != 1:
        raise GengapError(f"margins have the shape {margins.shape}; give one stage's, (N,)")
    positive = margins[margins > 0]
    note = _why_none(margins, len(positive))
    summary = _quartiles if kind == "quartile" else _moments
    values = [float("nan")] * len(STATISTICS[kind]) if note else map(float, summary(positive))
    named = dict(zip(STATISTICS[kind], values, strict=True))
    return Signature(named, len(margins), len(margins) - len(positive), note)


def _check_kind(kind: str) -> None:
    if kind not in STATISTICS:
        raise GengapError(f"no signature {kind!r}; there are: {', '.join(STATISTICS)}")


def _why_none(margins: np.ndarray, positive: int) -> str:
    if infinite := np.count_nonzero(~np.isfinite(margins)):
        return f"{infinite} of {len(margins)} margins are not finite"
    if positive < FEWEST:
        return f"{positive} of {len(margins)} margins are positive; {FEWEST} are needed"
    return ""


def _quartiles(margins: np.ndarray) -> Sequence[float]:
    q1, median, q3 = np.quantile(margins, [0.25, 0.5, 0.75])
    reach = WHISKER * (q3 - q1)
    lowest = margins[margins >= q1 - reach].min()
    highest = margins[margins <= q3 + reach].max()
    # Interpolated quartiles of few margins may lie outside of these.
    return min(lowest, q1), q1, median, q3, max(highest, q3)


def _moments(margins: np.ndarray) -> Sequence[float]:
    largest = margins.max()  # divided out, so that no power over- or underflows
    return [largest * np.mean((margins / largest) ** k) ** (1 / k) for k in range(1, 6)]


def margin_signatures(model: Model) -> DataFrame:
    """Signatures of one model on its training sample, as `signatures` returns them.

    Of the inputs and hidden stages, normalized by their total variation; and of the logits, whose
    normalizer is the spectral complexity (Bartlett et al. 2017, eq. 1.2), as a baseline.

    Source: Jiang et al. 2019.
    Raises: NotAvailable without a training sample, or if all weights of a layer are 0.
    """
    found = margin_pass(model.network, *model.sample)
    margins = found.margins | {OUTPUT: found.logits}
    normalizers = found.total_variation | {OUTPUT: spectral_complexity(model)}
    name = model.record["model_id"]
    return signatures({name: margins}, {name: normalizers})


def normalized_margins(model: Model) -> DataFrame:
    """Margins over total variation: model_id, stage, margin; a row per hidden stage and image.

    Source: Jiang et al. 2019.
    Raises: NotAvailable without a training sample.
    """
    found = margin_pass(model.network, *model.sample)
    parts = [
        DataFrame({"stage": stage, "margin": (margins / found.total_variation[stage]).cpu()})
        for stage, margins in found.margins.items()
    ]
    return pd.concat(parts, ignore_index=True).assign(model_id=model.record["model_id"])


def signatures(
    margins: Mapping[str, Mapping[str, Tensor]], normalizers: Mapping[str, Mapping[str, float]]
) -> DataFrame:
    """Signatures of networks, of each kind at each stage, as one long table.

    By model_id, margins are {stage: (N,)} and normalizers {stage: what margins are divided by},
    the total variation as a rule. Tables of single networks may be concatenated.

    Returns a row per model_id, stage, kind and statistic: value (not normalized, no logarithm),
    normalizer, images, dropped and note (see `Signature`). Where activations do not vary the
    value is there, and the note says that it cannot be normalized.

    Raises: GengapError if a stage has margins and no normalizer.
    """
    rows = []
    for (model, stages), kind in product(margins.items(), STATISTICS):
        for stage, values in stages.items():
            normalizer = _normalizer(normalizers, model, stage)
            found = signature(values, kind=kind)
            common = {
                "normalizer": normalizer,
                "images": found.images,
                "dropped": found.dropped,
                "note": found.note or _why_not_normalized(normalizer),
            }
            names = {"model_id": model, "stage": stage, "kind": kind}
            for statistic, value in found.values.items():
                rows.append(names | {"statistic": statistic, "value": value} | common)
    return DataFrame(rows, columns=SIGNATURE_COLUMNS)


SIGNATURE_COLUMNS = [
    "model_id",
    "stage",
    "kind",
    "statistic",
    "value",
    "normalizer",
    "images",
    "dropped",
    "note",
]


def _normalizer(normalizers, model: str, stage: str) -> float:
    try:
        return float(normalizers[model][stage])
    except KeyError:
        raise GengapError(
            f"{model!r} has margins and nothing to normalize them by at {stage!r}; give both"
        ) from None


def _why_not_normalized(normalizer: float) -> str:
    usable = np.isfinite(normalizer) and normalizer > 0
    return "" if usable else f"nothing to normalize by: {normalizer:g}"


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
    _check_kind(kind)
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


def _hidden(stages: Sequence[str]) -> list[str]:
    return [stage for stage in stages if stage != OUTPUT]


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
    values, names = features.to_numpy(float), [_name(column) for column in features]
    _check_rows(features.index, names, values, target, folds)
    mean, deviation = values.mean(axis=0), values.std(axis=0)
    scaled = (values - mean) / deviation
    _check_independent(scaled, names)
    fit = sm.OLS(target, sm.add_constant(scaled, has_constant="add")).fit()
    predicted = out_of_fold(scaled, target, folds=folds, seed=seed)
    singular = np.linalg.svd(scaled, compute_uv=False)
    correlations = np.atleast_2d(np.corrcoef(scaled, rowvar=False))
    return Regression(
        adjusted_r2=adjusted_r2(target, fit.fittedvalues, len(names)),
        k_fold_r2=r2(target, predicted),
        mse=float(np.mean((target - predicted) ** 2)),
        coefficients=_coefficients(fit, mean, deviation, names),
        models=_diagnostics(fit, target, predicted, features.index),
        inflation=Series(np.linalg.inv(correlations).diagonal(), index=names),
        condition_number=float(singular[0] / singular[-1]),
    )


def _name(column) -> str:
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
        try:
            fit, note = regression(own, gap, folds=folds, seed=seed), ""
        except GengapError as error:
            fit, note = None, str(error)
        predicted = _predicted(fit, features)
        if fit:
            predicted[own.index] = fit.models["out_of_fold"]
        columns = {"fitted_on": source, "family": family, "gap": gap.reindex(features.index)}
        parts.append(DataFrame(columns | {"predicted": predicted, "note": note}))
    rows = pd.concat(parts).rename_axis("model_id").reset_index()
    return rows[["fitted_on", "family", "model_id", "gap", "predicted", "note"]]


def _predicted(fit: Regression | None, features: DataFrame) -> Series:
    if fit is None:
        return Series(np.nan, index=features.index)
    intercept, *slopes = fit.coefficients["estimate"]
    return Series(intercept + features.to_numpy(float) @ slopes, index=features.index)


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
            "kendall_tau": kendall_tau(truth, predicted),
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
    stage alone, each measure (one number a network) and "hyper-parameters only" (the main effects
    of each value of each). Columns: default (of the forms of a predictor the one: the default of
    `signature_table`, of a measure the plain value), models, left_out, features, adjusted_r2, k_fold_r2, mse (see
    `Regression`), note. Networks with a note among their signatures are left out of all rows of the
    family, so that all rows compare the same networks in the same folds. Where a fit is impossible
    its numbers are NaN, and the note says why. Families without signatures have no rows.

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
        for variant, features in _variants(own, known, measures):
            judged = _judged(features.reindex(known["model_id"]), gap, folds, seed)
            rows.append({"family": family} | variant | counts | judged)
    return DataFrame(rows, columns=ABLATION_COLUMNS)


HIDDEN = "all hidden"
ABLATION_COLUMNS = [
    "family",
    "predictor",
    "kind",
    "log",
    "normalized",
    "default",
    "models",
    "left_out",
    "features",
    "adjusted_r2",
    "k_fold_r2",
    "mse",
    "note",
]


def _variants(
    signatures: DataFrame, models: DataFrame, measures: DataFrame | None
) -> Iterator[tuple[dict, DataFrame]]:
    """Each choice with its features, a row per network."""
    stages = list(signatures["stage"].unique())
    predictors = {HIDDEN: _hidden(stages)} | {stage: [stage] for stage in stages}
    choices = product(predictors, STATISTICS, (True, False), (True, False))
    for name, kind, log, normalized in choices:
        form = {"kind": kind, "log": log, "normalized": normalized}
        default = {"default": kind == "quartile" and log and normalized}
        features = signature_table(signatures, stages=predictors[name], **form)
        yield {"predictor": name} | form | default, features
    if measures is not None:
        wide = measures.pivot(index="model_id", columns="measure", values="value")
        for name, log in product(wide, (True, False)):
            values = np.log(_sizes(wide[[name]])) if log else wide[[name]]
            yield {"predictor": name, "log": log, "default": not log}, values
    yield {"predictor": BASELINE, "default": True}, main_effects(task_of(models))


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
    hp_*; hyper-parameters are a predictor too, BASELINE.

    Returns a row per family and set of predictors: predictors (their names), features, adjusted_r2,
    k_fold_r2, low and high (95 % bootstrap over the networks' predictions out of fold), note. Only
    networks that have all features count. What follows from features before it is left out.
    """
    rows = []
    for family, models in index.groupby("family", sort=False):
        blocks = {BASELINE: main_effects(task_of(models))}
        blocks |= {name: _flat(table, models["model_id"]) for name, table in predictors.items()}
        complete = pd.concat(blocks, axis=1).dropna().index
        gap = gap_of(models).set_axis(models["model_id"])[complete]
        for size in range(1, len(blocks) + 1):
            for names in combinations(blocks, size):
                features = pd.concat([blocks[name].loc[complete] for name in names], axis=1)
                judged = _judged(independent_columns(features), gap, folds, seed, samples=samples)
                rows.append({"family": family, "predictors": " + ".join(names)} | judged)
    return DataFrame(rows, columns=JOINT_COLUMNS)


JOINT_COLUMNS = [
    "family",
    "predictors",
    "features",
    "adjusted_r2",
    "k_fold_r2",
    "low",
    "high",
    "mse",
    "note",
]


def _flat(table: DataFrame, models: Series) -> DataFrame:
    return table.reindex(models).set_axis([_name(column) for column in table], axis=1)


def _judged(
    features: DataFrame, gap: Series, folds: int, seed: int, *, samples: int | None = None
) -> dict:
    """One row's numbers; with `samples`, the interval of the R2 out of fold as well."""
    found = {"features": features.shape[1], "note": ""}
    try:
        fit = regression(features, gap, folds=folds, seed=seed)
    except GengapError as error:
        return found | {"note": str(error)}
    if samples:
        pair = fit.models["gap"].to_numpy(), fit.models["out_of_fold"].to_numpy()
        ends = bootstrap_interval(r2, *pair, samples=samples, seed=seed)
        found |= dict(zip(("low", "high"), ends))
    return found | {"adjusted_r2": fit.adjusted_r2, "k_fold_r2": fit.k_fold_r2, "mse": fit.mse}
