"""A public set of trained models: what every collection does the same way."""

import os
import pkgutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Self

import pandas as pd
import torch
from pandas import DataFrame, Series
from torch import Tensor, nn

from gengap import folders
from gengap.errors import GengapError, NotAvailable, nearest, reason_of
from gengap.model import RecordedModel, no_trajectory

# Public name -> where its class is; a class is imported only when its collection is opened.
COLLECTIONS = {
    "cnnzoo": "gengap.collections.cnnzoo:SmallCNNZoo",
    "pgdl": "gengap.collections.pgdl:PGDL",
    "demogen": "gengap.collections.demogen:DEMOGEN",
    "genprob": "gengap.collections.genprob:GenProb",
    "robust-measures": "gengap.collections.robust_measures:RobustMeasures",
    "folder": "gengap.collections.folder:Folder",
}

FRACTIONS = ["train_accuracy", "test_accuracy"]
RECORDED = [*FRACTIONS, "train_loss", "test_loss"]
COLUMNS = ["model_id", "family", "epoch", *RECORDED]
IMAGE_COUNTS = ["train_images", "test_images"]  # of which the accuracies are the fractions


class Collection:
    """A set of trained models under one root folder; `open_collection` makes one.

    A new collection names itself and its families and writes `read_index`, `read_network` and
    `read_sample`. A *family* is the set inside which models are compared.
    """

    name: str
    expected_families: tuple[str, ...] = ()
    root_may_be_zip = False  # a zip file in place of the root folder
    has_replica = True  # whether networks of this project can be at the default root

    def __init__(self, root: str | Path, device: str | torch.device = "cpu"):
        self.root = Path(root).expanduser()
        self.device = usable_device(device)
        self.whole = self  # a selection keeps the collection that it was taken from
        self._samples: dict[str, tuple[Tensor, Tensor] | NotAvailable] = {}

    def read_index(self) -> DataFrame:
        """One row per model with COLUMNS, then `hp_*`; only the families that are on disk."""
        raise NotImplementedError

    def read_network(self, record: Series) -> tuple[nn.Sequential, dict[str, Tensor] | None]:
        """The network of one index row on self.device, in eval mode, and its initial weights."""
        raise NotImplementedError

    def read_sample(self, record: Series) -> tuple[Tensor, Tensor]:
        """Training inputs (N, C, H, W) float32 and labels (N,) int64 of the row's family."""
        raise NotImplementedError

    def given_values(self) -> DataFrame | None:
        """Values that came in place of networks: by model_id, a column for each measure."""
        return None

    def left_out(self) -> dict[str, list[str]]:
        """What of networks' files no measure sees, in words, and of which networks (model ids)."""
        return {}

    def read_trajectory(self, record: Series) -> DataFrame:
        """`epoch` and `train_loss` of the row's network, in order, up to the row's epoch."""
        return no_trajectory()

    @classmethod
    def is_root(cls, root: str | Path) -> bool:
        """Whether there is a folder, or where the collection can read one, a zip file."""
        root = os.path.expanduser(root)
        return os.path.isdir(root) or (cls.root_may_be_zip and os.path.isfile(root))

    def known_families(self) -> list[str]:
        """The expected families, and those that are seen on disk without reading the index."""
        return list(self.expected_families)

    def family_files(self, family: str) -> tuple[Path | zipfile.Path, ...]:
        """The files that hold one family."""
        return (self.root / family,)

    def weight_files(self, record: Mapping[str, object]) -> tuple[Path | zipfile.Path, ...]:
        """The files that one model is read from; of a folder, all that are in it.

        A kept value is of their content: see gengap.tables.identity. By default what bears the
        model's name, in a folder of its family or under the root; else the files of the family.
        """
        family, model_id = str(record["family"]), str(record["model_id"])
        files, name = self.family_files(family), model_id.rpartition("/")[2]
        places = [*(file / name for file in files), self.root / model_id]
        own = [place for place in places if place.exists()]
        return tuple(own[:1]) or files

    def index(self) -> DataFrame:
        """One row per model, read without touching weights.

        Columns: model_id (unique), family, epoch, train_accuracy and test_accuracy (fractions),
        train_loss and test_loss (nats); where it is known, how many images the accuracies were
        taken over (IMAGE_COUNTS), of training those that the network was trained on; then the
        collection's hyper-parameters `hp_*`.
        """
        return self._index.copy()

    @cached_property
    def _index(self) -> DataFrame:
        if not self.is_root(self.root):
            lacking = f"folder {self.root}" if self.has_replica else "networks of its own"
            raise GengapError(
                f"{self.name} has no {lacking}; give root= (--root) the folder that holds the"
                " collection"
            )
        with self._reading("the index"):
            return checked_index(self.read_index().reset_index(drop=True), self)

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        try:
            yield
        except GengapError:
            raise
        except Exception as error:  # whatever damaged files make of a reader
            raise GengapError(
                f"{what} of {self.name} cannot be read ({reason_of(error)});"
                f" check the files under {self.root}"
            ) from error

    @cached_property
    def _positions(self) -> pd.Index:
        return pd.Index(self._index["model_id"])

    def load(self, model_id: str) -> RecordedModel:
        """The model of one index row, on this collection's device."""
        if model_id not in self._positions:
            known = ", ".join(self._positions[:3])
            raise GengapError(
                f"{self.name} has no model {model_id!r} among its {len(self._positions)}"
                f" (they are named like {known}); see the column model_id of index()"
            )
        record = self._index.iloc[self._positions.get_loc(model_id)]
        with self._reading(f"model {model_id!r}"):
            network, initial_weights = self.read_network(record)
        sample, losses = partial(self._sample, record), partial(self.read_trajectory, record)
        return RecordedModel(network, record, initial_weights, sample, losses)

    def _sample(self, record: Series) -> tuple[Tensor, Tensor]:
        # What is missing is remembered too: looking for images again for each model is slow.
        if record["family"] not in self._samples:
            try:
                with self._reading("the training sample"):
                    self._samples[record["family"]] = self.read_sample(record)
            except NotAvailable as missing:
                self._samples[record["family"]] = missing
        found = self._samples[record["family"]]
        if isinstance(found, NotAvailable):
            raise NotAvailable(str(found))
        return found

    def forget_samples(self) -> None:
        """Read samples again when next asked for: somebody has changed one that was handed out."""
        self._samples.clear()

    def select(self, query: str) -> Self:
        """This collection restricted to the index rows for which a pandas query holds.

        Example: `zoo.select("family == 'fashion_mnist' and epoch == 86")`.
        """
        chosen = object.__new__(type(self))
        chosen.__dict__.update(self.__dict__, _index=matching(self._index, query))
        chosen.__dict__.pop("_positions", None)
        return chosen

    def families(self) -> DataFrame:
        """A row per family: models at hand, and which of its files are missing (paths)."""
        missing = {name: self._missing(name) for name in self.known_families()}
        nothing = bool(missing) and all(missing.values())
        counts = {} if nothing else dict(self._index["family"].value_counts())
        missing |= {name: self._missing(name) for name in sorted(counts) if name not in missing}
        models = [int(counts.get(name, 0)) for name in missing]
        return DataFrame({"family": [*missing], "models": models, "missing": [*missing.values()]})

    def _missing(self, family: str) -> list[Path | zipfile.Path]:
        return [file for file in self.family_files(family) if not file.exists()]

    def __reduce__(self):
        # A copy in another process reads index, networks and samples there.
        return type(self), (str(self.root.absolute()), str(self.device))

    @property
    def table_name(self) -> str:
        """Names the table of this collection's values: the embedded networks' is theirs alone.

        All others share one, whatever path they are opened by, since each row of it belongs to the
        content of a model's record and files (gengap.tables.identity).
        """
        embedded = self.root.resolve() == default_root(self.name).resolve()
        return self.name if embedded else f"{self.name}-other"


