"""The Small CNN Zoo (Unterthiner et al. 2020, arXiv 2002.11448): 4 x 30,000 tiny image classifiers.

One folder a data set, with `weights.npy` (rows x 4970), `metrics.csv.gz` and `layout.csv`, or with
parts, zip files that hold these three each (`cnnzoo_parts`); a row is one network at one
checkpoint. A network is three times [convolution 3x3, 16 channels, stride 2, valid; ReLU or tanh;
dropout], a global average pool and a dense layer to ten classes; inputs are grey images in [-1, 1].
"""

import gzip
import io
import math
import mmap
import re
import warnings
import zipfile
from collections import OrderedDict
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from pandas import DataFrame, Series
from torch import Tensor, nn

from gengap.collection import RECORDED, Collection, last_epoch
from gengap.collections.cnnzoo_parts import Parts, header_in, part_files
from gengap.errors import GengapError, NotAvailable
from gengap.formats.csv_tables import read_columns
from gengap.formats.images import embedded_images, image_counts, load_images, network_inputs
from gengap.formats.places import Place, gunzipped, naming, open_zip

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
DATASETS = ("mnist", "fashion_mnist", "cifar10", "svhn_cropped")
FILES = ("weights.npy", "metrics.csv.gz", "layout.csv")
METRICS = ("step", "test_accuracy", "test_loss", "train_accuracy", "train_loss")
HYPER_PARAMETERS = (
    "activation",
    "b_init",
    "dropout",
    "init_std",
    "l2reg",
    "learning_rate",
    "optimizer",
    "train_fraction",
    "w_init",
)
ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh}
SAMPLE_FRACTION = 0.1  # the smallest train_fraction: every network was trained on these images
LARGEST_STEP = 10**6  # epochs
ADVICE = "fetch it again."
STATISTICS = ("p0", "p25", "p50", "p75", "p100", "std", "mean")


class SmallCNNZoo(Collection):
    """Small CNN Zoo: 270,000 rows a data set (30,000 networks x 9 checkpoints), 4,970 weights each.

    A family is a data set. Index columns beyond the common ones: `train_images` (the fraction of
    the data set that a network was trained on) and `test_images`, `run` (checkpoints of one network
    share it), `row` (in the weight matrix) and the hyper-parameters `hp_*` of the published table.
    Rows whose recorded loss or accuracy is not finite are left out of the index and reported.

    Format: README of google-research/dnn_predict_accuracy. Licence of the published data: CC BY
    4.0.
    """

    whole: "SmallCNNZoo"
    name = "cnnzoo"
    expected_families = DATASETS

    def family_files(self, family: str) -> tuple[Path, ...]:
        plain = [self.root / family / name for name in FILES]
        return tuple(part_files(self.root / family) or plain)

    def read_index(self) -> DataFrame:
        present = [f for f in DATASETS if all(path.exists() for path in self.family_files(f))]
        parts = [read_family_index(self.root / family, family) for family in present]
        return pd.concat(parts, ignore_index=True) if parts else DataFrame()

    def weights(self, index: DataFrame) -> np.ndarray:
        """The weight rows of an index (or part of one), (N, 4970) float32, in its order.

        A row may hold values that are not finite: see `finite_rows`.
        """
        result = np.empty((len(index), PARAMETERS), np.float32)
        for family, rows in index.reset_index(drop=True).groupby("family")["row"]:
            result[rows.index] = self._matrix(family)[rows.to_numpy()]
        return result

    def last_networks(self) -> tuple[DataFrame, np.ndarray]:
        """The networks at their last epoch whose weights are finite, with these, (N, 4970)."""
        index = last_epoch(self.index())
        weights = self.weights(index)
        finite = finite_rows(weights)
        return index[finite].reset_index(drop=True), weights[finite]

    def read_network(self, record: Series) -> tuple[nn.Sequential, dict[str, Tensor] | None]:
        weights = self._matrix(record["family"])[record["row"]]
        if not np.isfinite(weights).all():
            raise NotAvailable(f"{record['model_id']} has weights that are not finite: it diverged")
        with naming(record["model_id"], ADVICE):
            network = small_cnn(record["hp_activation"], record["hp_dropout"]).to(self.device)
        network.load_state_dict(self._state(weights))
        first = self._initial_rows.get((record["family"], record["run"]))
        initial = None if first is None else self._matrix(record["family"])[first]
        return network.eval(), None if initial is None else self._state(initial)

    def read_sample(self, record: Series) -> tuple[Tensor, Tensor]:
        """The first tenth of the training images: every network of the family was trained on it."""
        pixels, labels = first_training_images(record["family"])
        inputs = torch.from_numpy(network_inputs(pixels)).to(self.device)
        return inputs, torch.from_numpy(labels).to(self.device)

    def read_trajectory(self, record: Series) -> DataFrame:
        index = self.whole._index
        until = index[(index["family"] == record["family"]) & (index["epoch"] <= record["epoch"])]
        own = until[until["run"] == record["run"]].sort_values("epoch")
        if len(own) < until["epoch"].nunique():
            raise NotAvailable("a loss of this network's earlier epochs is not finite")
        return own[["epoch", "train_loss"]]

    def _state(self, weights: np.ndarray) -> dict[str, Tensor]:
        return {name: t.to(self.device) for name, t in state_dict(weights).items()}

    def _matrix(self, family: str) -> np.ndarray | Parts:
        folder, parts = self.root / family, self.whole._parts
        if family not in parts:
            parts[family] = Parts(part_files(folder))
        return parts[family] if parts[family].files else open_matrix(folder / "weights.npy")

    @cached_property
    def _parts(self) -> dict[str, Parts]:
        return {}

    @cached_property
    def _initial_rows(self) -> dict[tuple[str, str], int]:
        start = self.whole.index().query("epoch == 0")
        return dict(zip(zip(start["family"], start["run"]), start["row"]))


