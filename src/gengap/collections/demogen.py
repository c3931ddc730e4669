"""DEMOGEN, the networks of Jiang et al. 2019 on margin distributions (arXiv 1810.00113).

756 networks of three families, NiN on CIFAR-10 and ResNet-32 on CIFAR-10 and CIFAR-100. Below the
folder that has `all_model_spec.json`, the grid of each family, a network is a folder
`<family>/<name that spells its hyper-parameters>/` with `train.json`, `eval.json` and its weights:
`model.ckpt-150000`, a checkpoint of TensorFlow 1, or in its place `model.safetensors` with the same
variables, named and laid out as in TensorFlow. In place of such a folder with model.safetensors
there may be a container, `<family>/<name>.zip`, with the folder in it.
"""

import math
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np
import torch
from pandas import DataFrame, Series
from safetensors.numpy import load, save
from torch import Tensor, nn

from gengap.collection import Collection
from gengap.collections.demogen_networks import in_fastest_format, nin, resnet32
from gengap.errors import GengapError
from gengap.formats.images import image_counts, like_cifar, per_image_standardization, training_set
from gengap.formats.places import Place, naming, open_zip, read_json
from gengap.formats.state_dicts import check_finite, fill
from gengap.formats.tf_checkpoint import read_checkpoint

SPEC = "all_model_spec.json"
CHECKPOINT = "model.ckpt-150000"
SAFETENSORS = "model.safetensors"
RECORDS = {"train": "train.json", "test": "eval.json"}
QUANTITIES = {"accuracy": "Accuracy", "loss": "CrossEntropy"}  # ours -> theirs
MOST_NETWORKS = 100_000  # in the grid of a family
DEEPEST = 8  # levels of folders, from the root, in which the tree is looked for
# Hyper-parameters in the order of a grid -> the values of those that a family's may leave out.
GRID = {
    "wide_multiplier": None,
    "batchnorm": [False],
    "normalization": ["batch"],
    "dropout_prob": [0.0],
    "augmentation": None,
    "decay_fac": None,
    "learning_rate": [0.01],
    "copy": None,
}
# Architecture -> the first kernel, whose outputs are the width, and the last bias, the classes.
ENDS = {
    "nin": ("nin/conv2d/kernel", "nin/conv2d_9/bias"),
    "resnet": ("resnet/conv2d/kernel", "resnet/dense/bias"),
}
# Layer -> its name in TensorFlow, and the names of its tensors here and there.
KERNEL = {"weight": "kernel", "bias": "bias"}
SCALE = {"weight": "gamma", "bias": "beta"}
MOVING = {"running_mean": "moving_mean", "running_var": "moving_variance"}
LAYERS = {
    nn.Conv2d: ("conv2d", KERNEL),
    nn.Linear: ("dense", KERNEL),
    nn.BatchNorm2d: ("batch_normalization", SCALE | MOVING),
    nn.GroupNorm: ("group_norm", SCALE),
}


class DEMOGEN(Collection):
    """DEMOGEN: 216 NiN and 540 ResNet-32, by width, normalization, regularization and copy.

    A family is a key of all_model_spec.json, `<architecture>_<data set>`. The index has the
    networks of its grid whose folders are complete, and warns of the others; train.json and
    eval.json give accuracies and cross-entropies, without weight decay. Epochs were not published
    and are NaN. A network is as wide, and has as many classes, as its weights say, so that narrower
    copies of the grid load like the published networks. `train_images` and `test_images` say how
    many the accuracies were taken over. The sample is the training set, each image
    standardized: of CIFAR the whole, of networks trained on other or fewer images those that lie
    beside them, in a folder `<data set>/` of the family or of all, in the data set's own format.

    Format: demogen/model_config.py in google-research/google-research.
    """

    name = "demogen"
    expected_families = ("NIN_CIFAR10", "RESNET_CIFAR10", "RESNET_CIFAR100")

    def known_families(self) -> list[str]:
        return [*dict.fromkeys([*self.expected_families, *self._grids])]

    def family_files(self, family: str) -> tuple[Path, ...]:
        return self._home / SPEC, self._home / family

    def weight_files(self, record: Mapping[str, object]) -> tuple[Place, ...]:
        return (files_of(self._home / str(record["model_id"])),)

    def read_index(self) -> DataFrame:
        if not (self._home / SPEC).is_file():
            raise GengapError(
                f"{self.root} has no {SPEC}, nor has a folder in it; give the unpacked archive"
            )
        rows = [row for family, grid in self._grids.items() for row in self._rows(family, grid)]
        return DataFrame(rows)

    def read_network(self, record: Series) -> tuple[nn.Sequential, None]:
        folder = self._home / record["model_id"]
        architecture = architecture_of(record["family"])
        width, classes = read_sizes(folder, architecture)
        with naming(weights_file(folder)), torch.device("meta"):
            network = network_of(architecture, width, record, classes)
        read_weights(folder, network, architecture)
        check_finite(network, record["model_id"])
        return in_fastest_format(network.to(self.device).eval()), None

    def read_sample(self, record: Series) -> tuple[Tensor, Tensor]:
        images, labels = training_set(*self._images_of(record["family"]), record["family"])
        inputs = torch.from_numpy(per_image_standardization(like_cifar(images)))
        return inputs.to(self.device), torch.from_numpy(labels).to(self.device)

    def _images_of(self, family: str) -> tuple[str, Path | None]:
        """The data set of a family, and the folder where images lie beside the networks."""
        dataset = family.partition("_")[2].lower()
        places = (self._home / family, self._home)
        return dataset, next((place for place in places if (place / dataset).is_dir()), None)

    @cached_property
    def _home(self) -> Path:
        return home_below(self.root)

    @cached_property
    def _grids(self) -> dict[str, dict[str, list]]:
        """Family -> hyper-parameter -> its values."""
        if not (self._home / SPEC).is_file():
            return {}
        grids = read_json(self._home / SPEC)
        with naming(self._home / SPEC):
            return {family: dict(grid) for family, grid in grids.items()}

    def _rows(self, family: str, grid: dict[str, list]) -> list[dict]:
        folder = self._home / family
        with naming(self._home / SPEC):
            networks = list(networks_of(family, grid))
        present = [network for network in networks if is_complete(folder / network[0])]
        if len(present) < len(networks) and folder.is_dir():  # families() names a lacking family
            warnings.warn(
                f"{family}: {len(networks) - len(present)} of {len(networks)} networks are missing"
                " or incomplete and are left out of the index."
            )
        counts = image_counts(*self._images_of(family))
        return [
            {"model_id": f"{family}/{name}", "family": family, "epoch": math.nan}
            | read_records(folder / name)
            | counts
            | hyper_parameters
            for name, hyper_parameters in present
        ]


