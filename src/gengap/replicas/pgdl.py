"""Train tasks like those of the PGDL competition, in its published layout.

A task is a full grid of hyper-parameters; each of its networks is trained on the same images, by
SGD with momentum 0.9, until its cross-entropy on them is low. The published networks stop at 0.01
nats (all training losses of tasks 1 and 2 lie below it); these stop at STOP. The learning rate falls
to a fifth at DECAY_EPOCHS, those of Task 1, if training lasts so long.

The architectures are those that the parameter counts of real networks give, those of Task 1 with one
block and those of Task 2: a VGG-like network has blocks of two 3x3 convolutions and a 2x2 maximum
pool, then dense layers; a network-in-network (NiN) has, for every three layers, a 3x3 and two 1x1
convolutions, and at the end a 1x1 convolution to the classes and a global average pool.
"""

import itertools
import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from gengap.errors import GengapError
from gengap.folders import write_atomically
from gengap.formats.images import load_images
from gengap.formats.keras import network_from_config, write_weights
from gengap.formats.tfrecord import write_tfrecord
from gengap.replicas.pool import hash_seed, run_on
from gengap.replicas.training import Images, evaluate, momentum_sgd, write_json

STOP = 0.05  # nats: training stops after the first epoch with a cross-entropy below it
DECAY_EPOCHS = (300, 600, 900)
MAX_EPOCHS = 1200
IMAGES = 1000  # training images of a task
SIDE = 28  # pixels
CLASSES = 10


def vgg_layers(*, convwidth, dropout_p, num_conv_blocks, **_) -> list[dict]:
    """Keras layers of a VGG-like network (Task 8)."""
    layers = []
    for _ in range(num_conv_blocks):
        layers += [convolution(convwidth, 3) | {"activation": "relu"} for _ in range(2)]
        layers.append({"layer_name": "MaxPooling2D", "pool_size": 2})
    layers.append({"layer_name": "Flatten"})
    dense = {"layer_name": "Dense", "units": 32, "activation": "relu"}
    return [*layers, dense, *_dropout(dropout_p), {"layer_name": "Dense", "units": CLASSES}]


def nin_layers(*, depth, dropout_p, **_) -> list[dict]:
    """Keras layers of a network in network (Tasks 2 and 9)."""
    layers = []
    for layer in range(depth):
        strides = 2 if layer in (0, 3, 6) else 1  # 28 pixels become 14, 7, 4
        layers.append(convolution(32, 1 if layer % 3 else 3, strides))
        layers += [{"layer_name": "BatchNormalization", "momentum": 0.9}, {"layer_name": "ReLU"}]
    head = [*_dropout(dropout_p), convolution(CLASSES, 1)]
    return [*layers, *head, {"layer_name": "GlobalAveragePooling2D"}]


def convolution(filters: int, size: int, strides: int = 1) -> dict:
    """A convolution with padding, as a layer of config.json."""
    return {
        "layer_name": "Conv2D",
        "filters": filters,
        "kernel_size": size,
        "strides": strides,
        "padding": "same",
    }


def _dropout(rate: float) -> list[dict]:
    return [{"layer_name": "Dropout", "rate": rate}] if rate else []


@dataclass(frozen=True)
class Task:
    """A grid of hyper-parameters and the training images that all its networks share."""

    layers: Callable[..., list[dict]]  # hyper-parameters -> layers of config.json, but the head
    grid: dict[str, list]  # name -> possible values; the last varies fastest over the model ids
    first_image: int  # of IMAGES consecutive training images
    fixed: dict[str, float]  # hyper-parameters of training that all networks share

    def settings(self) -> list[dict]:
        """The hyper-parameters of each network; its position is its id."""
        return [dict(zip(self.grid, values)) for values in itertools.product(*self.grid.values())]