def finite_rows(weights: np.ndarray) -> np.ndarray:
    """Which rows are finite throughout, (N,) bool; reads a thousand rows at a time."""
    blocks = range(0, len(weights), 1024)
    parts = [np.isfinite(weights[i : i + 1024]).all(axis=1) for i in blocks]
    return np.concatenate(parts) if parts else np.empty(0, bool)


def read_family_index(folder: Path, family: str) -> DataFrame:
    """The index of one data set, read from its metrics; of the weights only the header is read."""
    parts = part_files(folder)
    if parts:
        metrics = pd.concat([_part_metrics(part) for part in parts], ignore_index=True)
    else:
        metrics = _metrics_in(folder, len(open_matrix(folder / "weights.npy")))
    rows = len(metrics)
    index = DataFrame({"model_id": [f"{family}/{row}" for row in range(rows)], "family": family})
    index["epoch"] = metrics["step"].astype(int)
    index[RECORDED] = metrics[RECORDED]
    counts = image_counts(family)
    index["test_images"] = counts["test_images"]
    index["train_images"] = (metrics["config.train_fraction"] * counts["train_images"]).round()
    index["run"] = _runs(metrics)
    index["row"] = range(rows)
    for name in HYPER_PARAMETERS:
        index[f"hp_{name}"] = metrics[f"config.{name}"]
    finite = np.isfinite(index[RECORDED]).all(axis=1)
    if not finite.all():
        left_out = ", ".join(index["model_id"][~finite][:3])
        warnings.warn(
            f"{family}: {(~finite).sum()} of {rows} rows have a loss or accuracy that is not finite"
            f" and are left out of the index ({left_out}, ...)."
        )
    return index[finite]


def _part_metrics(part: Path) -> DataFrame:
    shape, dtype = header_in(part)
    check_matrix(part, shape, dtype)
    with open_zip(part) as container:
        return _metrics_in(zipfile.Path(container), shape[0])


def _metrics_in(folder: Place, rows: int) -> DataFrame:
    """The table of a folder, or of a part, that has so many rows of weights."""
    check_layout(folder / "layout.csv")
    metrics = _read_metrics(folder / "metrics.csv.gz")
    if rows != len(metrics):
        raise GengapError(
            f"{folder} has {rows} rows of weights and {len(metrics)} of metrics: expected as many;"
            " fetch the data set again."
        )
    return metrics


