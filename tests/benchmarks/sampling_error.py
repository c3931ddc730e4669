"""How much measures that read a part of the training images depend on which part that is.

Run: python tests/benchmarks/sampling_error.py writes data/tables/sampling_error.csv, where
Fashion-MNIST is at hand.

Every such measure is taken of some networks of the zoo's replica, each on its own 15,000 to 60,000
training images in several random orders, so that every draw is of other images; the noise that some
measures put on weights stays the same. What all networks share of a draw moves no rank.

rank_correlation: Spearman's, of the networks by one draw and by another, the mean of all pairs.
spread: the standard deviation between draws (root mean square over networks) over that between
networks (of their means).
"""

import dataclasses
from itertools import combinations

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr

import gengap
from gengap import folders
from gengap.evaluation.tasks import last_epoch
from gengap.measures import MEASURES, work_of

COLLECTION, FAMILY = "cnnzoo", "fashion_mnist"
IMAGES = 15_000  # that a network was trained on at least: more than are read at most, if not all
NETWORKS, DRAWS = 12, 2
FITTED = 0.5  # the least training accuracy: what is at chance has few margins to speak of


def networks(collection: gengap.Collection, count: int) -> list[str]:
    """Ids of fitted networks, evenly over their training accuracies."""
    wanted = "family == @FAMILY and train_accuracy > @FITTED and train_images >= @IMAGES"
    ordered = last_epoch(collection.index()).query(wanted).sort_values("train_accuracy")["model_id"]
    places = np.linspace(0, len(ordered) - 1, count).round().astype(int)
    return ordered.iloc[places].tolist()


def drawn(model: gengap.Model, draw: int) -> gengap.Model:
    """The model with its training images in another order."""
    inputs, labels = model.sample
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(draw))
    sample = inputs[order], labels[order]
    return dataclasses.replace(model, read_sample=lambda: sample)


def row(name: str, values: np.ndarray) -> dict:
    """A row of the table, of values (networks, draws)."""
    pairs = [spearmanr(*pair).statistic for pair in combinations(values.T, 2)]
    within = np.sqrt(values.var(axis=1, ddof=1).mean())
    return {
        "measure": name,
        "family": f"{COLLECTION}/{FAMILY}",
        "networks": len(values),
        "draws": values.shape[1],
        "rank_correlation": round(float(np.mean(pairs)), 3),
        "spread": round(float(within / values.mean(axis=1).std(ddof=1)), 3),
    }


def main() -> None:
    torch.set_num_threads(1)
    collection = gengap.open_collection(COLLECTION)
    names = [name for name in MEASURES if str(work_of(name)) not in ("", "1", "all")]
    values = {name: np.full((NETWORKS, DRAWS), np.nan) for name in names}
    for place, model_id in enumerate(networks(collection, NETWORKS)):
        for draw in range(DRAWS):
            model = drawn(collection.load(model_id), draw)
            for name in names:
                try:
                    values[name][place, draw] = MEASURES[name](model)
                except gengap.NotAvailable as lacking:
                    print(f"{model_id} {name}: {lacking}")
            print(model_id, draw, flush=True)
    table = pd.DataFrame([row(*item) for item in values.items()])
    print(table.to_string(index=False))
    file = folders.data() / "tables" / "sampling_error.csv"
    folders.write_atomically(file, lambda path: table.to_csv(path, index=False))


if __name__ == "__main__":
    main()