def default_root(name: str) -> Path:
    """Where the embedded replica of a collection lies."""
    return folders.data() / "replicas" / name


def embedded_collections() -> list[str]:
    """Names of the collections whose replica lies at its default root; GengapError if none does."""
    if embedded := [name for name in COLLECTIONS if default_root(name).is_dir()]:
        return embedded
    raise GengapError(
        f"no collection is embedded in {folders.data() / 'replicas'}; set GENGAP_DATA to a folder"
        " that has replicas/, or name a collection and give its --root"
    )


def last_epoch(index: DataFrame) -> DataFrame:
    """Of each family the rows of its last epoch, in their order; all where none is recorded.

    A network without such a row, because it diverged or was cut short, is left out, as Unterthiner
    et al. leave out what is not finite: an earlier epoch does not stand for it. Where a column
    `is_last` (bool) says which row is its network's last, those: networks that were stopped early
    end at epochs of their own.
    """
    if "is_last" in index:
        return index[index["is_last"]].reset_index(drop=True)
    last = index.groupby("family")["epoch"].transform("max")
    return index[(index["epoch"] == last) | last.isna()].reset_index(drop=True)


def open_collection(
    name: str, root: str | Path | None = None, device: str | torch.device = "cpu"
) -> Collection:
    """A collection by its public name.

    root: its folder; without it, the replica embedded in this project.
    device: where networks and samples are put, as torch names it: "cpu", "cuda", "cuda:1".
    """
    if name not in COLLECTIONS:
        raise GengapError(f"no collection {name!r}; {nearest(name, COLLECTIONS)}")
    collection = pkgutil.resolve_name(COLLECTIONS[name])
    root = root and Path(root).expanduser()
    if root is not None and not collection.is_root(root):
        raise GengapError(f"root {root} of {name} is no folder that can be read; give its own")
    return collection(root or default_root(name), device)


