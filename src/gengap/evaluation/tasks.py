"""Networks of one family, prepared for scores: a task.

The target of every score is the generalization gap, train minus test accuracy. Hyper-parameters
are the columns `hp_*` that vary among the networks; `hp_copy` counts copies, networks trained
alike, and is none. The competition Predicting Generalization in Deep Learning has rules of its
own: there a task is a complete grid, and hyper-parameters of a single value count too (`official`).
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, pairwise, permutations, product

import numpy as np
import pandas as pd
from pandas import DataFrame, Series

from gengap.errors import GengapError, reason_of
from gengap.evaluation.regression import folds_of

COPY = "hp_copy"  # tells networks apart that were trained alike
PAIRS = 10  # fewer pairs of networks that differ in one hyper-parameter are not judged
DRAWN = 10  # a hyper-parameter of more different numbers was drawn at random: grids have fewer


@dataclass(frozen=True)
class Task:
    """Networks of one family; `task_of`, `official_task`, `read_task` and `vector_task` make it."""

    models: tuple[str, ...]  # n ids
    gap: np.ndarray  # (n,) train minus test accuracy, a fraction, or another target
    settings: np.ndarray  # (n, H) int: which of its values each hyper-parameter has
    levels: np.ndarray  # (n, H) int: the same, where drawn at random whether above the median
    possible: dict[str, tuple[str, ...]]  # H hyper-parameters: their values as text
    copies: np.ndarray  # (n,) int: networks trained alike have the same number
    in_fold: np.ndarray  # (n,) int: in which fold a network is held out
    official: bool = False  # whether the competition's rules hold for its score

    @cached_property
    def larger_gap(self) -> np.ndarray:
        """(n, n) bool: whether the gap of the row is strictly larger than that of the column."""
        return self.gap[:, None] > self.gap

    @cached_property
    def gap_signs(self) -> np.ndarray:
        """(n, n) float32: sign of the row's gap minus the column's."""
        return self.larger_gap.astype(np.float32) - self.larger_gap.T

    @cached_property
    def neighbours(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """P pairs of networks that differ in one hyper-parameter alone: one, other, which (P,)."""
        found = [np.empty((0, 3), int)]
        for place in range(self.settings.shape[1]):
            rest = self.settings.copy()
            rest[:, place] = 0
            for group in _groups(_alike(rest)):
                one, other = group[np.array(np.triu_indices(len(group), 1))]
                differ = self.settings[one, place] != self.settings[other, place]
                of_group = [one[differ], other[differ], np.full(differ.sum(), place)]
                found.append(np.column_stack(of_group))
        pairs = np.concatenate(found)
        one, other, which = pairs[np.lexsort(pairs.T[1::-1])].T
        return one, other, which

    @cached_property
    def by_hyperparameter(self) -> np.ndarray:
        """(P, hyper-parameters) 0 or 1: in which one the networks of each pair differ."""
        return indicator(self.neighbours[2][:, None])

    @cached_property
    def environments(self) -> np.ndarray:
        """(P, E) 0 or 1: which pairs belong to each environment; see `scores.sign_errors`."""
        one, other, which = self.neighbours
        values = self.settings[[one, other], which]
        member = indicator(np.column_stack([which, values.min(axis=0), values.max(axis=0)]))
        member = member * (self.gap[one] != self.gap[other])[:, None]
        return member[:, member.sum(axis=0) >= PAIRS]

    @cached_property
    def conditions(self) -> "Conditions":
        """The cells in which the competition's score compares networks; made when first needed."""
        return _conditions(self)

    @cached_property
    def no_grid(self) -> str:
        """What keeps the networks from being a complete grid, in words; empty if nothing does."""
        networks = Counter(map(tuple, self.settings.tolist()))
        sizes = [len(values) for values in self.possible.values()]
        for point in product(*map(range, sizes)):
            if networks[point] != 1:
                names = zip(self.possible, point, strict=True)
                place = ", ".join(f"{name} = {self.possible[name][at]}" for name, at in names)
                points = math.prod(map(float, sizes))
                return (
                    f"the score needs one network at each of the {points:.15g} points of the"
                    f" grid; there are {networks[point]} at {place}"
                )
        return ""


