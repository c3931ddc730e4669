"""GenProb, the networks of Jaegerman et al. 2021 (In Search of Probeable Generalization Measures).

Small residual networks trained on CIFAR-10 and CIFAR-100 by seven optimizers, kept after each of 70
epochs, in one file an epoch: `<network>_<data set>_epoch_<E>.pth.tar`, E from 0. A file is a
checkpoint of PyTorch with `state_dict_network` and `performance_statistics`, where
`train_acc1_epoch_<E>`, `train_loss_epoch_<E>`, `test_acc1_epoch_<E>` and `test_loss_epoch_<E>` are
accuracies and cross-entropies of that epoch.

In the name of a network, `NIN` and five digits tell the width of its five cells. The rest of the
published names is not known to us; this project writes
`NIN<five digits>_<optimizer>_lr_<rate>_wd_<weight decay>`, in which the released code finds the
digits too. CIFAR-10, CIFAR-100 and Fashion-MNIST are written CIFAR10, CIFAR100 and FashionMNIST.
"""

import io
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from pandas import DataFrame, Series
from torch import Tensor, nn

from gengap import folders
from gengap.collection import COLUMNS, Collection
from gengap.collections.demogen import like_cifar
from gengap.collections.layers import Sum
from gengap.errors import GengapError, NotAvailable
from gengap.formats.images import load_images
from gengap.formats.state_dicts import (
    check_finite,
    read_checkpoint,
    read_state_dict,
    reading,
)
from gengap.formats.weight_modules import weights_only_network

OPTIMIZERS = ("SGD", "SGDP", "SAM", "RMSGD", "AdaM", "AdamP", "AdaBound")
# In file names -> name of the images, and mean and standard deviation of each of their channels,
# in units of 255: those that the released process.py names for CIFAR-10, though in lines that do
# not run; the customary ones for CIFAR-100; of Fashion-MNIST's training images, rounded.
DATASETS = {
    "CIFAR10": ("cifar10", (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)),
    "CIFAR100": ("cifar100", (129.3, 124.1, 112.4), (68.2, 65.4, 70.4)),
    "FashionMNIST": ("fashion_mnist", (72.9,) * 3, (90.0,) * 3),
}
FILE = re.compile(r"(.+)_([^_/]+)_epoch_(\d+)\.pth\.tar")
STATISTIC = re.compile(r"(train|test)_(acc1|loss)_epoch_(\d+)")
KINDS = {"acc1": "accuracy", "loss": "loss"}
RECORDED = COLUMNS[3:]  # what is recorded of an epoch
CODE = re.compile(r"NIN(\d{5})(?!\d)")
NUMBER = r"\d+(?:\.\d+)?(?:e-?\d+)?"
RATE = re.compile(rf"(?<![a-z])(?:lr|learning_rate)[_=]?({NUMBER})", re.IGNORECASE)
WEIGHT_DECAY = re.compile(rf"(?<![a-z])(?:wd|weight_decay)[_=]?({NUMBER})", re.IGNORECASE)
CELLS = 5


