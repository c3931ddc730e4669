"""The Small CNN Zoo (Unterthiner et al. 2020, arXiv 2002.11448): 4 x 30,000 tiny image classifiers.

One folder a data set, with `weights.npy` (rows x 4970), `metrics.csv.gz` and `layout.csv`; a row is
one network at one checkpoint.
"""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from gengap import folders

PARAMETERS = 4970
CLASSES = 10


class Slot(NamedTuple):
    """Where one tensor lies in a row of the weight matrix."""

    name: str
    start: int
    end: int
    shape: tuple[int, ...]  # kernels of convolutions HWIO, of the dense layer (in, out)


LAYOUT = (
    Slot("conv1/bias", 0, 16, (16,)),
    Slot("conv1/kernel", 16, 160, (3, 3, 1, 16)),
    Slot("conv2/bias", 160, 176, (16,)),
    Slot("conv2/kernel", 176, 2480, (3, 3, 16, 16)),
    Slot("conv3/bias", 2480, 2496, (16,)),
    Slot("conv3/kernel", 2496, 4800, (3, 3, 16, 16)),
    Slot("dense/bias", 4800, 4810, (10,)),
    Slot("dense/kernel", 4810, 4970, (16, 10)),
)
METRICS = ("step", "test_accuracy", "test_loss", "train_accuracy", "train_loss")
STATISTICS = ("p0", "p25", "p50", "p75", "p100", "std", "mean")


def weight_statistics(weights: np.ndarray | torch.Tensor, *, rows_at_once: int = 1024):
    """Seven statistics of each of the eight tensors of each network.

    `weights` (N, 4970), an array (a memory map too) or a tensor on any device -> (N, 56) float64 of
    the same kind, tensor by tensor in the order of LAYOUT: percentiles 0, 25, 50, 75, 100 (linear
    interpolation), population standard deviation, mean. A tensor with a NaN has seven NaNs. Memory
    beside the result does not grow with N: `rows_at_once` rows are read, sorted and dropped.

    Source: Unterthiner et al. 2020, section 4, per-layer weight statistics (released notebook).
    Raises: ValueError for another shape.
    """
    if weights.ndim != 2 or weights.shape[1] != PARAMETERS:
        raise ValueError(f"weights have shape {tuple(weights.shape)}, expected (N, {PARAMETERS})")
    is_array = isinstance(weights, np.ndarray)
    device = "cpu" if is_array else weights.device
    columns = len(LAYOUT) * len(STATISTICS)
    result = torch.empty(len(weights), columns, dtype=torch.float64, device=device)
    for first in range(0, len(weights), rows_at_once):
        rows = weights[first : first + rows_at_once]
        rows = torch.from_numpy(np.array(rows)) if is_array else rows
        parts = [vector_statistics(rows[:, slot.start : slot.end]) for slot in LAYOUT]
        torch.cat(parts, dim=1, out=result[first : first + len(rows)])
    return result.numpy() if is_array else result


def vector_statistics(vectors: torch.Tensor) -> torch.Tensor:
    """The seven STATISTICS of each row: (N, n) -> (N, 7) float64."""
    ordered = _sort_rows(vectors)
    percentiles = [_percentile(ordered, percent) for percent in (0, 25, 50, 75, 100)]
    values = vectors.double()
    mean = values.mean(dim=1)
    std = (values - mean[:, None]).square().mean(dim=1).sqrt()
    statistics = torch.stack([*percentiles, std, mean], dim=1)
    statistics[mean.isnan()] = math.nan  # NaNs sort last: the percentiles would hide them
    return statistics


def _sort_rows(vectors: torch.Tensor) -> torch.Tensor:
    if vectors.device.type == "cpu":  # NumPy's vectorised sort is several times faster than torch's
        return torch.from_numpy(np.sort(vectors.numpy(), axis=1))
    return vectors.sort(dim=1).values


def _percentile(ordered: torch.Tensor, percent: int) -> torch.Tensor:
    position = percent / 100 * (ordered.shape[1] - 1)
    below, above = math.floor(position), math.ceil(position)
    low, high = ordered[:, below].double(), ordered[:, above].double()
    return low + (high - low) * (position - below)


def write_zoo(folder: Path, weights: np.ndarray, metrics: pd.DataFrame) -> None:
    """Write `weights` (N, 4970) and `metrics` (N rows) as the published three files."""
    layout = pd.DataFrame(LAYOUT, columns=["varname", "start_idx", "end_idx", "shape"])
    matrix = np.ascontiguousarray(weights, np.float32)
    folders.write_atomically(folder / "weights.npy", lambda path: np.save(path, matrix))
    gzip = {"method": "gzip", "mtime": 0}  # no time stamp: the same zoo is the same file
    folders.write_atomically(
        folder / "metrics.csv.gz", lambda path: metrics.to_csv(path, index=False, compression=gzip)
    )
    folders.write_atomically(
        folder / "layout.csv", lambda path: layout.to_csv(path, index=False)
    )
