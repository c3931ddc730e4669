"""The one bootstrap and the one permutation behind every interval and null.

Rows may come in *clusters*, which are drawn or moved as a whole: networks trained alike, whose gaps
are nearly the same, are one observation and not several. They may lie in *strata*, in each of which
as many are drawn as there are, and which no row leaves.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

NORMAL_95 = 1.96  # standard deviations: the 95 % interval of a normal distribution


def bootstraps(
    rows: int,
    samples: int,
    generator: np.random.Generator,
    *,
    clusters: np.ndarray | None = None,
    strata: np.ndarray | None = None,
) -> np.ndarray:
    """(samples, rows) int: how often each bootstrap drew each row.

    clusters (rows,): numbers of clusters, drawn with replacement; without them each row is one.
    strata (rows,): the stratum of each row; a cluster lies in one.

    Source: Efron 1979.
    Raises: ValueError if a cluster lies in two strata.
    """
    of_row, stratum_of, _ = _clustered(rows, clusters, strata)
    drawn = np.empty((samples, len(stratum_of)), int)
    for stratum in np.unique(stratum_of):
        own = np.flatnonzero(stratum_of == stratum)
        chances = np.full(len(own), 1 / len(own))
        drawn[:, own] = generator.multinomial(len(own), chances, size=samples)
    return drawn[:, of_row]


def permutations(
    rows: int,
    count: int,
    generator: np.random.Generator,
    *,
    clusters: np.ndarray | None = None,
    strata: np.ndarray | None = None,
) -> np.ndarray:
    """(count, rows) int: orders of the rows; `values[order]` are the permuted values.

    clusters, strata: as for `bootstraps`. A cluster changes places with one of the same size, and
    its rows keep their order.

    Raises: ValueError if a cluster lies in two strata.
    """
    of_row, stratum_of, sizes = _clustered(rows, clusters, strata)
    orders = np.empty((count, rows), int)
    by_cluster = np.argsort(of_row, kind="stable")
    starts = np.cumsum(sizes) - sizes
    for stratum, size in sorted(set(zip(stratum_of.tolist(), sizes.tolist(), strict=True))):
        alike = np.flatnonzero((stratum_of == stratum) & (sizes == size))
        members = by_cluster[starts[alike][:, None] + np.arange(size)]
        places = np.tile(np.arange(len(alike)), (count, 1))
        orders[:, members] = members[generator.permuted(places, axis=1)]
    return orders


def _clustered(rows, clusters, strata) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The cluster of each row as a number from 0, and of each cluster the stratum and the size."""
    of_row, _ = pd.factorize(np.arange(rows) if clusters is None else np.asarray(clusters))
    strata, _ = pd.factorize(np.zeros(rows, int) if strata is None else np.asarray(strata))
    stratum_of = np.empty(of_row.max() + 1, int)
    stratum_of[of_row] = strata
    if (stratum_of[of_row] != strata).any():
        raise ValueError("a cluster lies in two strata; give each cluster one stratum")
    return of_row, stratum_of, np.bincount(of_row)


def bootstrap_interval(
    statistic: Callable[..., Any],
    *arrays: np.ndarray,
    samples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    clusters: np.ndarray | None = None,
) -> tuple[float, float]:
    """Percentile bootstrap interval of `statistic(*arrays)`; rows are drawn jointly.

    The arrays share their first axis (N,); clusters (N,) as for `bootstraps`. Returns the (low,
    high) ends.

    Source: Efron 1979.
    """
    arrays = tuple(map(np.asarray, arrays))
    drawn = bootstraps(len(arrays[0]), samples, np.random.default_rng(seed), clusters=clusters)
    rows = _repeated(drawn)
    return percentiles([statistic(*(array[of] for array in arrays)) for of in rows], confidence)


def _repeated(drawn: np.ndarray) -> Iterator[np.ndarray]:
    """Of each bootstrap the positions of its rows, each as often as it was drawn."""
    places = np.arange(drawn.shape[1])
    return (np.repeat(places, counts) for counts in drawn)


def percentiles(values: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Between which two that share of the values lies in the middle, NaN left out."""
    known = np.asarray(values, float)
    known = known[~np.isnan(known)]
    if not len(known):
        return float("nan"), float("nan")
    tail = (1 - confidence) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return float(low), float(high)


def margin(values: np.ndarray) -> float:
    """Half the width of the bootstrap's normal 95 % interval, from its values (S,), NaN left out.

    For statistics that are biased on samples that repeat rows, where `percentiles` would lie off
    the value. NaN without a value.
    """
    known = values[~np.isnan(values)]
    return NORMAL_95 * float(known.std()) if len(known) else float("nan")
