"""Train the eight tasks of `pgdl_tasks`, as those of the PGDL competition, in its published layout.

A task is a full grid of hyper-parameters; each of its networks is trained on the same images, by
SGD with momentum 0.9, until its cross-entropy on them, without augmentation, is below STOP: the 0.01
nats at which the published ones stop. Those that do not come so far in the task's number of epochs
are kept if they come below LARGEST_LOSS. The learning rate falls to a fifth at each of DECAYS.
Weights are rounded before training and after it (`round_weights`); what is recorded of a network,
and compared with STOP, is of the rounded one.
"""

import copy
import json
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from pandas import DataFrame, Series
from torch import nn
from tqdm import tqdm

from gengap.errors import GengapError
from gengap.folders import write_atomically
from gengap.formats.images import SPLITS
from gengap.formats.keras import network_from_config, write_weights
from gengap.formats.tfrecord import write_tfrecord
from gengap.replicas import training
from gengap.replicas.pgdl_tasks import TASKS, Task
from gengap.replicas.pool import hash_seed, run_on
from gengap.replicas.training import (
    Images,
    evaluate,
    momentum_sgd,
    round_weights,
    shuffled_batches,
    train_epoch,
    write_json,
)
from gengap.tables.engine import cores

STOP = (
    0.01  # nats: training stops after the first epoch with a cross-entropy below it, as published
)
LARGEST_LOSS = 0.1  # nats: what a network that does not come to STOP may have at its end
DECAYS = (0.6, 0.8, 0.9)  # of the epochs that a task allows; near those of Tasks 4 and 5
LEAST_ACCURACY = 0.95  # of training, of every published network
STOPPED = 0.75  # of a task's networks, at least, stopped at STOP
GAPS = (0.05, 0.6)  # mean gaps of tasks lie between; published 0.075 (Task 8) to 0.517 (Task 7)
SPREAD = 0.3  # between the least and the largest mean gap; published 0.442


def train_pgdl(
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
    """Train a task and write it in the published layout under `out`; resumes there.

    dataset: the task, a name of TASKS.
    networks: only the first so many of the grid (then the score refuses the task).
    epochs: training ends after so many at the latest, by default the task's own number.
    workers: processes on a CPU, by default one a core; a GPU is driven by this process alone.
    images: the folder of Fashion-MNIST (GENGAP_IMAGES, or a download).

    A network is complete when its record is written, as its last file: killing the run loses no
    finished one. When the whole grid is trained, the task's folder is packed too, beside itself, and
    that zip file is not written again: the collection can be read with either, and this project
    ships the zip file.

    Raises: GengapError for an unknown task, where `out` holds networks of other settings, where
    images are not to be had, and if a network does not come below LARGEST_LOSS.
    """
    if dataset not in TASKS:
        raise GengapError(f"no task {dataset!r} can be trained; there are: {', '.join(TASKS)}")
    job = Job(dataset, Path(out), epochs or TASKS[dataset].epochs, device, seed, images)
    grid = job.task.settings()
    model_ids = range(len(grid))[:networks]
    missing = [model_id for model_id in model_ids if not job.is_done(model_id)]
    if missing:
        _write_images(job)
    with tqdm(total=len(model_ids), initial=len(model_ids) - len(missing), unit="network") as bar:
        count = workers or cores()
        for _ in run_on(device, _train_and_save, missing, count, _start_worker, (job,)):
            bar.update()
    _write_reference(job, [number for number in range(len(grid)) if job.is_done(number)])
    packed = job.folder.with_name(f"{dataset}.zip")
    if len(model_ids) == len(grid) and not packed.exists():
        pack(job.folder)
    return job.out


class Job(training.Job):
    """What a worker must know, and where it finds and leaves files; a family is a task."""

    @property
    def task(self) -> Task:
        return TASKS[self.family]

    @property
    def folder(self) -> Path:
        return self.out / "input_data" / self.family

    def record_file(self, model_id: int) -> Path:
        """Where a finished network's metrics are until all are trained."""
        return self.out / "training" / self.family / f"{model_id}.json"

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
        """All numbers of a task that decide how a network comes out; the code is not among them."""
        # As JSON gives them back.
        images = asdict(self.task.images) | {"classes": [*self.task.images.classes]}
        shared = {"images": images, "epochs": self.epochs, "seed": self.seed, "stop": STOP}
        return self.task.settings()[model_id] | shared


_WORKER: dict = {}  # what a worker process holds between networks


def _start_worker(job: Job) -> None:
    _WORKER.update(job=job, train=_read_images("train", job), test=_read_images("test", job))


def _read_images(split: str, job: Job) -> Images:
    """Channels last: on a CPU, convolutions of 3 x 3 then take two thirds of the time."""
    images = job.task.images.read(split, job.images)
    inputs = images.inputs.to(job.device, memory_format=torch.channels_last)
    return Images(inputs, images.labels.to(job.device))


def _train_and_save(model_id: int) -> None:
    job, train, test = _WORKER["job"], _WORKER["train"], _WORKER["test"]
    settings = job.settings_of(model_id)
    config = job.task.config(settings)
    network = initialized(config, seed=hash_seed(job.seed, model_id)).to(job.device)
    folder = job.folder / f"model_{model_id}"
    write_weights(folder / "weights_init.hdf5", network)
    record = fit(network, train, job.task, settings)
    test_accuracy, test_loss = evaluate(network, test)
    write_weights(folder / "weights.hdf5", network)
    write_json(folder / "config.json", config)
    metrics = record | {"test_acc": test_accuracy, "test_loss": test_loss}
    write_json(job.record_file(model_id), {"settings": settings, "metrics": metrics})


def initialized(config: dict, *, seed: int) -> nn.Sequential:
    """The network of a configuration with He-uniform kernels, rounded, and zero biases.

    Keras's own start (Glorot) leaves twelve narrow layers without batch normalization at chance.
    """
    torch.manual_seed(seed)
    network = network_from_config(config)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    round_weights(network)
    return network.to(memory_format=torch.channels_last)


def fit(network: nn.Sequential, train: Images, task: Task, settings: dict) -> dict:
    """Train until the rounded network has a cross-entropy below STOP, or to the last epoch.

    Leaves it rounded. Returns epochs, and accuracy and loss on the training images.
    """
    # Keras's L2 penalty wd * |w|^2 has the gradient 2 wd w. Tasks 4 and 5 call it wd.
    decay = 2 * settings.get("weight_decay", settings.get("wd"))
    optimizer = momentum_sgd(network, rate=settings["lr"], weight_decay=decay)
    last = settings["epochs"]
    falls = [round(part * last) for part in DECAYS]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, falls, gamma=0.2)
    for epoch in range(1, last + 1):
        train_epoch(network, shuffled_batches(train, settings["bs"], task.augment), optimizer)
        schedule.step()
        _, loss = evaluate(network, train)
        if loss < STOP or epoch == last:
            exact = copy.deepcopy(network.state_dict())
            round_weights(network)
            accuracy, loss = evaluate(network, train)
            if loss < (LARGEST_LOSS if epoch == last else STOP):
                return {"train_acc": accuracy, "train_loss": loss, "epochs": epoch}
            network.load_state_dict(exact)
    raise GengapError(
        f"training with {settings} has a cross-entropy of {loss:.3f} after {last} epochs, not"
        f" below {LARGEST_LOSS}; give more --epochs, and another --out"
    )


