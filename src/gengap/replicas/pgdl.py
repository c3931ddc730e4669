"""Train the tasks of `pgdl_tasks`, as those of the PGDL competition, in its published layout.

A task is a full grid of hyper-parameters; each of its networks is trained on the same images, by
SGD with momentum 0.9, until its cross-entropy on them, without augmentation, is below STOP: the
0.01 nats at which the published ones stop. Those that do not come so far in the task's number of
epochs are kept as they are then. The learning rate falls to a fifth three times.
Weights are rounded before training and after it (`round_weights`); what is recorded of a network,
and compared with STOP, is of the rounded one.
"""

import copy
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pandas import DataFrame, Series
from torch import nn

from gengap.formats.containers import write_container
from gengap.formats.images import SPLITS
from gengap.formats.keras import network_from_config, write_weights
from gengap.formats.tfrecord import write_tfrecord
from gengap.replicas.pgdl_tasks import RECIPES, TASKS, Task
from gengap.replicas.run import Run, hash_seed, recipes_in, write_json
from gengap.replicas.training import (
    Images,
    evaluate,
    momentum_sgd,
    round_weights,
    shuffled_batches,
    train_epoch,
)

STOP = 0.01  # nats: the first epoch with a cross-entropy below it is the last, as published
LARGEST_LOSS = 0.1  # nats: of a network that does not come to STOP
LEAST_ACCURACY = 0.95  # of training, of every published network
STOPPED = 0.75  # of a task's networks, at least, stopped at STOP
GAPS = (0.05, 0.6)  # mean gaps of tasks lie between; published 0.075 (Task 8) to 0.517 (Task 7)
SPREAD = 0.3  # between the least and the largest mean gap; published 0.442


@dataclass(frozen=True)
class PGDLTask(Run):
    """A task; a network is complete when its record is written, as its last file.

    When the whole grid is trained, the task's folder is packed too, beside itself, and that zip
    file is not written again: the collection can be read with either, and this project ships the
    zip file.
    """

    RECIPES = RECIPES

    @property
    def settings_file(self) -> Path:
        return self.records / "training.json"

    @property
    def records(self) -> Path:
        """Where finished networks' metrics are until all are trained."""
        return self.out / "training" / self.family

    @property
    def folder(self) -> Path:
        return self.out / "input_data" / self.family

    def settings(self) -> dict:
        recipe = recipes_in("pgdl_tasks.toml")[self.scale][self.family]
        return recipe | {"stop": STOP, "epochs": self.epochs, "seed": self.seed}

    @property
    def image_set(self) -> str:
        return self.recipe.images.dataset

    def networks(self, count: int | None) -> range:
        return range(len(self.recipe.settings()))[:count]

    def record_file(self, network: int) -> Path:
        return self.records / f"{network}.json"

    def is_done(self, network: int) -> bool:
        return self.record_file(network).exists()

    def files(self, networks: range) -> list[Path]:
        records = [self.record_file(network) for network in networks]
        folders = [self.folder / f"model_{network}" for network in networks]
        return [self.folder.with_suffix(".zip"), *records, *folders]

    def prepare(self) -> None:
        """The training images as two shards."""
        train = self.recipe.images.read("train", self.images)
        inputs = train.inputs.permute(0, 2, 3, 1).numpy()  # (N, H, W, C), as TensorFlow
        for shard, part in enumerate(np.array_split(np.arange(len(inputs)), 2)):
            file = self.folder / "dataset_1" / "train" / f"shard_{shard}.tfrecord"
            write_tfrecord(file, inputs[part], train.labels.numpy()[part])

    def read(self, split: str) -> Images:
        """Channels last: on a CPU, convolutions of 3 x 3 then take two thirds of the time."""
        images = self.recipe.images.read(split, self.images)
        inputs = images.inputs.to(self.device, memory_format=torch.channels_last)
        return Images(inputs, images.labels.to(self.device))

    def train(self, held: dict[str, Images], networks: list[int]) -> None:
        task = self.recipe
        for number in networks:
            settings = task.settings()[number]
            config = task.config(settings)
            network = initialized(config, seed=hash_seed(self.seed, number)).to(self.device)
            folder = self.folder / f"model_{number}"
            write_weights(folder / "weights_init.hdf5", network)
            record = fit(network, held["train"], task, settings, epochs=self.epochs)
            test_accuracy, test_loss = evaluate(network, held["test"])
            write_weights(folder / "weights.hdf5", network)
            write_json(folder / "config.json", config)
            metrics = record | {"test_acc": test_accuracy, "test_loss": test_loss}
            write_json(self.record_file(number), metrics)

    def finish(self, networks: range) -> None:
        """model_configs.json: hyper-parameters with all their values, metrics, image counts."""
        counts = {f"{split}_images": len(self.read(split).labels) for split in SPLITS}
        task, configs = self.recipe, {}
        done = [number for number in self.networks(None) if self.is_done(number)]
        for number in done:
            settings = task.settings()[number]
            hyper_parameters = {
                name: {"possible_values": values, "current_value": settings[name]}
                for name, values in task.grid.items()
            }
            metrics = json.loads(self.record_file(number).read_text()) | counts
            configs[str(number)] = {"hparams": hyper_parameters, "metrics": metrics}
        write_json(self.out / "reference_data" / self.family / "model_configs.json", configs)
        if len(done) == len(task.settings()) and not self.folder.with_suffix(".zip").exists():
            pack(self.folder)


def initialized(config: dict, *, seed: int) -> nn.Sequential:
    """The network of a configuration with He-uniform kernels, rounded, and zero biases.

    Keras's own start (Glorot) leaves twelve narrow layers without batch normalization at chance.
    """
    torch.manual_seed(seed)
    network = network_from_config(config)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.get_parameter("bias"))
    round_weights(network)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def fit(network: nn.Sequential, train: Images, task: Task, settings: dict, *, epochs: int) -> dict:
    """Train until the rounded network has a cross-entropy below STOP, or for so many epochs.

    Leaves it rounded. Returns epochs, and accuracy and loss on the training images.
    """
    # Keras's L2 penalty wd * |w|^2 has the gradient 2 wd w. Tasks 4 and 5 call it wd.
    decay = 2 * settings["wd" if "wd" in settings else "weight_decay"]
    optimizer = momentum_sgd(network, rate=settings["lr"], weight_decay=decay)
    falls = [round(part * epochs) for part in task.decays]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, falls, gamma=0.2)
    for epoch in range(1, epochs + 1):
        train_epoch(network, shuffled_batches(train, settings["bs"], task.augment), optimizer)
        schedule.step()
        _, loss = evaluate(network, train)
        if loss < STOP or epoch == epochs:
            exact = copy.deepcopy(network.state_dict())
            round_weights(network)
            accuracy, loss = evaluate(network, train)
            if loss < STOP or epoch == epochs:
                break
            network.load_state_dict(exact)
    return {"train_acc": accuracy, "train_loss": loss, "epochs": epoch}


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
    members = ((file.relative_to(folder.parent).as_posix(), file.read_bytes()) for file in files)
    write_container(folder.with_name(f"{folder.name}.zip"), members)