class GenProb(Collection):
    """GenProb: 480 networks of each of seven optimizers on two data sets, at each of 70 epochs.

    A family is `<optimizer>_<data set>`, the optimizer `unknown` where the name of a file does not
    tell it. A model is a network after one epoch; its id is `<family>/<network>/epoch_<E>`. Files
    may lie in the root or in folders below it, which then are part of the network's name. Of the
    hyper-parameters, `hp_width_0` to `hp_width_4` are the digits of the width code (digit d means
    40 + 8 d channels in the published networks); what a name does not tell is NaN.

    Accuracies are percentages in a family where any is above 1, else fractions. The sample is the
    whole training set, or the images beside the networks, in `<images>/` in the data set's own
    format, standardized with a fixed mean and deviation for each channel. A network of another
    architecture than `genprob_network` has weights only. The gap of the paper is test minus train
    accuracy, ours train minus test.

    Format: source/parsing_agent.py and source/qc_nin.py in mahdihosseini/GenProb. The weights were
    announced, and are not published as far as we know.
    """

    name = "genprob"
    expected_families = tuple(
        f"{optimizer}_{dataset}" for dataset in ("CIFAR10", "CIFAR100") for optimizer in OPTIMIZERS
    )

    def known_families(self) -> list[str]:
        return [*dict.fromkeys([*self.expected_families, *sorted(self._files)])]

    def family_files(self, family: str) -> tuple[Path, ...]:
        """One of the family's files, or what they would be called."""
        for epochs in self._files.get(family, {}).values():
            return tuple(epochs.values())[:1]
        optimizer, _, dataset = family.rpartition("_")
        return (self.root / f"*_{optimizer}_*_{dataset}_epoch_*.pth.tar",)

    def read_index(self) -> DataFrame:
        rows = [row for family in self.known_families() for row in self._rows(family)]
        return DataFrame(rows, columns=None if rows else COLUMNS)

    def read_network(self, record: Series) -> tuple[nn.Sequential, None]:
        family, network = record["family"], record["model_id"].rpartition("/")[0]
        file = self._files[family][network.removeprefix(f"{family}/")][int(record["epoch"])]
        state = read_state_dict(file)
        with reading(file):
            network = fitting_network(state)
            if network is not None:
                network.load_state_dict(state, assign=True)
            else:
                network = weights_only_network(state, "its architecture is not known, only weights")
            check_finite(network, record["model_id"])
        return network.to(self.device).eval(), None

    def read_sample(self, record: Series) -> tuple[Tensor, Tensor]:
        family = record["family"]
        dataset = family.rpartition("_")[2]
        if dataset not in DATASETS:
            known = ", ".join(DATASETS)
            raise NotAvailable(f"{family} has no training images: there are only those of {known}")
        folder = DATASETS[dataset][0]
        own = self.root if (self.root / folder).is_dir() else None
        try:
            images, labels = load_images(folder, "train", root=own, download=False)
        except GengapError as error:
            raise NotAvailable(f"{family} has no training images: {error}") from error
        inputs = network_inputs(images, dataset)
        return inputs.to(self.device), torch.from_numpy(labels).to(self.device)

    def kept_table(self, name: str) -> DataFrame:
        """What training kept of every epoch of the index's networks, also of those without weights.

        name: `epochs`, the columns of the index, or `spectra`, model_id and the columns of
        `network_spectra`. Empty where no `<family>/<name>.parquet` lies beside the networks, as
        beside the published ones.
        """
        files = sorted(self.root.glob(f"*/{name}.parquet"))
        rows = [folders.read_table(file) for file in files]
        if not rows:
            return DataFrame(columns=["model_id"])
        found = pd.concat(rows, ignore_index=True)
        networks = network_of(self.index()["model_id"]).unique()
        return found[network_of(found["model_id"]).isin(networks)].reset_index(drop=True)

    @cached_property
    def _files(self) -> dict[str, dict[str, dict[int, Path]]]:
        """Family -> network -> epoch -> file."""
        families = defaultdict(lambda: defaultdict(dict))
        for file in self.root.rglob("*.pth.tar"):
            found = FILE.fullmatch(file.relative_to(self.root).as_posix())
            if found and not file.name.startswith("."):
                network, dataset, epoch = found.groups()
                family = f"{optimizer_in(network) or 'unknown'}_{dataset}"
                families[family][network][int(epoch)] = file
        return {family: dict(networks) for family, networks in families.items()}

    def _rows(self, family: str) -> list[dict]:
        networks = self._files.get(family, {})
        recorded = {network: records_of(networks[network]) for network in sorted(networks)}
        unit = accuracy_unit(family, recorded)
        return [
            {"model_id": f"{family}/{network}/epoch_{epoch}", "family": family, "epoch": epoch}
            | {name: v / unit if "accuracy" in name else v for name, v in record.items()}
            | hyper_parameters(network)
            for network, records in recorded.items()
            for epoch, record in records.items()
        ]


def network_of(model_ids: Series) -> Series:
    """The part of each model id that all epochs of a network share: `<family>/<network>`."""
    return model_ids.str.rpartition("/")[0]


def optimizer_in(network: str) -> str | None:
    """The optimizer that the name of a network, or of a folder above it, tells."""
    known = {optimizer.lower(): optimizer for optimizer in OPTIMIZERS}
    parts = re.split(r"[_=/-]", network.lower())
    return next((known[part] for part in parts if part in known), None)


def hyper_parameters(network: str) -> dict[str, float | str]:
    """Index columns of what a network's name tells; NaN for what it does not."""
    code, rate, decay = (kind.search(network) for kind in (CODE, RATE, WEIGHT_DECAY))
    widths = code[1] if code else [math.nan] * CELLS
    return {
        "hp_optimizer": optimizer_in(network) or math.nan,
        "hp_learning_rate": float(rate[1]) if rate else math.nan,
        "hp_weight_decay": float(decay[1]) if decay else math.nan,
    } | {f"hp_width_{cell}": float(digit) for cell, digit in enumerate(widths)}


