"""Retrain the Small CNN Zoo: the exact architecture, on real images, in the published format.

The recipe is the published one, hyper-parameters drawn from the published ranges, 86 epochs, nine
checkpoints, apart from the weights of TRAIN_FRACTIONS. How networks train: `cnnzoo_training`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pandas import DataFrame

from gengap.collection import last_epoch
from gengap.collections.cnnzoo import LAYOUT, METRICS, PARAMETERS, contents_of_zoo, finite_rows
from gengap.collections.cnnzoo_parts import networks_in, part_files, part_name
from gengap.folders import write_atomically
from gengap.formats.containers import write_container
from gengap.formats.images import load_images, network_inputs
from gengap.formats.places import naming
from gengap.replicas.cnnzoo_training import ACTIVATIONS, CompiledStack, TorchStack, train_stack
from gengap.replicas.run import Run, hash_seed
from gengap.replicas.training import Images

OPTIMIZERS = ("adam", "rmsprop", "sgd")
INITIALIZERS = ("he_normal", "orthogonal", "glorot_normal", "RandomNormal", "TruncatedNormal")
RANGES = {  # published ends
    "learning_rate": (5e-4, 5e-2),
    "l2reg": (1e-8, 1e-2),
    "init_std": (1e-3, 0.5),
    "dropout": (0.0, 0.7),
}
SHARED = ["activation", "train_fraction"]  # by the networks of a stack
GPU_STACK = 256  # networks that train at once; on a CPU each trains alone
PART = 50  # networks in a file
TRUNCATED_STD = 0.87962566103423978  # of a standard normal cut at two standard deviations
# What makes a replica one: see `hallmarks`.
CHECKPOINTS = [0, 1, 2, 3, 20, 40, 60, 80, 86]
TEST_IMAGES = 10_000
COMMONEST = {"mnist": 0.1135}  # the share of test images that show a 1


@dataclass(frozen=True)
class Recipe:
    """How many networks a data set gets, and how often each of the published shares of images."""

    networks: int
    train_fractions: Mapping[float, float]  # share of the training images -> its probability
    epochs: int = CHECKPOINTS[-1]


# Small ones more often, because they train sooner.
TRAIN_FRACTIONS = {0.1: 0.65, 0.25: 0.25, 0.5: 0.07, 1.0: 0.03}
WANTED_NETWORKS = {"fashion_mnist": 300, "mnist": 150, "cifar10": 150}
EVEN = dict.fromkeys(TRAIN_FRACTIONS, 0.25)  # our assumption
RECIPES = {
    "replica": {name: Recipe(count, TRAIN_FRACTIONS) for name, count in WANTED_NETWORKS.items()},
    "published": dict.fromkeys(WANTED_NETWORKS, Recipe(30_000, EVEN)),
}


def draw_configurations(
    dataset: str,
    networks: Iterable[int],
    epochs: int,
    *,
    seed: int,
    train_fractions: Mapping[float, float] = TRAIN_FRACTIONS,
) -> DataFrame:
    """Hyper-parameters of networks, a row for each number, in the published columns.

    The ends of the ranges and the choices are published; that learning rate, l2 and init_std are
    log-uniform and dropout uniform is an assumption. Network i has its own generator: a longer
    zoo begins with the same networks.
    """
    rows = {i: _drawn(np.random.default_rng([seed, i]), train_fractions) for i in networks}
    constants = {
        "b_init": "zeros",
        "dataset": dataset,
        "dnn_architecture": "cnn",
        "epochs": epochs,
        "epochs_between_checkpoints": 20,
        "num_layers": 3,
        "num_units": 16,
        "random_seed": seed,
    }
    return DataFrame(list(rows.values()), index=list(rows)).assign(**constants)


def _drawn(rng: np.random.Generator, train_fractions: Mapping[float, float]) -> dict:
    def log_uniform(name):
        low, high = RANGES[name]
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))

    shares = list(train_fractions.values())
    return {
        "activation": str(rng.choice(list(ACTIVATIONS))),
        "dropout": float(rng.uniform(*RANGES["dropout"])),
        "init_std": log_uniform("init_std"),
        "l2reg": log_uniform("l2reg"),
        "learning_rate": log_uniform("learning_rate"),
        "optimizer": str(rng.choice(OPTIMIZERS)),
        "train_fraction": float(rng.choice(list(train_fractions), p=shares)),
        "w_init": str(rng.choice(INITIALIZERS)),
    }


def draw_weights(configuration: dict, *, seed: int) -> torch.Tensor:
    """Initial weights (4970,) of one network: Keras's initializers, biases zero."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.zeros(PARAMETERS)
    for slot in LAYOUT:
        if len(slot.shape) > 1:
            kernel = _draw_kernel(configuration, slot.shape, generator)
            weights[slot.start : slot.end] = kernel.flatten()
    return weights


