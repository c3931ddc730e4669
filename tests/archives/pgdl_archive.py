"""PGDL's three zip files in miniature: eight tasks in the published layout and on its grids.

Names, grids, classes and shapes are those of the competition's README and of what others found in
the real files; which of their values are text or lists is not known, and here each is met. Networks
are very narrow and images few. Of Task 8 the README lists half of the grid; which values are
missing is not known, and here it has four batch sizes.
"""

import itertools
import json
import zipfile
from pathlib import Path

import numpy as np
import torch

from gengap.formats.keras import network_from_config, write_weights
from gengap.formats.tfrecord import write_tfrecord
from gengap.replicas.pgdl_tasks import fully_convolutional_layers, nin_layers, vgg_layers

ARCHIVES = {  # the folder in it, and its tasks; one has none
    "public_data.zip": ("public_data/", ["task1_v4", "task2_v1"]),
    "phase_one_data.zip": ("", ["task4", "task5"]),
    "phase_two_data.zip": ("phase_two_data/", ["task6", "task7", "task8", "task9"]),
}
REGULARIZED = {"dropout_p": [0.0, 0.5], "weight_decay": [0.0, 0.001]}
CONVOLUTIONAL = {
    "nparams": ["1M", "2.5M"],
    "depth": [4, 6, 9],
    "wd": [0.0, 0.0005],
    "reverse": [True, False],
    "lr": [0.01, 0.001],
    "bs": [32, 256],
}
GRIDS = {
    "task1_v4": {"convwidth": [256, 512]}
    | REGULARIZED
    | {"num_conv_blocks": [1, 3], "num_dense_layers": [1, 2], "bs": [8, 32, 512]}
    | {"dense_width": [128]},
    "task2_v1": {"depth": [6, 9, 12], "dropout_p": [0.0, 0.25, 0.5], "weight_decay": [0.0, 0.001]}
    | {"bs": [32, 512, 1024]},
    "task4": CONVOLUTIONAL,
    "task5": CONVOLUTIONAL | {"depth": [4, 6]},
    "task6": REGULARIZED
    | {"bs": [512, 1024], "conv": [256, 512], "depth": [6, 9, 12], "lr": [0.1, 0.01]},
    "task7": REGULARIZED
    | {"depth": [6, 9], "bs": [512, 1024], "dense": [[128, 128, 128], [256, 256], 512]},
    "task8": {"convwidth": [256, 512], "dropout_p": [0.0, 0.5], "num_conv_blocks": [1, 3]}
    | {"lr": [0.001, 0.01], "bs": [32, 128, 512, 2048]},
    "task9": REGULARIZED | {"conv": [256, 512], "depth": [9, 12], "bs": [32, 512]},
}
FIRST_ID = {"task1_v4": 20, "task2_v1": 239}  # of the published ones
CLASSES = {"task6": 102, "task7": 37}
SHAPES = {"task7": (32, 32, 4), "task8": (28, 28, 1)}
SHARDS, IMAGES = 2, 20  # and so many images in each shard
NARROWER = 128  # times than the published layers


def write_pgdl(folder: Path, *, small: bool = False) -> None:
    """The three zip files; small: of 24 or 32 networks a task, by `smaller`."""
    rng = np.random.default_rng(1)
    for archive, (home, tasks) in ARCHIVES.items():
        with zipfile.ZipFile(folder / archive, "w", zipfile.ZIP_DEFLATED) as members:
            members.writestr(f"__MACOSX/{home}._input_data", b"")
            for task in tasks:
                write_task(members, folder, home, task, small, rng)


def smaller(grid: dict[str, list]) -> dict[str, list]:
    """Of five hyper-parameters two values and of others one; of four, three of the first."""
    names = [name for name, known in grid.items() if len(known) > 1]
    kept = dict.fromkeys(names[:5], 2) | ({names[0]: 3} if len(names) < 5 else {})
    return {name: known[: kept.get(name, 1)] for name, known in grid.items()}


def write_task(members, scratch: Path, home: str, task: str, small: bool, rng) -> None:
    grid, specs = smaller(GRIDS[task]) if small else GRIDS[task], {}
    for number, point in enumerate(itertools.product(*grid.values()), FIRST_ID.get(task, 0)):
        setting = dict(zip(grid, point))
        config = {"model_config": layers(task, setting), "input_shape": [*shape_of(task)]}
        place = f"{home}input_data/{task}/model_{number}"
        members.writestr(f"{place}/config.json", json.dumps(config))
        for name in ("weights.hdf5", "weights_init.hdf5"):
            torch.manual_seed(int(rng.integers(2**31)))
            write_weights(scratch / "weights", network_from_config(config))
            members.write(scratch / "weights", f"{place}/{name}")
        specs[number] = {
            "hparams": {
                name: {"possible_values": grid[name], "current_value": value}
                for name, value in setting.items()
            },
            "metrics": metrics(task, grid, setting, rng),
            "dev_name": "_".join(f"{name}_{value}" for name, value in setting.items()),
        }
    (scratch / "weights").unlink()
    members.writestr(f"{home}reference_data/{task}/model_configs.json", json.dumps(specs))
    for shard in range(SHARDS):
        labels = rng.integers(CLASSES.get(task, 10), size=IMAGES)
        labels[: IMAGES // 2] %= 2  # of some classes there are several images, as in the real ones
        write_tfrecord(scratch / "shard", rng.random((IMAGES, *shape_of(task))), labels)
        place = f"{home}input_data/{task}/dataset_1/train/shard_{shard}.tfrecord"
        members.write(scratch / "shard", place)
    (scratch / "shard").unlink()


def shape_of(task: str) -> tuple[int, int, int]:
    return SHAPES.get(task, (32, 32, 3))


def metrics(task: str, grid: dict, setting: dict, rng) -> dict[str, float]:
    """Accuracies, and of the first four tasks losses, which not all real files have.

    The gap depends on all that varies, more on what comes first.
    """
    levels = [grid[name].index(value) for name, value in setting.items()]
    places = [level / place for place, level in enumerate(levels, 1)]
    gap = 0.15 + 0.03 * sum(places) + 0.02 * rng.standard_normal()
    train = 1 - 0.01 * rng.random()
    losses = {"train_loss": 0.01 + 0.02 * rng.random(), "test_loss": 1 + gap}
    accuracies = {"train_acc": train, "test_acc": train - abs(gap)}
    return accuracies if task in ("task6", "task7", "task8", "task9") else accuracies | losses


def layers(task: str, setting: dict) -> list[dict]:
    """The layers of config.json, so much narrower than the settings say."""
    narrow = {name: setting[name] // NARROWER for name in ("conv", "convwidth") if name in setting}
    classes = CLASSES.get(task, 10)
    if "nparams" in setting:
        nparams = {"nparams": float(setting["nparams"][:-1]) * 1000}
        known = setting | nparams | {"channels": shape_of(task)[-1]}
        return fully_convolutional_layers(classes, **known, batch_norm=task == "task4")
    if "convwidth" in setting:
        return vgg_layers(classes, **{"dense_width": 128} | setting | narrow | {"dense_width": 3})
    units = "-".join(str(n // NARROWER + 1) for n in np.ravel(setting.get("dense", [])).tolist())
    return nin_layers(classes, **{"conv": 2} | setting | narrow | {"dense": units})
