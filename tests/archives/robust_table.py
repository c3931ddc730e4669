"""The table of Dziugaite et al. 2020 in miniature: its columns, with made-up values."""

import numpy as np
import pandas as pd

FILE = "nin.cifar10_svhn.csv"
SETTINGS = {"model_depth": [2, 4], "batch_size": [32, 128], "lr": [0.01, 0.0316]}


def study_table() -> pd.DataFrame:
    """Two data sets, a grid of eight settings, three seeds; the first measure is the gap."""
    grid = pd.MultiIndex.from_product([["CIFAR10", "SVHN"], *SETTINGS.values(), range(3)])
    rows = grid.to_frame(index=False).set_axis(
        ["hp.dataset", *(f"hp.{name}" for name in SETTINGS), "seed"], axis=1
    )
    generator = np.random.default_rng(0)
    rows["hp.lr"] += generator.uniform(-1e-6, 1e-6, len(rows))  # as other machines write it
    rows["hp.train_dataset_size"] = rows["train_dataset_size"] = 5000
    rows["gen.gap"] = generator.uniform(0.1, 0.5, len(rows))
    rows["complexity.params"] = rows["gen.gap"]
    rows["complexity.log_prod_of_spec_fft"] = generator.normal(size=len(rows))
    rows["complexity.of_their_own"] = 1.0
    return rows.assign(**{"is.converged": True, "is.high_train_accuracy": True})