def records_of(files: Mapping[int, Path]) -> dict[int, dict[str, float]]:
    """Epoch -> accuracies and losses of one network, for the epochs that have a file.

    A trainer that keeps its statistics from epoch to epoch leaves all in the last file, so the last
    is read first, and another only for what is still missing.
    """
    records = {}
    for epoch in sorted(files, reverse=True):
        if epoch not in records:
            found = read_statistics(files[epoch])
            if epoch not in found:
                raise GengapError(
                    f"{files[epoch]} lacks accuracies or losses of epoch {epoch} in its"
                    " performance_statistics; get it again"
                )
            records |= found
    return {epoch: records[epoch] for epoch in sorted(files)}


def read_statistics(file: Path) -> dict[int, dict[str, float]]:
    """Epoch -> the columns RECORDED, in the file's own unit; only epochs that have all."""
    checkpoint = read_checkpoint(file, mapped=True)
    epochs = defaultdict(dict)
    with reading(file):
        for name, value in checkpoint["performance_statistics"].items():
            if found := STATISTIC.fullmatch(name):
                split, kind, epoch = found.groups()
                epochs[int(epoch)][f"{split}_{KINDS[kind]}"] = float(value)
    whole = {epoch: found for epoch, found in epochs.items() if len(found) == len(RECORDED)}
    return {epoch: {name: found[name] for name in RECORDED} for epoch, found in whole.items()}


def accuracy_unit(family: str, recorded: Mapping[str, Mapping[int, Mapping[str, float]]]) -> float:
    """What a family's accuracies are divided by: 100 if they are percentages, 1 if fractions.

    recorded: network -> epoch -> columns of the index.
    Raises: GengapError where no accuracy of one network is above 1, and one of another is.
    """
    percent = {
        network: any(max(r["train_accuracy"], r["test_accuracy"]) > 1 for r in records.values())
        for network, records in recorded.items()
    }
    if any(percent.values()) and not all(percent.values()):
        high, low = (next(n for n in percent if percent[n] is above) for above in (True, False))
        raise GengapError(
            f"{family}: {high} has accuracies above 1, in percent, and {low} has none; give all in"
            " percent or all as fractions"
        )
    return 100.0 if any(percent.values()) else 1.0


def network_inputs(images: np.ndarray, dataset: str) -> Tensor:
    """Inputs of GenProb's networks, float32 (N, 3, 32, 32), or (N, 3, 16, 16) of FashionMNIST.

    images: as `load_images` returns them; grey ones get a black frame and three equal channels.
    dataset: a key of DATASETS, whose mean and deviation standardize each channel. Fashion-MNIST,
    which only this project's networks have seen, is then halved, by means of 2 x 2 pixels.
    """
    _, mean, deviation = DATASETS[dataset]
    inputs = torch.from_numpy(np.moveaxis(like_cifar(images), 3, 1).astype(np.float32, order="C"))
    inputs -= torch.tensor(mean)[:, None, None]
    inputs /= torch.tensor(deviation)[:, None, None]
    return F.avg_pool2d(inputs, 2) if dataset == "FashionMNIST" else inputs


