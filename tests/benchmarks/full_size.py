"""Peak memory and time of what grows with the originals, on made-up data of their size.

Run: python tests/benchmarks/full_size.py [judged] [baselines] [table] [index] [details] [genprob]
writes data/tables/full_size.csv; the rows of other parts are kept. Each runs in a process of its
own, of which the most memory is told, and the seconds of the processor. One thread: set
OMP_NUM_THREADS=1.

judged: a family of the zoo, 30,000 networks of eight settings, one measure, all scores.
baselines: what the settings alone predict of them, out of fold.
table: a measure table of 10^7 rows, read, and asked what is missing.
index: a family of the zoo at nine checkpoints, 270,000 rows, at its last ones, with reliability.
details: spectra of 10^7 rows at 14 epochs, asked what is missing, and one column of one epoch read.
genprob: the table of epochs of chapters 4 and 7, from spectra of all published ones.
"""

import argparse
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
from pgdl_measures import processor

from gengap import folders
from gengap.collection import Collection, last_epoch
from gengap.collections.genprob import GenProb
from gengap.evaluation.baselines import hyperparameters_alone
from gengap.evaluation.judgement import judged
from gengap.evaluation.reliability import reliability_table
from gengap.measures.spectra import STATISTICS, spectra_rows
from gengap.studies.genprob import epoch_table
from gengap.tables.details import EPOCH, _write, detail_table
from gengap.tables.identity import Versions, source_hash, versions_now
from gengap.tables.store import table_file
from gengap.tables.values import pending_values

NETWORKS, CHECKPOINTS, ROWS, MEASURES = 30_000, 9, 10**7, 80
DETAILS, EPOCHS = 96, 14  # rows of a network of GenProb
OF_GENPROB = 14, 480, 70  # families, networks of each, and epochs of each, as published
FILE = folders.data() / "tables" / "full_size.csv"
WHAT = {
    "judged": f"a family of {NETWORKS:,} networks judged, one measure and the baselines",
    "baselines": f"what the settings of {NETWORKS:,} networks predict",
    "table": f"a measure table of {ROWS:,} rows asked what is missing",
    "index": f"an index of {NETWORKS * CHECKPOINTS:,} rows at its last checkpoints",
    "genprob": f"measures of {math.prod(OF_GENPROB):,} epochs of GenProb, from"
    f" {DETAILS * math.prod(OF_GENPROB):,} rows of spectra",
    "details": f"spectra of {ROWS:,} rows written, and one column of one epoch of {EPOCHS} read",
}


def zoo_index(networks: int = NETWORKS) -> pd.DataFrame:
    """A family like the zoo's: five settings drawn at random and three of few values."""
    generator = np.random.default_rng(0)
    rows = {"model_id": [f"mnist/{at}" for at in range(networks)], "family": "mnist", "epoch": 86.0}
    rows |= {f"hp_drawn_{at}": generator.random(networks) for at in range(5)}
    rows |= {f"hp_{k}": generator.integers(k, size=networks) for k in (2, 3, 4)}
    gap = 0.1 * rows["hp_drawn_0"] + 0.1 * generator.random(networks)
    losses = {f"{split}_loss": generator.random(networks) for split in ("train", "test")}
    rows |= losses | {"train_accuracy": 0.95, "test_accuracy": 0.95 - gap}
    return pd.DataFrame(rows | {"train_images": 60_000, "test_images": 10_000})


def of_judged():
    index = zoo_index()
    measure = np.random.default_rng(1).random(len(index)) - index["test_accuracy"].to_numpy()
    judged(pd.DataFrame({"m": measure}, index=index["model_id"]), index)


def of_baselines():
    hyperparameters_alone(zoo_index())


