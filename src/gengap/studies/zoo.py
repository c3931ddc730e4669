"""Predict a network's test accuracy from its weights: three predictors, published and leak-free.

The published protocol trains on one half of the networks and lets the *test* half decide when to
stop. Every fit here therefore comes in three readings:

- `published`: trained on the whole first half, stopped by the test half, as released;
- `leaky`: trained on 80 % of the first half, stopped by the test half;
- `leak_free`: the same fit, stopped by the other 20 %, the validation part.

The last two share their training networks, so `leaky` minus `leak_free` is what the leak is worth.
Each family is treated on its own.

Source: Unterthiner et al. 2020, section 4; released notebook and best_configs.json.
"""

import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from gengap.collections.cnnzoo import DATASETS
from gengap.evaluation.regression import r2
from gengap.evaluation.resampling import bootstrap_interval
from gengap.evaluation.scores import plain_tau
from gengap.measures.weight_features import ALL_LAYER_STATISTICS, INPUT_SETS, input_features
from gengap.studies.published import reported
from gengap.studies.zoo_predictors import (
    PREDICTORS,
    TREES,
    Fit,
    Split,
    fit,
    grow_trees,
    split,
    split_half,
    tuned_config,
)
from gengap.tables.fits import kept_rows
from gengap.tables.identity import digest, record_hashes, source_hash

READINGS = ("published", "leaky", "leak_free")
DIGITS = 6  # of a kept prediction: of an accuracy that was counted on 10,000 images
TRANSFER_TREES = 4000


@dataclass(frozen=True)
class Problem:
    """One family of networks seen through one input set."""

    family: str
    inputs: str
    models: np.ndarray  # (N,) model_id
    features: np.ndarray  # (N, F) float32
    names: tuple[str, ...]  # F
    target: np.ndarray  # (N,) test accuracy
    parts: Split
    identity: str  # the hash of all that it is made of: networks, records, input set and seed

    def seed(self, predictor: str, seed: int) -> int:
        """The same fit gets the same seed in whichever table it appears."""
        words = f"{seed}/{self.family}/{self.inputs}/{predictor}"
        return zlib.crc32(words.encode()) & 0x7FFFFFFF


