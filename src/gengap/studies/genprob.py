"""Probing: how early in training a measure of the weights knows how a network will do.

Source: Jaegerman et al. 2021 (GenProb), which correlates measures after every epoch with accuracy
and gap.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from pandas import DataFrame, Series
from scipy import stats

from gengap.collections.genprob import GenProb, network_of
from gengap.evaluation.baselines import main_effects
from gengap.evaluation.resampling import bootstraps, percentiles
from gengap.evaluation.samples import Sample
from gengap.evaluation.scores import pearson, spearman
from gengap.evaluation.tasks import vector_task
from gengap.measures.spectral_aggregation import VARIANTS, aggregate
from gengap.tables.details import detail_parts

# What `spectral_measures` reads of the layers, of which GenProb has 45 million rows.
AGGREGATED = ["kind", "low_rank", "size", "rank"]
AGGREGATED += {column: None for column, *_ in VARIANTS.values()}
FEWEST = 3  # networks that a correlation is taken over


def epoch_table(genprob: GenProb) -> DataFrame:
    """Every epoch of every network of a collection: how it performed, and the paper's measures.

    Indexed by network (`<family>/<name>`) and epoch. Columns: those of the collection's index, gap
    (training minus test accuracy), and those of `spectral_measures`.
    """
    epochs = pd.concat([genprob.kept_epochs(), genprob.index()], ignore_index=True)
    epochs = epochs.drop_duplicates("model_id")
    epochs["gap"] = epochs["train_accuracy"] - epochs["test_accuracy"]
    epochs["network"] = network_of(epochs["model_id"])
    epochs["epoch"] = epochs["epoch"].astype(int)
    measured = pd.concat(map(spectral_measures, layer_parts(genprob, AGGREGATED)))
    return epochs.join(measured, on="model_id").set_index(["network", "epoch"]).sort_index()


def layer_table(genprob: GenProb, model_id: str, columns: Sequence[str]) -> DataFrame:
    """Rows of `layer_parts` of one model."""
    alone = genprob.select(f"model_id == {model_id!r}")
    rows = pd.concat(layer_parts(alone, columns))  # of all epochs that training kept
    return rows[rows["model_id"] == model_id].reset_index(drop=True)


def layer_parts(genprob: GenProb, columns: Sequence[str]) -> Iterator[DataFrame]:
    """Spectra of all layers at every epoch, of some models after the other.

    Each part has model_id and columns of `network_spectra`, with all rows of its models. What
    training kept, also of epochs without weights; what nobody kept is computed.
    """
    kept: set[str] = set()
    for rows in genprob.kept_spectra():
        kept.update(rows["model_id"].unique())
        yield rows.reindex(columns=["model_id", *columns])
    if not genprob.index()["model_id"].isin(kept).all():
        for rows in detail_parts(genprob, "spectra", columns):
            yield rows[~rows["model_id"].isin(kept)]


def spectral_measures(spectra: DataFrame) -> DataFrame:
    """Measures of the spectra of several models, a row a model.

    Columns: VARIANTS of the layers' weights and, as `low_rank_...`, of their low-rank parts, NaN
    where these are all empty; and empty_parts, the share of the low-rank parts that are.
    """
    found = DataFrame(
        {
            f"low_rank_{name}" if low_rank else name: aggregated(
                spectra, column, how=how, transform=transform, low_rank=low_rank
            )
            for low_rank in (False, True)
            for name, (column, how, transform) in VARIANTS.items()
        }
    )
    parts = spectra[(spectra["kind"] == "conv") & spectra["low_rank"]]
    return found.assign(empty_parts=(parts["rank"] == 0).groupby(parts["model_id"]).mean())


def aggregated(
    spectra: DataFrame, column: str, *, how: str, transform: str = "plain", low_rank: bool = False
) -> Series:
    """One column of the convolutions' spectra in one number a model, by model_id.

    spectra: model_id and the columns of `network_spectra`. low_rank: of the low-rank parts. how,
    transform: as `aggregate` takes them.
    """
    rows = spectra[(spectra["kind"] == "conv") & (spectra["low_rank"] == low_rank)]
    values, sizes = rows[column].to_numpy(), rows["size"].to_numpy()
    found = {  # by place, which is faster than a table for each model
        model_id: aggregate(values[places], sizes[places], how=how, transform=transform)
        for model_id, places in rows.groupby("model_id", sort=False).indices.items()
    }
    return Series(found, name=column, dtype=float).rename_axis("model_id")


def at_the_end(values: Series) -> Series:
    """By (network, epoch): for each epoch the value of the network's last one."""
    last = values.sort_index(level="epoch").groupby(level="network").last()
    return Series(last.loc[values.index.get_level_values("network")].to_numpy(), values.index)


def probe_table(
    epochs: DataFrame,
    measures: list[str],
    outcomes: list[str],
    *,
    of_the_end: bool,
    **options,
) -> DataFrame:
    """`probe_curves` of each family of networks with each outcome, under columns family, outcome.

    epochs: of `epoch_table`; measures, outcomes: columns of it. of_the_end: whether the outcome is
    that of the network's last epoch, which a probe is to foretell, or, as published, that of the
    epoch itself. options: those of `probe_curves`.
    """
    parts = []
    for family, rows in epochs.groupby("family", sort=False):
        for name in outcomes:
            outcome = at_the_end(rows[name]) if of_the_end else rows[name]
            found = probe_curves(rows[measures], outcome, **options)
            parts.append(found.assign(family=family, outcome=name))
    return pd.concat(parts, ignore_index=True)


