"""The score of the competition Predicting Generalization in Deep Learning, and what it rests on.

A score judges a measure on one task: networks trained on a grid of hyper-parameters, each with its
generalization gap. Every score here takes measures (..., n) and, for a bootstrap, how often each of
the n networks was drawn, so that thousands of permutations or samples are one matrix product.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, permutations, product

import numpy as np
import pandas as pd
from scipy import sparse

from gengap.errors import GengapError

BATCH = 64  # measures scored at once: bounds the memory to BATCH * n^2 pairs


@dataclass(frozen=True)
class Task:
    """Networks of one grid of hyper-parameters, prepared for scores; see `read_task`, `task_of`."""

    models: tuple[str, ...]  # n ids
    levels: np.ndarray  # (n, H) int: which possible value of each hyper-parameter it has
    possible: dict[str, tuple[str, ...]]  # H hyper-parameters: their values as text
    gap: np.ndarray  # (n,) train minus test accuracy, a fraction

    @cached_property
    def larger_gap(self) -> np.ndarray:
        """(n, n) bool: whether the gap of the row is strictly larger than that of the column."""
        return self.gap[:, None] > self.gap

    @cached_property
    def conditions(self) -> "Conditions":
        """The cells in which the competition compares networks; made when first needed."""
        return _conditions(self)

    @cached_property
    def neighbours(self) -> np.ndarray:
        """(H, n, n) bool: whether two networks differ in this hyper-parameter and in no other."""
        differs = (self.levels[:, None] != self.levels).transpose(2, 0, 1)
        return differs & (differs.sum(axis=0) == 1)


@dataclass(frozen=True)
class Conditions:
    """In which cell of which condition each pair of networks lies.

    A condition is an ordered pair of hyper-parameters, a cell a value of the first for either
    network and of the second for either. Conditions follow each other, and so do their cells.
    """

    pairs: sparse.csc_array  # (2 cells, n * n) of 0 and 1: two rows a cell, gap not larger, larger
    first: np.ndarray  # (conditions,) position of each condition's first cell
    undefined: np.ndarray  # (conditions,) bool: a cell is empty, its entropy 0 / 0


def conditional_mutual_information(predictions: Mapping[str, float], specs: Mapping) -> float:
    """The competition's score of a measure on one task, a fraction (it was reported times 100).

    predictions: the measure by `model_<id>`. specs: the content of the task's `model_configs.json`,
    whose `metrics` may hold `gen_gap` in place of `train_acc` and `test_acc`.

    How much the sign of a measure's difference between two networks tells of the sign of the gap's,
    given two hyper-parameters of both: mutual information over entropy of the gap's sign, each the
    plain mean over cells; the least over all pairs of hyper-parameters. 1 is perfect. Blind to the
    measure's sign, and positive for a random measure: compare with `random_scores`.

    As officially scored: all ordered pairs of networks count, each with itself too; a sign is plus
    only if strictly larger, so that ties and NaN are minus; cells are keyed by the values written
    one after the other, so that of cells written alike the last holds all and the others are empty,
    which makes that pair of hyper-parameters NaN, and NaN the score unless another pair follows.

    Source: Jiang et al. 2020, arXiv 2012.07976; scoring_program/mutual_information.py of
    google-research/pgdl. Differs: what the official program punishes with a task score of
    -0.999999 (a missing or unknown prediction, a grid with holes or repetitions) is an error.
    Raises: GengapError for those, and for a prediction that is no number.
    """
    task = read_task(specs)
    return float(cmi(values_of(predictions, task), task))


def read_task(specs: Mapping) -> Task:
    """The task of a `model_configs.json`: the ids, hyper-parameters and gaps of its networks.

    Raises: GengapError naming the network that lacks something, has a value that is not among the
    possible ones or no finite gap; or the point of the grid with no network or several.
    """
    if not specs:
        raise GengapError("the model configurations are empty; give those of a whole task")
    specs = {_official_id(model): spec for model, spec in specs.items()}
    try:
        first = next(iter(specs.values()))["hparams"]
        possible = {name: list(first[name]["possible_values"]) for name in first}
        values = {
            model: {name: spec["hparams"][name]["current_value"] for name in possible}
            for model, spec in specs.items()
        }
        gap = np.array([_gap(spec["metrics"], model) for model, spec in specs.items()], float)
    except (KeyError, TypeError, AttributeError) as error:
        raise GengapError(
            f"the model configurations lack {error}; expected is, by id,"
            ' {"hparams": {NAME: {"possible_values": [...], "current_value": VALUE}},'
            ' "metrics": {"train_acc": A, "test_acc": B}}'
        ) from error
    levels = [
        [_level(model, name, row[name], possible[name]) for name in possible]
        for model, row in values.items()
    ]
    names = {name: tuple(map(str, choices)) for name, choices in possible.items()}
    task = Task(tuple(specs), np.array(levels, int).reshape(len(specs), -1), names, gap)
    _check_grid(task)
    return task


def gap_of(index: pd.DataFrame) -> pd.Series:
    """Each model's generalization gap: the column `gap` of an index, or the accuracies' difference.

    That column is there where gaps are known of networks whose accuracies are not.
    """
    return index["gap"] if "gap" in index else index["train_accuracy"] - index["test_accuracy"]


def task_of(index: pd.DataFrame) -> Task:
    """The task of one family's index rows: gaps by `gap_of`, hyper-parameters its columns `hp_*`.

    Raises: GengapError if the rows are of several families or a gap is missing.
    """
    if index["family"].nunique() != 1:
        raise GengapError(
            f"a task is one family; these {len(index)} rows are of"
            f" {', '.join(map(repr, index['family'].unique())) or 'none'}"
        )
    gap = gap_of(index).to_numpy(float)
    if not np.isfinite(gap).all():
        missing = index["model_id"][~np.isfinite(gap)].iloc[0]
        raise GengapError(f"{missing!r} has no gap: it, or one of its accuracies, is missing")
    varied = index.filter(regex="^hp_").dropna(axis=1, how="all").astype(str)
    factors = {name.removeprefix("hp_"): pd.factorize(varied[name]) for name in varied}
    levels = np.array([codes for codes, _ in factors.values()], int).reshape(-1, len(index)).T
    possible = {name: tuple(values) for name, (_, values) in factors.items()}
    return Task(tuple(index["model_id"]), levels, possible, gap)


def values_of(predictions: Mapping[str, float], task: Task) -> np.ndarray:
    """Predictions by id as a vector (n,) in the order of the task's networks.

    Raises: GengapError if a network has no prediction, a prediction no network, or is no number.
    """
    given = {_official_id(model): value for model, value in predictions.items()}
    missing = [model for model in task.models if model not in given]
    unknown = [model for model in given if model not in set(task.models)]
    for what, models in (
        ("have no prediction", missing),
        ("are not of this task", unknown),
    ):
        if models:
            raise GengapError(
                f"{len(models)} models {what} ({_some(models)}), for which the competition scores"
                f" the whole task -0.999999; give one prediction for each of its {len(task.models)}"
            )
    for model, value in given.items():
        if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
            raise GengapError(f"the prediction for {model} is {value!r}; give a number")
    return np.array([given[model] for model in task.models], float)


def cmi(measure: np.ndarray, task: Task, draws: np.ndarray | None = None) -> np.ndarray:
    """The competition's score, `conditional_mutual_information`, of many measures at once.

    measure (..., n) in the order of the task's networks; returns (...), or a number.
    draws (..., n): how often a bootstrap drew each network. Then a pair counts as often as both
    were drawn together, and each drawn network once with itself: copies of one network are not
    compared, for the extra ties would pass for agreement. Cells that nothing was drawn for are
    left out of the mean.

    Raises: GengapError if the task is no complete grid of two or more hyper-parameters.
    """
    return _in_batches(_cmi, measure, task, draws)


def kendall_tau_b(measure: np.ndarray, task: Task, draws: np.ndarray | None = None) -> np.ndarray:
    """Kendall's tau-b with the gap of many measures at once: measure (..., n) to (...).

    draws (..., n) as for `cmi`. NaN if the measure is constant.
    Source: Kendall 1945.
    """
    return _in_batches(_kendall_tau_b, measure, task, draws)


def granulated_tau(measure: np.ndarray, task: Task, draws: np.ndarray | None = None) -> np.ndarray:
    """Agreement with the gap where one hyper-parameter changes: measure (..., n) to (...).

    For each hyper-parameter Kendall's tau among the networks that differ in nothing else (tau-a: a
    tie counts 0 and stays in the denominator), then the mean over hyper-parameters. Groups count by
    their pairs, which on a complete grid all have alike; hyper-parameters of one value have no
    pairs and are left out. draws (..., n) as for `cmi`.

    Source: Jiang et al. 2020, 'Fantastic generalization measures', the average of psi_i.
    """
    return _in_batches(_granulated_tau, measure, task, draws)


def pearson(measure: np.ndarray, task: Task, draws: np.ndarray | None = None) -> np.ndarray:
    """Pearson's correlation with the gap of many measures at once: measure (..., n) to (...).

    draws (..., n) as for `cmi`. NaN if the measure is constant or not finite.
    """
    return _in_batches(_pearson, measure, task, draws)


Score = Callable[..., np.ndarray]
SCORES: dict[str, Score] = {
    "cmi": cmi,
    "kendall_tau": kendall_tau_b,
    "granulated_tau": granulated_tau,
    "pearson": pearson,
}


def random_scores(task: Task, *, draws: int = 1000, seed: int = 0) -> np.ndarray:
    """The competition's score of `draws` random measures on a task, (draws,).

    Any measure without ties, its networks shuffled: how high chance alone scores there.
    """
    shuffled = np.tile(np.arange(len(task.gap), dtype=float), (draws, 1))
    return cmi(np.random.default_rng(seed).permuted(shuffled, axis=1), task)


def _in_batches(score, measure, task, draws):
    measure = np.asarray(measure, float)
    if measure.shape[-1:] != task.gap.shape:
        raise ValueError(f"a measure of shape {measure.shape} for {len(task.gap)} networks")
    shape = measure.shape if draws is None else np.broadcast_shapes(measure.shape, draws.shape)
    rows = np.broadcast_to(measure, shape).reshape(-1, shape[-1])
    drawn = None if draws is None else np.broadcast_to(draws, shape).reshape(rows.shape)
    parts = [slice(start, start + BATCH) for start in range(0, len(rows), BATCH)]
    found = [score(rows[part], task, None if draws is None else drawn[part]) for part in parts]
    return np.concatenate(found).reshape(shape[:-1])[()]


def _cmi(measure, task, draws):
    conditions = task.conditions
    larger = (measure[:, :, None] > measure[:, None, :]).reshape(len(measure), -1)
    weights = np.ones((1, larger.shape[1])) if draws is None else _pair_weights(draws)
    # Of each cell: by the sign of the gap, then (minus, plus) of the measure.
    total = _counted(conditions.pairs, weights)
    plus = _counted(conditions.pairs, larger * weights)
    mutual, entropy = information(np.stack([total - plus, plus], axis=2))
    told, whole = (np.add.reduceat(part, conditions.first) for part in (mutual, entropy))
    with np.errstate(invalid="ignore", divide="ignore"):
        scores = told / whole
    scores[conditions.undefined] = np.nan
    least = np.full(len(measure), np.inf)
    for score in scores:  # as min(score, least) of Python: a NaN replaces, and is replaced
        least = np.where(least < score, least, score)
    return least


def _kendall_tau_b(measure, task, draws):
    agreement, ranks, gaps, weights = _signs(measure, task, draws)
    untied = [(np.abs(signs) * weights).sum(axis=(1, 2)) for signs in (ranks, gaps)]
    with np.errstate(invalid="ignore"):
        return (agreement * weights).sum(axis=(1, 2)) / np.sqrt(untied[0] * untied[1])


def _granulated_tau(measure, task, draws):
    agreement, _, _, weights = _signs(measure, task, draws)
    varied = task.neighbours.reshape(len(task.neighbours), -1).T.astype(float)
    sums = [part.reshape(len(part), -1) @ varied for part in (agreement * weights, weights)]
    defined = sums[1] > 0
    taus = np.divide(sums[0], sums[1], out=np.zeros_like(sums[0]), where=defined)
    with np.errstate(invalid="ignore"):
        return taus.sum(axis=1) / defined.sum(axis=1)


def _signs(measure, task, draws):
    """Pairs of networks: agreement, signs of measure and gap, weights; each (B or 1, n, n)."""
    larger = (measure[:, :, None] > measure[:, None, :]).astype(float)
    ranks = larger - larger.transpose(0, 2, 1)
    gaps = (task.larger_gap.astype(float) - task.larger_gap.T)[None]
    weights = np.ones_like(gaps) if draws is None else _pair_weights(draws).reshape(ranks.shape)
    return ranks * gaps, ranks, gaps, weights


def _pearson(measure, task, draws):
    weights = np.ones_like(measure) if draws is None else draws
    weights = weights / weights.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        measure = measure - measure[:, :1]  # a constant is then exactly 0
        measure = measure - (weights * measure).sum(axis=1, keepdims=True)
        gap = task.gap - (weights * task.gap).sum(axis=1, keepdims=True)
        variances = [(weights * part**2).sum(axis=1) for part in (measure, gap)]
        return (weights * measure * gap).sum(axis=1) / np.sqrt(variances[0] * variances[1])


def _pair_weights(draws):
    """(B, n * n): how often each pair was drawn, a network with itself once for each copy."""
    weights = draws[:, :, None] * draws[:, None, :].astype(float)
    own = np.arange(draws.shape[1])
    weights[:, own, own] = draws
    return weights.reshape(len(draws), -1)


def _counted(pairs, weights):
    """(cells, 2, B): pairs of networks in each cell, by the sign of the gap."""
    counts = pairs @ weights.T.astype(float)
    return counts.reshape(len(counts) // 2, 2, -1)


def information(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of tables (cells, 2, 2, B): information of the two signs and entropy of the first, in bits.

    A table counts pairs of networks by the signs of gap and measure. Both (cells, B), and 0 where a
    table is empty.
    """
    size = counts.sum(axis=(1, 2), keepdims=True)
    shares = counts / np.where(size > 0, size, 1)
    gap, measure = shares.sum(axis=2, keepdims=True), shares.sum(axis=1, keepdims=True)
    seen = shares > 0
    ratio = np.divide(shares, gap * measure, out=np.ones_like(shares), where=seen)
    information = (shares * np.log2(ratio)).sum(axis=(1, 2))
    return information, -(gap * np.log2(gap + 1e-12)).sum(axis=(1, 2))