@dataclass(frozen=True)
class Fits:
    """The fits on networks: `weights` (N, 4970) and `index`, the same N networks, one row each.

    index: with the columns family, test_accuracy and hp_*. jobs: processes, by default a core each;
    nothing depends on their number. With the name of a `table`, fits that are kept there are read,
    and others kept there: see gengap.tables.fits.
    """

    weights: np.ndarray
    index: pd.DataFrame
    seed: int = 0
    jobs: int | None = None
    table: str | None = None

    def predictions(
        self,
        *,
        inputs: Sequence[str] = INPUT_SETS,
        predictors: Sequence[str] = PREDICTORS,
        tuned_for: str | None = None,
        device: str = "cpu",
    ) -> pd.DataFrame:
        """True and predicted test accuracy of each network in the test halves.

        `tuned_for` names the data set whose configurations are used, by default each family's own.
        Columns: family, predictor, inputs, model_id, target, then one prediction for each reading,
        to DIGITS decimals.
        """
        tasks = (
            partial(
                _predictions, problem, predictor, tuned_for or problem.family, self.seed, device
            )
            for problem in self._problems(inputs)
            for predictor in predictors
        )
        return self._run(_predictions, tasks, self._families * len(inputs) * len(predictors))

    def selections(
        self, *, predictors: Sequence[str] = PREDICTORS, inputs: str = ALL_LAYER_STATISTICS
    ) -> pd.DataFrame:
        """What choosing a configuration by test score is worth, all fits being leak-free otherwise.

        Each predictor is fitted with the configuration tuned for each of the four data sets; the
        highest R2 on the test half chooses one of them (the leak), the highest on the validation
        part another. Columns: family, predictor, chosen_by (test or validation), tuned_for, r2
        (test half).
        """
        tasks = (
            partial(_candidate, problem, predictor, tuned_for, self.seed)
            for problem in self._problems([inputs])
            for predictor in predictors
            for tuned_for in DATASETS
        )
        number = self._families * len(predictors) * len(DATASETS)
        candidates = self._run(_candidate, tasks, number).fillna(
            {"validation": -np.inf, "test": -np.inf}
        )
        rows = [
            {**group.loc[group[part].idxmax()], "chosen_by": part}
            for _, group in candidates.groupby(["family", "predictor"], sort=False)
            for part in ("test", "validation")
        ]
        chosen = pd.DataFrame(rows).rename(columns={"test": "r2"})
        return chosen[["family", "predictor", "chosen_by", "tuned_for", "r2"]]

    def learning_curve(
        self,
        sizes: Sequence[int],
        *,
        predictors: Sequence[str] = PREDICTORS,
        inputs: str = ALL_LAYER_STATISTICS,
        repeats: int = 5,
    ) -> pd.DataFrame:
        """Leak-free scores on the test half against the number of networks given for training.

        Each repeat draws that many of the first half (80 % to train, 20 % to stop), or takes all of
        it where it has fewer. Columns: family, predictor, networks, repeat, r2, mae, tau.
        """
        tasks = [
            partial(_curve_point, problem, predictor, size, repeat, self.seed)
            for problem in self._problems([inputs])
            for size in sorted({min(size, len(problem.parts.first_half)) for size in sizes})
            for predictor in predictors
            for repeat in range(repeats)
        ]
        return self._run(_curve_point, tasks, len(tasks))

    def transfers(self, *, inputs: str = ALL_LAYER_STATISTICS) -> pd.DataFrame:
        """Gradient boosting trained on one family and tested on the test half of every family.

        At most 4,000 trees; the stopping set belongs to the family it is trained on, so off the
        diagonal no reading sees its test networks. Columns: trained_on, tested_on, reading, r2,
        mae, tau, and low and high, the ends of tau's bootstrap interval over the networks of the
        test half.

        Source: Unterthiner et al. 2020, figure 4 (Kendall's tau).
        """
        problems = list(self._problems([inputs]))
        tasks = (partial(_transfers, problem, problems, self.seed) for problem in problems)
        return self._run(_transfers, tasks, len(problems))

    def importances(self, *, inputs: str = ALL_LAYER_STATISTICS) -> pd.DataFrame:
        """Share of each feature in the total gain of the leak-free gradient boosting.

        Columns: family, layer (conv1, conv2, conv3, dense), tensor (bias, kernel), statistic, gain
        (sums to 1 in a family; 0 where no tree finds a split).
        """
        tasks = (partial(_gains, problem, self.seed) for problem in self._problems([inputs]))
        gains = self._run(_gains, tasks, self._families)
        names = r"(?P<layer>\w+)/(?P<tensor>\w+) (?P<statistic>\w+)"
        parts = gains.pop("feature").str.extract(names)
        return pd.concat([gains[["family"]], parts, gains[["gain"]]], axis=1)

    @property
    def _families(self) -> int:
        return self.index["family"].nunique()

    def _problems(self, inputs: Sequence[str]) -> Iterator[Problem]:
        return _problems(self.weights, self.index, inputs, self.seed)

    def _run(self, function: Callable, tasks: Iterable[partial], number: int) -> pd.DataFrame:
        """The rows of the tasks, which call `function`, in their order, whoever made them."""
        known = ((_key(task), task) for task in tasks)
        configs = "".join(reported(f"cnnzoo_{name}_configs").to_csv() for name in PREDICTORS)
        made_by, source = function.__name__[1:], source_hash(function) + source_hash(_problems)
        made = made_by, digest(source + configs)
        bar: dict[str, Any] = {"total": number, "unit": "fit"}
        return pd.DataFrame(kept_rows(self.table, *made, known, workers=self.jobs, **bar))


def score_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """Scores of every predictor on every input set of every family, in the three readings.

    predictions: of `Fits.predictions`. Columns: family, predictor, inputs, reading, r2, mae (a
    fraction), tau.
    """
    names = ["family", "predictor", "inputs"]
    rows = [
        dict(zip(names, key, strict=True))
        | {"reading": reading}
        | _score(part["target"], part[reading])
        for key, part in predictions.groupby(names, sort=False)
        for reading in READINGS
    ]
    return pd.DataFrame(rows)


def _problems(weights, index, inputs, seed) -> Iterator[Problem]:
    """Each family's input sets, one at a time: those of all weights are as large as the zoo."""
    for family, rows in index.reset_index(drop=True).groupby("family", sort=False).groups.items():
        ours, part = weights[rows], index.iloc[rows]
        target, parts = part["test_accuracy"].to_numpy(float), split(len(rows), seed=seed)
        networks = digest(hashlib.sha256(ours).hexdigest() + "".join(record_hashes(part)))
        for name in inputs:
            table = input_features(name, ours, part)
            yield Problem(
                family=family,
                inputs=name,
                models=part["model_id"].to_numpy(),
                features=table.to_numpy(np.float32),
                names=tuple(table.columns),
                target=target,
                parts=parts,
                identity=digest(f"{networks} {name} {seed}"),
            )


