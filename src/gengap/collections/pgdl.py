"""Predicting Generalization in Deep Learning, the NeurIPS 2020 competition (arXiv 2012.07976).

550 Keras networks of eight tasks. A task has `input_data/<task>/model_<id>/` with `config.json`,
`weights.hdf5` and `weights_init.hdf5`, the training set in
`input_data/<task>/dataset_1/train/shard_*.tfrecord`, and in
`reference_data/<task>/model_configs.json` hyper-parameters and accuracies of each model. Three zip
files hold the tasks; they are read as they are, one member at a time, and never unpacked. So is
`input_data/<task>.zip` in place of the folder `input_data/<task>`, which this project's tasks have.
"""

import io
import math
import re
import zipfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from pandas import DataFrame, Series
from torch import Tensor, nn

from gengap.collection import IMAGE_COUNTS, RECORDED, Collection
from gengap.errors import GengapError, NotAvailable
from gengap.formats.keras import network_from_config, read_weights, weights_in
from gengap.formats.places import Place, naming, open_zip, read_json, size_of, unpacked_size
from gengap.formats.state_dicts import check_finite
from gengap.formats.tfrecord import read_tfrecord

# Task -> the archive that holds it. There is no task 3.
ARCHIVES = (
    dict.fromkeys(("task1_v4", "task2_v1"), "public_data.zip")
    | dict.fromkeys(("task4", "task5"), "phase_one_data.zip")
    | dict.fromkeys(("task6", "task7", "task8", "task9"), "phase_two_data.zip")
)
# Index columns that model_configs.json has, accuracies as `acc`. Numbers of images are of this
# project's own tasks, and not published.
METRICS = (*RECORDED, *IMAGE_COUNTS)
SHARD = re.compile(r"shard_(\d+)\.tfrecord")


class PGDL(Collection):
    """PGDL: eight tasks of 32 to 96 networks each, trained until they fit their training images.

    A family is a task; tasks on disk beyond the published eight are families too. The root is a
    folder that holds `input_data` and `reference_data` or has folders that do, a zip file of these,
    or a folder with such zip files; tasks in `input_data` may be packed in zip files there. Epochs
    were not published and are NaN in the index, as is an accuracy, a loss or a number of images
    that model_configs.json lacks. The hyper-parameters `hp_*` are in the official order. The sample
    is the task's whole training set, in the order of its shards.

    Format: README of google-research/pgdl. Licence of the published data: Apache 2.0.
    """

    name = "pgdl"
    expected_families = tuple(ARCHIVES)
    root_may_be_zip = True

    def known_families(self) -> list[str]:
        return [*dict.fromkeys([*self.expected_families, *self._files])]

    def family_files(self, family: str) -> tuple[Place, ...]:
        absent = self.root / "input_data" / family, _configs_in(self.root, family)
        return self._files.get(family, absent)

    def model_configs(self, task: str) -> dict:
        """The content of a task's model_configs.json, as the competition's score takes it.

        Raises: GengapError where there is no such task or its file cannot be read.
        """
        if task not in self._files:
            raise GengapError(
                f"{self.root} has no task {task!r}; it has {', '.join(self._files) or 'none'}"
            )
        return read_configs(self.family_files(task)[1])

    def read_index(self) -> DataFrame:
        tasks = [task for task in self.known_families() if task in self._files]
        rows = [row for task in tasks for row in self._rows(task)]
        return DataFrame(rows)

    def read_network(self, record: Series) -> tuple[nn.Sequential, dict[str, Tensor] | None]:
        folder = self._folder(record)
        config, weights = read_json(folder / "config.json"), folder / "weights.hdf5"
        with naming(weights):
            most = unpacked_size(size_of(weights)) // 4  # numbers of four bytes
        with naming(folder / "config.json"):
            network = network_from_config(config, most)
        with naming(weights):
            read_weights(_in_memory(weights), network)
        check_finite(network, record["model_id"])
        initial = None
        if (folder / "weights_init.hdf5").exists():
            with naming(folder / "weights_init.hdf5") as weights:
                initial = weights_in(_in_memory(weights), network)
            initial = {name: tensor.to(self.device) for name, tensor in initial.items()}
        return network.to(self.device), initial

    def read_sample(self, record: Series) -> tuple[Tensor, Tensor]:
        folder = self.family_files(record["family"])[0] / "dataset_1" / "train"
        listed = folder.iterdir() if folder.is_dir() else ()
        files = [file for file in listed if file.name.startswith("shard_")]
        shards = {int(m[1]): file for file in files if (m := SHARD.fullmatch(file.name))}
        if not files:
            raise NotAvailable(f"{record['family']} has no training images, {folder}/shard_*")
        if len(shards) < len(files):
            raise GengapError(f"{folder} has shard_* beside one shard_N.tfrecord each; take it out")
        parts = [read_shard(shards[number]) for number in sorted(shards)]
        if len({inputs.shape[1:] for inputs, _ in parts}) > 1:
            raise GengapError(
                f"the shards in {folder} have inputs of different shapes; get them again"
            )
        inputs, labels = (torch.cat(part).to(self.device) for part in zip(*parts))
        told = record.get("train_images", math.nan)
        lacking = sorted({*range(max(shards))} - shards.keys())
        if lacking or (told == told and told != len(labels)):
            promised = f"shard_{lacking[0]}" if lacking else f"{told:g} images, as recorded,"
            raise GengapError(
                f"{folder} has {len(labels)} images in {len(shards)} shards, but {promised} should"
                " be there too; get the task again"
            )
        with naming(folder, wrong="the networks do not take its images"), torch.device("meta"):
            network = network_from_config(read_json(self._folder(record) / "config.json"))
            classes = network(inputs[:1].to("meta")).shape[1]
            if (label := labels.max().item()) >= classes:
                raise ValueError(f"the label {label} is none of the networks' {classes} classes")
        return inputs, labels

    def _folder(self, record: Series) -> Place:
        return self.family_files(record["family"])[0] / record["model_id"].rpartition("/")[2]

    @cached_property
    def _files(self) -> dict[str, tuple[Place, Place]]:
        """Task -> the folder of its networks and images, and its model_configs.json."""
        files: dict[str, tuple[Place, Place]] = {}
        for home in _homes_in(self.root):
            # A task's folder goes before one of the same name in a zip file.
            for place in _with_zips(home / "input_data"):
                for folder in _sorted_folders(place):
                    files.setdefault(folder.name, (folder, _configs_in(home, folder.name)))
        return files

    def _rows(self, task: str) -> list[dict]:
        specs = self.model_configs(task)
        with naming(self.family_files(task)[1]):
            return index_rows(task, specs)