def _draw_kernel(configuration: dict, shape: tuple[int, ...], generator) -> torch.Tensor:
    receptive_field = int(np.prod(shape[:-2]))
    fan_in, fan_out = receptive_field * shape[-2], receptive_field * shape[-1]
    kernel = torch.empty(shape)
    match configuration["w_init"]:
        case "orthogonal":
            matrix = torch.empty(fan_in, shape[-1])
            return torch.nn.init.orthogonal_(matrix, generator=generator).reshape(shape)
        case "RandomNormal":
            return kernel.normal_(0, configuration["init_std"], generator=generator)
        case "TruncatedNormal":
            std = configuration["init_std"]
        case "he_normal":
            std = (2 / fan_in) ** 0.5 / TRUNCATED_STD
        case "glorot_normal":
            std = (2 / (fan_in + fan_out)) ** 0.5 / TRUNCATED_STD
    return torch.nn.init.trunc_normal_(kernel, 0, std, -2 * std, 2 * std, generator=generator)


@dataclass(frozen=True)
class Zoo(Run):
    """A data set's networks; a finished one is a file in `networks`, until its part is whole."""

    RECIPES = RECIPES

    @property
    def settings_file(self) -> Path:
        return self.folder / "zoo.json"

    @property
    def folder(self) -> Path:
        return self.out / self.family

    def settings(self) -> dict:
        weights = {str(key): value for key, value in self.recipe.train_fractions.items()}
        found = {"dataset": self.family, "epochs": self.epochs, "seed": self.seed}
        return found | {"train_fractions": weights}

    def configurations(self, networks: Sequence[int]) -> DataFrame:
        fractions = {"train_fractions": self.recipe.train_fractions}
        return draw_configurations(self.family, networks, self.epochs, seed=self.seed, **fractions)

    def networks(self, count: int | None) -> range:
        return range(count or self.recipe.networks)

    def missing(self, networks: range) -> list[int]:
        rest = networks[_packed(self.folder) :]
        return [network for network in rest if not _file(self.folder, network).exists()]

    def together(self, missing: list[int]) -> Iterator[list[int]]:
        """Networks that share what shapes the computation, in the order of their first ones."""
        size = 1 if self.on_cpu else GPU_STACK
        groups = self.configurations(missing).groupby(SHARED).groups.values()
        parts = [[*group[i : i + size]] for group in groups for i in range(0, len(group), size)]
        return iter(sorted(parts))

    @property
    def image_set(self) -> str:
        return self.family

    def read(self, split: str) -> Images:
        return read_split(self.family, split, self.images, self.device)

    def train(self, held: dict[str, Images], networks: list[int]) -> None:
        rows = self.configurations(networks)
        start = draw_stack(rows, seed=self.seed)
        kind = CompiledStack if self.on_cpu else TorchStack
        images, checkpoints = (held["train"], held["test"]), checkpoint_epochs(self.epochs)
        done = train_stack(rows, start, *images, checkpoints=checkpoints, seed=self.seed, kind=kind)
        for position, network in enumerate(networks):
            rows = {key: np.stack([c[key][position] for c in done]) for key in done[0]}
            write_atomically(_file(self.folder, network), partial(np.savez_compressed, **rows))

    def files(self, networks: range) -> list[Path]:
        return [part for part in part_files(self.folder) if networks_in(part).start in networks]

    def keep(self, networks: range) -> None:
        """Write the parts whose networks are all finished, in order; remove these networks' files.

        A part ends at a multiple of PART, or with the last network. Rows that are not finite, of
        networks that diverged, are left out, as in the published tables.
        """
        for file in (self.folder / "networks").glob("[0-9]*.npz"):
            if int(file.stem) < _packed(self.folder):  # a killed run has left it beside its part
                file.unlink()
        while (first := _packed(self.folder)) < len(networks):
            part = networks[first : (first // PART + 1) * PART]
            if not all(_file(self.folder, network).exists() for network in part):
                return
            contents = _contents(self.folder, self.configurations(part))
            write_container(self.folder / part_name(part), contents.items())
            for network in part:
                _file(self.folder, network).unlink()


def checkpoint_epochs(epochs: int) -> list[int]:
    """The published rule, CHECKPOINTS, for any number of epochs."""
    return sorted({e for e in (0, 1, 2, 3, *range(20, epochs, 20)) if e <= epochs} | {epochs})


def _file(folder: Path, network: int) -> Path:
    return folder / "networks" / f"{network:06d}.npz"


def read_split(dataset: str, split: str, root: Path | None, device: str) -> Images:
    pixels, labels = load_images(dataset, split, root=root)
    inputs = torch.from_numpy(network_inputs(pixels)).to(device)
    return Images(inputs, torch.from_numpy(labels).to(device))


def draw_stack(configurations: DataFrame, *, seed: int) -> torch.Tensor:
    """Initial weights (G, 4970), those of each network from its own seed."""
    rows = configurations.to_dict("index").items()
    return torch.stack([draw_weights(row, seed=hash_seed(seed, number)) for number, row in rows])


def _packed(out: Path) -> int:
    """How many networks lie in parts, the first ones always."""
    parts = part_files(out)
    return networks_in(parts[-1]).stop if parts else 0


def _contents(out: Path, configurations: DataFrame) -> dict[str, bytes]:
    weights, metrics = [], []
    for network, configuration in configurations.to_dict("index").items():
        file = _file(out, network)
        with naming(file, "delete it"), np.load(file, allow_pickle=False) as saved:
            rows = DataFrame({key: saved[key] for key in METRICS})
            weights.append(saved["weights"])
        config = {f"config.{key}": value for key, value in configuration.items()}
        modeldir = f"{configuration['dataset']}/{network:06d}"
        columns = [*sorted(config), "modeldir", *METRICS]
        metrics.append(rows.assign(**config, modeldir=modeldir)[columns])
    matrix, table = np.concatenate(weights), pd.concat(metrics, ignore_index=True)
    finite = finite_rows(matrix) & np.isfinite(table[list(METRICS)]).all(axis=1).to_numpy()
    return contents_of_zoo(matrix[finite], table[finite])


def at_chance(models: DataFrame) -> pd.Series:
    """Whether test accuracies are those of guessing one of ten, or of one answer for all images.

    models: rows of an index. At most .1 + 3 standard errors, or the share of a digit.
    """
    guessed = 0.1 + 3 * (0.1 * 0.9 / TEST_IMAGES) ** 0.5
    return models["test_accuracy"] <= models["family"].map(COMMONEST).fillna(guessed)


def hallmarks(index: DataFrame) -> DataFrame:
    """What makes a replica of the zoo one: columns hallmark, wanted, found, met.

    A share at chance is stated, and whatever it is meets what is wanted.
    """
    rows = [_hallmark_of_ranges(index), _hallmark_of_fractions(index)]
    for family, wanted in WANTED_NETWORKS.items():
        inside = index[index["family"] == family]
        epochs = sorted(inside["epoch"].unique())
        whole = int((inside.groupby("run")["epoch"].nunique() == len(CHECKPOINTS)).sum())
        wanted_epochs = ", ".join(map(str, CHECKPOINTS))
        found = f"{', '.join(map(str, epochs))} ({whole} networks have as many)"
        rows.append((f"{family}: checkpoints", wanted_epochs, found, epochs == CHECKPOINTS))
        last = last_epoch(inside)
        rows += [(f"{family}: networks", f"{wanted} or more", f"{len(last)}", len(last) >= wanted)]
        share = f"{at_chance(last).mean():.3f}" if len(last) else "no networks"
        rows.append((f"{family}: share at chance", "stated", share, len(last) > 0))
    return DataFrame(rows, columns=["hallmark", "wanted", "found", "met"])


def _hallmark_of_ranges(index: DataFrame) -> tuple:
    def told(ends):
        return ", ".join(f"{name} {low:.2g} to {high:.2g}" for name, (low, high) in ends.items())

    found = {name: (index[f"hp_{name}"].min(), index[f"hp_{name}"].max()) for name in RANGES}
    met = all(RANGES[n][0] <= low <= high <= RANGES[n][1] for n, (low, high) in found.items())
    return "sampling ranges", told(RANGES), told(found), met


def _hallmark_of_fractions(index: DataFrame) -> tuple:
    shares = last_epoch(index)["hp_train_fraction"].value_counts(normalize=True).sort_index()
    found = ", ".join(f"{fraction:g} ({share:.2f})" for fraction, share in shares.items())
    wanted = ", ".join(f"{fraction:g} ({share:g})" for fraction, share in TRAIN_FRACTIONS.items())
    met = list(shares.index) == list(TRAIN_FRACTIONS)
    return "train_fraction and its weights", wanted, found, met
