"""Train networks of GenProb's family, in the published format, and keep all epochs.

The architecture, the learning rates, weight decays, momentum, the number of epochs and the steps of
the learning rate are published, and so is the ratio of the two widths; the networks of the replica
are narrower, see fewer images, and in smaller batches. The factor by which the rate falls was not
released, nor how images were augmented: 0.5, and shifts and flips. So many networks of these few
channels do not fit their images, as the published ones do not.

What a run of a family leaves under its folder `out`, which families may share:

`<network>_<data set>.zip`: of one network the checkpoints in the published format, after every
epoch for the first EVERY_EPOCH networks of a family, after the last for the others; and in
`<network>_<data set>_spectra.parquet`, for every epoch, model_id and what `network_spectra` says
of each layer, in float32.
`<family>/training.json`: what all networks of the family share.
`fashion_mnist/`: the training images, where they are not all of the data set.

Of every epoch a copy of the network with rounded weights is what is recorded, measured and kept;
training goes on from the weights as they are.
"""

import copy
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from gengap.collections import genprob
from gengap.collections.genprob_networks import CELLS
from gengap.evaluation.resampling import bootstrap_interval
from gengap.evaluation.scores import plain_spearman
from gengap.formats.containers import write_container
from gengap.formats.images import CLASSES, load_images, write_idx_pair
from gengap.measures.spectra import network_spectra
from gengap.replicas.run import Run, hash_seed
from gengap.replicas.training import (
    MOMENTUM,
    Images,
    evaluate,
    recorded,
    round_weights,
    shifted_and_mirrored,
    shuffled_batches,
    train_epoch,
)

TESTED_WHOLE = (0, 10, 20, 30)  # epochs tested on all test images, as the published figures
STEP, FACTOR = 10, 0.5  # of the learning rate: epochs until it falls, and to which part
EVERY_EPOCH = 2  # networks of a family of which the weights of all epochs are kept


@dataclass(frozen=True)
class Recipe:
    """What all networks of a family share, and their widths."""

    images: int | None  # the first training images; None: all
    side: int  # pixels, as the networks see them
    tested: int | None  # the first test images; TESTED_WHOLE and the last epoch: all
    batch: int
    shift: int  # pixels, at most: as the customary 4 of 32
    planes: tuple[int, int]  # channels of a cell whose digit in the width code is 0 or 1
    widths: tuple[tuple[int, ...], ...]  # codes
    epochs: int = 70


FEW_WIDTHS = ((0, 0, 0, 0, 0), (1, 1, 1, 1, 1), (0, 0, 1, 1, 1), (1, 1, 0, 0, 0))
ALL_WIDTHS = tuple(itertools.product((0, 1), repeat=CELLS))
NARROW = Recipe(1000, 16, 2000, batch=64, shift=2, planes=(5, 6), widths=FEW_WIDTHS)
PUBLISHED = Recipe(None, 32, None, batch=256, shift=4, planes=(40, 48), widths=ALL_WIDTHS)
# The largest first: low-rank parts of layers that are kept at all epochs must not be empty.
WEIGHT_DECAYS = (1e-3, 5e-4, 1e-4)
LEARNING_RATES = {"AdaM": (0.01, 0.008, 0.006, 0.004, 0.002), "SGD": (0.1, 0.08, 0.06, 0.04, 0.02)}
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "AdaM": torch.optim.Adam,
    "SGD": partial(torch.optim.SGD, momentum=MOMENTUM),
}
FEWEST = 40  # networks of a family after the last epoch: see `hallmarks`
FAMILIES = tuple(f"{optimizer}_FashionMNIST" for optimizer in OPTIMIZERS)
# Of the published seven optimizers PyTorch has two.
LARGE = tuple(f"{optimizer}_CIFAR{n}" for n in (10, 100) for optimizer in OPTIMIZERS)
RECIPES = {"replica": dict.fromkeys(FAMILIES, NARROW), "published": dict.fromkeys(LARGE, PUBLISHED)}


@dataclass(frozen=True)
class Network:
    """A place in the grid of a family."""

    optimizer: str
    widths: tuple[int, ...]  # the digits of the code
    weight_decay: float
    learning_rate: float

    @property
    def name(self) -> str:
        rates = {"learning_rate": self.learning_rate, "weight_decay": self.weight_decay}
        return genprob.network_name(self.widths, self.optimizer, **rates)


def networks_of(family: str, recipe: Recipe) -> list[Network]:
    optimizer = family.partition("_")[0]
    grid = itertools.product(recipe.widths, WEIGHT_DECAYS, LEARNING_RATES[optimizer])
    return [Network(optimizer, *values) for values in grid]


