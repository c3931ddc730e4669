"""One number of a network from the spectra of its layers, the ways GenProb's released code does.

Source: Jaegerman et al. 2021 (GenProb), released qualities.py, where AGGREGATES are called L1 to L5
and TRANSFORMS 0 to 7. The values of both unfoldings of all layers count alike.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from gengap.errors import GengapError


def mean_absolute(values: np.ndarray, weights: np.ndarray) -> float:
    """Released L1: mean |x|; the weights do not matter."""
    return float(np.abs(values).mean())


def root_mean_square(values: np.ndarray, weights: np.ndarray) -> float:
    """Released L2: sqrt(mean x^2); the weights do not matter."""
    return float(np.sqrt(np.square(values).mean()))


def geometric_mean(values: np.ndarray, weights: np.ndarray) -> float:
    """Released L3, 'p' in the paper: prod x^(1/n); the weights do not matter."""
    return weighted_geometric_mean(values, np.ones_like(values))


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> float:
    """Released L4: sum a|x| / sum a."""
    return float(np.average(np.abs(values), weights=weights))


def weighted_geometric_mean(values: np.ndarray, weights: np.ndarray) -> float:
    """Released L5: prod x^(a / sum a), so that not the product but the mean is weighted."""
    return float(np.prod(values ** (weights / weights.sum())))


AGGREGATES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    function.__name__: function
    for function in (
        mean_absolute,
        root_mean_square,
        geometric_mean,
        weighted_mean,
        weighted_geometric_mean,
    )
}
# Of the aggregate x and n, how many values a network has: twice its number of layers.
TRANSFORMS: dict[str, Callable[[float, int], float]] = {
    "plain": lambda x, n: x,
    "times_depth": lambda x, n: x * n,
    "root": lambda x, n: np.sqrt(x),
    "root_of_times_depth": lambda x, n: np.sqrt(x * n),
    "log": lambda x, n: np.log(x),
    "log_of_times_depth": lambda x, n: np.log(x * n),
    "log_of_root": lambda x, n: np.log(np.sqrt(x)),
    "log_of_root_of_times_depth": lambda x, n: np.log(np.sqrt(x * n)),
}


def aggregate(
    values: np.ndarray, weights: np.ndarray, *, how: str, transform: str = "plain"
) -> float:
    """One number of n values (n,), of both unfoldings of all layers, and their weights (n,).

    how: one of AGGREGATES; transform: one of TRANSFORMS. GenProb weights a value by the shorter side
    of its matrix. Values that are exactly 0 (an empty low-rank part, the effective rank of a single
    singular value) do not count, nor do their weights; in the transform's n, the depth, they do, as
    released. NaN if one value is, or if all are 0 (such networks the released code leaves out).

    Raises: GengapError for an unknown name, or if there are not as many weights as values.
    """
    values, weights = np.asarray(values, float), np.asarray(weights, float)
    if values.shape != weights.shape or values.ndim != 1:
        raise GengapError(
            f"values of shape {values.shape} and weights of shape {weights.shape}; expected one"
            " weight for each of a vector of values"
        )
    function, after = _chosen(AGGREGATES, how), _chosen(TRANSFORMS, transform)
    there = values != 0
    if not there.any() or np.isnan(values).any():
        return float("nan")
    return float(after(function(values[there], weights[there]), len(values)))


def _chosen(functions: dict[str, Callable], name: str) -> Callable:
    if name not in functions:
        raise GengapError(f"unknown aggregation {name!r}; expected one of {', '.join(functions)}")
    return functions[name]


def stable_quality(spectra: pd.DataFrame, *, low_rank: bool = False) -> float:
    """The paper's Q_SQ^p: geometric mean of the stable quality. Unit: radian.

    spectra: of `network_spectra`; its dense layers do not count. low_rank: of the low-rank parts.

    Source: Jaegerman et al. 2021; its notebooks take L3, transform 0.
    """
    return _of_convolutions(spectra, low_rank, "stable_quality", "geometric_mean", "plain")


def effective_rank(spectra: pd.DataFrame, *, low_rank: bool = False) -> float:
    """The paper's Q_E^L2: ln sqrt of the root mean square of the effective rank.

    spectra, low_rank: as in `stable_quality`.

    Source: Jaegerman et al. 2021; its notebooks take L2, transform 6.
    """
    return _of_convolutions(spectra, low_rank, "effective_rank", "root_mean_square", "log_of_root")


def frobenius_norm(spectra: pd.DataFrame, *, low_rank: bool = False) -> float:
    """The paper's Q_F^p: ln sqrt of depth times the geometric mean of the Frobenius norm.

    spectra, low_rank: as in `stable_quality`.

    Source: Jaegerman et al. 2021; its notebooks take L3, transform 7. Differs where low_rank: the
    released Frobenius norms of low-rank parts are wrong.
    """
    return _of_convolutions(
        spectra, low_rank, "frobenius_norm", "geometric_mean", "log_of_root_of_times_depth"
    )


def spectral_norm(spectra: pd.DataFrame, *, low_rank: bool = False) -> float:
    """The paper's Q_S^p: ln sqrt of depth times the geometric mean of the spectral norm.

    spectra, low_rank: as in `stable_quality`.

    Source: Jaegerman et al. 2021; its notebooks take L3, transform 7.
    """
    return _of_convolutions(
        spectra, low_rank, "spectral_norm", "geometric_mean", "log_of_root_of_times_depth"
    )


def _of_convolutions(spectra, low_rank: bool, column: str, how: str, transform: str) -> float:
    rows = spectra[(spectra["kind"] == "conv") & (spectra["low_rank"] == low_rank)]
    return aggregate(rows[column], rows["size"], how=how, transform=transform)