def of_table():
    models = np.array([f"mnist/{at}" for at in range(ROWS // MEASURES)])
    names = [f"measure_{at}" for at in range(MEASURES)]
    rows = pd.DataFrame(
        {
            "model_id": np.repeat(models, MEASURES),
            "measure": np.tile(names, len(models)),
            "value": np.random.default_rng(0).random(ROWS),
            "note": "",
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        rows.to_parquet(place := Path(folder) / "table.parquet")
        del rows
        index = pd.DataFrame({"model_id": models})
        assert not pending_values(index, names, pd.read_parquet(place), retry=False)


def of_index():
    one = zoo_index()
    epochs = [
        one.assign(model_id=one["model_id"] + f"-{at}", epoch=at) for at in range(CHECKPOINTS)
    ]
    last = last_epoch(pd.concat(epochs, ignore_index=True))
    reliability_table(last)


class Made(Collection):
    """Networks at 14 epochs, without files."""

    name, expected_families = "made", ("mnist",)

    def read_index(self):
        one = zoo_index(ROWS // DETAILS // EPOCHS)
        epochs = (one.assign(model_id=one["model_id"] + f"-{at}", epoch=at) for at in range(EPOCHS))
        return pd.concat(epochs, ignore_index=True)

    def weight_files(self, record):
        return ()


def of_details():
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GENGAP_DATA"] = folder
        made = Made(Path(folder))
        write_spectra(made)
        before = time.process_time()
        rows = detail_table(made.select("epoch == 13"), "spectra", columns=["stable_quality"])
        assert len(rows) == ROWS // EPOCHS // DETAILS * DETAILS
        print(f"of which reading {time.process_time() - before:.1f} s")


def write_spectra(made: Collection):
    """The table of made-up spectra of all networks, epoch after epoch."""
    versions = versions_now(made, {"spectra": source_hash(spectra_rows)})
    epochs = (
        made_up_spectra(rows, versions).assign(**{EPOCH: str(float(epoch))})
        for epoch, rows in made.index().groupby("epoch")
    )
    file = table_file(made, "spectra")
    file.parent.mkdir()
    _write(epochs, file)


def made_up_spectra(index: pd.DataFrame, versions: Versions) -> pd.DataFrame:
    """Made-up rows of the networks of an index, DETAILS each."""
    models = index["model_id"].repeat(DETAILS).to_numpy()
    rng = np.random.default_rng(0)
    numbers = {name: rng.random(len(models)) for name in STATISTICS}
    current = versions.models.loc[models].reset_index(drop=True)
    rows = pd.DataFrame({"model_id": models, "layer": "a", "kind": "conv"} | numbers)
    rows = rows.assign(low_rank=np.arange(len(rows)) % 2 == 1, size=64)
    return rows.join(current).assign(source=versions.sources["spectra"])


class MadeGenProb(GenProb):
    """Networks of GenProb's families at its epochs, without files: nobody kept their spectra."""

    def read_index(self):
        every = pd.MultiIndex.from_product([range(many) for many in OF_GENPROB]).to_frame().T.values
        ids = [f"family_{f}/network_{n}/epoch_{e}" for f, n, e in zip(*every)]
        index = zoo_index(len(ids)).drop(columns="epoch")
        return index.assign(model_id=ids, family=every[0].astype(str), epoch=every[2])

    def weight_files(self, record):
        return ()

    def kept_epochs(self):
        return pd.DataFrame(columns=["model_id"])

    def kept_spectra(self):
        return iter([])


def of_genprob():
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GENGAP_DATA"] = folder
        made = MadeGenProb(Path(folder))
        write_spectra(made)
        assert epoch_table(made)["stable_quality"].notna().all()


PARTS = {
    "judged": of_judged,
    "baselines": of_baselines,
    "table": of_table,
    "index": of_index,
    "details": of_details,
    "genprob": of_genprob,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    parser.add_argument("--here", choices=PARTS)
    arguments = parser.parse_args()
    if arguments.here:
        PARTS[arguments.here]()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{time.process_time():.0f} {peak:.2f}")
        return
    rows = pd.read_csv(FILE).to_dict("records") if FILE.exists() else []
    for part in arguments.parts or PARTS:
        command = [sys.executable, __file__, "--here", part]
        ended = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE)
        print(part, ended.stdout, flush=True)
        spent, peak = map(float, ended.stdout.splitlines()[-1].split())
        found = {"part": part, "what": WHAT[part], "seconds": spent, "GiB at most": peak}
        found |= {"processor": processor(), "date": datetime.now(UTC).date()}
        rows = [row for row in rows if row["part"] != part] + [found]
    folders.write_atomically(FILE, lambda path: pd.DataFrame(rows).to_csv(path, index=False))


if __name__ == "__main__":
    main()