def _conditions(task: Task) -> Conditions:
    if len(task.possible) < 2:
        raise GengapError(
            "the score compares networks within two hyper-parameters; this task has only"
            f" {', '.join(task.possible) or 'none'}"
        )
    _check_grid(task)
    places = {pair: _places(task, *pair) for pair in permutations(task.possible, 2)}
    if all(np.array_equal(place, np.arange(len(place))) for place in places.values()):
        # Where no cells are written alike, the reversed order only names the cells otherwise.
        places = {pair: places[pair] for pair in combinations(task.possible, 2)}
    both = {}  # of each hyper-parameter the values of a pair of networks, as one number
    for levels, (name, values) in zip(task.levels.T, task.possible.items(), strict=True):
        both[name] = (levels[:, None] * len(values) + levels).ravel()
    cells = [len(place) for place in places.values()]
    first = np.concatenate([[0], np.cumsum(cells)[:-1]])
    row = np.empty((len(task.gap) ** 2, len(places)), np.int32)
    for at, ((one, other), place) in enumerate(places.items()):
        row[:, at] = first[at] + place[both[one] * len(task.possible[other]) ** 2 + both[other]]
    empty = np.bincount(row.ravel(), minlength=sum(cells)) == 0
    row = 2 * row + task.larger_gap.reshape(-1, 1)
    starts = np.arange(0, row.size + 1, row.shape[1])
    shape = (len(row), 2 * sum(cells))
    pairs = sparse.csr_array((np.ones(row.size), row.ravel(), starts), shape=shape).T
    return Conditions(pairs, first, np.logical_or.reduceat(empty, first))