def read_configs(file: Place) -> dict:
    """What a model_configs.json says of each model, by id; GengapError where it says nothing."""
    specs = read_json(file)
    if not specs or not isinstance(specs, dict):
        raise GengapError(f"{file} describes no models; get it again")
    return specs


def in_order(specs: dict) -> list[str]:
    """The ids of a model_configs.json, ascending."""
    return sorted(specs, key=lambda number: (len(number), number))


def index_rows(task: str, specs: dict) -> list[dict]:
    """Rows of an index for one task, by ascending id; `specs` is its model_configs.json."""
    rows = []
    for number in in_order(specs):
        metrics, hparams = specs[number]["metrics"], specs[number]["hparams"]
        found = {name: metrics.get(name.replace("accuracy", "acc"), math.nan) for name in METRICS}
        if wrong := [v for v in found.values() if type(v) not in (int, float)]:
            raise ValueError(f"model {number} has {wrong[0]!r} where a number is expected")
        recorded = {column: float(value) for column, value in found.items()}
        values = {f"hp_{h}": _hyper_parameter(hparams[h]["current_value"]) for h in hparams}
        identity = {"model_id": f"{task}/model_{number}", "family": task, "epoch": math.nan}
        rows.append(identity | recorded | values)
    return rows


def read_shard(file: Place) -> tuple[Tensor, Tensor]:
    """Inputs (N, C, H, W) or (N, D) float32 and labels (N,) int64 of one TFRecord file."""
    with naming(file), file.open("rb") as opened:
        inputs, labels = read_tfrecord(opened)
        if inputs.ndim < 2:
            raise ValueError("its inputs are single numbers")
    channels_last = torch.from_numpy(inputs.astype(np.float32, copy=False))
    return channels_last.movedim(-1, 1).contiguous(), torch.from_numpy(labels)


def _homes_in(root: Path) -> Iterator[Place]:
    """The folders with input_data at most one level below a folder or zip file, folders first."""
    opened = _opened(root) if root.is_file() else root
    for place in _with_zips(opened) if opened.is_dir() else ():
        for folder in [place, *_sorted_folders(place)]:
            if (folder / "input_data").is_dir():
                yield folder


def _configs_in(home: Place, task: str) -> Place:
    return home / "reference_data" / task / "model_configs.json"


def _with_zips(folder: Place) -> list[Place]:
    """A folder and then, where it is one on disk, the zip files in it."""
    zips = sorted(folder.glob("[!.]*.zip")) if isinstance(folder, Path) else []
    return [folder, *map(_opened, zips)]


def _opened(file: Path) -> zipfile.Path:
    with naming(file):
        return zipfile.Path(open_zip(file))


def _sorted_folders(place: Place) -> list[Place]:
    hidden = (".", "__MACOSX")
    folders = [f for f in place.iterdir() if f.is_dir() and not f.name.startswith(hidden)]
    return sorted(folders, key=lambda folder: folder.name)


def _in_memory(file: Place) -> Path | io.BytesIO:
    """What HDF5 can read: a file on disk, or a member of a zip file in memory."""
    return file if isinstance(file, Path) else io.BytesIO(file.read_bytes())


def _hyper_parameter(value) -> float | str:
    """Numbers and truth values as float, whatever tasks with other values stand beside."""
    return float(value) if isinstance(value, int | float) else str(value)
