"""What a measure's definition says under *See also*: which others order networks as it does."""

import functools

import pandas as pd
from pandas import DataFrame

from gengap.collection import embedded_collections, last_epoch, open_collection
from gengap.evaluation.baselines import NETWORKS
from gengap.folders import read_table
from gengap.studies.pgdl import by_model
from gengap.tables.store import table_file

ALIKE = 0.9  # from this correlation on two measures say nearly the same
MINUS = "\N{MINUS SIGN}"
NAMED = 3  # of more that are alike the first are named


@functools.cache
def likeness() -> DataFrame:
    """By two measures, Spearman's correlation of their values in a family: the median of families.

    Families are those of the embedded collections that have NETWORKS networks with values of both
    after the last epoch; where these are fewer than half of the first measure's, there is none.
    """
    parts = []
    for name in embedded_collections():
        collection = open_collection(name)
        last, values = last_epoch(collection.index()), by_model(read_table(table_file(collection)))
        families = values.reindex(last["model_id"]).groupby(last["family"].to_numpy())
        parts += [own.corr("spearman", min_periods=NETWORKS) for _, own in families]
    found = pd.concat(parts).groupby(level=0)
    counts = found.count()
    return found.median().where(counts.mul(2).ge(counts.max(axis=1), axis=0))


def see_also(measure: str, table: DataFrame) -> str:
    """The measures that are alike, or else the nearest; then the least like of its variants.

    table: as `likeness` gives it; where it knows nothing, neither is anything said.
    """
    others = table.reindex([measure]).loc[measure].drop(measure, errors="ignore").dropna().round(2)
    others = others.sort_values(key=abs, ascending=False)
    alike = (others.abs() >= ALIKE).sum()
    parts = [", ".join(_with_numbers(others[: min(max(alike, 1), NAMED)]))]
    parts[0] += f" and {alike - NAMED} more" if alike > NAMED else ", the nearest" * (not alike)
    rest = others[max(alike, 1) :]
    variants = rest[[is_variant(measure, name) for name in rest.index]][-1:]
    return (
        "See also " + "; its variant ".join(parts + _with_numbers(variants)) if len(others) else ""
    )


def is_variant(one: str, other: str) -> bool:
    """Whether two names differ in two words at most, and share as many as they differ in."""
    words, others = set(one.split("_")), set(other.split("_"))
    return len(words ^ others) <= min(2, len(words & others))


def _with_numbers(found: pd.Series) -> list[str]:
    return [f"`{name}` ({f'{value:.2f}'.replace('-', MINUS)})" for name, value in found.items()]