@dataclass(frozen=True)
class Family(Run):
    """An optimizer's networks on a data set; a network is complete when its container is there."""

    RECIPES = RECIPES

    @property
    def dataset(self) -> str:
        """As files are named."""
        return self.family.partition("_")[2]

    @property
    def image_set(self) -> str:
        """As the images are named."""
        return genprob.DATASETS[self.dataset][0]

    def settings(self) -> dict:
        shared = {"seed": self.seed, "step": STEP, "factor": FACTOR, "tested_whole": TESTED_WHOLE}
        return json.loads(json.dumps(asdict(self.recipe) | shared | {"epochs": self.epochs}))

    def networks(self, count: int | None) -> range:
        return range(len(networks_of(self.family, self.recipe)))[:count]

    def is_done(self, network: int) -> bool:
        return self.container(network).exists()

    def container(self, network: int) -> Path:
        name = networks_of(self.family, self.recipe)[network].name
        return self.out / f"{name}_{self.dataset}.zip"

    def files(self, networks: range) -> list[Path]:
        return [self.container(network) for network in networks]

    def prepare(self) -> None:
        """The training images; all of a data set are read where they are."""
        if count := self.recipe.images:
            pixels, labels = load_images(self.image_set, "train", root=self.images)
            write_idx_pair(self.out / self.image_set, "train", pixels[:count], labels[:count])

    def read(self, split: str) -> Images:
        count = self.recipe.images if split == "train" else None
        pixels, labels = load_images(self.image_set, split, root=self.images)
        inputs = genprob.network_inputs(pixels[:count], self.dataset)
        return Images(inputs.to(self.device), torch.from_numpy(labels[:count]).to(self.device))

    def train(self, held: dict[str, Images], networks: list[int]) -> None:
        for place in networks:
            chosen = networks_of(self.family, self.recipe)[place]
            members = self.trained(place, chosen, held["train"], held["test"])
            write_container(self.container(place), members.items())

    def trained(self, place: int, chosen: Network, train: Images, test: Images) -> dict[str, bytes]:
        """The files of a network's container."""
        torch.manual_seed(hash_seed(self.seed, place))
        recipe, classes = self.recipe, CLASSES[self.image_set]
        planes = [recipe.planes[digit] for digit in chosen.widths]
        network = genprob.genprob_network(planes, classes).to(self.device)
        records, spectra, members = {}, [], {}
        for epoch in fit(network, train, chosen, recipe, epochs=self.epochs):
            rounded = copy.deepcopy(network)
            round_weights(rounded)
            last = epoch == self.epochs - 1
            tested = test if last or epoch in TESTED_WHOLE else test[: recipe.tested]
            records[epoch] = recorded(partial(evaluate, rounded), train, tested)
            model_id = f"{self.family}/{chosen.name}/epoch_{epoch}"  # as the collection calls it
            spectra.append(network_spectra(rounded).assign(model_id=model_id))
            if place < EVERY_EPOCH or last:
                name = genprob.checkpoint_name(chosen.name, self.dataset, epoch)
                members[name] = genprob.checkpoint(rounded.state_dict(), records)
        kept = f"{chosen.name}_{self.dataset}_{genprob.SPECTRA}"
        return members | {kept: packed_spectra(pd.concat(spectra))}


def fit(
    network: nn.Sequential, train: Images, chosen: Network, recipe: Recipe, *, epochs: int
) -> Iterator[int]:
    """Train, and yield the number of each epoch, from 0, when it is over.

    The weight decay is of all parameters, and part of the gradient, also of Adam's.
    """
    rates = {"lr": chosen.learning_rate, "weight_decay": chosen.weight_decay}
    optimizer = OPTIMIZERS[chosen.optimizer](network.parameters(), **rates)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, STEP, FACTOR)
    augment = partial(shifted_and_mirrored, shift=recipe.shift)
    for epoch in range(epochs):
        train_epoch(network, shuffled_batches(train, recipe.batch, augment), optimizer)
        schedule.step()
        yield epoch


def packed_spectra(rows: pd.DataFrame) -> bytes:
    """A parquet file of spectra in float32, the epochs of each layer's row together.

    Neighbours differ little then, and the bytes of a number that do not change compress; a
    dictionary of numbers that hardly ever repeat would make the file half as large again.
    """
    exact = list(rows.select_dtypes("float64").columns)
    rows = rows.astype(dict.fromkeys(exact, "float32"))
    rows = rows.sort_values(["layer", "unfolding", "low_rank"], kind="stable")
    repeated = [name for name in rows if name not in exact]
    how = {"use_dictionary": repeated, "use_byte_stream_split": exact, "compression_level": 19}
    return rows.to_parquet(index=False, compression="zstd", **how)


def hallmarks(index: pd.DataFrame) -> pd.DataFrame:
    """What makes these networks a replica of the published ones, and whether they are.

    index: the collection's. Columns: hallmark, wanted, found, met; a row for each of FAMILIES and
    each hallmark, for less than FEWEST networks only their number. The published curves force a
    rank correlation of test accuracy and gap of .81 or more.
    """
    rows = [
        (f"{family}: {hallmark}", wanted, found, bool(met))
        for family in FAMILIES
        for hallmark, wanted, found, met in _hallmarks_of(index[index["family"] == family])
    ]
    return pd.DataFrame(rows, columns=["hallmark", "wanted", "found", "met"])


def _hallmarks_of(models: pd.DataFrame) -> Iterator[tuple[str, str, str, bool]]:
    last = models[models["epoch"] == models["epoch"].max()]
    yield "networks", f"{FEWEST} or more", f"{len(last)}", len(last) >= FEWEST
    if len(last) < FEWEST:
        return
    epochs = int(last["epoch"].iloc[0]) + 1
    yield "epochs", f"{NARROW.epochs}", f"{epochs}", epochs == NARROW.epochs
    yield _grid_hallmark(last)
    least = last["train_accuracy"].min()
    yield "least training accuracy", "at most .90", f"{least:.3f}", least <= 0.9
    pair = last["test_accuracy"], last["train_accuracy"] - last["test_accuracy"]
    low, high = bootstrap_interval(plain_spearman, *pair, seed=0)
    name = "rank correlation of test accuracy and gap"
    found = f"{plain_spearman(*pair):.2f} [{low:.2f}, {high:.2f}]"
    yield name, "95 % interval above 0", found, low > 0


def _grid_hallmark(last: pd.DataFrame) -> tuple[str, str, str, bool]:
    codes = len(last.filter(like="hp_width_").drop_duplicates())
    found = codes, last["hp_learning_rate"].nunique(), last["hp_weight_decay"].nunique()
    met = all(have >= least for have, least in zip(found, (4, 5, 3), strict=True))
    name = "width codes, learning rates, weight decays"
    return name, "4, 5, 3 or more", ", ".join(map(str, found)), met