def _key(task: partial) -> str:
    """All that a task's rows depend on but code; a problem is known by its identity."""
    given = [one for value in task.args for one in (value if isinstance(value, list) else [value])]
    parts = [one.identity if isinstance(one, Problem) else repr(one) for one in given]
    return digest("\n".join(parts))


def _fit_problem(problem, predictor, train, stop_on, tuned_for, seed, **options):
    config = tuned_config(predictor, tuned_for, problem.inputs)
    seed = problem.seed(predictor, seed)
    data = problem.features, problem.target
    return fit(predictor, *data, train, stop_on, config, seed=seed, **options)


def _readings(problem, predictor, tuned_for, seed, **options) -> dict[str, Fit]:
    parts = problem.parts
    settings = tuned_for, seed
    released = {"published": parts.test}
    compared = {"leaky": parts.test, "leak_free": parts.validation}
    return _fit_problem(
        problem, predictor, parts.first_half, released, *settings, **options
    ) | _fit_problem(problem, predictor, parts.train, compared, *settings, **options)


def _score(target: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    error = float(np.abs(target - predicted).mean())
    return {"r2": r2(target, predicted), "mae": error, "tau": plain_tau(target, predicted)}


def _predictions(problem, predictor, tuned_for, seed, device):
    fits = _readings(problem, predictor, tuned_for, seed, device=device)
    labels = {"family": problem.family, "predictor": predictor, "inputs": problem.inputs}
    found = {reading: fit.predictions.round(DIGITS) for reading, fit in fits.items()}
    return [
        {**labels, "model_id": problem.models[row], "target": problem.target[row]}
        | {reading: float(predicted[row]) for reading, predicted in found.items()}
        for row in problem.parts.test
    ]


def _candidate(problem, predictor, tuned_for, seed):
    parts = problem.parts
    stop_on = {"leak_free": parts.validation}
    fits = _fit_problem(problem, predictor, parts.train, stop_on, tuned_for, seed)
    predictions = fits["leak_free"].predictions
    labels = {"family": problem.family, "predictor": predictor, "tuned_for": tuned_for}
    validation, test = (
        r2(problem.target[rows], predictions[rows]) for rows in (parts.validation, parts.test)
    )
    return [{**labels, "validation": validation, "test": test}]


def _curve_point(problem, predictor, size, repeat, seed):
    random = np.random.default_rng([seed, repeat])
    parts = split_half(random.permutation(problem.parts.first_half)[:size], problem.parts.test)
    stop_on = {"leak_free": parts.validation}
    fits = _fit_problem(problem, predictor, parts.train, stop_on, problem.family, seed + repeat)
    labels = {"family": problem.family, "predictor": predictor}
    test, predicted = parts.test, fits["leak_free"].predictions
    score = _score(problem.target[test], predicted[test])
    return [{**labels, "networks": size, "repeat": repeat, **score}]


def _transfers(source, problems, seed):
    """Fit on the source with all families below one another, so that it predicts every one."""
    starts = np.cumsum([0] + [len(problem.target) for problem in problems])
    at = dict(zip((problem.family for problem in problems), starts))
    parts = source.parts
    moved = Split(
        *(rows + at[source.family] for rows in (parts.train, parts.validation, parts.test))
    )
    joined = replace(
        source,
        features=np.concatenate([problem.features for problem in problems]),
        target=np.concatenate([problem.target for problem in problems]),
        parts=moved,
    )
    fits = _readings(joined, "lgbm", source.family, seed, trees=TRANSFER_TREES)
    rows = []
    for problem in problems:
        test = problem.parts.test + at[problem.family]
        names = {"trained_on": source.family, "tested_on": problem.family}
        for reading, found in fits.items():
            pair = joined.target[test], found.predictions[test]
            ends = zip(("low", "high"), bootstrap_interval(plain_tau, *pair), strict=True)
            rows.append({**names, "reading": reading, **_score(*pair), **dict(ends)})
    return rows


def _gains(problem, seed):
    parts = problem.parts
    booster, best = grow_trees(
        problem.features,
        problem.target.astype(np.float32),
        parts.train,
        {"leak_free": parts.validation},
        tuned_config("lgbm", problem.family, problem.inputs),
        seed=problem.seed("lgbm", seed),
        trees=TREES,
    )
    gains = booster.feature_importance("gain", iteration=best["leak_free"])
    shares = gains / (gains.sum() or 1)
    return [
        {"family": problem.family, "feature": name, "gain": share}
        for name, share in zip(problem.names, shares)
    ]
