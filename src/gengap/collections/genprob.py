"""GenProb, the networks of Jaegerman et al. 2021 (In Search of Probeable Generalization Measures).

Small residual networks trained on CIFAR-10 and CIFAR-100 by seven optimizers, kept after each of 70
epochs, in one file an epoch: `<network>_<data set>_epoch_<E>.pth.tar`, E from 0. A file is a
checkpoint of PyTorch with `state_dict_network` and `performance_statistics`, where
`train_acc1_epoch_<E>`, `train_loss_epoch_<E>`, `test_acc1_epoch_<E>` and `test_loss_epoch_<E>` are
accuracies and cross-entropies of that epoch. Zip files are read as if what they hold lay in their
place, so that this project's networks are one file each, with what training kept of them.

In the name of a network, `NIN` and five digits tell the width of its five cells. The rest of the
published names is not known to us; this project writes
`NIN<five digits>_<optimizer>_lr_<rate>_wd_<weight decay>`, in which the released code finds the
digits too. CIFAR-10, CIFAR-100 and Fashion-MNIST are written CIFAR10, CIFAR100 and FashionMNIST.
"""

import io
import math
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from pandas import DataFrame, Series
from torch import Tensor, nn

from gengap.collection import RECORDED, Collection
from gengap.collections.genprob_networks import CELLS, genprob_network
from gengap.errors import GengapError, NotAvailable
from gengap.formats.containers import Member, files_below
from gengap.formats.images import image_counts, like_cifar, training_set
from gengap.formats.places import Place, naming, read_json
from gengap.formats.state_dicts import check_finite, read_checkpoint, read_state_dict, reading
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
SETTINGS = "training.json"  # of a family, from training: how many images were tested
SPECTRA = "spectra.parquet"  # how the names of tables of kept spectra end
FILE = re.compile(r"(.+)_([^_/]+)_epoch_(\d+)\.pth\.tar")
STATISTIC = re.compile(r"(train|test)_(acc1|loss)_epoch_(\d+)")
KINDS = {"acc1": "accuracy", "loss": "loss"}
CODE = re.compile(r"NIN(\d{5})(?!\d)")
NUMBER = r"\d+(?:\.\d+)?(?:e-?\d+)?"
RATE = re.compile(rf"(?<![a-z])(?:lr|learning_rate)[_=]?({NUMBER})", re.IGNORECASE)
WEIGHT_DECAY = re.compile(rf"(?<![a-z])(?:wd|weight_decay)[_=]?({NUMBER})", re.IGNORECASE)


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
    expected_families = tuple(f"{name}_CIFAR{n}" for n in (10, 100) for name in OPTIMIZERS)

    def known_families(self) -> list[str]:
        return [*dict.fromkeys([*self.expected_families, *sorted(self._files)])]

    def family_files(self, family: str) -> tuple[Path, ...]:
        """One of the family's files, or what they would be called."""
        for epochs in self._files.get(family, {}).values():
            file = next(iter(epochs.values()))
            return (file.container if isinstance(file, Member) else file,)
        optimizer, _, dataset = family.rpartition("_")
        return (self.root / f"*_{optimizer}_*_{dataset}_epoch_*.pth.tar",)

    def weight_files(self, record: Mapping[str, object]) -> tuple[Place, ...]:
        file = self._file_of(record)
        return (zipfile.Path(file.container, file.name) if isinstance(file, Member) else file,)

    def read_index(self) -> DataFrame:
        return DataFrame([row for name in self.known_families() for row in self._rows(name)])

    def read_network(self, record: Series) -> tuple[nn.Sequential, None]:
        file = self._file_of(record)
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
        images, labels = training_set(*self._images_of(dataset), family)
        inputs = network_inputs(images, dataset)
        return inputs.to(self.device), torch.from_numpy(labels).to(self.device)

    def read_trajectory(self, record: Series) -> DataFrame:
        found = last_statistics(self._files_of(record))
        epochs = range(record["epoch"] + 1)
        if not found.keys() >= {*epochs}:
            raise NotAvailable("the last file of this network does not tell of all its epochs")
        losses = [found[epoch]["train_loss"] for epoch in epochs]
        return DataFrame({"epoch": epochs, "train_loss": losses})

    def _images_of(self, dataset: str) -> tuple[str, Path | None]:
        """What load_images calls a data set, and the folder where its images lie beside these."""
        folder = DATASETS[dataset][0] if dataset in DATASETS else ""
        return folder, self.root if folder and (self.root / folder).is_dir() else None

    def _file_of(self, record: Mapping[str, Any] | Series) -> Path | Member:
        return self._files_of(record)[int(record["epoch"])]

    def _files_of(self, record: Mapping[str, Any] | Series) -> dict[int, Path | Member]:
        """Epoch -> file of a row's network."""
        family, network = record["family"], record["model_id"].rpartition("/")[0]
        return self._files[family][network.removeprefix(f"{family}/")]

    def kept_epochs(self) -> DataFrame:
        """Every epoch of the index's networks, those without weights too: columns of the index.

        They are the epochs that a network's last file tells.
        """
        rows = [row for family in self._files for row in self._rows(family, kept=False)]
        epochs, ours = DataFrame(rows), network_of(self.index()["model_id"]).unique()
        return epochs[network_of(epochs["model_id"]).isin(ours)].reset_index(drop=True)

    def kept_spectra(self) -> Iterator[DataFrame]:
        """What training kept of the index's networks at every epoch, a table after the other.

        model_id and the columns of `network_spectra`, from files whose names end with
        spectra.parquet; there are none beside the published networks.
        """
        ours = network_of(self.index()["model_id"]).unique()
        for file in (file for name, file in self._found.items() if name.endswith(SPECTRA)):
            with reading(file):
                rows = pd.read_parquet(io.BytesIO(file.read_bytes()))
            rows = rows[network_of(rows["model_id"]).isin(ours)]
            if len(rows):
                yield rows.reset_index(drop=True)

    @cached_property
    def _found(self) -> dict[str, Path | Member]:
        return dict(files_below(self.root, (".pth.tar", SPECTRA)))

    @cached_property
    def _files(self) -> dict[str, dict[str, dict[int, Path | Member]]]:
        """Family -> network -> epoch -> file."""
        families: dict = defaultdict(lambda: defaultdict(dict))
        for name, file in self._found.items():
            if found := FILE.fullmatch(name):
                network, dataset, epoch = found.groups()
                family = f"{optimizer_in(network) or 'unknown'}_{dataset}"
                families[family][network][int(epoch)] = file
        return {family: dict(networks) for family, networks in families.items()}

    def _rows(self, family: str, *, kept: bool = True) -> list[dict]:
        """The index's rows of a family; unless `kept`, of all epochs that its last files tell."""
        networks = self._files.get(family, {})
        told = records_of if kept else last_statistics
        recorded = {network: told(networks[network]) for network in sorted(networks)}
        unit = accuracy_unit(family, recorded)
        counts = image_counts(*self._images_of(family.rpartition("_")[2]))
        few, whole = self._tested(family)
        of_few = counts | {"test_images": few}
        return [
            {"model_id": f"{family}/{network}/epoch_{epoch}", "family": family, "epoch": epoch}
            | {name: v / unit if "accuracy" in name else v for name, v in record.items()}
            | (of_few if few and epoch not in whole else counts)
            | hyper_parameters(network)
            for network, records in recorded.items()
            for epoch, record in records.items()
        ]

    def _tested(self, family: str) -> tuple[int | None, set[int]]:
        """How many images most epochs were tested on, and the epochs tested on all."""
        file = self.root / family / SETTINGS
        if not file.exists():  # as beside the published networks
            return None, set()
        settings = read_json(file)
        with naming(file):
            whole = {*settings.get("tested_whole", ()), settings["epochs"] - 1}
            return settings.get("tested"), whole


