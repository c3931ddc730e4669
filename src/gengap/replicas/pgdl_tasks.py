"""The eight tasks of the PGDL replica: their networks, grids of hyper-parameters and images.

A task has the kind of network and the names of hyper-parameters of the competition's task of the
same number, with fewer and other values. Its name is `task<number>_fashion_mnist`, which none of
the published tasks has. Sources: README of google-research/pgdl; for the channels of Tasks 4 and 5
the sizes of their layers' activations, for the blocks of the others the real networks' numbers of
parameters.

VGG-like (1, 8): blocks of two 3x3 convolutions and a 2x2 maximum pool, then dense layers.
NiN, network in network (2, 6, 7, 9): for every three layers a 3x3 convolution of stride 2 and two
1x1 convolutions; at the end a 1x1 convolution to the classes and a global average pool, in Task 7
dense layers.
Fully convolutional (4 with batch normalization, 5 without): 3x3 convolutions of stride 1, ten
channels in the first, then geometrically more; a convolution to the classes and a global average
pool.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gengap.formats.images import load_images
from gengap.replicas.training import Images, shifted_and_mirrored

ALL_CLASSES = tuple(range(10))
DISTINCT = (1, 3, 5, 7, 8, 9)  # trouser, dress, sandal, sneaker, bag, ankle boot
ALIKE = (0, 2, 3, 4, 6)  # T-shirt, pullover, dress, coat, shirt
FIRST_CHANNELS = 10  # of a fully convolutional network, as published
LEVELS = 255  # pixels have 8 bits, so that deflated shards are small


def convolution(filters: int, size: int, strides: int = 1) -> dict:
    """A convolution with padding, as a layer of config.json."""
    return {
        "layer_name": "Conv2D",
        "filters": filters,
        "kernel_size": size,
        "strides": strides,
        "padding": "same",
    }


def dense(units: int) -> list[dict]:
    return [{"layer_name": "Dense", "units": units, "activation": "relu"}]


def _dropout(rate: float) -> list[dict]:
    return [{"layer_name": "Dropout", "rate": rate}] if rate else []


def _normalized(layer: dict, batch_norm: bool) -> list[dict]:
    normalization = [{"layer_name": "BatchNormalization", "momentum": 0.9}] if batch_norm else []
    return [layer, *normalization, {"layer_name": "ReLU"}]


def vgg_layers(
    classes: int,
    *,
    convwidth: int,
    dropout_p: float,
    num_conv_blocks: int,
    dense_width: int,
    num_dense_layers: int = 1,
    **_,
) -> list[dict]:
    """Keras layers of a VGG-like network."""
    layers = []
    for _ in range(num_conv_blocks):
        layers += [convolution(convwidth, 3) | {"activation": "relu"} for _ in range(2)]
        layers.append({"layer_name": "MaxPooling2D", "pool_size": 2})
    layers.append({"layer_name": "Flatten"})
    layers += dense(dense_width) * num_dense_layers
    return [*layers, *_dropout(dropout_p), {"layer_name": "Dense", "units": classes}]


def nin_layers(
    classes: int,
    *,
    conv: int,
    depth: int,
    dropout_p: float,
    dense: str = "",
    batch_norm: bool = True,
    **_,
) -> list[dict]:
    """Keras layers of a network in network; `dense`, as 16-16, are the units of dense layers."""
    layers = []
    for layer in range(depth):
        strides = 2 if layer in (0, 3, 6) else 1  # 14 pixels become 7, 4, 2
        filters = convolution(conv, 1 if layer % 3 else 3, strides)
        layers += _normalized(filters, batch_norm)
    if not dense:
        pool = {"layer_name": "GlobalAveragePooling2D"}
        return [*layers, *_dropout(dropout_p), convolution(classes, 1), pool]
    units = [
        {"layer_name": "Dense", "units": int(n), "activation": "relu"} for n in dense.split("-")
    ]
    head = {"layer_name": "Dense", "units": classes}
    return [*layers, {"layer_name": "Flatten"}, *units, *_dropout(dropout_p), head]


def fully_convolutional_layers(
    classes: int, *, channels: int, batch_norm: bool, nparams: int, depth: int, reverse: bool, **_
) -> list[dict]:
    """Keras layers of a network without pooling whose 3x3 kernels have about `nparams` weights."""
    ramp = ramp_of_channels(nparams, depth, channels, classes)
    filters = [ramp[0], *(reversed(ramp[1:]) if reverse else ramp[1:])]
    layers = [layer for n in filters for layer in _normalized(convolution(n, 3), batch_norm)]
    return [*layers, convolution(classes, 3), {"layer_name": "GlobalAveragePooling2D"}]


def ramp_of_channels(nparams: int, depth: int, channels: int, classes: int) -> list[int]:
    """Channels of the first layer and of `depth` more, each the same ratio wider than the last.

    The largest ratio with at most `nparams` weights in the kernels, in steps of a thousandth.
    """
    ramp = [FIRST_CHANNELS] * (depth + 1)
    for ratio in itertools.count(1001):
        wider = [round(FIRST_CHANNELS * (ratio / 1000) ** layer) for layer in range(depth + 1)]
        path = [channels, *wider, classes]
        if sum(9 * a * b for a, b in itertools.pairwise(path)) > nparams:
            return ramp
        ramp = wider


def half_augmented(inputs: Tensor) -> Tensor:
    """The first half of a batch shifted, mirrored and with a square erased, the rest as it is.

    Batches are in random order, so that it is any half. In place of AutoAugment, which Task 6 had
    for half of its images.
    """
    changed, kept = inputs.tensor_split([len(inputs) // 2])
    return torch.cat([erased(shifted_and_mirrored(changed, shift=1), side=4), kept])


def erased(inputs: Tensor, *, side: int) -> Tensor:
    """Images (N, C, H, W) with 0 in a square of `side` pixels, anywhere in each."""
    count, _, height, width = inputs.shape
    down = torch.randint(height - side + 1, (count, 1, 1, 1))
    right = torch.randint(width - side + 1, (count, 1, 1, 1))
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    inside = (rows >= down) & (rows < down + side) & (columns >= right) & (columns < right + side)
    return inputs.masked_fill(inside.to(inputs.device), 0)


@dataclass(frozen=True)
class ImageSet:
    """Images of Fashion-MNIST, made smaller and harder to tell apart; labels stay true.

    Each image has a colour of its own for what is white and one for what is black, which say
    nothing of its class: `tint` is how far they are from white and black. To each pixel noise of
    standard deviation `noise` is added.
    """

    first: int  # the first training image that is taken
    count: int  # of training images; test images are all of the classes
    side: int  # pixels, of 28
    channels: int = 1
    tint: float = 0.0
    noise: float = 0.0
    classes: tuple[int, ...] = ALL_CLASSES  # their positions are the labels

    def read(self, split: str, root: Path | None) -> Images:
        """Inputs (N, C, side, side) in [-1, 1] of "train" or "test", the same in each call."""
        pixels, labels = load_images("fashion_mnist", split, root=root)
        chosen = np.flatnonzero(np.isin(labels, self.classes))
        if split == "train":
            chosen = chosen[chosen >= self.first][: self.count]
        grey = torch.from_numpy(pixels[chosen].astype(np.float32) / LEVELS)
        small = F.adaptive_avg_pool2d(grey[:, None], self.side).numpy()
        positions = np.searchsorted(self.classes, labels[chosen])
        inputs = self._coloured(small, np.random.default_rng([self.first, split == "test"]))
        return Images(torch.from_numpy(inputs), torch.from_numpy(positions))

    def _coloured(self, grey: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        colours = (len(grey), self.channels, 1, 1)
        black = rng.uniform(0, self.tint, colours)
        white = 1 - rng.uniform(0, self.tint, colours)
        shape = (len(grey), self.channels, self.side, self.side)
        noisy = black + (white - black) * grey + self.noise * rng.standard_normal(shape)
        return (np.rint(noisy.clip(0, 1) * LEVELS) / LEVELS * 2 - 1).astype(np.float32)


@dataclass(frozen=True)
class Task:
    """A grid of hyper-parameters and the training images that all its networks share."""

    layers: Callable[..., list[dict]]  # number of classes, hyper-parameters -> of config.json
    grid: dict[str, list]  # name -> possible values; the last varies fastest over the model ids
    fixed: dict[str, float]  # hyper-parameters that all networks share
    images: ImageSet
    epochs: int  # after which training ends at the latest
    augment: Callable[[Tensor], Tensor] | None = None

    def settings(self) -> list[dict]:
        """The hyper-parameters of each network; its position is its id."""
        values = itertools.product(*self.grid.values())
        return [dict(zip(self.grid, row)) | self.fixed for row in values]

    def config(self, settings: dict) -> dict:
        """The content of config.json."""
        layers = self.layers(len(self.images.classes), **settings)
        shape = [self.images.side, self.images.side, self.images.channels]
        return {"model_config": layers, "input_shape": shape}


CINIC_LIKE = ImageSet(first=12_000, count=250, side=10, channels=3, tint=0.1)
FULLY_CONVOLUTIONAL = {
    "nparams": [16_000, 40_000],
    "depth": [2, 4],
    "reverse": [False, True],
    "wd": [0.0005],
    "lr": [0.03, 0.06],
    "bs": [16, 32],
}
TASKS = {
    "task1_fashion_mnist": Task(
        vgg_layers,
        {
            "convwidth": [16, 32],
            "dropout_p": [0.0, 0.5],
            "num_conv_blocks": [1, 2],
            "num_dense_layers": [1, 2],
            "weight_decay": [0.0005],
            "bs": [16, 48],
            "dense_width": [64],
        },
        fixed={"lr": 0.01},
        images=ImageSet(first=0, count=500, side=14, channels=3, tint=0.1),
        epochs=200,
    ),
    "task2_fashion_mnist": Task(
        nin_layers,
        {
            "depth": [6, 9, 12],
            "dropout_p": [0.0, 0.25],
            "weight_decay": [0.0, 0.0005],
            "bs": [32, 64],
        },
        fixed={"lr": 0.05, "conv": 32},
        images=ImageSet(first=6000, count=600, side=14, channels=3, tint=0.1),
        epochs=120,
    ),
    "task4_fashion_mnist": Task(
        partial(fully_convolutional_layers, channels=3, batch_norm=True),
        FULLY_CONVOLUTIONAL,
        fixed={},
        images=CINIC_LIKE,
        epochs=150,
    ),
    "task5_fashion_mnist": Task(
        partial(fully_convolutional_layers, channels=3, batch_norm=False),
        # At 0.06 a narrow deep one stays at chance without batch normalization.
        FULLY_CONVOLUTIONAL | {"lr": [0.03, 0.04]},
        fixed={},
        images=CINIC_LIKE,
        epochs=200,
    ),
    "task6_fashion_mnist": Task(
        nin_layers,
        {
            "weight_decay": [0.0005],
            "bs": [32, 64],
            "conv": [24, 36],
            "depth": [9, 12],
            "dropout_p": [0.0, 0.2],
            "lr": [0.03, 0.1],
        },
        fixed={},
        images=ImageSet(first=24_000, count=150, side=12, channels=3, tint=0.1, noise=0.05),
        epochs=250,
        augment=half_augmented,
    ),
    "task7_fashion_mnist": Task(
        nin_layers,
        {
            "depth": [6, 9],
            "dropout_p": [0.0, 0.2],
            "weight_decay": [0.0005],
            "bs": [25, 50],
            "dense": ["32-32-32", "40-40", "48"],
        },
        fixed={"lr": 0.05, "conv": 32},
        images=ImageSet(
            first=30_000,
            count=100,
            side=12,
            channels=4,
            tint=0.1,
            noise=0.1,
            classes=ALIKE,
        ),
        epochs=250,
        augment=half_augmented,
    ),
    "task8_fashion_mnist": Task(
        vgg_layers,
        {
            "convwidth": [16, 32],
            "dropout_p": [0.0, 0.25],
            "num_conv_blocks": [1, 2],
            "lr": [0.01, 0.03],
            "bs": [32, 64],
        },
        fixed={"weight_decay": 1e-4, "dense_width": 32},
        images=ImageSet(first=36_000, count=1000, side=14),
        epochs=150,
    ),
    "task9_fashion_mnist": Task(
        nin_layers,
        {
            "conv": [32, 48],
            "depth": [9, 12],
            "dropout_p": [0.0, 0.2],
            "weight_decay": [0.0, 0.0005],
            "bs": [32, 64],
        },
        fixed={"lr": 0.05},
        images=ImageSet(first=42_000, count=200, side=14, channels=3, tint=0.1, classes=DISTINCT),
        epochs=300,
        augment=partial(shifted_and_mirrored, shift=1),
    ),
}