def genprob_network(planes: Sequence[int], classes: int) -> nn.Sequential:
    """A network of GenProb's family for inputs (N, 3, H, W); H and W are halved twice.

    planes: channels of the five cells, in the published networks 40 or 48 each; here any.
    The stages are a first convolution with 8 channels, cells (0, 2, 4), reductions (1, 3), a last
    normalization, the mean over all places, and a dense layer.

    Source: source/qc_nin.py of the release, with its names of parameters. The paper's table has
    maps of 18 x 18 and 9 x 9, the released code, as here, of 16 x 16 and 8 x 8. How weights were
    initialized was not released: PyTorch's defaults.
    Raises: GengapError unless five widths are given.
    """
    if len(planes) != CELLS:
        raise GengapError(f"got {len(planes)} widths, {list(planes)}; expected {CELLS}")
    network = nn.Sequential()
    stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
    network.add_module("stem", nn.Sequential(stem, nn.BatchNorm2d(8)))
    for number, (channels, width) in enumerate(zip([8, *planes], planes)):
        stage = Reduction(channels, width) if number % 2 else Cell(channels, width)
        network.add_module(f"cell{number}", stage)
    network.add_module("last_act", nn.Sequential(nn.BatchNorm2d(planes[-1]), nn.ReLU()))
    network.add_module("global_pooling", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    network.add_module("classifier", nn.Linear(planes[-1], classes))
    return network


class Cell(nn.Module):
    """Three nodes, each the sum of normalized convolutions of those before it and of the inputs."""

    def __init__(self, channels: int, planes: int):
        super().__init__()
        for number, inputs in enumerate([channels, channels, planes, planes, planes]):
            self.add_module(f"RELUConvBN{number}", relu_convolution(inputs, planes, 3))
        same = channels == planes
        self.shortcut = nn.Sequential() if same else relu_convolution(channels, planes, 1)
        self.sum = Sum()

    def forward(self, inputs: Tensor) -> Tensor:
        first = self.RELUConvBN0(inputs)
        second = self.RELUConvBN2(first) + self.RELUConvBN1(inputs)
        return self.sum(self.RELUConvBN3(second), self.RELUConvBN4(first), self.shortcut(inputs))


class Reduction(nn.Module):
    """Two normalized convolutions, the first with stride 2, beside the inputs at half the size."""

    def __init__(self, channels: int, planes: int):
        super().__init__()
        self.conv_a = relu_convolution(channels, planes, 3, stride=2)
        self.conv_b = relu_convolution(planes, planes, 3)
        pointwise = nn.Conv2d(channels, planes, 1, bias=False)
        self.down_sample = nn.Sequential(nn.AvgPool2d(2), pointwise)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.conv_b(self.conv_a(inputs)) + self.down_sample(inputs)


def relu_convolution(channels: int, planes: int, size: int, stride: int = 1) -> nn.Sequential:
    """ReLU, a convolution that keeps the size but for its stride, batch normalization."""
    kernel = nn.Conv2d(channels, planes, size, stride=stride, padding=size // 2, bias=False)
    return nn.Sequential(nn.ReLU(), kernel, nn.BatchNorm2d(planes))


def fitting_network(state: Mapping[str, Tensor]) -> nn.Sequential | None:
    """The network with a state dict's names and shapes, without weights; None if there is none."""
    firsts = [f"cell{i}.{'conv_a' if i % 2 else 'RELUConvBN0'}.1.weight" for i in range(CELLS)]
    if not {*firsts, "classifier.weight"} <= state.keys():
        return None
    planes, classes = [len(state[first]) for first in firsts], len(state["classifier.weight"])
    with torch.device("meta"):
        network = genprob_network(planes, classes)
    return network if shapes(network.state_dict()) == shapes(state) else None


def shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    """Name -> shape, but for the counters of batches, which old files lack."""
    counter = "num_batches_tracked"
    return {name: tensor.shape for name, tensor in state.items() if not name.endswith(counter)}


def network_name(
    widths: Sequence[int], optimizer: str, *, learning_rate: float, weight_decay: float
) -> str:
    """What this project calls a network; widths: the five digits of its code."""
    if len(widths) != CELLS or not all(0 <= digit <= 9 for digit in widths):
        raise GengapError(f"the width code {list(widths)} is not of five digits from 0 to 9")
    if optimizer not in OPTIMIZERS:
        raise GengapError(f"no optimizer {optimizer!r}; there are: {', '.join(OPTIMIZERS)}")
    code = "".join(map(str, widths))
    return f"NIN{code}_{optimizer}_lr_{learning_rate:g}_wd_{weight_decay:g}"


def checkpoint_file(root: Path, network: str, dataset: str, epoch: int) -> Path:
    """The file of a network after an epoch."""
    return root / f"{network}_{dataset}_epoch_{epoch}.pth.tar"


def write_checkpoint(
    file: Path, state: Mapping[str, Tensor], records: Mapping[int, Mapping[str, float]]
) -> None:
    """Write a network after an epoch, in the published format; the file is whole or not there.

    state: its state dict. records: epoch -> train_accuracy, test_accuracy (fractions), train_loss
    and test_loss (nats), for all epochs so far, so that the index opens only a network's last file.
    """
    statistics = {
        f"{split}_{kind}_epoch_{epoch}": float(record[f"{split}_{column}"])
        for epoch, record in records.items()
        for split in ("train", "test")
        for kind, column in KINDS.items()
    }
    content = {"state_dict_network": packed(state), "performance_statistics": statistics}
    # In memory first: a name of the file in it would make equal networks into unequal bytes.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    folders.write_atomically(file, lambda path: path.write_bytes(buffer.getbuffer()))


def packed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU that share one storage for each type.

    A view would be written with all of its storage, and each storage takes some 300 bytes of a
    file: most of a file of small layers.
    """
    names = defaultdict(list)
    for name, tensor in state.items():
        names[tensor.dtype].append(name)
    copies = {}
    for of_type in names.values():
        flat = torch.cat([state[name].detach().cpu().flatten() for name in of_type])
        parts = flat.split([state[name].numel() for name in of_type])
        copies |= {name: part.view(state[name].shape) for name, part in zip(of_type, parts)}
    return {name: copies[name] for name in state}
