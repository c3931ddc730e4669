"""A folder of networks that somebody trained: state dicts, and one CSV file that describes them.

Files end in one of SUFFIXES, in the folder or in folders below it; of a network in several shards
the file that names them, which ends in .index.json, stands for it. The CSV file lies in the folder
itself and has a row for each: `file` (its path from the folder), `train_accuracy` and
`test_accuracy` (fractions); if wanted `family` (networks that are compared with each other, else
all are), `epoch`, `train_loss` and `test_loss` (nats), `train_images` and `test_images` (how many
the accuracies were taken over; `train_images` are those that a network was trained on, which
measures that bound the gap ask for). Each other column is a hyper-parameter.

Networks may end at different epochs, as by early stopping. Files of one family and the same
hyper-parameters whose names differ in what CHECKPOINT finds alone, as `epoch_10`, are one network,
which is judged at its last epoch: where those of a family differ, `is_last` says which they are.
"""

import contextlib
import math
import os
import re
import warnings
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path, PureWindowsPath

import pandas as pd
from pandas import DataFrame, Series
from torch import Tensor, nn

from gengap.collection import COLUMNS, FRACTIONS, IMAGE_COUNTS, Collection
from gengap.errors import GengapError, NotAvailable
from gengap.formats.csv_tables import read_csv_table
from gengap.formats.state_dicts import (
    ONE_SHARD,
    SHARDS,
    check_finite,
    read_shard_places,
    read_state_dict,
    reading,
)
from gengap.formats.weight_modules import left_out, weights_only_network

SUFFIXES = (".pt", ".pth", ".pth.tar", ".ckpt", ".bin", ".safetensors", SHARDS)
REQUIRED = ("file", *FRACTIONS)
NUMBERS = (*FRACTIONS, "epoch", "train_loss", "test_loss", *IMAGE_COUNTS)
TEXTS = ("file", "family")
HYPER_PARAMETER = re.compile("^(hp_)?", re.IGNORECASE)
# Epoch or step in the name of a file that is one of a run's: epoch=9-step=100.ckpt, ckpt-20.pt.
CHECKPOINT = re.compile(r"(?<![a-z])(ep(och)?|e|step|ckpt|checkpoint)[=_-]?\d+", re.IGNORECASE)
FAMILY = "all"  # of networks for which the CSV file names none
# Columns of the tables that are made of an index: in the CSV file they would be taken for them.
TAKEN = ("model_id", "collection", "measure", "value", "gap")


