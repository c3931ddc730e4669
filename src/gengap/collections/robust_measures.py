"""Values without networks: the measures of Dziugaite et al. 2020, of 10,000 networks.

Narrow networks-in-networks of CIFAR-10 and SVHN, of which the study published settings, gaps and
measures, and no weights: nitarshan/robust-generalization-measures (Apache 2.0), one CSV file.
"""

import re
import tomllib
from functools import cached_property
from pathlib import Path
from typing import NoReturn

import numpy as np
from pandas import DataFrame, Series

from gengap.collection import COLUMNS, Collection
from gengap.errors import GengapError, NotAvailable
from gengap.formats.csv_tables import read_csv_table

FILE = "nin.cifar10_svhn.csv"
SETTING, MEASURE = "hp.", "complexity."  # begin the names of columns
DATASET, GAP = "hp.dataset", "gen.gap"
# Names that the study gives to measures that are registered here too.
REGISTERED = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
_SPECTRAL = REGISTERED.pop("spectral")
REGISTERED |= _SPECTRAL | {f"{theirs}_fft": f"{ours}_fft" for theirs, ours in _SPECTRAL.items()}
MET = ("is.converged", "is.high_train_accuracy")  # what the study asks of a network
SIZE = "train_dataset_size"


class RobustMeasures(Collection):
    """The published table of a study: gaps and measures of networks that are not at hand.

    The root is the folder that holds the file, as `gengap fetch robust-measures` puts it. Families
    are the data sets, nin_cifar10 and nin_svhn. Kept are the networks that converged and fit their
    images, and of which all numbers are finite, as the released code keeps them. Networks of the
    same settings, from other seeds, are copies. Accuracies and losses are not given, the gap is.

    Source:
        Dziugaite et al. 2020, 'In search of robust measures of generalization'; load_data in
        common.py of nitarshan/robust-generalization-measures.
    """

    name = "robust-measures"
    expected_families = ("nin_cifar10", "nin_svhn")
    has_replica = False

    def family_files(self, family):
        return (self.root / FILE,)

    def read_index(self) -> DataFrame:
        rows = self._rows
        found = DataFrame({"model_id": rows["model_id"], "family": rows["family"]})
        found = found.reindex(columns=COLUMNS).assign(gap=rows[GAP])
        if SIZE in rows:
            found["train_images"] = rows[SIZE]
        # The study's machines wrote the same learning rate with other last digits.
        settings = rows.filter(regex=rf"^{re.escape(SETTING)}").drop(columns=DATASET).round(4)
        settings.columns = "hp_" + settings.columns.str.removeprefix(SETTING)
        copies = rows[["family"]].join(settings).groupby(["family", *settings], dropna=False)
        return found.join(settings).assign(hp_copy=copies.cumcount())

    def given_values(self) -> DataFrame:
        chosen = self._rows[self._rows["model_id"].isin(self.index()["model_id"])]
        wide = chosen.set_index("model_id").filter(regex=rf"^{re.escape(MEASURE)}")
        wide.columns = wide.columns.str.removeprefix(MEASURE)
        return wide.rename(columns=REGISTERED)

    def read_network(self, record: Series) -> NoReturn:
        raise NotAvailable("of this study the values of measures were published, and no weights")

    read_sample = read_network

    @cached_property
    def _rows(self) -> DataFrame:
        rows = read_csv_table(self.root / FILE)
        if lacking := [name for name in (DATASET, GAP, *MET) if name not in rows]:
            raise GengapError(
                f"{self.root / FILE} lacks the columns {', '.join(lacking)}; it is not the table of"
                " the study"
            )
        met = rows[MET[0]].astype(bool) & rows[MET[1]].astype(bool)
        rows = rows[met].replace([np.inf, -np.inf], np.nan).dropna()
        family = "nin_" + rows[DATASET].str.lower()
        names = {"family": family, "model_id": family + "/" + rows.index.astype(str)}
        return rows.assign(**names).reset_index(drop=True)
