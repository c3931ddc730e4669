"""Singular values of layers, and what GenProb's measures take from them.

Source: Jaegerman et al. 2021 (GenProb), and its released process.py. A kernel (out, in, height,
width) is unfolded to two matrices: `in`, a row for each input channel, and `out`, a row for each
output channel. A dense layer is one matrix: its `in` and its `out` are the same. Biases and batch
norm do not count.
"""

from collections import defaultdict
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.special import entr
from torch import Tensor, nn

from gengap.errors import GengapError, NotAvailable
from gengap.measures.folding import Linear
from gengap.measures.low_rank import low_rank_values
from gengap.measures.shared import once_per_model
from gengap.model import Model

UNFOLDINGS = ("in", "out")
STATISTICS = (
    "knowledge_gain",
    "condition_number",
    "effective_rank",
    "spectral_norm",
    "frobenius_norm",
    "stable_quality",
    "rank",
)


def layer_spectra(weight: Tensor) -> pd.DataFrame:
    """What the singular values of one layer's weight, (out, in) or (out, in, ...), tell.

    Indexed by `unfolding` (in, out) and `low_rank`: False for the matrix as it is, True for its
    low-rank part (see `low_rank_values`). Of the n singular values s_1 >= ... >= s_n of a matrix
    with n rows (columns, if these are fewer), or of the r that are left in its low-rank part:

    knowledge_gain: sum_i s_i / s_1, over n in both. No unit, 0 to 1.
    condition_number: s_1 / s_n; s_1 / s_r of the low-rank part.
    effective_rank: -sum_i p_i ln p_i, p_i = s_i / sum_j s_j. The entropy itself, in nats.
    spectral_norm: s_1. Unit: weight.
    frobenius_norm: sqrt(sum_i s_i^2). Unit: weight.
    stable_quality: arctan2(knowledge_gain, 1 - 1 / condition_number). Unit: radian.
    rank: how many singular values are not 0.

    Without any singular value (weights all 0, or a low-rank part that is empty because all is taken
    for noise, as it always is of a single row) all are 0, as released. If some but not all are 0
    the condition number is infinite. A single one has condition number 1 and effective rank 0. All
    are NaN if a weight is infinite or NaN.

    Singular values are roots of eigenvalues of the Gram matrix, in float64 whatever the weight is:
    one of s_1 / k is exact to about k^2 1e-16 of itself (k = 1,000: 1e-10; 100,000: 1e-6), and
    below sqrt(M 2e-16) s_1, M the longer side, it is 0. Weights in float32 know it to k 1e-7.

    Source:
        Jaegerman et al. 2021 and its released code.

    Differs:
        there the Frobenius norm of the low-rank part is that of a wrong product, at times smaller
        than the spectral norm.

    Raises:
        GengapError: if the weight is not that of a layer.
    """
    statistics = np.stack(_statistics(_grams(weight)), axis=1)  # (matrices, 2, statistics)
    rows = np.broadcast_to(statistics, (2, 2, len(STATISTICS))).reshape(4, -1)
    index = pd.MultiIndex.from_product([UNFOLDINGS, [False, True]], names=["unfolding", "low_rank"])
    return pd.DataFrame(rows, index, list(STATISTICS))


def network_spectra(network: nn.Module) -> pd.DataFrame:
    """`layer_spectra` of all convolutions and dense layers, four rows a layer, in their order.

    Columns: layer (its name in the network), kind (conv, dense), unfolding, low_rank, size (the
    shorter side of the matrix), and those of `layer_spectra`. Decomposed on the weights' device,
    matrices of one shape at once. GenProb measures the convolutions alone.

    Raises:
        NotAvailable: if there is neither a convolution nor a dense layer.
    """
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, Linear)}
    if not layers:
        raise NotAvailable("this network has neither a convolution nor a dense layer")
    grams = [_grams(layer.weight) for layer in layers.values()]
    flat = [gram for of_layer in grams for gram in of_layer]
    last = np.cumsum([len(of_layer) for of_layer in grams]) - 1
    first = last + 1 - [len(of_layer) for of_layer in grams]
    chosen = np.stack([first, last], axis=1).ravel()  # the one matrix of a dense layer twice
    values = np.stack(_statistics(flat), axis=1)[chosen].reshape(-1, len(STATISTICS))
    names = {
        "layer": np.repeat(list(layers), 4),
        "kind": np.repeat([kind(layer) for layer in layers.values()], 4),
        "unfolding": np.tile(np.repeat(UNFOLDINGS, 2), len(layers)),
        "low_rank": np.tile([False, True], 2 * len(layers)),
        "size": np.repeat([len(flat[position].matrix) for position in chosen], 2),
    }
    return pd.DataFrame(names | dict(zip(STATISTICS, values.T, strict=True)))


