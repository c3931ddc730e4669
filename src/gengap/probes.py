"""Probing: how early in training a measure of the weights knows how a network will do.

Source: Jaegerman et al. 2021 (GenProb), which correlates measures after every epoch with accuracy
and gap.
"""

import numpy as np
import pandas as pd
from pandas import DataFrame, Series
from scipy import stats

from gengap.analysis import main_effects
from gengap.details import detail_table
from gengap.loaders.genprob import GenProb, network_of
from gengap.measures.spectral_aggregation import VARIANTS, aggregate
from gengap.scores import gap_of, task_of

INDEX = ["network", "epoch"]
FEWEST = 3  # networks that a correlation is taken over


def epoch_table(genprob: GenProb) -> DataFrame:
    """Every epoch of every network of a collection: how it performed, and the paper's measures.

    Indexed by network (`<family>/<name>`) and epoch. Columns: those of the collection's index, gap
    (training minus test accuracy), and a column for each of VARIANTS, of the layers' weights and,
    as `low_rank_...`, of their low-rank parts. The rows of epochs without weights are those that
    training kept; what nobody kept is computed.
    """
    epochs = pd.concat([genprob.kept_table("epochs"), genprob.index()], ignore_index=True)
    epochs = epochs.drop_duplicates("model_id")
    spectra = genprob.kept_table("spectra")
    if not epochs["model_id"].isin(spectra["model_id"]).all():
        spectra = pd.concat([spectra, detail_table(genprob, "spectra")], ignore_index=True)
        spectra = spectra.drop_duplicates(["model_id", "layer", "unfolding", "low_rank"])
    epochs["gap"] = epochs["train_accuracy"] - epochs["test_accuracy"]
    epochs["network"] = network_of(epochs["model_id"])
    epochs["epoch"] = epochs["epoch"].astype(int)
    epochs = epochs.join(spectral_measures(spectra), on="model_id")
    return epochs.set_index(INDEX).sort_index()


def spectral_measures(spectra: DataFrame) -> DataFrame:
    """VARIANTS of the spectra of several models: a row a model, plain and `low_rank_`.

    spectra: model_id and the columns of `network_spectra`, of which convolutions count.
    """
    convolutions = spectra[spectra["kind"] == "conv"]
    rows = {}
    for (model_id, low_rank), part in convolutions.groupby(["model_id", "low_rank"], sort=False):
        sizes = part["size"].to_numpy()
        row = rows.setdefault(model_id, {})
        for name, (column, how, transform) in VARIANTS.items():
            value = aggregate(part[column].to_numpy(), sizes, how=how, transform=transform)
            row[f"low_rank_{name}" if low_rank else name] = value
    return DataFrame.from_dict(rows, orient="index").rename_axis("model_id")


def at_the_end(values: Series) -> Series:
    """By (network, epoch): for each epoch the value of the network's last one."""
    last = values.sort_index(level="epoch").groupby(level="network").last()
    return Series(last.loc[values.index.get_level_values("network")].to_numpy(), values.index)


def probe_curves(
    values: DataFrame,
    outcome: Series,
    *,
    ranks: bool = True,
    samples: int = 200,
    seed: int = 0,
) -> DataFrame:
    """Correlation of measures with an outcome over networks, epoch by epoch.

    values: by (network, epoch), a column per measure. outcome: by the same; that of the epoch
    itself, as published, or that of the last (`at_the_end`). ranks: Spearman's, else Pearson's.

    Returns a row per measure and epoch: measure, epoch, correlation, low and high (95 % percentile
    bootstrap over networks, of which all measures and epochs meet the same draws) and networks,
    that have measure and outcome. NaN over fewer than three, or where either is constant.
    """
    networks = values.index.get_level_values("network").unique()
    drawn = np.random.default_rng(seed).integers(len(networks), size=(samples, len(networks)))
    rows = np.vstack([np.arange(len(networks)), drawn])  # the networks as they are, then samples
    targets = outcome.unstack("epoch").reindex(networks)
    found = []
    for measure, column in values.items():
        wide = column.unstack("epoch").reindex(networks)
        for epoch in wide:
            pair = np.stack([wide[epoch].to_numpy(float), targets[epoch].to_numpy(float)])
            value, *of_samples = correlations(*pair[:, rows], ranks=ranks)
            count = np.isfinite(pair).all(axis=0).sum()
            found.append((measure, epoch, value, *_interval(of_samples), count))
    columns = ["measure", "epoch", "correlation", "low", "high", "networks"]
    return DataFrame(found, columns=columns)