@dataclass(frozen=True)
class Conditions:
    """Which values of two hyper-parameters a network has, for all conditions side by side.

    A condition is two hyper-parameters, a group of it the networks with the same values of both, a
    cell the groups of two networks in their order.
    """

    groups: np.ndarray  # (n, groups) float32, 0 or 1
    columns: list[slice]  # which groups are those of each condition
    undefined: np.ndarray  # (conditions,) bool: the competition's program finds an empty cell

    @cached_property
    def first(self) -> np.ndarray:
        """(conditions,) position of each condition's first cell."""
        cells = [(of.stop - of.start) ** 2 for of in self.columns]
        return np.cumsum([0, *cells[:-1]])

    @cached_property
    def equals(self) -> np.ndarray:
        """Positions of the cells of one group with itself, group by group."""
        of_condition = [
            first + np.arange(of.stop - of.start) * (of.stop - of.start + 1)
            for first, of in zip(self.first, self.columns, strict=True)
        ]
        return np.concatenate(of_condition)


def task_of(rows: DataFrame, *, seed: int = 0) -> Task:
    """The task of one family's index rows at one epoch; `seed` shuffles the folds.

    Gaps are those of `gap_of`. Networks with the same hyper-parameters are in the same fold; they
    are copies where there is a column `hp_copy`.

    Raises: GengapError if a gap is missing, or if the rows are of several families or epochs.
    """
    gap = _known_gaps(rows)
    several = "epoch" in rows and not rows.get("is_last", Series(False)).all()
    if several and (epochs := rows["epoch"].nunique(dropna=False)) > 1:
        raise GengapError(
            f"the rows of {rows['family'].iloc[0]} are of {epochs} epochs; judge networks at one,"
            " as `last_epoch(index)` chooses them"
        )
    varied = hyperparameters(rows)
    settings, possible = _factors(varied)
    levels = settings.copy()
    for place, name in enumerate(varied):
        if is_drawn(varied[name]):
            levels[:, place] = varied[name] > varied[name].median()
    alike, alone = _alike(settings), np.arange(len(rows))
    copies = alike if COPY in rows and rows[COPY].notna().any() else alone
    in_fold = folds_of(alike, seed=seed) if alike.max() > 0 else np.zeros(len(rows), int)
    return Task(tuple(rows["model_id"]), gap, settings, levels, possible, copies, in_fold)


def official_task(rows: DataFrame, *, seed: int = 0) -> Task:
    """The task of one family's index rows, to be scored by the competition's rules.

    All columns `hp_*` with values are hyper-parameters. Networks need not be a complete grid, but
    without it there is no score of the competition.

    Raises: GengapError if the rows are of several families or a gap is missing.
    """
    gap = _known_gaps(rows)
    settings, possible = _factors(rows.filter(regex="^hp_").dropna(axis=1, how="all"))
    return _official(tuple(rows["model_id"]), gap, settings, possible, seed)


def read_task(specs: Mapping) -> Task:
    """The task of a `model_configs.json`: the ids, hyper-parameters and gaps of its networks.

    specs: by id, `hparams` with the possible and the current value of each hyper-parameter, and
    `metrics`, which may hold `gen_gap` in place of `train_acc` and `test_acc`.

    Raises: GengapError naming the network that lacks something, has a value that is not among the
    possible ones or no finite gap; or the point of the grid with no network or several.
    """
    if not specs:
        raise GengapError("the model configurations are empty; give those of a whole task")
    try:
        specs = _by_official_id(specs)
        first = next(iter(specs.values()))["hparams"]
        possible = {name: list(first[name]["possible_values"]) for name in first}
        levels = [
            [_level(model, name, spec["hparams"][name], possible[name]) for name in possible]
            for model, spec in specs.items()
        ]
        gap = np.array([_gap(spec["metrics"], model) for model, spec in specs.items()], float)
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise GengapError(
            f"the model configurations cannot be used ({reason_of(error)}); expected is, by id,"
            ' {"hparams": {NAME: {"possible_values": [...], "current_value": VALUE}},'
            ' "metrics": {"train_acc": A, "test_acc": B}}'
        ) from error
    settings = np.array(levels, int).reshape(len(specs), -1)
    names = {name: tuple(map(str, choices)) for name, choices in possible.items()}
    task = _official(tuple(specs), gap, settings, names)
    if task.no_grid:
        raise GengapError(task.no_grid)
    return task