@once_per_model
def model_spectra(model: Model) -> pd.DataFrame:
    """`network_spectra` of a model's network, decomposed once for all measures of it."""
    return network_spectra(model.network)


def spectra_rows(model: Model) -> pd.DataFrame:
    """The detail `spectra`: model_id, then the columns of `network_spectra`."""
    spectra = model_spectra(model)
    ids = pd.Series(model.record["model_id"], spectra.index, name="model_id")
    return pd.concat([ids, spectra], axis=1)


def kind(layer: nn.Module) -> str:
    return "dense" if isinstance(layer, nn.Linear) else "conv"


class Gram(NamedTuple):
    """The smaller Gram matrix of an (L, M) matrix, L <= M: all that its spectrum needs."""

    matrix: Tensor  # (L, L) float64
    longer: int  # M


def gram(matrix: Tensor) -> Gram:
    wide = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    wide = wide.double()
    return Gram(wide @ wide.T, wide.shape[1])


def _grams(weight: Tensor) -> list[Gram]:
    """Of the one matrix of a dense layer, or of the two of a kernel, `in` and `out`."""
    if weight.ndim < 2 or not weight.numel():
        raise GengapError(
            f"a weight of shape {tuple(weight.shape)} is not that of a layer; expected (out, in) or"
            " (out, in, height, width)"
        )
    weight = weight.detach().double()
    if weight.ndim == 2:
        return [gram(weight)]
    return [gram(weight.transpose(0, 1).flatten(1)), gram(weight.flatten(1))]


def _statistics(grams: list[Gram]) -> tuple[np.ndarray, np.ndarray]:
    """STATISTICS of matrices and of their low-rank parts, both (matrices, 7)."""
    rows, columns = np.array([(len(matrix), longer) for matrix, longer in grams]).T
    values = np.zeros((len(grams), rows.max()))
    for row, found in zip(values, singular_values(grams), strict=True):
        row[: len(found)] = found
    finite = np.isfinite(values[:, 0])
    known = np.where(finite[:, None], values, 0)
    parts = known, low_rank_values(known, rows, columns)
    ranks = rows, np.maximum((parts[1] > 0).sum(axis=1), 1)
    plain, low_rank = (
        np.where(finite[:, None], _of_values(part, rows, last), np.nan)
        for part, last in zip(parts, ranks, strict=True)
    )
    return plain, low_rank


def _of_values(values: np.ndarray, rows: np.ndarray, last: np.ndarray) -> np.ndarray:
    """STATISTICS (B, 7) of singular values (B, n); the smallest of each is its `last` (B,)."""
    largest, smallest = values[:, 0], values[np.arange(len(values)), last - 1]
    some = largest > 0
    shares = values / np.where(some, largest, 1)[:, None]
    total = shares.sum(axis=1)
    gain = total / rows
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = smallest / largest  # of the condition number, which may be infinite
        condition = largest / smallest
    entropy = entr(shares / np.where(some, total, 1)[:, None]).sum(axis=1)
    frobenius = largest * np.sqrt(np.square(shares).sum(axis=1))
    quality = np.arctan2(gain, 1 - inverse)
    rank = (values > 0).sum(axis=1)
    found = np.stack([gain, condition, entropy, largest, frobenius, quality, rank], axis=1)
    return np.where(some[:, None], found, 0)


def singular_values(grams: list[Gram]) -> list[np.ndarray]:
    """Singular values (L,) of each matrix, descending; NaN if an entry is infinite or NaN.

    Gram matrices of one size are decomposed together. How exact they are: see `layer_spectra`.
    """
    sizes = defaultdict(list)
    for position, (matrix, _) in enumerate(grams):
        sizes[len(matrix)].append(position)
    found: dict[int, np.ndarray] = {}
    for positions in sizes.values():
        matrices = torch.stack([grams[position].matrix for position in positions])
        longer = np.array([grams[position].longer for position in positions])
        found |= zip(positions, _roots_of_eigenvalues(matrices, longer), strict=True)
    return [found[position] for position in range(len(grams))]


def _roots_of_eigenvalues(grams: Tensor, longer: np.ndarray) -> np.ndarray:
    """(B, L, L), and the longer sides (B,) of what they are the Gram matrices of -> (B, L)."""
    traces = grams.diagonal(dim1=1, dim2=2).sum(dim=1)
    # A decomposition of what is not finite raises an error, for all matrices of the batch.
    ascending = torch.linalg.eigvalsh(torch.where(traces.isfinite()[:, None, None], grams, 0))
    squares, finite = ascending.cpu().numpy()[:, ::-1], traces.isfinite().cpu().numpy()
    rounding = longer[:, None] * np.finfo(float).eps * squares[:, :1]
    values = np.sqrt(np.where(squares > rounding, squares, 0))
    return np.where(finite[:, None], values, np.nan)