def usable_device(device: str | torch.device) -> torch.device:
    """The device if a tensor can be put there and read back; on CUDA, TF32 is turned off."""
    try:
        probe = torch.zeros(1, device=device)
        probe.item()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise GengapError(
            f"device {str(device)!r} cannot be used here ({reason}); give 'cpu', or 'cuda' on a"
            " machine with a GPU and a PyTorch built for it"
        ) from error
    if probe.is_cuda:
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
    return probe.device


def matching(index: DataFrame, query: str) -> DataFrame:
    """The rows for which a pandas query holds."""
    try:
        # Empty dictionaries: a query speaks of columns, never of this function's variables.
        holds = index.eval(query, local_dict={}, global_dict={})
    except Exception as error:  # pandas raises a dozen kinds, from SyntaxError to AttributeError
        raise GengapError(
            f"query {query!r} is not understood ({error}); columns are {', '.join(index.columns)}"
        ) from error
    if not isinstance(holds, Series) or holds.dtype != bool:
        raise GengapError(
            f"query {query!r} does not say true or false for each model; write a comparison"
            " such as \"family == 'mnist'\""
        )
    return index[holds].reset_index(drop=True)


def checked_index(index: DataFrame, collection: Collection) -> DataFrame:
    """The index, or one sentence on what its collection's files got wrong."""
    where = f"the index of {collection.name} under {collection.root}"
    if index.empty:
        raise GengapError(f"{where} is empty: none of its families' files are there")
    lacking = [column for column in COLUMNS if column not in index]
    if lacking:
        raise GengapError(f"{where} lacks the columns {', '.join(lacking)}")
    repeated = index["model_id"][index["model_id"].duplicated()]
    if len(repeated):
        raise GengapError(f"{where} names {repeated.iloc[0]!r} twice; model ids must be unique")
    for column in FRACTIONS:
        outside = index[column][(index[column] < 0) | (index[column] > 1)]
        if len(outside):
            raise GengapError(
                f"{where} has {column} {outside.iloc[0]:g} for"
                f" {index['model_id'][outside.index[0]]!r}; a fraction in [0, 1] is expected"
            )
    return index
