"""The eight tasks of PGDL: their networks, and images; their grids are in `pgdl_tasks.toml`.

A task has the kind of network and the names of hyper-parameters of the competition's task of the
same number, in the replica with fewer and other values. Its name is `task<number>_<data set>`,
which none of the published tasks has. Sources: README of google-research/pgdl; for the channels of
Tasks 4 and 5 the sizes of their layers' activations, for the blocks of the others the real
networks' numbers of parameters.

VGG-like (1, 8): blocks of two 3x3 convolutions and a 2x2 maximum pool, then dense layers.
NiN, network in network (2, 6, 7, 9): for every three layers a 3x3 convolution of stride 2 and two
1x1 convolutions; at the end a 1x1 convolution to the classes and a global average pool, in Task 7
dense layers.
Fully convolutional (4 with batch normalization, 5 without): 3x3 convolutions of stride 1, ten
channels in the first, then geometrically more; a convolution to the classes and a global average
pool.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gengap.formats.images import like_cifar, load_images
from gengap.replicas.run import recipes_in
from gengap.replicas.training import Images, shifted_and_mirrored

ALL_CLASSES = tuple(range(10))
DECAYS = (0.6, 0.8, 0.9)  # of the epochs; near those of Tasks 4 and 5
FIRST_CHANNELS = 10  # of a fully convolutional network, as published
LEVELS = 255  # pixels have 8 bits, so that deflated shards are small


def convolution(filters: int, size: int, strides: int = 1) -> dict:
    """A convolution with padding, as a layer of config.json."""
    window = {"kernel_size": size, "strides": strides, "padding": "same"}
    return {"layer_name": "Conv2D", "filters": filters} | window


def _hidden(units: int) -> dict:
    """A dense layer before the last one."""
    return {"layer_name": "Dense", "units": units, "activation": "relu"}


def _dropout(rate: float) -> list[dict]:
    return [{"layer_name": "Dropout", "rate": rate}] if rate else []


def _normalized(layer: dict, batch_norm: bool) -> list[dict]:
    normalization = [{"layer_name": "BatchNormalization", "momentum": 0.9}] if batch_norm else []
    return [layer, *normalization, {"layer_name": "ReLU"}]


def vgg_layers(
    classes: int, *, convwidth, dropout_p, num_conv_blocks, dense_width, num_dense_layers=1, **_
) -> list[dict]:
    """Keras layers of a VGG-like network."""
    wide = convolution(convwidth, 3) | {"activation": "relu"}
    layers = [wide, wide, {"layer_name": "MaxPooling2D", "pool_size": 2}] * num_conv_blocks
    layers.append({"layer_name": "Flatten"})
    layers += [_hidden(dense_width)] * num_dense_layers
    return [*layers, *_dropout(dropout_p), {"layer_name": "Dense", "units": classes}]


def nin_layers(
    classes: int, *, conv: int, depth: int, dropout_p: float, dense="", batch_norm=True, **_
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
    hidden = [_hidden(int(units)) for units in dense.split("-")]
    head = {"layer_name": "Dense", "units": classes}
    return [*layers, {"layer_name": "Flatten"}, *hidden, *_dropout(dropout_p), head]


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

    def ramp(ratio: int) -> list[int]:
        return [round(FIRST_CHANNELS * (ratio / 1000) ** layer) for layer in range(depth + 1)]

    def weights(ramp: list[int]) -> int:
        return sum(9 * a * b for a, b in itertools.pairwise([channels, *ramp, classes]))

    too_wide = next(ratio for ratio in itertools.count(1001) if weights(ramp(ratio)) > nparams)
    return ramp(too_wide - 1)


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
    classes: Sequence[int] = ALL_CLASSES  # their positions are the labels
    dataset: ClassVar[str] = "fashion_mnist"

    def read(self, split: str, root: Path | None) -> Images:
        """Inputs (N, C, side, side) in [-1, 1] of "train" or "test", the same in each call."""
        pixels, labels = load_images(self.dataset, split, root=root)
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
class WholeImages:
    """The first images of a data set, as they are."""

    dataset: str
    count: int  # of training images; test images are all of the classes
    classes: int = 10  # the first so many of the data set's
    side: int = 32
    channels: int = 3

    def read(self, split: str, root: Path | None) -> Images:
        """Inputs (N, C, side, side) in [-1, 1] of "train" or "test"."""
        pixels, labels = load_images(self.dataset, split, root=root)
        chosen = np.flatnonzero(labels < self.classes)[: self.count if split == "train" else None]
        images = pixels[chosen]
        images = images[..., None] if self.channels == 1 else like_cifar(images)
        inputs = np.moveaxis(images, 3, 1).astype(np.float32, order="C") / (LEVELS / 2) - 1
        return Images(torch.from_numpy(inputs), torch.from_numpy(labels[chosen]))


@dataclass(frozen=True)
class Task:
    """A grid of hyper-parameters and the training images that all its networks share."""

    layers: Callable[..., list[dict]]  # number of classes, hyper-parameters -> of config.json
    grid: dict[str, list]  # name -> possible values; the last varies fastest over the model ids
    fixed: dict[str, float]  # hyper-parameters that all networks share
    images: ImageSet | WholeImages
    epochs: int  # after which training ends at the latest
    decays: tuple[float, ...]  # of the epochs, at which the learning rate falls
    augment: Callable[[Tensor], Tensor] | None

    def settings(self) -> list[dict]:
        """The hyper-parameters of each network; its position is its id."""
        values = itertools.product(*self.grid.values())
        return [dict(zip(self.grid, row)) | self.fixed for row in values]

    def config(self, settings: dict) -> dict:
        """The content of config.json."""
        images = self.images
        classes = images.classes if isinstance(images, WholeImages) else len(images.classes)
        layers = self.layers(classes, **settings)
        shape = [images.side, images.side, images.channels]
        return {"model_config": layers, "input_shape": shape}


LAYERS: dict[str, Callable[..., list[dict]]] = {
    "vgg": vgg_layers,
    "nin": nin_layers,
    "fully convolutional": partial(fully_convolutional_layers, channels=3, batch_norm=False),
    "fully convolutional, batch normalization": partial(
        fully_convolutional_layers, channels=3, batch_norm=True
    ),
}
AUGMENTATIONS = {
    None: None,
    "half": half_augmented,
    "shifted by 1": partial(shifted_and_mirrored, shift=1),
    "shifted by 4": partial(shifted_and_mirrored, shift=4),
}


def _task(*, layers: str, images: dict, decays=DECAYS, augment=None, **rest: Any) -> Task:
    """A task as the file `pgdl_tasks.toml` has it."""
    kind = WholeImages if "dataset" in images else ImageSet
    rest |= {"images": kind(**images), "decays": tuple(decays), "augment": AUGMENTATIONS[augment]}
    return Task(LAYERS[layers], **rest)


# Scale -> name -> task.
RECIPES = recipes_in("pgdl_tasks.toml", _task)
TASKS = RECIPES["replica"]
