"""One number of a network from the spectra of its layers, the ways GenProb's released code does.

Source: Jaegerman et al. 2021 (GenProb), released qualities.py, where AGGREGATES are called L1 to L5
and TRANSFORMS 0 to 7. The values of both unfoldings of all layers count alike.
GenProb measures the convolutions alone.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from gengap.errors import GengapError, NotAvailable


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


# A measure of a network: which column of `network_spectra`, aggregate and transform. The paper has
# no variant of the condition number; the others are those of its notebooks (Q_SQ^p is L3 with 0,
# Q_E^L2 is L2 with 6, Q_F^p and Q_S^p are L3 with 7).
VARIANTS: dict[str, tuple[str, str, str]] = {
    "stable_quality": ("stable_quality", "geometric_mean", "plain"),
    "log_effective_rank": ("effective_rank", "root_mean_square", "log_of_root"),
    "log_frobenius_norm": ("frobenius_norm", "geometric_mean", "log_of_root_of_times_depth"),
    "log_spectral_norm": ("spectral_norm", "geometric_mean", "log_of_root_of_times_depth"),
    "log_condition_number": ("condition_number", "geometric_mean", "log"),
}


def aggregate(
    values: np.ndarray, weights: np.ndarray, *, how: str, transform: str = "plain"
) -> float:
    """One number of n values (n,), of both unfoldings of all layers, and their weights (n,).

    how: one of AGGREGATES; transform: one of TRANSFORMS. GenProb weights a value by the shorter
    side of its matrix. Values that are exactly 0 (an empty low-rank part, the effective rank of a
    single singular value) do not count, nor do their weights; in the transform's n, the depth, they
    do, as released. NaN if one value is, or if all are 0 (such networks the released code leaves
    out).

    Raises:
        GengapError: for an unknown name, or if there are not as many weights as values.
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


def variant(spectra: pd.DataFrame, name: str, *, low_rank: bool) -> float:
    """One of VARIANTS of a network.

    spectra: of `network_spectra`; its dense layers do not count. low_rank: of the low-rank parts.

    Raises:
        NotAvailable: without a convolution, or if the aggregate is not a finite number, because
            weights are infinite or NaN, a matrix is singular or no value differs from 0.
    """
    column, how, transform = VARIANTS[name]
    rows = spectra[(spectra["kind"] == "conv") & (spectra["low_rank"] == low_rank)]
    if rows.empty:
        raise NotAvailable("this network has no convolution, and GenProb measures these alone")
    value = aggregate(rows[column], rows["size"], how=how, transform=transform)
    if not np.isfinite(value):
        raise NotAvailable(_why_not(rows[column], "low-rank parts of all" if low_rank else "all"))
    return value


def _why_not(values: pd.Series, whose: str) -> str:
    if values.isna().any():
        return "weights of a convolution are infinite or NaN"
    if np.isinf(values).any():
        return "a convolution has singular values of 0: its condition number is infinite"
    return f"the {values.name.replace('_', ' ')} of {whose} convolutions is 0"
