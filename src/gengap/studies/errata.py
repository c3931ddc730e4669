"""Defects of released code and of published figures, as released, so that a page can show them.

Nothing else uses these numbers.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pandas import DataFrame, Series
from scipy.optimize import minimize_scalar
from torch import nn

from gengap.measures.low_rank import TAU, low_rank_values
from gengap.measures.stages import stage_outputs
from gengap.model import Model


def errata_table() -> DataFrame:
    """Every erratum in the order of the page: the gravest first.

    title: also its heading on the page. release: whose code or figure. touches: conclusions,
    numbers or no number. shown: whether the page has it computed, or it was read.
    """
    table = pd.read_csv(Path(__file__).with_name("errata.csv"))
    return table.set_index(pd.RangeIndex(1, len(table) + 1))


def released_low_rank_frobenius_norm(matrix: np.ndarray) -> float:
    """The Frobenius norm of a low-rank part as GenProb's process.py computes it: wrong.

    matrix: (rows, columns), an unfolded weight. Of the singular vectors in the columns of V the
    released EVBMF takes the first H rows in place of the first H columns, so its product is not
    the low-rank part. In that product each of the H shrunk singular values is multiplied with the
    length of a row of V, which is at most 1: the norm is never too large.
    """
    wide = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    _, values, right = np.linalg.svd(wide.astype(float), full_matrices=False)
    [shrunk] = low_rank_values(values[None], *np.array(wide.shape)[:, None])
    kept = shrunk[shrunk > 0]
    return float(np.linalg.norm(kept[:, None] * right.T[: len(kept)]))


def released_low_rank_frobenius_norms(model: Model) -> DataFrame:
    """`released_low_rank_frobenius_norm` of each convolution, a row per layer and unfolding.

    Columns model_id, layer, kind, unfolding, low_rank and size as the detail `spectra` has them,
    and released.
    """
    rows = [
        {
            "model_id": model.record["model_id"],
            "layer": layer,
            "kind": "conv",
            "unfolding": unfolding,
            "low_rank": True,
            "size": min(matrix.shape),
            "released": released_low_rank_frobenius_norm(matrix),
        }
        for layer, unfolding, matrix in _unfolded(model)
    ]
    return DataFrame(rows)


def unfoldings(model: Model) -> list[np.ndarray]:
    """Both unfoldings of every convolution, a row per input or output channel, at most as many
    rows as columns."""
    matrices = [matrix for *_, matrix in _unfolded(model)]
    return [matrix if len(matrix) <= matrix.shape[1] else matrix.T for matrix in matrices]


def _unfolded(model: Model) -> Iterator[tuple[str, str, np.ndarray]]:
    """Layer, name and matrix of both unfoldings, by input and by output, of every convolution."""
    for name, weight in model.network.state_dict().items():
        if weight.ndim == 4:
            kernel = weight.cpu().numpy()
            for unfolding, first in (("in", np.moveaxis(kernel, 1, 0)), ("out", kernel)):
                yield name.removesuffix(".weight"), unfolding, first.reshape(len(first), -1)


def low_rank_part(matrix: np.ndarray) -> np.ndarray:
    """The shrunk singular values of what this project takes for the signal of a matrix.

    matrix: (rows, columns), rows <= columns.
    """
    values = np.linalg.svd(matrix.astype(float), compute_uv=False)
    [shrunk] = low_rank_values(values[None], *np.array(matrix.shape)[:, None])
    return shrunk[shrunk > 0]


def released_low_rank_part(matrix: np.ndarray) -> np.ndarray:
    """The same as GenProb's process.py finds it, whose search ends within 1e-5 of weight^2.

    matrix: (rows, columns), rows <= columns.
    """
    rows, columns = matrix.shape
    values = np.linalg.svd(matrix.astype(float), compute_uv=False)
    squares, alpha = values**2, rows / columns
    tau_bar = TAU * math.sqrt(alpha)
    bound = (1 + tau_bar) * (1 + alpha / tau_bar)
    tail = squares[min(math.ceil(rows / (1 + alpha)) - 1, rows) :]

    def free_energy(variance):
        x = squares / (columns * variance)
        signal = x[x > bound]
        middle = signal - (1 + alpha)
        tau = (middle + np.sqrt(middle**2 - 4 * alpha)) / 2
        gain = np.log1p(tau) + alpha * np.log1p(tau / alpha) - tau
        return (x - np.log(x)).sum() + gain.sum()

    low = max(tail[0] / (columns * bound), tail.mean() / columns)
    between = (low, squares.sum() / (rows * columns))
    variance = minimize_scalar(free_energy, bounds=between, method="bounded").x
    kept = values[squares > columns * variance * bound]
    sides = 1 - (rows + columns) * variance / kept**2
    return kept / 2 * (sides + np.sqrt(sides**2 - 4 * rows * columns * variance**2 / kept**4))


def released_total_variation(activations: np.ndarray) -> float:
    """DEMOGEN's total_variation_util.py: the root of summed variances, over the number of images.

    activations: (images, units).
    """
    return float(np.sqrt(activations.var(axis=0).sum()) / len(activations))


def released_last_runs(runs: Series) -> list[int]:
    """Positions that the zoo's filter_checkpoints keeps: a run's last row, once another run begins.

    runs: to which run each row belongs, rows of a run together and by epoch.
    """
    names = runs.tolist()
    return [row for row in range(len(names) - 1) if names[row] != names[row + 1]]


def graph_variation(adjacency: np.ndarray, signal: np.ndarray) -> float:
    """tr(Y' L Y) with L = I - D^-1/2 A D^-1/2, D the row sums; not negative if A is symmetric.

    adjacency: (n, n), entry (i, j) the edge from i to j. signal: (n, K).
    """
    root = 1 / np.sqrt(adjacency.sum(axis=1))
    laplacian = np.eye(len(adjacency)) - root[:, None] * adjacency * root
    return float(np.trace(signal.T @ laplacian @ signal))


def map_sides(network: nn.Sequential, side: int) -> Series:
    """The side of each stage's feature maps, for square images of three channels."""
    with torch.no_grad():
        outputs = stage_outputs(network, torch.zeros(1, 3, side, side))
    maps = {name: output.shape[-1] for name, output in outputs.items() if output.ndim == 4}
    return Series(maps, name="side")
