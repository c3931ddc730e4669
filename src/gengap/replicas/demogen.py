"""Retrain DEMOGEN's grids on a few images with narrow networks, in the published layout.

The grids of hyper-parameters and the architectures are published, the training is not: no training
code was released. What this recipe chooses is said in `Recipe` and its neighbours.
"""

import json
import os
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from gengap.collections.demogen import (
    RECORDS,
    SPEC,
    architecture_of,
    is_complete,
    like_cifar,
    networks_of,
    nin,
    resnet32,
    write_weights,
)
from gengap.errors import GengapError
from gengap.formats.images import load_images, per_image_standardization, write_idx_pair
from gengap.replicas import training
from gengap.replicas.pool import hash_seed, run_on
from gengap.replicas.training import (
    Images,
    check_settings,
    evaluate,
    momentum_sgd,
    write_json,
)

DATASET = "fashion_mnist"
SETTINGS = "training.json"  # what all networks of a family share, in the family's folder
IMAGES = 1000  # the first training images
BATCH = 50  # as the released code reads
LAST_QUARTER = 0.1  # what the learning rate is multiplied by for the last quarter of the epochs
SHIFT = 4  # pixels, at most, of augmented images
# The release averages over hundreds of batches, for 150,000 steps; these runs have 600 or 800.
BATCH_NORM_MOMENTUM = 0.1


@dataclass(frozen=True)
class Recipe:
    """A family: its grid as all_model_spec.json has it, the width at multiplier 1, epochs."""

    grid: dict[str, list]
    width: int
    epochs: int


RECIPES = {
    # The published grid, whole.
    "NIN_FASHION_MNIST": Recipe(
        {
            "wide_multiplier": [1.0, 1.5, 2.0],
            "batchnorm": [True, False],
            "dropout_prob": [0.0, 0.2, 0.5],
            "augmentation": [True, False],
            "decay_fac": [0.0, 0.001, 0.005],
            "copy": [1, 2],
        },
        width=16,
        epochs=40,
    ),
    # At the published rate of 0.1, since with the others these few steps do not lead far.
    "RESNET_FASHION_MNIST": Recipe(
        {
            "wide_multiplier": [1.0, 1.5, 2.0],
            "normalization": ["batch", "group"],
            "augmentation": [True, False],
            "decay_fac": [0.0, 0.002],
            "learning_rate": [0.1],
            "copy": [1, 2],
        },
        width=4,
        epochs=30,
    ),
}


def train_demogen(
    dataset: str,
    out: Path,
    *,
    networks: int | None = None,
    epochs: int | None = None,
    device: str = "cpu",
    seed: int = 42,
    workers: int | None = None,
    images: Path | None = None,
) -> Path:
    """Train a family and write it in the published layout under `out`; resumes there.

    dataset: the family, a name of RECIPES.
    networks: only the first so many of the grid (the collection then warns of the others).
    epochs: of each network, by default the recipe's.
    workers: processes on a CPU, by default one a core; a GPU is driven by this process alone.
    images: the folder of Fashion-MNIST (GENGAP_IMAGES, or a download).

    Raises: GengapError for an unknown family, where `out` holds networks of other settings, and
    where images are not to be had.
    """
    if dataset not in RECIPES:
        raise GengapError(f"no family {dataset!r} can be trained; there are: {', '.join(RECIPES)}")
    epochs = epochs or RECIPES[dataset].epochs
    job = Job(dataset, Path(out), epochs, device, seed, images)
    _write_settings(job)
    wanted = list(networks_of(dataset, RECIPES[dataset].grid))[:networks]
    missing = [place for place, (name, _) in enumerate(wanted) if not is_complete(job.folder(name))]
    with tqdm(total=len(wanted), initial=len(wanted) - len(missing), unit="network") as bar:
        count = workers or os.cpu_count()
        for _ in run_on(device, _train_and_save, missing, count, _start_worker, (job,)):
            bar.update()
    return job.out


class Job(training.Job):
    """What a worker must know, and where it finds and leaves files."""

    def folder(self, name: str) -> Path:
        return self.out / self.family / name


def _write_settings(job: Job) -> None:
    """The family's settings, images and grid; GengapError if it was begun with other settings."""
    recipe = RECIPES[job.family]
    settings = asdict(recipe) | {"epochs": job.epochs, "seed": job.seed, "images": IMAGES}
    file, spec = job.folder(SETTINGS), job.out / SPEC
    check_settings(file, settings)
    pixels, labels = load_images(DATASET, "train", root=job.images)
    write_idx_pair(job.out / DATASET, "train", pixels[:IMAGES], labels[:IMAGES])
    grids = json.loads(spec.read_text()) if spec.exists() else {}
    write_json(spec, grids | {job.family: recipe.grid})
    write_json(file, settings)