def _places(task: Task, one: str, other: str) -> np.ndarray:
    """(cells,) where each cell of a condition is counted: of cells written alike the last."""
    choices = [task.possible[name] for name in (one, one, other, other)]
    keys = ["".join(key) for key in product(*choices)]
    last = {key: at for at, key in enumerate(keys)}
    return np.array([last[key] for key in keys])


def _check_grid(task: Task) -> None:
    networks = Counter(map(tuple, task.levels.tolist()))
    sizes = [len(values) for values in task.possible.values()]
    for point in product(*map(range, sizes)):
        if networks[point] != 1:
            names = zip(task.possible, point, strict=True)
            place = ", ".join(f"{name} = {task.possible[name][at]}" for name, at in names)
            raise GengapError(
                f"the score needs one network at each of the {math.prod(sizes)} points of the grid;"
                f" there are {networks[point]} at {place}"
            )


def _official_id(model: str) -> str:
    # The program's own test: bare numbers in model_configs.json are `model_<id>` in predictions.
    return model if "model" in model else f"model_{model}"


def _level(model, name, value, possible):
    if value not in possible:
        raise GengapError(
            f"{model} has {name} = {value!r}, which is not among its possible values {possible};"
            " correct the model configurations"
        )
    return possible.index(value)


def _gap(metrics, model):
    if "train_acc" in metrics and "test_acc" in metrics:
        gap = metrics["train_acc"] - metrics["test_acc"]
    else:
        gap = metrics["gen_gap"]
    if not math.isfinite(gap):
        raise GengapError(f"the generalization gap of {model} is {gap}; a finite one is expected")
    return gap


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