def vector_task(target: np.ndarray) -> Task:
    """A target (n,) in place of the gap, of networks of which nothing else is known."""
    alone = np.arange(len(target))
    nothing = np.empty((len(target), 0), int)
    return Task(
        tuple(map(str, alone)), np.asarray(target, float), nothing, nothing, {}, alone, alone
    )


def _official(models, gap, settings, possible, seed=0) -> Task:
    alone = np.arange(len(models))
    in_fold = folds_of(alone, seed=seed) if len(models) > 1 else alone
    return Task(models, gap, settings, settings, possible, alone, in_fold, official=True)


def values_of(predictions: Mapping[str, float], task: Task) -> np.ndarray:
    """Predictions by id as a vector (n,) in the order of the task's networks.

    Raises: GengapError if a network has no prediction, a prediction no network, or is no number.
    """
    given = _by_official_id(predictions)
    missing = [model for model in task.models if model not in given]
    known = set(task.models)
    unknown = [model for model in given if model not in known]
    for what, models in (("have no prediction", missing), ("are not of this task", unknown)):
        if models:
            raise GengapError(
                f"{len(models)} models {what} ({_some(models)}), for which the competition scores"
                f" the whole task -0.999999; give one prediction for each of its {len(task.models)}"
            )
    for model, value in given.items():
        _check_number(f"the prediction for {model}", value)
    return np.array([given[model] for model in task.models], float)


def gap_of(index: DataFrame) -> Series:
    """Each model's generalization gap: the column `gap` of an index, or the accuracies' difference.

    That column is there where gaps are known of networks whose accuracies are not.
    """
    return index["gap"] if "gap" in index else index["train_accuracy"] - index["test_accuracy"]


def hyperparameters(rows: DataFrame) -> DataFrame:
    """The columns `hp_*` that vary among the rows, without the number of a copy.

    Of columns of a grid that always change together, as the widths of layers that are all equal,
    the first stands for all: they are one hyper-parameter.
    """
    columns = rows.filter(regex="^hp_").drop(columns=COPY, errors="ignore")
    columns = columns.loc[:, columns.nunique(dropna=False) > 1]
    repeated = DataFrame(_factors(columns)[0].T, index=columns.columns).duplicated()
    # Numbers drawn at random are all different, in each of their columns, and yet no repetition.
    return columns.drop(
        columns=[name for name in columns if repeated[name] and not is_drawn(columns[name])]
    )


def is_drawn(values: Series) -> bool:
    """Whether a hyper-parameter's values were drawn at random: it has more than a grid has."""
    return pd.api.types.is_numeric_dtype(values) and values.nunique() > DRAWN


def indicator(codes: np.ndarray) -> np.ndarray:
    """(n, G) 0 or 1: which of the G different rows of codes (n, k) each row is."""
    kinds, which = np.unique(codes, axis=0, return_inverse=True)
    return np.eye(len(kinds))[which.ravel()]


def _known_gaps(rows: DataFrame) -> np.ndarray:
    if rows["family"].nunique() != 1:
        raise GengapError(
            f"a task is one family; these {len(rows)} rows are of"
            f" {', '.join(map(repr, rows['family'].unique())) or 'none'}"
        )
    gap = gap_of(rows).to_numpy(float)
    if not np.isfinite(gap).all():
        missing = rows["model_id"][~np.isfinite(gap)].iloc[0]
        raise GengapError(f"{missing!r} has no gap: it, or one of its accuracies, is missing")
    return gap