TASKS = {
    "vgg_fashion_mnist": Task(
        vgg_layers,
        {
            "convwidth": [8, 16],
            "dropout_p": [0.0, 0.25],
            "num_conv_blocks": [1, 3],
            "lr": [0.003, 0.01],
            "bs": [16, 64],
        },
        first_image=0,
        fixed={"weight_decay": 1e-4},
    ),
    "nin_fashion_mnist": Task(
        nin_layers,
        {
            "depth": [6, 9, 12],
            "dropout_p": [0.0, 0.5],
            "weight_decay": [0.0, 1e-3],
            "bs": [16, 32, 64],
        },
        first_image=IMAGES,
        fixed={"lr": 0.01},
    ),
}


def train_pgdl(
    dataset: str,
    out: Path,
    *,
    networks: int | None = None,
    epochs: int = MAX_EPOCHS,
    device: str = "cpu",
    seed: int = 42,
    workers: int | None = None,
    images: Path | None = None,
) -> Path:
    """Train a task and write it in the published layout under `out`; resumes there.

    dataset: the task, a name of TASKS.
    networks: only the first so many of the grid (then the score refuses the task).
    epochs: training is given up after so many.
    workers: processes on a CPU, by default one a core; a GPU is driven by this process alone.
    images: the folder of Fashion-MNIST (GENGAP_IMAGES, or a download).

    A network is complete when its record is written, as its last file: killing the run loses no
    finished one. When the whole grid is trained, the task's folder is packed too, beside itself: the
    collection can be read with either, and this project ships the zip file.

    Raises: GengapError for an unknown task, where `out` holds networks of other settings, where
    images are not to be had, and if a network does not come down to STOP.
    """
    if dataset not in TASKS:
        raise GengapError(f"no task {dataset!r} can be trained; there are: {', '.join(TASKS)}")
    job = Job(dataset, Path(out), epochs, device, seed, images)
    model_ids = range(len(TASKS[dataset].settings()))[:networks]
    missing = [model_id for model_id in model_ids if not job.is_done(model_id)]
    if missing:
        _write_images(job)
    with tqdm(total=len(model_ids), initial=len(model_ids) - len(missing), unit="network") as bar:
        count = workers or os.cpu_count()
        for _ in run_on(device, _train_and_save, missing, count, _start_worker, (job,)):
            bar.update()
    _write_reference(job, model_ids)
    if len(model_ids) == len(TASKS[dataset].settings()):
        pack(job.folder)
    return job.out


@dataclass(frozen=True)
class Job:
    """What a worker must know to train a network of a task."""

    task: str
    out: Path
    epochs: int
    device: str
    seed: int
    images: Path | None

    @property
    def folder(self) -> Path:
        return self.out / "input_data" / self.task

    def record_file(self, model_id: int) -> Path:
        """Where a finished network's metrics are until all are trained."""
        return self.out / "training" / self.task / f"{model_id}.json"

    def is_done(self, model_id: int) -> bool:
        """Whether the network is there already; GengapError if it was trained otherwise."""
        file = self.record_file(model_id)
        if not file.exists():
            return False
        found, wanted = json.loads(file.read_text())["settings"], self.settings_of(model_id)
        if found != wanted:
            raise GengapError(
                f"{file} was trained with {found}, not {wanted}: choose another --out."
            )
        return True

    def settings_of(self, model_id: int) -> dict:
        """All that decides how a network comes out."""
        task = TASKS[self.task]
        return {**task.settings()[model_id], **task.fixed, "seed": self.seed, "stop": STOP}


_WORKER: dict = {}  # what a worker process holds between networks


def _start_worker(job: Job) -> None:
    first = TASKS[job.task].first_image
    train = _read_images("train", slice(first, first + IMAGES), job)
    _WORKER.update(job=job, train=train, test=_read_images("test", slice(None), job))


def _read_images(split: str, part: slice, job: Job) -> Images:
    pixels, labels = load_images("fashion_mnist", split, root=job.images)
    inputs = torch.from_numpy(pixels[part].astype(np.float32) / 255).unsqueeze(1)
    return Images(inputs.to(job.device), torch.from_numpy(labels[part].copy()).to(job.device))