def _read_metrics(file: Place) -> DataFrame:
    wanted = {*METRICS, "modeldir", *(f"config.{name}" for name in HYPER_PARAMETERS)}
    with naming(file, ADVICE):
        metrics = read_columns(gunzipped(file), wanted)
        if lacking := sorted(wanted - {"modeldir", *metrics.columns}):
            raise ValueError(f"it lacks the columns {', '.join(lacking)} of the published table")
        numbers = metrics.astype(dict.fromkeys([*METRICS, "config.train_fraction"], float))
        steps = numbers["step"]
        if not ((steps >= 0) & (steps < LARGEST_STEP) & (steps % 1 == 0)).all():
            raise ValueError("not every step is a whole number")
        return metrics


def _runs(metrics: DataFrame) -> Series:
    """Which rows are checkpoints of one network: its folder, or else its hyper-parameters."""
    if "modeldir" in metrics and metrics["modeldir"].notna().all():
        return metrics["modeldir"].astype(str)
    configuration = [f"config.{name}" for name in HYPER_PARAMETERS]
    return metrics.groupby(configuration, sort=False, dropna=False).ngroup().astype(str)


def check_layout(file: Place) -> None:
    """Raises GengapError unless the file describes LAYOUT, whatever it names the tensors."""
    with naming(file, ADVICE):
        wanted = ["start_idx", "end_idx", "shape"]
        table = read_columns(file.read_bytes(), wanted)[wanted].head(100)
        found = [
            (int(start), int(end), tuple(int(n) for n in re.findall(r"\d+", str(shape))))
            for start, end, shape in table.itertuples(index=False)
        ]
    expected = [(slot.start, slot.end, slot.shape) for slot in LAYOUT]
    if sorted(found) != expected:
        raise GengapError(
            f"{file} describes the tensors {found}, expected (start, end, shape) {expected}: this"
            " is not a table of the Small CNN Zoo."
        )


def open_matrix(file: Path) -> np.ndarray:
    """The weight matrix (rows, 4970), memory-mapped: only what is used is read."""
    with naming(file, "a NumPy matrix is expected, fetch it again."):
        matrix = np.lib.format.open_memmap(file, mode="r")
    check_matrix(file, matrix.shape, matrix.dtype)
    return matrix