def _factors(columns: DataFrame) -> tuple[np.ndarray, dict[str, tuple[str, ...]]]:
    """Which of its values each hyper-parameter has (n, H) int, and the values as text by name."""
    factors = {
        name.removeprefix("hp_"): pd.factorize(columns[name].astype(str)) for name in columns
    }
    codes = [codes for codes, _ in factors.values()]
    possible = {name: tuple(values) for name, (_, values) in factors.items()}
    return np.array(codes, int).reshape(-1, len(columns)).T, possible


def _alike(settings: np.ndarray) -> np.ndarray:
    """(n,) int: networks of the same settings have the same number; without settings, none have."""
    if not settings.shape[1]:
        return np.arange(len(settings))
    return pd.factorize(pd.MultiIndex.from_arrays(settings.T))[0]


def _groups(codes: np.ndarray) -> list[np.ndarray]:
    """Places of those that share a code (n,), of each code, in their order."""
    ordered = np.argsort(codes, kind="stable")
    return np.split(ordered, np.flatnonzero(np.diff(codes[ordered])) + 1)


def _conditions(task: Task) -> Conditions:
    columns = range(task.levels.shape[1])
    pairs, undefined = list(combinations(columns, 2)), np.zeros(math.comb(len(columns), 2), bool)
    if task.official:
        if fault := _official_fault(task):
            raise GengapError(fault)
        values, ordered = list(task.possible.values()), list(permutations(columns, 2))
        ambiguous = [_written_alike(values[one], values[other]) for one, other in ordered]
        if any(ambiguous):  # else the reversed order only names the cells otherwise
            pairs, undefined = ordered, np.array(ambiguous)
    members = [indicator(task.levels[:, pair]) for pair in pairs]
    ends = np.cumsum([0] + [member.shape[1] for member in members])
    groups = np.concatenate(members, axis=1).astype(np.float32)
    return Conditions(groups, [slice(*pair) for pair in pairwise(ends)], undefined)


def _official_fault(task: Task) -> str:
    if len(task.possible) > 1:
        return task.no_grid
    return (
        "the score compares networks within two hyper-parameters; this task has only"
        f" {', '.join(task.possible) or 'none'}"
    )


def _written_alike(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether two cells have one key, the values of both networks written one after the other."""
    keys = [a + b + c + d for a, b, c, d in product(one, one, other, other)]
    return len(set(keys)) < len(keys)


def _by_official_id(given):
    # The program's own test: bare numbers in model_configs.json are `model_<id>` in predictions.
    named = {model if "model" in model else f"model_{model}": of for model, of in given.items()}
    if twice := [model for model in given if model not in named and f"model_{model}" in given]:
        raise GengapError(f"{twice[0]} and model_{twice[0]} are one network; keep one of them")
    return named


def _check_number(name: str, value: object) -> None:
    huge = isinstance(value, int) and abs(value) >= 2**1023  # of hundreds of digits
    if huge or isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise GengapError(f"{name} is {value!r:.100}; give a number")


def _level(model, name, hyper_parameter, possible):
    if (value := hyper_parameter["current_value"]) not in possible:
        raise GengapError(
            f"{model} has {name} = {value!r}, which is not among its possible values {possible};"
            " correct the model configurations"
        )
    return possible.index(value)


def _gap(metrics, model):
    both = "train_acc" in metrics and "test_acc" in metrics
    for name in ("train_acc", "test_acc") if both else ("gen_gap",):
        _check_number(f"{name} of {model}", metrics[name])
    gap = metrics["train_acc"] - metrics["test_acc"] if both else metrics["gen_gap"]
    if not math.isfinite(gap):
        raise GengapError(f"the generalization gap of {model} is {gap}; a finite one is expected")
    return gap


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