def home_below(root: Path) -> Path:
    """The folder with all_model_spec.json that is nearest to the root; else the root itself."""
    level = [root] if root.is_dir() else []
    for _ in range(DEEPEST):
        if homes := [folder for folder in level if (folder / SPEC).is_file()]:
            return homes[0]
        level = [child for folder in level for child in sorted(folder.iterdir()) if child.is_dir()]
    return root


def architecture_of(family: str) -> str:
    """What a family's name begins with: nin or resnet."""
    architecture = family.partition("_")[0].lower()
    if architecture not in ENDS:
        raise GengapError(f"the family {family} is none of {' or '.join(ENDS)}")
    return architecture


def network_of(architecture: str, width: int, columns: Mapping, classes: int) -> nn.Sequential:
    """A network, with PyTorch's own weights; columns: of the index, hp_*."""
    normalization = columns["hp_normalization"]
    if architecture == "nin":
        return nin(width, normalization == "batch", columns["hp_dropout"], classes)
    return resnet32(width, normalization, classes)


def networks_of(family: str, grid: dict[str, list]) -> Iterator[tuple[str, dict]]:
    """Folder and index columns of each network of a family.

    grid: hyper-parameter -> its values, as all_model_spec.json has it.
    """
    architecture = architecture_of(family)
    grid = {name: values for name, values in GRID.items() if values} | grid
    if (networks := math.prod(len(grid[name]) for name in GRID)) > MOST_NETWORKS:
        raise ValueError(f"a grid of {float(networks):g} networks")
    for values in product(*(grid[name] for name in GRID)):
        wide, batch_norm, normalization, dropout, augmentation, decay, rate, copy = values
        if architecture == "nin":
            normalization = "batch" if batch_norm else "none"
        columns = {
            "hp_wide_multiplier": float(wide),
            "hp_normalization": normalization,
            "hp_dropout": float(dropout),
            "hp_augmentation": bool(augmentation),
            "hp_decay_fac": float(decay),
            "hp_learning_rate": float(rate),
            "hp_copy": int(copy),
        }
        yield folder_name(architecture, columns), columns


def folder_name(architecture: str, columns: dict) -> str:
    """The folder of the network with these hyper-parameters; what is off leaves a double _."""
    normalization, rate = columns["hp_normalization"], columns["hp_learning_rate"]
    parts = [architecture, f"wide_{columns['hp_wide_multiplier']}x"]
    if architecture == "nin":
        parts += ["bn" if normalization == "batch" else "", f"dropout_{columns['hp_dropout']}"]
    else:
        parts += [f"{normalization}norm"]
    parts += ["aug" if columns["hp_augmentation"] else "", f"decay_{columns['hp_decay_fac']}"]
    if architecture == "resnet" and rate != 0.01:
        parts += [f"lr_{rate}"]
    return "_".join([*parts, str(columns["hp_copy"])])


def container_of(folder: Path) -> Path:
    """The zip file that may take the place of a network's folder."""
    return folder.with_name(f"{folder.name}.zip")


def files_of(folder: Path) -> Place:
    """Where a network's files are read: its folder, or the folder in its container."""
    container = container_of(folder)
    if folder.is_dir() or not container.exists():
        return folder
    with naming(container):
        return zipfile.Path(open_zip(container), f"{folder.name}/")