class Folder(Collection):
    """Networks of one's own: weights without architecture, images or initial weights.

    The model id is the file's path from the folder. Measures that need only weights work; others
    are not available. What is a layer, what a weight and where batch norm is folded in is told by
    names and shapes alone, by the rules of `gengap.formats.weight_modules`, so that a network has
    the same values whatever the format of its file. Hyper-parameters `hp_*` are the other columns
    of the CSV file; an empty cell is NaN. A file that it does not name is left out, with a warning.
    """

    name = "folder"
    has_replica = False

    def family_files(self, family: str) -> tuple[Path, ...]:
        """None but those of the index: the families are those that the CSV file names."""
        return ()

    def read_index(self) -> DataFrame:
        file = the_csv(self.root)
        described = read_described(file)
        present = state_dict_files(self.root)
        described["file"] = [
            name if name in present else path_in(name, self.root, present, file)
            for name in described["file"]
        ]
        if len(repeated := described["file"][described["file"].duplicated()]):
            raise GengapError(f"{file} has two rows for {repeated.iloc[0]!r}; keep one")
        if extra := sorted(present - set(described["file"])):
            warnings.warn(
                f"{file} does not name {extra[0]!r}{others(extra)}; left out of the index",
                stacklevel=2,
            )
        return index_of(described)

    def weight_files(self, record: Mapping[str, object]) -> tuple[Path, ...]:
        """The model's file; of a network in shards, their index and all of them."""
        file = self.root / str(record["model_id"])
        if not file.name.endswith(SHARDS):
            return (file,)
        try:
            shards = sorted(set(read_shard_places(file).values()))
        except GengapError:  # what is wrong is said when the network is loaded
            return (file,)
        return file, *(file.with_name(shard) for shard in shards)

    def read_network(self, record: Series) -> tuple[nn.Sequential, None]:
        file = self.root / record["model_id"]
        state = read_state_dict(file)
        with reading(file):
            self._remarks[record["model_id"]] = left_out(state)
            why = f"{self.name} has weights, but no architecture"
            network = weights_only_network(state, why)
        check_finite(network, record["model_id"])
        return network.to(self.device), None

    def read_sample(self, record: Series) -> tuple[Tensor, Tensor]:
        raise NotAvailable(f"{self.name} has weights, but no training images")

    def left_out(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for model_id in self._index["model_id"]:
            if model_id not in self._remarks:
                with contextlib.suppress(GengapError):  # what cannot be read has a note in its row
                    self.load(model_id)
            for remark in self._remarks.get(model_id, ()):
                found.setdefault(remark, []).append(model_id)
        return found

    @cached_property
    def _remarks(self) -> dict[str, list[str]]:
        """By model id, of networks that this process has loaded: no file is read for them again."""
        return {}


def path_in(name: str, root: Path, present: set[str], described_in: Path) -> str:
    """The path from the root, with /, of a file as a CSV file names it.

    Absolute paths inside the root, ./ and ../ and the separators of Windows are understood.
    A file of weights that is not there is one all the same: its values then say so.
    Raises: GengapError that says what is amiss: outside, of another kind or one shard.
    """
    for written in (name, PureWindowsPath(name).as_posix()):
        path = Path(os.path.normpath(written))
        inside = path.relative_to(root.resolve()) if path.is_relative_to(root.resolve()) else path
        inside = inside.relative_to(root) if inside.is_relative_to(root) else inside
        if inside.as_posix() in present:
            return inside.as_posix()
    if is_state_dict(name) and not inside.is_absolute() and ".." not in inside.parts:
        return inside.as_posix()
    if ONE_SHARD.search(name):
        raise GengapError(
            f"{described_in} names {name!r}, one shard of several; name the file that lists them"
            f" all, which ends in {SHARDS}, instead"
        )
    if (root / name).exists():
        raise GengapError(
            f"{described_in} names {name!r}, which is no file of weights in {root}; they end in"
            f" {', '.join(SUFFIXES)} and lie in that folder or below it"
        )
    raise GengapError(
        f"{described_in} names {name!r}, which {root} does not have; give paths from that folder,"
        " or take the row out"
    )


def the_csv(root: Path) -> Path:
    """The one CSV file in a folder."""
    found = sorted(file for file in root.glob("*.csv") if not file.name.startswith("."))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise GengapError(
            f"{root} has {names} where one CSV file is expected, with the columns"
            f" {', '.join(REQUIRED)} and a row for each file of weights"
        )
    return found[0]


def state_dict_files(root: Path) -> set[str]:
    """Paths, from the root and with /, of the files of weights in a folder and below it."""
    files = (file for file in root.rglob("*") if is_state_dict(file.name) and file.is_file())
    return {file.relative_to(root).as_posix() for file in files}


def is_state_dict(name: str) -> bool:
    whole = not name.startswith(".") and not ONE_SHARD.search(name)
    return whole and name.lower().endswith(SUFFIXES)


def read_described(file: Path) -> DataFrame:
    """The CSV file with its numbers checked: accuracies are fractions."""
    rows = read_csv_table(file, text_in=TEXTS)
    ours = (*REQUIRED, *COLUMNS, *IMAGE_COUNTS, *TAKEN)
    known = {name: name.lower() for name in rows if name.lower() in ours}
    rows = rows.rename(columns=known)
    if len(twice := rows.columns[rows.columns.duplicated()]):
        raise GengapError(f"{file} has the column {twice[0]!r} twice; keep one")
    if lacking := [column for column in REQUIRED if column not in rows]:
        raise GengapError(
            f"{file} lacks the columns {', '.join(lacking)}; it has {', '.join(rows.columns)}"
        )
    check_columns(file, rows)
    if (rows["file"] == "").any():
        raise GengapError(f"{file} has a row without a file; name it, or take the row out")
    for column in rows.columns.intersection(NUMBERS):
        numbers = rows[column].isna().all() or pd.api.types.is_numeric_dtype(rows[column])
        if not numbers or pd.api.types.is_bool_dtype(rows[column]):
            raise GengapError(
                f"{file}: not every {column} is a number; write one, as 0.5 or 20, or nothing"
            )
        rows[column] = rows[column].astype(float)
    check_numbers(file, rows)
    return rows


def check_numbers(file: Path, rows: DataFrame) -> None:
    """GengapError where accuracies are no fractions, or numbers of images no such numbers."""
    for column in FRACTIONS:
        if (most := rows[column].max()) > 1:
            seen = ", in percent as it seems" if most <= 100 else ""
            raise GengapError(
                f"{file} has the {column} {most:g}{seen}; write fractions between 0 and 1"
            )
    for column in rows.columns.intersection(IMAGE_COUNTS):
        given = rows[column].dropna()
        if len(wrong := given[(given < 1) | (given % 1 != 0)]):
            raise GengapError(f"{file} has {wrong.iloc[0]:g} {column}; write a whole number from 1")


def check_columns(file: Path, rows: DataFrame) -> None:
    """GengapError where columns mean the same, or something else than a hyper-parameter."""
    if taken := [column for column in TAKEN if column in rows]:
        raise GengapError(
            f"{file} has the column {taken[0]}, which gengap makes itself; rename it, or take it"
            " out"
        )
    names: dict[str, str] = {}
    for name in rows:
        bare = name.lower().removeprefix("hp_")
        if bare in names:
            raise GengapError(
                f"{file} has the columns {names[bare]} and {name}, which are one hyper-parameter;"
                " keep one"
            )
        names[bare] = name


def index_of(described: DataFrame) -> DataFrame:
    """The index of a collection from the rows of its CSV file."""
    known = {"model_id": described["file"], "family": FAMILY, "epoch": math.nan}
    columns = [*COLUMNS, *described.columns.intersection(IMAGE_COUNTS)]
    known |= {column: math.nan for column in columns if column not in known}
    index = DataFrame(known, index=described.index)
    for column in described.columns.intersection(columns[1:]):
        index[column] = described[column]
    index["family"] = index["family"].replace("", FAMILY)
    hyper_parameters = described.drop(columns=["file", *columns], errors="ignore")
    names = [HYPER_PARAMETER.sub("hp_", column) for column in hyper_parameters]
    index = pd.concat([index[columns], hyper_parameters.set_axis(names, axis=1)], axis=1)
    if (index.groupby("family")["epoch"].nunique(dropna=False) > 1).any():
        run = index["model_id"].str.replace(CHECKPOINT, "", regex=True).rename("run")
        networks = index.groupby([run, "family", *names], dropna=False, sort=False)
        last = networks["epoch"].transform("max")
        index["is_last"] = (index["epoch"] == last) | last.isna()
    return index


def others(names: list[str]) -> str:
    """How many more there are than the first."""
    return f" and {len(names) - 1} others" if len(names) > 1 else ""
