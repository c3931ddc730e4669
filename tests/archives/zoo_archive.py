"""The Small CNN Zoo's four archives in miniature: nine checkpoints a network, some rows missing.

Files, columns and layout are those of the README of dnn_predict_accuracy and of rows of the real
tables that others reprint. In each data set one network lacks its last checkpoints, the losses and
weights of a second are not finite after some epochs, and of a third a weight is not although its
recorded losses are.
"""

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
from archives.demogen_archive import add

UNUSABLE = 3  # networks of each data set without a finite last checkpoint
DATASETS = ("mnist", "fashion_mnist", "cifar10", "svhn_cropped")
EPOCHS = (0, 1, 2, 3, 20, 40, 60, 80, 86)
LAYOUT = """varname,start_idx,end_idx,shape
sequential/conv2d/bias:0,0,16,"(16,)"
sequential/conv2d/kernel:0,16,160,"(3, 3, 1, 16)"
sequential/conv2d_1/bias:0,160,176,"(16,)"
sequential/conv2d_1/kernel:0,176,2480,"(3, 3, 16, 16)"
sequential/conv2d_2/bias:0,2480,2496,"(16,)"
sequential/conv2d_2/kernel:0,2496,4800,"(3, 3, 16, 16)"
sequential/dense/bias:0,4800,4810,"(10,)"
sequential/dense/kernel:0,4810,4970,"(16, 10)"
"""
FIXED = {
    "dnn_architecture": "cnn",
    "epochs": 86,
    "epochs_between_checkpoints": 20,
    "num_layers": 3,
    "num_units": 16,
    "random_seed": 42,
    "b_init": "zeros",
}


def write_zoo(folder: Path, networks: int = 40) -> None:
    """The four .tar.xz, of so many networks a data set."""
    for place, dataset in enumerate(DATASETS):
        weights, table = rows_of(dataset, networks, np.random.default_rng(place))
        matrix = io.BytesIO()
        np.save(matrix, weights)
        contents = {
            "weights.npy": matrix.getvalue(),
            "metrics.csv.gz": gzip.compress(table.to_csv(index=False).encode()),
            "layout.csv": LAYOUT.encode(),
        }
        with tarfile.open(folder / f"{dataset}.tar.xz", "w:xz", preset=0) as tar:
            for name, content in contents.items():
                add(tar, f"{dataset}/{name}", content)


def rows_of(dataset: str, networks: int, rng) -> tuple[np.ndarray, pd.DataFrame]:
    """Weights (rows, 4970) and the table of metrics, all checkpoints of a network together."""
    weights, rows = [], []
    for network in range(networks):
        setting = drawn(rng)
        start, way = 0.1 * rng.standard_normal((2, 4970))
        learned = min(1.0, 40 * setting["learning_rate"]) * rng.random()
        for epoch in EPOCHS:
            if network == 0 and epoch > 60:
                continue  # missing
            done = learned * epoch / EPOCHS[-1]
            vector = (start + 3 * done * way).astype(np.float32)
            vector[:16] *= done  # biases start at zero
            test = 0.1 + 0.8 * done + 0.01 * rng.random()
            record = {"test_accuracy": test, "train_accuracy": test + 0.03 * done}
            record |= {"test_loss": 2.4 - 2 * done, "train_loss": 2.4 - 2.1 * done}
            if network == 1 and epoch > 20:
                vector[100], record["train_loss"] = np.nan, np.nan  # diverged
            if network == 2 and epoch == EPOCHS[-1]:
                vector[200] = np.inf
            columns = FIXED | setting | {"dataset": dataset}
            named = {f"config.{name}": value for name, value in columns.items()}
            rows.append(named | {"modeldir": f"/cns/{dataset}/{network}", "step": epoch} | record)
            weights.append(vector)
    return np.stack(weights), pd.DataFrame(rows)


def drawn(rng) -> dict:
    """The hyper-parameters of one network, from the published choices."""
    choices = {
        "activation": ["relu", "tanh"],
        "optimizer": ["adam", "sgd", "rmsprop"],
        "train_fraction": [0.1, 0.25, 0.5, 1.0],
        "w_init": ["he_normal", "orthogonal", "glorot_normal", "RandomNormal", "TruncatedNormal"],
    }
    ranges = {"learning_rate": (5e-4, 5e-2), "l2reg": (1e-8, 1e-2), "init_std": (1e-3, 0.5)}
    return (
        {name: known[rng.integers(len(known))] for name, known in choices.items()}
        | {name: float(np.exp(rng.uniform(*np.log(ends)))) for name, ends in ranges.items()}
        | {"dropout": 0.7 * rng.random()}
    )