def is_complete(folder: Path) -> bool:
    """Whether a network's folder, or its container, has its records and its weights."""
    place = files_of(folder)
    files = {file.name for file in place.iterdir()} if place.is_dir() else set()
    data = isinstance(place, Path) and any(f.startswith(f"{CHECKPOINT}.data-") for f in files)
    weights = SAFETENSORS in files or (data and f"{CHECKPOINT}.index" in files)
    return weights and files.issuperset(RECORDS.values())


def read_records(folder: Path) -> dict[str, float]:
    """Accuracies (fractions) and cross-entropies (nats) of the training and the test images."""
    place = files_of(folder)
    records = {split: read_json(place / name) for split, name in RECORDS.items()}
    columns = {}
    for (column, key), (split, record) in product(QUANTITIES.items(), records.items()):
        with naming(place / RECORDS[split]):
            if type(record[key]) not in (int, float):
                raise ValueError(f"its {key} is {record[key]!r:.100}, not a number")
            columns[f"{split}_{column}"] = float(record[key])
    return columns


def tensorflow_names(network: nn.Sequential, architecture: str) -> dict[str, str]:
    """Name in network.state_dict() -> name of the variable in TensorFlow.

    Layers of a kind are numbered in the order of the network, the first without a number.
    """
    counts: Counter[str] = Counter()
    names = {}
    for path, module in network.named_modules():
        kind = next((kind for kind in LAYERS if isinstance(module, kind)), None)
        if kind is None:
            continue
        layer, tensors = LAYERS[kind]
        numbered = f"{layer}_{counts[layer]}" if counts[layer] else layer
        counts[layer] += 1
        for ours, theirs in tensors.items():
            if getattr(module, ours) is not None:
                names[f"{path}.{ours}"] = f"{architecture}/{numbered}/{theirs}"
    return names


def read_weights(folder: Path, network: nn.Sequential, architecture: str) -> None:
    """Fill a network, made on the device meta, with the weights in a folder.

    Raises: GengapError that names file and variable where one is missing, damaged or of another
    shape. Gamma and beta of group normalization may have the shape (c,), as in the archive, or
    (1, c, 1, 1), as the released code makes them.
    """
    names = tensorflow_names(network, architecture)
    variables = read_variables(folder, names.values())
    state = {ours: torch.empty_like(network.state_dict()[ours], device="cpu") for ours in names}
    for ours, theirs in names.items():
        target, found = in_tensorflow_layout(state[ours]), variables[theirs]
        if "/group_norm" in theirs and found.shape == (1, *target.shape, 1, 1):
            found = found.reshape(-1)
        if found.shape != target.shape or found.dtype.kind != "f":
            raise GengapError(
                f"{weights_file(folder)}: variable {theirs} has the shape {found.shape}, expected"
                f" {tuple(target.shape)}, and type {found.dtype}, expected a float; get it again"
            )
        target.copy_(torch.tensor(found))
    fill(network, state)


def packed_weights(network: nn.Sequential, architecture: str) -> bytes:
    """A network's weights as model.safetensors holds them: TensorFlow's names and layout."""
    names, state = tensorflow_names(network, architecture), network.state_dict()
    tensors = {
        theirs: np.ascontiguousarray(in_tensorflow_layout(state[ours]).cpu().numpy())
        for ours, theirs in names.items()
    }
    return save(tensors)


def read_sizes(folder: Path, architecture: str) -> tuple[int, int]:
    """Width and number of classes of the network whose weights are in a folder."""
    kernel, bias = read_variables(folder, ENDS[architecture]).values()
    for name, array, axes in zip(ENDS[architecture], (kernel, bias), (4, 1)):
        if array.ndim != axes:
            raise GengapError(
                f"{weights_file(folder)}: variable {name} has the shape {array.shape}, expected"
                f" {axes} axes; get it again"
            )
    return kernel.shape[-1], len(bias)


def read_variables(folder: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Variables of these names in the weights of a folder, in TensorFlow's layout."""
    file, names = weights_file(folder), list(names)
    if file.name != SAFETENSORS:
        return read_checkpoint(str(file), names)
    with naming(file):
        variables = load(file.read_bytes())
    if lacking := sorted(set(names) - set(variables)):
        raise GengapError(f"{file} has no variable {', '.join(lacking)}; get it again")
    return {name: variables[name] for name in names}


def weights_file(folder: Path) -> Place:
    """model.safetensors where there is one, else the prefix of the checkpoint."""
    file = files_of(folder) / SAFETENSORS
    return file if file.exists() else folder / CHECKPOINT


def in_tensorflow_layout(tensor: Tensor) -> Tensor:
    """A view with TensorFlow's axes: kernels (H, W, in, out), matrices (in, out)."""
    axes = {4: (2, 3, 1, 0), 2: (1, 0)}
    return tensor.permute(axes[tensor.ndim]) if tensor.ndim in axes else tensor