def check_matrix(file: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Raises GengapError unless a file's matrix is one of weights."""
    if shape[1:] != (PARAMETERS,) or dtype != np.float32:
        raise GengapError(f"{file} holds {dtype} {shape}, expected float32 (rows, {PARAMETERS}).")


def first_training_images(dataset: str) -> tuple[np.ndarray, np.ndarray]:
    """The first tenth of a data set's training images and labels; NotAvailable without them."""
    if dataset == "fashion_mnist":
        return embedded_images(dataset, "train")
    try:
        pixels, labels = load_images(dataset, "train")
    except GengapError as error:
        raise NotAvailable(str(error)) from error
    count = round(len(labels) * SAMPLE_FRACTION)
    return pixels[:count], labels[:count]


def small_cnn(activation: str, dropout: float = 0.0) -> nn.Sequential:
    """The zoo's network, (N, 1, H, W) -> (N, 10) logits: stages h1, h2, h3, pooled, logits."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"hp_activation is {activation}, not {' or '.join(ACTIVATIONS)}")
    stages: dict[str, nn.Module] = {
        f"h{i}": nn.Sequential(
            nn.Conv2d(channels, 16, 3, stride=2), ACTIVATIONS[activation](), nn.Dropout(dropout)
        )
        for i, channels in enumerate((1, 16, 16), start=1)
    }
    stages["pooled"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    stages["logits"] = nn.Linear(16, CLASSES)
    return nn.Sequential(OrderedDict(stages))


def state_dict(weights: np.ndarray) -> dict[str, Tensor]:
    """One row of the matrix, (4970,), as the state of `small_cnn`: HWIO becomes OIHW."""
    flat = torch.from_numpy(np.array(weights, np.float32))
    tensors = [flat[slot.start : slot.end].reshape(slot.shape) for slot in LAYOUT]
    state = {}
    stages = ("h1.0", "h2.0", "h3.0", "logits")
    for stage, bias, kernel in zip(stages, tensors[::2], tensors[1::2]):
        state[f"{stage}.bias"] = bias
        state[f"{stage}.weight"] = kernel.T if kernel.ndim == 2 else kernel.permute(3, 2, 0, 1)
    return state


def weight_statistics(weights: np.ndarray | Tensor, *, rows_at_once: int | None = None):
    """Seven statistics of each of the eight tensors of each network.

    `weights` (N, 4970), an array (a memory map too) or a tensor on any device -> (N, 56) float64 of
    the same kind, tensor by tensor in the order of LAYOUT: percentiles 0, 25, 50, 75, 100 (linear
    interpolation), population standard deviation, mean. A tensor with a NaN has seven NaNs. Memory
    beside the result does not grow with N: `rows_at_once` rows are read, sorted and dropped, by
    default 128, which fit a CPU's cache, and 8,192 on a GPU.

    Source: Unterthiner et al. 2020, section 4, per-layer weight statistics (released notebook).
    Raises: ValueError for another shape.
    """
    if weights.ndim != 2 or weights.shape[1] != PARAMETERS:
        raise ValueError(f"weights have shape {tuple(weights.shape)}, expected (N, {PARAMETERS})")
    is_array = isinstance(weights, np.ndarray)
    device = "cpu" if is_array else weights.device
    rows_at_once = rows_at_once or (128 if torch.device(device).type == "cpu" else 8192)
    columns = len(LAYOUT) * len(STATISTICS)
    result = torch.empty(len(weights), columns, dtype=torch.float64, device=device)
    for first in range(0, len(weights), rows_at_once):
        read = weights[first : first + rows_at_once]
        rows = torch.from_numpy(np.array(read)) if isinstance(read, np.ndarray) else read
        parts = [vector_statistics(rows[:, slot.start : slot.end]) for slot in LAYOUT]
        torch.cat(parts, dim=1, out=result[first : first + len(rows)])
        _drop_mapped_pages(weights)
    return result.numpy() if is_array else result


def _drop_mapped_pages(weights: Any) -> None:
    """What was read of a mapped file counts as this process's memory until it is given back."""
    mapped = getattr(weights, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED") and not weights.flags.writeable:
        mapped.madvise(mmap.MADV_DONTNEED)


def vector_statistics(vectors: Tensor) -> Tensor:
    """The seven STATISTICS of each row: (N, n) -> (N, 7) float64."""
    ordered = _sort_rows(vectors)
    percentiles = [_percentile(ordered, percent) for percent in (0, 25, 50, 75, 100)]
    values = vectors.double()
    mean = values.mean(dim=1)
    std = (values - mean[:, None]).square().mean(dim=1).sqrt()
    statistics = torch.stack([*percentiles, std, mean], dim=1)
    statistics[mean.isnan()] = math.nan  # NaNs sort last: the percentiles would hide them
    return statistics


def _sort_rows(vectors: Tensor) -> Tensor:
    if vectors.device.type == "cpu":  # NumPy's vectorised sort is several times faster than torch's
        return torch.from_numpy(np.sort(vectors.numpy(), axis=1))
    return vectors.sort(dim=1).values


def _percentile(ordered: Tensor, percent: int) -> Tensor:
    position = percent / 100 * (ordered.shape[1] - 1)
    below, above = math.floor(position), math.ceil(position)
    low, high = ordered[:, below].double(), ordered[:, above].double()
    return low + (high - low) * (position - below)


def contents_of_zoo(weights: np.ndarray, metrics: DataFrame) -> dict[str, bytes]:
    """The published three files of `weights` (N, 4970) and `metrics` (N rows), by their names."""
    matrix = io.BytesIO()
    np.save(matrix, np.ascontiguousarray(weights, np.float32))
    layout = DataFrame(LAYOUT, columns=["varname", "start_idx", "end_idx", "shape"])
    table = metrics.to_csv(index=False).encode()
    packed = gzip.compress(table, mtime=0)  # neither time nor name: the same zoo is the same file
    contents = matrix.getvalue(), packed, layout.to_csv(index=False).encode()
    return dict(zip(FILES, contents))
