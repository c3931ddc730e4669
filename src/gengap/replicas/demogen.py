"""Train DEMOGEN's grids in the published layout; those of the replica narrow, on a few images.

The grids of hyper-parameters and the architectures are published, the training is not: no training
code was released. What this recipe chooses is said in `Recipe` and its neighbours.
"""

import copy
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from pandas import DataFrame
from torch import Tensor, nn

from gengap.collections.demogen import (
    RECORDS,
    SAFETENSORS,
    SPEC,
    architecture_of,
    container_of,
    is_complete,
    like_cifar,
    network_of,
    networks_of,
    packed_weights,
)
from gengap.formats.containers import write_container
from gengap.formats.images import CLASSES, load_images, per_image_standardization, write_idx_pair
from gengap.replicas.run import Run, hash_seed, recipes_in, write_json
from gengap.replicas.training import (
    Images,
    evaluate,
    momentum_sgd,
    round_weights,
    shifted_and_mirrored,
    shuffled_batches,
    train_epoch,
)

BATCH = 50  # as the released code reads
FITTED = 0.99  # training accuracy, rounded weights and no augmentation, at which training ends
CHECKED = 5  # epochs from one look at the training accuracy to the next
LEAST_EPOCHS = 20  # also of those that fit earlier, so that decay has time to tell
LAST_QUARTER = 0.1  # what the learning rate is multiplied by for the last quarter of the epochs
# The release averages over hundreds of batches, for 150,000 steps; these runs have 1,000 at most.
BATCH_NORM_MOMENTUM = 0.1
SEEDS = {"train": 1, "test": 2}  # of where a split's moved images lie


@dataclass(frozen=True)
class Recipe:
    """A family: its grid as all_model_spec.json has it, its networks and its images."""

    grid: dict[str, list]
    width: int  # at multiplier 1
    epochs: int  # of a network that does not fit
    images: int | None = None  # the first training images; None: all
    moved: int = 0  # pixels, at most, by which images lie off their centre; 0: as they are
    halved: bool = False  # 16 x 16 pixels, since ResNet-32 is slow at 32 x 32


RECIPES = recipes_in("demogen.toml", Recipe)