def _train_and_save(model_id: int) -> None:
    job, train, test = _WORKER["job"], _WORKER["train"], _WORKER["test"]
    settings = job.settings_of(model_id)
    config = {"model_config": TASKS[job.task].layers(**settings), "input_shape": [SIDE, SIDE, 1]}
    network = initialized(config, seed=hash_seed(job.seed, model_id)).to(job.device)
    folder = job.folder / f"model_{model_id}"
    write_weights(folder / "weights_init.hdf5", network)
    record = fit(network, train, settings, epochs=job.epochs)
    test_accuracy, test_loss = evaluate(network, test)
    write_weights(folder / "weights.hdf5", network)
    write_json(folder / "config.json", config)
    metrics = record | {"test_acc": test_accuracy, "test_loss": test_loss}
    write_json(job.record_file(model_id), {"settings": settings, "metrics": metrics})


def initialized(config: dict, *, seed: int) -> nn.Sequential:
    """The network of a configuration with He-uniform kernels and zero biases.

    Keras's own start (Glorot) leaves twelve narrow layers without batch normalization at chance.
    """
    torch.manual_seed(seed)
    network = network_from_config(config)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return network


def fit(network: nn.Sequential, train: Images, settings: dict, *, epochs: int) -> dict:
    """Train until the cross-entropy is below STOP; epochs and training accuracy and loss."""
    # Keras's L2 penalty wd * |w|^2 has the gradient 2 wd w.
    decay = 2 * settings["weight_decay"]
    optimizer = momentum_sgd(network, rate=settings["lr"], weight_decay=decay)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, DECAY_EPOCHS, gamma=0.2)
    for epoch in range(1, epochs + 1):
        network.train()
        for chosen in torch.randperm(len(train.labels)).split(settings["bs"]):
            loss = F.cross_entropy(network(train.inputs[chosen]), train.labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
        accuracy, loss = evaluate(network, train)
        if loss < STOP:
            return {"train_acc": accuracy, "train_loss": loss, "epochs": epoch}
    raise GengapError(
        f"training with {settings} has a cross-entropy of {loss:.3f} after {epochs} epochs, not"
        f" below {STOP}; give more --epochs"
    )


def _write_images(job: Job) -> None:
    """The training images as two shards; read first, so that lacking images fail once and early."""
    first = TASKS[job.task].first_image
    train = _read_images("train", slice(first, first + IMAGES), job)
    inputs = train.inputs.cpu().permute(0, 2, 3, 1).numpy()  # (N, 28, 28, 1), as TensorFlow
    labels = train.labels.cpu().numpy()
    for shard, part in enumerate(np.array_split(np.arange(IMAGES), 2)):
        file = job.folder / "dataset_1" / "train" / f"shard_{shard}.tfrecord"
        write_tfrecord(file, inputs[part], labels[part])


def _write_reference(job: Job, model_ids: range) -> None:
    """model_configs.json: hyper-parameters with all their values, and metrics."""
    grid = TASKS[job.task].grid
    configs = {}
    for model_id in model_ids:
        record = json.loads(job.record_file(model_id).read_text())
        hyper_parameters = {
            name: {"possible_values": values, "current_value": record["settings"][name]}
            for name, values in grid.items()
        }
        configs[str(model_id)] = {"hparams": hyper_parameters, "metrics": record["metrics"]}
    write_json(job.out / "reference_data" / job.task / "model_configs.json", configs)


def pack(folder: Path) -> None:
    """Write `folder`.zip, from which the folder unpacks; the same files give the same bytes."""
    # Hidden files are what a killed run has left half written.
    files = sorted(file for file in folder.rglob("[!.]*") if file.is_file())

    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as packed:
            for file in files:
                member = zipfile.ZipInfo(file.relative_to(folder.parent).as_posix())  # of 1980
                member.external_attr = 0o644 << 16  # who may read it where it is unpacked
                packed.writestr(member, file.read_bytes(), zipfile.ZIP_DEFLATED)

    write_atomically(folder.with_name(f"{folder.name}.zip"), write)