def correlations(x: np.ndarray, y: np.ndarray, *, ranks: bool) -> np.ndarray:
    """Of each row of two arrays (B, n), over the places where both are numbers: (B,).

    ranks: Spearman's, else Pearson's. NaN over fewer than three places, or where x or y is constant.
    """
    known = np.isfinite(x) & np.isfinite(y)
    sides = [np.where(known, side, np.nan) for side in (x, y)]
    if ranks:
        sides = [stats.rankdata(side, axis=1, nan_policy="omit") for side in sides]
    count = known.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        x, y = (side - np.nansum(side, axis=1, keepdims=True) / count for side in sides)
        spread = np.sqrt(np.nansum(x * x, axis=1) * np.nansum(y * y, axis=1))
        found = np.nansum(x * y, axis=1) / spread
    varies = [
        np.nanmax(side, 1, initial=-np.inf) > np.nanmin(side, 1, initial=np.inf) for side in sides
    ]
    return np.where((count[:, 0] >= FEWEST) & varies[0] & varies[1], found, np.nan)


def _interval(values: list[float]) -> tuple[float, float]:
    """Where 95 % of the values that are numbers lie."""
    known = np.array(values)[np.isfinite(values)]
    return tuple(np.quantile(known, [0.025, 0.975])) if len(known) else (np.nan, np.nan)


def settled_epochs(curves: DataFrame, *, within: float = 0.05) -> Series:
    """By measure, the earliest epoch from which on the correlation stays near that of the last.

    curves: of `probe_curves`. within: the largest difference that is near.
    """

    def settled(curve: DataFrame) -> int:
        curve = curve.sort_values("epoch")
        far = (curve["correlation"] - curve["correlation"].iloc[-1]).abs() > within
        return curve["epoch"].iloc[far.to_numpy().nonzero()[0].max(initial=-1) + 1]

    return curves.groupby("measure", sort=False).apply(settled, include_groups=False)


def partial_correlations(values: DataFrame, outcome: Series, index: DataFrame) -> DataFrame:
    """Spearman's correlation of measures with an outcome, and what hyper-parameters leave of it.

    values, outcome: by model_id, of the models of one family. index: rows of its collection.
    Hyper-parameters are taken out of the ranks of both sides, as main effects (a term for each value
    of each), by least squares; what is left is correlated.

    Returns by measure: correlation, partial, and explained, the share of the variance of the
    measure's ranks that the hyper-parameters explain. NaN where a model has no value.
    """
    effects = main_effects(task_of(index))
    design = np.column_stack([np.ones(len(effects)), effects.to_numpy()])
    target = _ranks(outcome.loc[effects.index])
    rest = _residuals(target, design)
    rows = {}
    for measure, column in values.loc[effects.index].items():
        ranks = _ranks(column)
        left = _residuals(ranks, design)
        rows[measure] = {
            "correlation": correlations(ranks[None], target[None], ranks=False)[0],
            "partial": correlations(left[None], rest[None], ranks=False)[0],
            "explained": 1 - left @ left / np.square(ranks - ranks.mean()).sum(),
        }
    return DataFrame.from_dict(rows, orient="index")


def _ranks(values: Series) -> np.ndarray:
    return stats.rankdata(values, nan_policy="propagate")


def _residuals(values: np.ndarray, design: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        return np.full(len(values), np.nan)
    return values - design @ np.linalg.lstsq(design, values)[0]