def _write_images(job: Job) -> None:
    """The training images as two shards; read first, so that lacking images fail once and early."""
    train = _read_images("train", job)
    inputs = train.inputs.cpu().permute(0, 2, 3, 1).numpy()  # (N, H, W, C), as TensorFlow
    labels = train.labels.cpu().numpy()
    for shard, part in enumerate(np.array_split(np.arange(len(labels)), 2)):
        file = job.folder / "dataset_1" / "train" / f"shard_{shard}.tfrecord"
        write_tfrecord(file, inputs[part], labels[part])


def _write_reference(job: Job, model_ids: list[int]) -> None:
    """model_configs.json: hyper-parameters with all their values, metrics, numbers of images."""
    counts = {f"{split}_images": len(_read_images(split, job).labels) for split in SPLITS}
    configs = {}
    for model_id in model_ids:
        record = json.loads(job.record_file(model_id).read_text())
        hyper_parameters = {
            name: {"possible_values": values, "current_value": record["settings"][name]}
            for name, values in job.task.grid.items()
        }
        metrics = record["metrics"] | counts
        configs[str(model_id)] = {"hparams": hyper_parameters, "metrics": metrics}
    write_json(job.out / "reference_data" / job.family / "model_configs.json", configs)


def hallmarks(index: DataFrame) -> DataFrame:
    """What makes this replica one of the competition: hallmark, wanted, found, met.

    index: of a collection; the hallmarks of tasks that it lacks are not met.
    """
    rows, gaps = [], []
    for name, task in TASKS.items():
        networks = index[index["family"] == name]
        gaps.append((networks["train_accuracy"] - networks["test_accuracy"]).mean())
        found = _hallmarks_of(networks, len(task.settings()), gaps[-1])
        rows += [(f"{name}: {hallmark}", *row) for hallmark, *row in found]
    spread = Series(gaps).max() - Series(gaps).min()
    rows.append(("spread of mean gaps", f">= {SPREAD}", f"{spread:.3f}", spread >= SPREAD))
    return DataFrame(rows, columns=["hallmark", "wanted", "found", "met"])


def _hallmarks_of(networks: DataFrame, size: int, gap: float) -> list[tuple]:
    """Of one task, with `size` networks in its grid and this mean gap."""
    least, worst = networks["train_accuracy"].min(), networks["train_loss"].max()
    stopped, (low, high) = (networks["train_loss"] < STOP).mean(), GAPS
    full = len(networks) == size and not networks.filter(like="hp_").duplicated().any()
    accurate = least > LEAST_ACCURACY
    return [
        ("networks of a full grid", f"{size}", f"{len(networks)}", full),
        ("least training accuracy", f"> {LEAST_ACCURACY}", f"{least:.3f}", accurate),
        ("largest training loss", f"< {LARGEST_LOSS}", f"{worst:.4f}", worst < LARGEST_LOSS),
        (f"share that stopped at {STOP}", f">= {STOPPED}", f"{stopped:.2f}", stopped >= STOPPED),
        ("mean gap", f"{low} to {high}", f"{gap:.3f}", low <= gap <= high),
    ]


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
