"""Peak memory and time of what grows with the originals, on made-up data of their size.

Run: python tests/benchmarks/full_size.py [judged] [baselines] [table] [index]. Each runs in a
process of its own, of which the most memory is told. One thread: set OMP_NUM_THREADS=1.

judged: a family of the zoo, 30,000 networks of eight settings, one measure, all scores.
baselines: what the settings alone predict of them, out of fold.
table: a measure table of 10^7 rows, read, and asked what is missing.
index: a family of the zoo at nine checkpoints, 270,000 rows, at its last ones, with reliability.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from gengap.collection import last_epoch
from gengap.evaluation.baselines import hyperparameters_alone
from gengap.evaluation.judgement import judged
from gengap.evaluation.reliability import reliability_table
from gengap.tables.values import pending_values

NETWORKS, CHECKPOINTS, ROWS, MEASURES = 30_000, 9, 10**7, 80


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


PARTS = {"judged": of_judged, "baselines": of_baselines, "table": of_table, "index": of_index}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    parser.add_argument("--here", choices=PARTS)
    arguments = parser.parse_args()
    if arguments.here:
        start = time.perf_counter()
        PARTS[arguments.here]()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{arguments.here:<10} {time.perf_counter() - start:8.1f} s {peak:6.2f} GiB")
        return
    for part in arguments.parts or PARTS:
        subprocess.run([sys.executable, __file__, "--here", part], check=True)


if __name__ == "__main__":
    main()
