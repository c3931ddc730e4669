"""A complete grid of networks whose gap is known, which several tests judge measures on."""

import itertools

import numpy as np
import pandas as pd
import pytest

SIZES = (3, 2, 2, 3)


def grid_index(gap, sizes=SIZES):
    levels = np.array(list(itertools.product(*map(range, sizes))))
    columns = {f"hp_{at}": column for at, column in enumerate(levels.T)}
    models = [f"f/model_{at}" for at in range(len(levels))]
    index = pd.DataFrame({"model_id": models, "family": "f", "train_loss": 0.1, **columns})
    return index.assign(train_accuracy=1.0, test_accuracy=1.0 - np.asarray(gap))


def sum_of_effects(index):
    effects = ([0.0, 0.05, 0.2], [0.0, 0.1], [0.0, 0.03, -0.04])
    names = ("hp_0", "hp_1", "hp_3")
    return 0.3 + sum(np.array(e)[index[n]] for e, n in zip(effects, names, strict=True))


@pytest.fixture
def task_index():
    """Makes index rows of a complete grid of 36 networks with the gap that is given."""
    return grid_index


@pytest.fixture
def effects():
    """Makes, of an index, a sum of effects of the first, second and fourth hyper-parameter."""
    return sum_of_effects


@pytest.fixture
def task():
    """A task whose gap is main effects and noise, and measures of it."""
    generator = np.random.default_rng(3)
    noise = 0.05 * generator.normal(size=36)
    gap = sum_of_effects(grid_index(np.zeros(36))) + noise
    index = grid_index(gap)
    return index, {
        "perfect": np.exp(gap),
        "residual": noise,
        "depth": index["hp_0"].to_numpy(float),
        "random": generator.normal(size=36),
        "holed": np.where(np.arange(36) == 5, np.nan, gap),
        "constant": np.full(36, 0.1),
    }
