"""What of a matrix is signal and what is noise, by empirical variational Bayes.

Source: Nakajima et al. 2013, Global Analytic Solution of Fully-observed Variational Bayesian Matrix
Factorization (JMLR 14), its empirical form (EVBMF), where the priors' variances are estimated too.
A matrix (L, M), L <= M, is taken as one of low rank plus Gaussian noise of one variance.
"""

import math
from collections.abc import Callable

import numpy as np

TAU = 2.5129  # tau-bar over sqrt(L / M); the paper's approximation, exact to 1 in 1,000
GOLDEN = (3 - math.sqrt(5)) / 2
PRECISION = 1e-5  # of a noise variance, relative to the largest that it can be


def low_rank_values(values: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Singular values of the low-rank parts of B matrices, (B, n), 0 where a value is only noise.

    values: (B, n) singular values, descending, filled up with 0 behind the first L of a row.
    rows, columns: (B,), L and M of each matrix, L <= M <= any.

    The noise variance is the one at which Brent's bounded search stops, as in the released code of
    GenProb. The free energy has many local minima, each with another rank, so that this need not be
    the least (for two of the twelve unfoldings of six golden layers it is not); the search goes the
    same way at every scale of the weights. Differs: the released search stops at an absolute 1e-5,
    on weights of usual size far from any minimum.
    """
    largest = np.where(values[:, :1] > 0, values[:, :1], 1)
    squares = (values / largest) ** 2  # the search does not see the scale
    alpha = rows / columns
    tau = TAU * np.sqrt(alpha)
    bound = (1 + tau) * (1 + alpha / tau)
    variance = _noise_variances(squares, rows, columns, bound)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Shares of the squares that the noise makes up, on the side of rows and of columns.
        noise = (columns * variance)[:, None] / squares
        sides = 1 - (1 + alpha)[:, None] * noise
        shrunk = values / 2 * (sides + np.sqrt(sides**2 - 4 * alpha[:, None] * noise**2))
    return np.where(squares > (columns * variance * bound)[:, None], shrunk, 0)


def _noise_variances(squares, rows, columns, bound) -> np.ndarray:
    """(B,) of squared singular values (B, n); `bound` (B,) is the least x that can be signal."""
    alpha, total = rows / columns, squares.sum(axis=1)
    # Not more than this many components can be signal, so that the others bound the noise.
    most = np.minimum(np.ceil(rows / (1 + alpha)) - 1, rows).astype(int)
    tail = np.where(np.arange(squares.shape[1]) >= most[:, None], squares, 0)
    mean = tail.sum(axis=1) / (rows - most)
    low = np.maximum(tail.max(axis=1) / bound, mean) / columns
    high = np.maximum(total / (rows * columns), low)
    largest = max((squares > (bound * columns * low)[:, None]).sum(axis=1), default=0)
    signal = squares[:, :largest]  # the rest is noise whatever the variance

    def free_energy(variance):
        """Up to a constant, which also spares the logarithms of values that are 0."""
        scale = columns * variance
        x = signal / scale[:, None]
        z = np.maximum(x, bound[:, None]) - (1 + alpha)[:, None]
        tau = (z + np.sqrt(z * z - 4 * alpha[:, None])) / 2
        gain = np.log1p(tau) + alpha[:, None] * np.log1p(tau / alpha[:, None]) - tau
        return total / scale + rows * np.log(scale) + (gain * (x > bound[:, None])).sum(axis=1)

    with np.errstate(divide="ignore", invalid="ignore"):  # matrices of zeros have no noise
        return bounded_minima(free_energy, low, high, PRECISION * high)


def bounded_minima(
    function: Callable[[np.ndarray], np.ndarray],
    low: np.ndarray,
    high: np.ndarray,
    tolerance: np.ndarray,
) -> np.ndarray:
    """A local minimum of each of B functions of one number, between low and high, all (B,).

    `function` maps (B,) points to (B,) values. The points tried are those of
    scipy.optimize.minimize_scalar(method="bounded"), function by function.

    Source:
        Brent 1973, Algorithms for Minimization without Derivatives, chapter 5.
    """
    best = second = third = low + GOLDEN * (high - low)
    at_best = at_second = at_third = function(best)
    step = before = np.zeros_like(best)
    while True:
        middle = (low + high) / 2
        least = math.sqrt(np.finfo(float).eps) * np.abs(best) + tolerance / 3
        active = np.abs(best - middle) > 2 * least - (high - low) / 2
        if not active.any():
            return best
        p, q = _parabola(best - second, best - third, at_best - at_second, at_best - at_third)
        fits = (np.abs(before) > least) & (np.abs(p) < np.abs(q * before / 2))
        fits &= (p > q * (low - best)) & (p < q * (high - best))
        side = np.where(best >= middle, low - best, high - best)
        before = np.where(fits, step, side)
        step = np.where(fits, p / np.where(fits, q, 1), GOLDEN * side)
        tried = best + step
        at_end = fits & ((tried - low < 2 * least) | (high - tried < 2 * least))
        step = np.where(at_end, np.where(middle >= best, least, -least), step)
        forward = np.where(step >= 0, 1, -1)
        tried = np.where(active, best + forward * np.maximum(np.abs(step), least), best)
        value = function(tried)

        better, right = active & (value <= at_best), tried >= best
        worse = active & ~better
        low = np.where(better & right, best, np.where(worse & ~right, tried, low))
        high = np.where(better & ~right, best, np.where(worse & right, tried, high))
        as_second = worse & ((value <= at_second) | (second == best))
        as_third = worse & ~as_second
        as_third &= (value <= at_third) | (third == best) | (third == second)
        moved = better | as_second
        third = np.where(moved, second, np.where(as_third, tried, third))
        at_third = np.where(moved, at_second, np.where(as_third, value, at_third))
        second = np.where(better, best, np.where(as_second, tried, second))
        at_second = np.where(better, at_best, np.where(as_second, value, at_second))
        best, at_best = np.where(better, tried, best), np.where(better, value, at_best)


def _parabola(to_second, to_third, rise_second, rise_third) -> tuple[np.ndarray, np.ndarray]:
    """p and q >= 0: the vertex of the parabola through three points is p / q from the best."""
    r, q = to_second * rise_third, to_third * rise_second
    p, q = to_third * q - to_second * r, 2 * (q - r)
    return np.where(q > 0, -p, p), np.abs(q)