def network_of(model_ids: Series) -> Series:
    """The part of each model id that all epochs of a network share: `<family>/<network>`."""
    return model_ids.str.rsplit("/", n=1).str[0]


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


def last_statistics(files: Mapping[int, Path | Member]) -> dict[int, dict[str, float]]:
    """Epoch -> accuracies and losses of one network that its last file tells."""
    return dict(sorted(read_statistics(files[max(files)]).items()))


def records_of(files: Mapping[int, Path | Member]) -> dict[int, dict[str, float]]:
    """Epoch -> accuracies and losses of one network, for the epochs that have a file.

    A trainer that keeps its statistics from epoch to epoch leaves all in the last file, so the last
    is read first, and another only for what is still missing.
    """
    records: dict[int, dict[str, float]] = {}
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


def read_statistics(file: Path | Member) -> dict[int, dict[str, float]]:
    """Epoch -> the columns RECORDED, in the file's own unit; only epochs that have all."""
    checkpoint = read_checkpoint(file, mapped=True)
    epochs: dict[int, dict[str, float]] = defaultdict(dict)
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


def checkpoint_name(network: str, dataset: str, epoch: int) -> str:
    """The name of the file of a network after an epoch."""
    return f"{network}_{dataset}_epoch_{epoch}.pth.tar"


def checkpoint(state: Mapping[str, Tensor], records: Mapping[int, Mapping[str, float]]) -> bytes:
    """The file of a network after an epoch, in the published format.

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
    # In memory: a name of the file in it would make equal networks into unequal bytes.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def packed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU that share one storage for each type.

    A view would be written with all of its storage, and each storage takes some 300 bytes of a
    file: most of a file of small layers.
    """
    names = defaultdict(list)
    for name, tensor in state.items():
        names[tensor.dtype].append(name)
    copies: dict[str, Tensor] = {}
    for of_type in names.values():
        flat = torch.cat([state[name].detach().cpu().flatten() for name in of_type])
        parts = flat.split([state[name].numel() for name in of_type])
        copies |= {name: part.view(state[name].shape) for name, part in zip(of_type, parts)}
    return {name: copies[name] for name in state}
