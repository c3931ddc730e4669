"""A folder of networks that somebody trained: state dicts, and one CSV file that describes them.

Files end in .pt, .pth, .pth.tar or .safetensors, in the folder or in folders below it. The CSV file
lies in the folder itself and has a row for each: `file` (its path from the folder),
`train_accuracy` and `test_accuracy` (fractions); if wanted `family` (networks that are compared
with each other, else all are), `epoch`, `train_loss` and `test_loss` (nats). Each other column is a
hyper-parameter.
"""

import math
import warnings
from pathlib import Path

import pandas as pd
from pandas import DataFrame, Series
from torch import Tensor, nn

from gengap.collection import COLUMNS, FRACTIONS, Collection
from gengap.errors import GengapError, NotAvailable
from gengap.formats.state_dicts import (
    check_finite,
    read_state_dict,
    reading,
    weights_only_network,
)

SUFFIXES = (".pt", ".pth", ".pth.tar", ".safetensors")
REQUIRED = ("file", *FRACTIONS)
NUMBERS = (*FRACTIONS, "epoch", "train_loss", "test_loss")
FAMILY = "all"  # of networks for which the CSV file names none


class Folder(Collection):
    """Networks of one's own: weights without architecture, images or initial weights.

    The model id is the file's path from the folder. Measures that need only weights work; others
    are not available. Batch norm is known by its moving statistics; measures that fold it into the
    layer before it take that from the order of a PyTorch file, while in safetensors, which keeps no
    order, it remains a layer of its own. Hyper-parameters `hp_*` are the other columns of the CSV
    file; an empty cell is NaN. A file that it does not name is left out, with a warning.
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
        if lacking := [name for name in described["file"] if name not in present]:
            raise GengapError(
                f"{file} names {lacking[0]!r}{others(lacking)}, which {self.root} does not have;"
                " give paths from that folder, or take the row out"
            )
        if extra := sorted(present - set(described["file"])):
            warnings.warn(
                f"{file} does not name {extra[0]!r}{others(extra)}; left out of the index"
            )
        return index_of(described)

    def read_network(self, record: Series) -> tuple[nn.Sequential, None]:
        file = self.root / record["model_id"]
        state = read_state_dict(file)
        with reading(file):
            why = f"{self.name} has weights, but no architecture"
            in_order = not file.name.endswith(".safetensors")
            network = weights_only_network(state, why, in_order=in_order)
            check_finite(network, record["model_id"])
        return network.to(self.device), None

    def read_sample(self, record: Series) -> tuple[Tensor, Tensor]:
        raise NotAvailable(f"{self.name} has weights, but no training images")


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
    files = (file for file in root.rglob("*") if file.name.endswith(SUFFIXES))
    return {file.relative_to(root).as_posix() for file in files if not file.name.startswith(".")}


def read_described(file: Path) -> DataFrame:
    """The CSV file with its numbers checked: accuracies are fractions."""
    try:
        rows = pd.read_csv(
            file,
            index_col=False,
            dtype={"file": str, "family": str},
            # No words: "None" may be the value of a hyper-parameter.
            keep_default_na=False,
            na_values=["", "nan", "NaN"],
            encoding="utf-8-sig",
        )
    except (ValueError, pd.errors.ParserError) as error:
        raise GengapError(f"{file} is no CSV file ({error}); write it again") from error
    if lacking := [column for column in REQUIRED if column not in rows]:
        raise GengapError(
            f"{file} lacks the columns {', '.join(lacking)}; it has {', '.join(rows.columns)}"
        )
    if rows["file"].isna().any():
        raise GengapError(f"{file} has a row without a file; name it, or take the row out")
    if len(repeated := rows["file"][rows["file"].duplicated()]):
        raise GengapError(f"{file} has two rows for {repeated.iloc[0]!r}; keep one")
    for column in NUMBERS:
        if column in rows and not pd.api.types.is_numeric_dtype(rows[column]):
            raise GengapError(f"{file}: not every {column} is a number; write 0.93, or nothing")
    for column in FRACTIONS:
        if (rows[column] > 1).any():
            raise GengapError(
                f"{file} has the {column} {rows[column].max():g}, in percent as it seems; write"
                " fractions between 0 and 1"
            )
    return rows


def index_of(described: DataFrame) -> DataFrame:
    """The index of a collection from the rows of its CSV file."""
    known = {"model_id": described["file"], "family": FAMILY, "epoch": math.nan}
    known |= {column: math.nan for column in NUMBERS if column not in known}
    index = DataFrame(known, index=described.index)
    for column in described.columns.intersection(COLUMNS[1:]):
        index[column] = described[column]
    index["family"] = index["family"].fillna(FAMILY)
    hyper_parameters = described.drop(columns=["file", *COLUMNS], errors="ignore")
    names = [f"hp_{column.removeprefix('hp_')}" for column in hyper_parameters]
    return pd.concat([index[COLUMNS], hyper_parameters.set_axis(names, axis=1)], axis=1)


def others(names: list[str]) -> str:
    """How many more there are than the first."""
    return f" and {len(names) - 1} others" if len(names) > 1 else ""