def probe_curves(
    values: DataFrame,
    outcome: Series,
    *,
    ranks: bool = True,
    samples: int = 200,
    seed: int = 0,
) -> DataFrame:
    """Correlation of measures with an outcome over networks, epoch by epoch.

    values: by (network, epoch), a column per measure. outcome: by the same. ranks: Spearman's, else
    Pearson's.

    Returns a row per measure and epoch: measure, epoch, correlation, low and high (95 % percentile
    bootstrap over networks, of which all measures and epochs meet the same draws) and networks,
    that have measure and outcome. NaN over fewer than three, or where either is constant.
    """
    networks = values.index.get_level_values("network").unique()
    drawn = bootstraps(len(networks), samples, np.random.default_rng(seed))
    draws = np.vstack([np.ones_like(drawn[:1]), drawn])  # the networks as they are, then samples
    targets = outcome.unstack("epoch").reindex(networks)
    found = []
    for measure, column in values.items():
        wide = column.unstack("epoch").reindex(networks)
        for epoch in wide:
            pair = wide[epoch].to_numpy(float), targets[epoch].to_numpy(float)
            value, *of_samples = correlations(*pair, draws, ranks=ranks)
            count = np.isfinite(pair).all(axis=0).sum()
            found.append((measure, epoch, value, *percentiles(of_samples), count))
    columns = ["measure", "epoch", "correlation", "low", "high", "networks"]
    return DataFrame(found, columns=columns)


def correlations(x: np.ndarray, y: np.ndarray, draws: np.ndarray, *, ranks: bool) -> np.ndarray:
    """(S,) of two vectors (n,), over the places where both are numbers, as often as drawn (S, n).

    ranks: Spearman's, else Pearson's. NaN over fewer than three places, or if x or y is constant.
    """
    known = np.isfinite(x) & np.isfinite(y)
    if known.sum() < FEWEST:
        return np.full(len(draws), np.nan)
    enough = draws[:, known].sum(axis=1) >= FEWEST
    found = np.full(len(draws), np.nan)
    sample = Sample(vector_task(y[known]), draws[enough][:, known].astype(float))
    found[enough] = (spearman if ranks else pearson)(x[known], sample)
    return found


def settled_epochs(curves: DataFrame, *, within: float = 0.05) -> Series:
    """By measure, the earliest epoch from which on the correlation stays near that of the last.

    curves: of `probe_curves`. within: the largest difference that is near. NaN where the last epoch
    has no correlation.
    """

    def settled(curve: DataFrame) -> float:
        curve = curve.sort_values("epoch")
        near = (curve["correlation"] - curve["correlation"].iloc[-1]).abs() <= within
        if not near.iloc[-1]:
            return np.nan
        return curve["epoch"].iloc[np.flatnonzero(~near).max(initial=-1) + 1]

    return curves.groupby("measure", sort=False).apply(settled, include_groups=False)


def partial_correlations(values: DataFrame, outcome: Series, index: DataFrame) -> DataFrame:
    """Spearman's correlation of measures with an outcome, and what hyper-parameters leave of it.

    values, outcome: by model_id, of the models of one family. index: rows of its collection.
    Hyper-parameters are taken out of the ranks of both sides, as main effects (`main_effects`), by
    least squares; what is left is correlated.

    Returns by measure: correlation; partial; p_value, of a partial correlation as far from 0 or
    farther where there is none (Student's t, with a degree of freedom less for each term); and
    explained, the share of the variance of the measure's ranks that the hyper-parameters explain.
    NaN where a model has no value, and where all have the same.
    """
    effects = main_effects(index)
    design = np.column_stack([np.ones(len(effects)), effects.to_numpy()])
    target = _ranks(outcome.loc[effects.index])
    whole, rest = vector_task(target), vector_task(_residuals(target, design))
    rows = {}
    for measure, column in values.loc[effects.index].items():
        ranks = _ranks(column)
        left, total = _residuals(ranks, design), np.square(ranks - ranks.mean()).sum()
        partial = float(pearson(left, rest))
        rows[measure] = {
            "correlation": float(pearson(ranks, whole)),
            "partial": partial,
            "p_value": _p_value(partial, len(design) - design.shape[1] - 1),
            "explained": 1 - left @ left / total if total else np.nan,
        }
    return DataFrame.from_dict(rows, orient="index")


def _p_value(partial: float, freedom: int) -> float:
    """Two-sided, of a correlation with so many degrees of freedom; NaN where there are none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        t = abs(partial) * np.sqrt(freedom / np.maximum(1 - partial**2, 0))
    return float(2 * stats.t.sf(t, freedom))


def _ranks(values: Series) -> np.ndarray:
    return stats.rankdata(values, nan_policy="propagate")


def _residuals(values: np.ndarray, design: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        return np.full(len(values), np.nan)
    return values - design @ np.linalg.lstsq(design, values)[0]
