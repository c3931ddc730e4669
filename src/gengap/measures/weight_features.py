"""The 14 inputs from which the Small CNN Zoo's accuracy is predicted.

Source: Unterthiner et al. 2020, table 2; names as in the released best_configs.json. Layers are
numbered 0 to 3, each with its bias and its kernel.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import torch

from gengap.collections.cnnzoo import LAYOUT, STATISTICS, vector_statistics, weight_statistics

LAYERS = (0, 1, 2, 3)
LAYER_NAMES = ("conv1", "conv2", "conv3", "dense")
ALL_LAYER_STATISTICS = "wstats-layers:0,1,2,3-qts:0,25,50,75,100"
W_INITS = ("glorot_normal", "he_normal", "orthogonal", "RandomNormal", "TruncatedNormal")
ACTIVATIONS = ("relu", "tanh")


def input_features(name: str, weights: np.ndarray, index: pd.DataFrame) -> pd.DataFrame:
    """One of the INPUT_SETS: (N, F), a named column for each feature, the rows of `index`.

    `weights` (N, 4970) and `index` (N rows, columns hp_*) describe the same networks in one order.
    Weights, statistics and hyper-parameters are not standardized, as in the released notebook;
    categories are one-hot for every predictor (there LightGBM gets categorical columns). The
    released code does not show how norms were made: here log(1 + norm) of each tensor, because
    sums of absolute weights as they are saturate the linear predictor's sigmoid.

    Raises:
        ValueError: for an unknown name, unequal lengths, or a category the zoo does not have.
    """
    if name not in INPUT_SETS:
        raise ValueError(f"unknown input set '{name}'; known are {', '.join(INPUT_SETS)}")
    if len(weights) != len(index):
        raise ValueError(f"{len(weights)} rows of weights, but {len(index)} rows of index")
    return _BUILDERS[name](weights, index).set_axis(index.index)


def _slots(layers):
    return [slot for layer in layers for slot in LAYOUT[2 * layer : 2 * layer + 2]]


def _flat(weights, index, layers):
    slots = _slots(layers)
    names = [f"{slot.name} {i}" for slot in slots for i in range(slot.end - slot.start)]
    return pd.DataFrame(weights[:, slots[0].start : slots[-1].end], columns=names)


def _statistics(weights, index, layers):
    slots = _slots(layers)
    columns = [f"{slot.name} {statistic}" for slot in LAYOUT for statistic in STATISTICS]
    table = pd.DataFrame(weight_statistics(weights), columns=columns)
    return table[[f"{slot.name} {statistic}" for slot in slots for statistic in STATISTICS]]


def _global_statistics(weights, index):
    values = vector_statistics(torch.from_numpy(np.array(weights)))
    return pd.DataFrame(values.numpy(), columns=list(STATISTICS))


def _norms(weights, index, order):
    parts = {slot.name: weights[:, slot.start : slot.end].astype(float) for slot in LAYOUT}
    norms = {name: np.linalg.norm(part, ord=order, axis=1) for name, part in parts.items()}
    return np.log1p(pd.DataFrame(norms))


def _one_hot(column, categories):
    unknown = sorted(set(column) - set(categories))
    if unknown:
        raise ValueError(f"{column.name} has {unknown}; expected one of {list(categories)}")
    return {f"{column.name}={category}": column == category for category in categories}


def _hyper(weights, index):
    numbers = ("hp_learning_rate", "hp_init_std", "hp_l2reg", "hp_train_fraction", "hp_dropout")
    columns = _one_hot(index["hp_w_init"], W_INITS) | _one_hot(index["hp_activation"], ACTIVATIONS)
    columns |= {number: index[number] for number in numbers}
    return pd.DataFrame(columns).astype(float).reset_index(drop=True)


def _learning_rate(weights, index):
    return index[["hp_learning_rate"]].astype(float)


def _hyper_and_weights(weights, index):
    return pd.concat([_hyper(weights, index), _flat(weights, index, LAYERS)], axis=1)


_BUILDERS: dict[str, Callable[..., pd.DataFrame]] = {
    **{f"weights.{layer}": partial(_flat, layers=(layer,)) for layer in LAYERS},
    "weights": partial(_flat, layers=LAYERS),
    "hyper": _hyper,
    "hyper+weights": _hyper_and_weights,
    "wstats-glob": _global_statistics,
    "wnorm-layers:0,1,2,3-l1": partial(_norms, order=1),
    "wnorm-layers:0,1,2,3-l2": partial(_norms, order=2),
    "hyper.learning_rate": _learning_rate,
    "wstats-layers:0,3-qts:0,25,50,75,100": partial(_statistics, layers=(0, 3)),
    "wstats-layers:3-qts:0,25,50,75,100": partial(_statistics, layers=(3,)),
    ALL_LAYER_STATISTICS: partial(_statistics, layers=LAYERS),
}
INPUT_SETS = tuple(_BUILDERS)
# The same in words, for tables that people read.
LABELS = {
    **{f"weights.{layer}": f"weights, {name}" for layer, name in enumerate(LAYER_NAMES)},
    "weights": "weights, all layers",
    "hyper": "hyper-parameters",
    "hyper+weights": "hyper-parameters and weights",
    "wstats-glob": "statistics, of all weights at once",
    "wnorm-layers:0,1,2,3-l1": "L1 norms, log",
    "wnorm-layers:0,1,2,3-l2": "L2 norms, log",
    "hyper.learning_rate": "learning rate",
    "wstats-layers:0,3-qts:0,25,50,75,100": "statistics, conv1 and dense",
    "wstats-layers:3-qts:0,25,50,75,100": "statistics, dense",
    ALL_LAYER_STATISTICS: "statistics, all layers",
}