_WORKER: dict = {}  # what a worker process holds between networks


def _start_worker(job: Job) -> None:
    networks = list(networks_of(job.family, RECIPES[job.family].grid))
    train, test = _read_split("train", IMAGES, job), _read_split("test", None, job)
    _WORKER.update(job=job, networks=networks, train=train, test=test)


@dataclass(frozen=True)
class Split:
    """Images before they are standardized."""

    pixels: Tensor  # (N, 32, 32, 3) uint8, on the CPU
    labels: Tensor  # (N,) int64, where networks are trained

    @cached_property
    def images(self) -> Images:
        return Images(standardized(self.pixels, self.labels.device), self.labels)


def standardized(pixels: Tensor, device: torch.device) -> Tensor:
    """Inputs (N, 3, 32, 32) float32."""
    return torch.from_numpy(per_image_standardization(pixels.numpy())).to(device)


def _read_split(name: str, count: int | None, job: Job) -> Split:
    images, labels = load_images(DATASET, name, root=job.images)
    pixels = torch.from_numpy(like_cifar(images[:count]))
    return Split(pixels, torch.from_numpy(labels[:count]).to(job.device))


def _train_and_save(place: int) -> None:
    """Weights last: a network's folder is complete, or the network is trained again."""
    job, (name, settings) = _WORKER["job"], _WORKER["networks"][place]
    torch.manual_seed(hash_seed(job.seed, place))
    network = initialized(job.family, settings).to(job.device)
    steps = fit(network, _WORKER["train"], settings, epochs=job.epochs)
    for split, file in RECORDS.items():
        accuracy, loss = evaluate(network, _WORKER[split].images)
        record = {"Accuracy": accuracy, "CrossEntropy": loss, "global_step": steps}
        write_json(job.folder(name) / file, record)
    write_weights(job.folder(name), network, architecture_of(job.family))


def initialized(family: str, settings: dict) -> nn.Sequential:
    """A network of a family with He-normal kernels and zero biases.

    settings: index columns, hp_*. The dropout is the probability to drop a unit: the released code
    hands it to TensorFlow 1 as the probability to keep one, which 0 cannot be.
    """
    width = int(RECIPES[family].width * settings["hp_wide_multiplier"])
    normalization = settings["hp_normalization"]
    if architecture_of(family) == "nin":
        network = nin(width, normalization == "batch", settings["hp_dropout"], classes=10)
    else:
        network = resnet32(width, normalization, classes=10)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.momentum = BATCH_NORM_MOMENTUM
    return network


def fit(network: nn.Sequential, train: Split, settings: dict, *, epochs: int) -> int:
    """Train for so many epochs, however far it comes; the number of steps.

    settings: index columns, hp_*. The weight decay has the gradient decay_fac * w, of kernels.
    """
    rate, decay = settings["hp_learning_rate"], settings["hp_decay_fac"]
    optimizer = momentum_sgd(network, rate=rate, weight_decay=decay)
    settle = torch.optim.lr_scheduler.MultiStepLR(optimizer, [epochs * 3 // 4], gamma=LAST_QUARTER)
    steps = 0
    network.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(train.labels)).split(BATCH):
            inputs, labels = train.images.inputs[chosen], train.labels[chosen]
            if settings["hp_augmentation"]:
                inputs = standardized(shifted_and_mirrored(train.pixels[chosen]), labels.device)
            loss = F.cross_entropy(network(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps += 1
        settle.step()
    return steps


def shifted_and_mirrored(images: Tensor) -> Tensor:
    """Images (N, H, W, C), each moved by up to SHIFT pixels each way and mirrored half the time.

    Source: tensor2tensor's image_cifar10, which the released code names: pad to 40, crop, flip.
    """
    count, height, width, _ = images.shape
    padded = F.pad(images, (0, 0, SHIFT, SHIFT, SHIFT, SHIFT))
    down, right = torch.randint(2 * SHIFT + 1, (2, count, 1))
    columns = torch.arange(width).expand(count, -1)
    columns = torch.where(torch.rand(count, 1) < 0.5, width - 1 - columns, columns) + right
    rows = torch.arange(height) + down
    return padded[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