@dataclass(frozen=True)
class Grid(Run):
    """A family; each network is a container, `<family>/<name>.zip`."""

    RECIPES = RECIPES

    def settings(self) -> dict:
        return asdict(self.recipe) | {"epochs": self.epochs, "seed": self.seed}

    @cached_property
    def grid(self) -> list[tuple[str, dict]]:
        """Name and index columns of each network."""
        return list(networks_of(self.family, self.recipe.grid))

    def networks(self, count: int | None) -> range:
        return range(len(self.grid))[:count]

    def is_done(self, network: int) -> bool:
        return is_complete(self.folder(self.grid[network][0]))

    def folder(self, name: str) -> Path:
        return self.out / self.family / name

    def files(self, networks: range) -> list[Path]:
        return [container_of(self.folder(name)) for name, _ in self.grid[networks.start :]]

    def prepare(self) -> None:
        """The images, which the collection reads where they are if they are a whole data set's."""
        images, labels = self.read("train")
        if self.recipe.images:
            write_idx_pair(self.folder(self.image_set), "train", images, labels)
        spec = self.out / SPEC
        grids = json.loads(spec.read_text()) if spec.exists() else {}
        write_json(spec, grids | {self.family: self.recipe.grid})

    def read(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Images (N, H, W) or (N, H, W, 3) uint8 of a split, and labels; all of the test split.

        Moved images lie off their centre, and half of them are mirrored, as in CIFAR no object has
        a fixed place: the augmentation then tells a network something that its images do not.
        """
        recipe = self.recipe
        count = recipe.images if split == "train" else None
        pixels, labels = load_images(self.image_set, split, root=self.images)
        pixels = pixels[:count]
        if recipe.moved:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(SEEDS[split])
                moved = shifted_and_mirrored(torch.from_numpy(pixels[:, None]), shift=recipe.moved)
            pixels = moved[:, 0].numpy()
        return halved(pixels) if recipe.halved else pixels, labels[:count]

    def hold(self) -> dict[str, "Split"]:
        return {name: split_of(*self.read(name), self.device) for name in RECORDS}

    def train(self, held: dict[str, "Split"], networks: list[int]) -> None:
        for place in networks:
            name, settings = self.grid[place]
            torch.manual_seed(hash_seed(self.seed, place))
            classes = CLASSES[self.image_set]
            network = initialized(self.family, settings, self.recipe.width, classes)
            network = network.to(self.device)
            fitted = FITTED if self.recipe.images else None  # all published took all steps
            steps = fit(network, held["train"], settings, fitted, epochs=self.epochs)
            round_weights(network)
            members = {SAFETENSORS: packed_weights(network, architecture_of(self.family))}
            for split, file in RECORDS.items():
                accuracy, loss = evaluate(network, held[split].images)
                record = {"Accuracy": accuracy, "CrossEntropy": loss, "global_step": steps}
                members[file] = json.dumps(record, indent=1).encode()
            packed = ((f"{name}/{file}", content) for file, content in members.items())
            write_container(container_of(self.folder(name)), packed)


def halved(pixels: np.ndarray) -> np.ndarray:
    """Images (N, H, W) uint8 with the rounded means of 2 x 2 pixels in their place."""
    count, height, width = pixels.shape
    blocks = pixels.reshape(count, height // 2, 2, width // 2, 2)
    return blocks.mean(axis=(2, 4)).round().astype(np.uint8)


@dataclass(frozen=True)
class Split:
    """Images before and after each is standardized."""

    pixels: Images
    images: Images


def split_of(images: np.ndarray, labels: np.ndarray, device: str) -> Split:
    """The split whose standardized images are those that the collection reads."""
    colored, known = like_cifar(images), torch.from_numpy(labels).to(device)
    pixels = torch.from_numpy(colored).movedim(-1, 1).contiguous().float().to(device)
    inputs = torch.from_numpy(per_image_standardization(colored)).to(device)
    return Split(Images(pixels, known), Images(inputs, known))


def initialized(family: str, settings: dict, width: int, classes: int) -> nn.Sequential:
    """A network of a family with He-normal kernels and zero biases.

    width: at multiplier 1. settings: index columns, hp_*. The dropout is the probability to drop a
    unit: the released code hands it to TensorFlow 1 as the probability to keep one, which 0 cannot
    be.
    """
    architecture, width = architecture_of(family), int(width * settings["hp_wide_multiplier"])
    network = network_of(architecture, width, settings, classes)
    if architecture == "nin":  # where it pays: a step takes 0.7 of the time
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.momentum = BATCH_NORM_MOMENTUM
    return network


def fit(
    network: nn.Sequential, train: Split, settings: dict, fitted: float | None, *, epochs: int
) -> int:
    """Train until the training images are fitted, or for so many epochs; the number of steps.

    settings: index columns, hp_*. fitted: the accuracy on training images at which it ends, if at
    any. The weight decay has the gradient decay_fac * w, of kernels.
    """
    rate, decay = settings["hp_learning_rate"], settings["hp_decay_fac"]
    optimizer = momentum_sgd(network, rate=rate, weight_decay=decay)
    settle = torch.optim.lr_scheduler.MultiStepLR(optimizer, [epochs * 3 // 4], gamma=LAST_QUARTER)
    images, augment = train.images, None
    if settings["hp_augmentation"]:
        images, augment = train.pixels, augmented
    steps = 0
    for epoch in range(1, epochs + 1):
        steps += train_epoch(network, shuffled_batches(images, BATCH, augment), optimizer)
        settle.step()
        looked_at = epoch >= LEAST_EPOCHS and epoch % CHECKED == 0
        if fitted and looked_at and fits(network, train.images, fitted):
            break
    return steps


def fits(network: nn.Sequential, images: Images, fitted: float) -> bool:
    """Whether the network has that accuracy on the images once its weights are rounded."""
    rounded = copy.deepcopy(network)
    round_weights(rounded)
    return evaluate(rounded, images)[0] >= fitted


def augmented(pixels: Tensor) -> Tensor:
    """Inputs: images of 32 pixels moved by up to 4, smaller ones by less, half mirrored."""
    return standardized(shifted_and_mirrored(pixels, shift=pixels.shape[-1] // 8))


def standardized(pixels: Tensor) -> Tensor:
    """`per_image_standardization` of images (N, C, H, W) float32, where they lie."""
    centered = pixels - pixels.mean(dim=(1, 2, 3), keepdim=True)
    deviation = centered.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    return centered / deviation.clamp_min(pixels[0].numel() ** -0.5)


def hallmarks(index: DataFrame) -> DataFrame:
    """Whether a collection's networks are in the regime of the published ones.

    Published: 216 NiN with gaps of 1 to 35 % and test accuracies of 60 to 90.5 %. Judged are the
    families by their architecture. Returns the columns hallmark, wanted, found, met.
    """
    architectures = index["family"].map(architecture_of)
    nins, resnets = (index[architectures == name] for name in ("nin", "resnet"))
    nin_fits, resnet_fits = (found["train_accuracy"] >= FITTED for found in (nins, resnets))
    tests, gaps = nins["test_accuracy"], nins["train_accuracy"] - nins["test_accuracy"]
    rows = [
        ("NiNs", ">=", 216, len(nins)),
        ("share of NiNs that fit", ">=", 0.4, nin_fits.mean()),
        ("NiNs that fit", ">=", 80, nin_fits.sum()),
        ("range of gaps of NiNs that fit", ">=", 0.1, gaps[nin_fits].max() - gaps[nin_fits].min()),
        ("smallest gap of NiNs", "<=", 0.02, gaps.min()),
        ("largest gap of NiNs", ">=", 0.3, gaps.max()),
        ("range of test accuracies of NiNs", ">=", 0.25, tests.max() - tests.min()),
        ("ResNets", ">=", 48, len(resnets)),
        ("learning rates of ResNets", ">=", 2, resnets["hp_learning_rate"].nunique()),
        ("share of ResNets that fit", ">=", 0.4, resnet_fits.mean()),
    ]
    told = [
        (name, f"{sign} {bound}", float(found), found >= bound if sign == ">=" else found <= bound)
        for name, sign, bound, found in rows
    ]
    return DataFrame(told, columns=["hallmark", "wanted", "found", "met"])
