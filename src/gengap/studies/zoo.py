"""Predict a network's test accuracy from its weights: three predictors, published and leak-free.

The published protocol trains on one half of the networks and lets the *test* half decide when to
stop. Every fit here therefore comes in three readings:

- `published`: trained on the whole first half, stopped by the test half, as released;
- `leaky`: trained on 80 % of the first half, stopped by the test half;
- `leak_free`: the same fit, stopped by the other 20 %, the validation part.

The last two share their training networks, so `leaky` minus `leak_free` is what the leak is worth.
The tables take `weights` (N, 4970) and `index` (the same N networks, one row each, columns family,
test_accuracy and hp_*), treat each family on its own, run `jobs` processes (a core each by default)
and do not depend on their number.

Source: Unterthiner et al. 2020, section 4; released notebook and best_configs.json.
"""

import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise

import lightgbm
import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from torch import nn
from torch.nn import functional, init
from tqdm import tqdm

from gengap.collections.cnnzoo import DATASETS
from gengap.evaluation.analysis import kendall_tau, r2
from gengap.measures.weight_features import ALL_LAYER_STATISTICS, INPUT_SETS, input_features
from gengap.studies.published import reported

PREDICTORS = ("linear", "lgbm", "dnn")
READINGS = ("published", "leaky", "leak_free")
PUBLISHED_NETWORKS = 15_000  # training networks of a data set in the paper
EPOCHS, EPOCH_PATIENCE = 300, 10
TREES, TRANSFER_TREES, TREE_PATIENCE = 2000, 4000, 500
PUBLISHED_LEAF, SMALLEST_LEAF = 20, 5  # networks
SMALLEST_BATCH = {"linear": 8, "dnn": 32}  # networks
TRUNCATED_STD = 0.87962566103423978  # of a standard normal cut at two standard deviations


@dataclass(frozen=True)
class Split:
    """Row numbers of the networks in each part."""

    train: np.ndarray  # 80 % of the first half
    validation: np.ndarray  # 20 % of the first half
    test: np.ndarray  # the second half

    @property
    def first_half(self) -> np.ndarray:
        return np.concatenate([self.train, self.validation])


@dataclass(frozen=True)
class Fit:
    """What a fit predicts at the iteration that one set of networks chose."""

    iteration: int  # epoch or number of trees, counted from 1
    predictions: np.ndarray  # (N,) for every row, those it was trained on too


def split(networks: int, *, seed: int = 0) -> Split:
    """Shuffle `networks` rows by `seed`: half for test, of the rest one fifth for validation.

    Raises: ValueError for fewer than 10 networks.
    """
    if networks < 10:
        raise ValueError(f"{networks} networks cannot be split into three parts; give 10 or more")
    rows = np.random.default_rng(seed).permutation(networks)
    return _split_half(rows[: networks // 2], rows[networks // 2 :])


def _split_half(first_half, test):
    validation = len(first_half) // 5
    return Split(first_half[validation:], first_half[:validation], test)


def early_stopping(errors: Iterable[float], patience: int) -> tuple[int, int]:
    """The iterations of the lowest error and of the stop, from 0; -1 if no error is a number.

    Training stops at the first iteration that lies `patience` after the lowest error so far, or at
    the end of `errors`. Only a strictly lower error counts. Keras' EarlyStopping (min_delta 0) and
    LightGBM's early_stopping do this.
    """
    errors = np.asarray(errors, float)
    iterations = np.arange(len(errors))
    lowest_before = np.fmin.accumulate(np.append(np.inf, errors))[:-1]
    best = np.maximum.accumulate(np.where(errors < lowest_before, iterations, -1))
    stops = np.flatnonzero(iterations - best >= patience)
    stop = stops[0] if len(stops) else len(errors) - 1
    return int(best[stop]), int(stop)


def _is_over(errors, patience):
    return len(errors) - 1 - early_stopping(errors, patience)[0] >= patience


def tuned_config(predictor: str, dataset: str, inputs: str) -> dict:
    """The published configuration of one predictor for one data set and input set.

    Raises: ValueError if nothing is published for them.
    """
    _check_predictor(predictor)
    configs = reported(f"cnnzoo_{predictor}_configs")
    chosen = configs[(configs.collection == dataset) & (configs.inputs == inputs)]
    if chosen.empty:
        raise ValueError(f"no {predictor} configuration is published for {inputs} on {dataset}")
    return chosen.drop(columns=["collection", "inputs"]).to_dict("records")[0]


def _check_predictor(predictor):
    if predictor not in PREDICTORS:
        raise ValueError(f"unknown predictor '{predictor}'; known are {', '.join(PREDICTORS)}")


def fit(
    predictor: str,
    features: np.ndarray,
    target: np.ndarray,
    train: np.ndarray,
    stop_on: dict[str, np.ndarray],
    config: dict,
    *,
    seed: int = 0,
    trees: int = TREES,
    device: str = "cpu",
) -> dict[str, Fit]:
    """Train once on the rows `train`; read the fit where each set of rows in `stop_on` stops it.

    `features` (N, F), `target` (N,) in [0, 1], `config` as `tuned_config` returns it. As released,
    LightGBM (at most `trees` trees, patience 500) is read at its best iteration, the networks
    `linear` and `dnn` (on `device`, at most 300 epochs, patience 10) where they stopped, with
    inputs as they are, not standardized. One thread: on a CPU a fit depends on its arguments alone.
    Returns a Fit for each name in `stop_on`.
    """
    _check_predictor(predictor)
    data = np.array(features, np.float32), np.array(target, np.float32)
    if predictor == "lgbm":
        booster, best = _grow_trees(*data, train, stop_on, config, seed=seed, trees=trees)
        return {name: Fit(n, booster.predict(data[0], num_iteration=n)) for name, n in best.items()}
    with _repeatable_torch(), torch.random.fork_rng():
        torch.manual_seed(seed)
        return _train_network(predictor, *data, train, stop_on, config, device)


def _grow_trees(features, target, train, stop_on, config, *, seed, trees):
    """The booster and, for each stopping set, its best number of trees."""
    parameters = _tree_parameters(config, len(train), seed)
    data = lightgbm.Dataset(features[train], target[train], params=parameters)
    booster = lightgbm.Booster(parameters, data)
    for name, rows in stop_on.items():
        valid = data.create_valid(features[rows], target[rows], params=parameters)
        booster.add_valid(valid, name)
    errors, grown = {name: [] for name in stop_on}, []
    for _ in range(trees):
        booster.update()
        grown.append(max(1, booster.current_iteration()))  # an update that finds no split adds none
        for name, _, error, _ in booster.eval_valid():
            errors[name].append(error)
        if all(_is_over(history, TREE_PATIENCE) for history in errors.values()):
            break
    best = {name: early_stopping(errors[name], TREE_PATIENCE)[0] for name in stop_on}
    return booster, {name: grown[iteration] for name, iteration in best.items()}


def _tree_parameters(config, networks, seed):
    """The published configuration, with what belongs to 15,000 networks scaled to fewer.

    Penalties and the smallest leaf (LightGBM's default, 20 networks) shrink in proportion, the leaf
    no further than to 5. The bound on leaves changes no tree; without it, memory grows by
    gigabytes.
    """
    share = min(1.0, networks / PUBLISHED_NETWORKS)
    leaf = max(SMALLEST_LEAF, round(PUBLISHED_LEAF * share))
    scaled = {
        "reg_lambda": config["reg_lambda"] * share,
        "reg_alpha": config["reg_alpha"] * share,
        "min_child_samples": leaf,
        "num_leaves": max(2, min(config["num_leaves"], networks // leaf)),
    }
    fixed = {"objective": "regression", "metric": "rmse", "subsample_freq": 1, "verbosity": -1}
    repeatable = {"seed": seed, "num_threads": 1, "deterministic": True, "force_row_wise": True}
    return config | scaled | fixed | repeatable


def _train_network(predictor, features, target, train, stop_on, config, device):
    """Keras' fit with EarlyStopping on the validation loss: squared error plus the l2 penalty."""
    features, target = (torch.tensor(values, device=device) for values in (features, target))
    network, kernels = build_network(features.shape[1], config)
    network.to(device)
    optimizer = _optimizer(network, kernels, config)
    batch = batch_size(predictor, config["batch_size"], len(train))
    errors, fits = {name: [] for name in stop_on}, {}
    for epoch in range(1, EPOCHS + 1):
        _train_epoch(network, optimizer, features[train], target[train], batch)
        penalty = config["l2_penalty"] * sum(float(k.detach().square().sum()) for k in kernels)
        for name in stop_on.keys() - fits.keys():
            rows = stop_on[name]
            error = (_predict(network, features[rows]) - target[rows]).square().mean()
            errors[name].append(float(error) + penalty)
            if epoch == EPOCHS or _is_over(errors[name], EPOCH_PATIENCE):
                fits[name] = Fit(epoch, _predict(network, features).cpu().numpy())
        if len(fits) == len(stop_on):
            break
    return {name: fits[name] for name in stop_on}


def build_network(inputs: int, config: dict) -> tuple[nn.Sequential, list[nn.Parameter]]:
    """The released fully connected network, and its kernels that carry the l2 penalty.

    `layers` times (dense, ReLU, dropout), then one sigmoid unit. Hidden kernels start from the
    configured initializer and are penalized; without hidden layers the only kernel is. The last
    kernel of a deep network has Keras' defaults, Glorot uniform and no penalty; biases start at 0.
    """
    widths = [inputs] + [config["units"]] * config["layers"] if "layers" in config else [inputs]
    layers = [nn.Linear(below, above) for below, above in pairwise([*widths, 1])]
    for layer in layers:
        init.zeros_(layer.bias)
        init.xavier_uniform_(layer.weight)
    kernels = [layer.weight for layer in layers[:-1] or layers]
    for kernel in kernels:
        _INITIALIZERS[config["w_init"]](kernel, config["init_std"])
    hidden = [[layer, nn.ReLU(), nn.Dropout(config["dropout"])] for layer in layers[:-1]]
    return nn.Sequential(*sum(hidden, []), layers[-1], nn.Sigmoid()), kernels


def _truncated_normal(kernel, std):
    init.trunc_normal_(kernel, std=std, a=-2 * std, b=2 * std)


_INITIALIZERS: dict[str, Callable] = {
    "RandomNormal": lambda kernel, std: init.normal_(kernel, std=std),
    "TruncatedNormal": _truncated_normal,
    "orthogonal": lambda kernel, _: init.orthogonal_(kernel),
    "he_normal": lambda kernel, _: _truncated_normal(
        kernel, (2 / kernel.shape[1]) ** 0.5 / TRUNCATED_STD
    ),
    "glorot_normal": lambda kernel, _: _truncated_normal(
        kernel, (2 / sum(kernel.shape)) ** 0.5 / TRUNCATED_STD
    ),
}


def batch_size(predictor: str, published: int, networks: int) -> int:
    """Rows a step of a `linear` or `dnn` predictor, to come near the published steps an epoch.

    The published sizes belong to 15,000 training networks (512 rows: 29 steps an epoch). Fewer
    networks get proportionally smaller batches, but, for the sake of time, no smaller than 8 rows
    for `linear` and 32 for `dnn`: 240 networks take 30 and 8 steps an epoch.
    """
    scaled = round(published * networks / PUBLISHED_NETWORKS)
    return int(min(published, max(SMALLEST_BATCH[predictor], scaled)))


def _optimizer(network, kernels, config):
    penalized = {id(kernel) for kernel in kernels}
    others = [p for p in network.parameters() if id(p) not in penalized]
    decay = 2 * config["l2_penalty"]  # the gradient of l2 * sum w^2
    groups = [{"params": kernels, "weight_decay": decay}, {"params": others}]
    if config["optimizer"] == "sgd":
        return torch.optim.SGD(groups, lr=config["learning_rate"], fused=True)
    return torch.optim.Adam(groups, lr=config["learning_rate"], eps=1e-7, fused=True)


def _train_epoch(network, optimizer, features, target, batch):
    network.train()
    for rows in torch.randperm(len(target), device=target.device).split(batch):
        optimizer.zero_grad()
        functional.mse_loss(network(features[rows])[:, 0], target[rows]).backward()
        optimizer.step()


@torch.no_grad()
def _predict(network, features):
    return network.eval()(features)[:, 0]


@contextmanager
def _repeatable_torch():
    """One thread; and numbers too small for float32's usual form, which are slow, become 0."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)


# Tables


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

    def seed(self, predictor: str, seed: int) -> int:
        """The same fit gets the same seed in whichever table it appears."""
        words = f"{seed}/{self.family}/{self.inputs}/{predictor}"
        return zlib.crc32(words.encode()) & 0x7FFFFFFF


def score_table(
    weights: np.ndarray,
    index: pd.DataFrame,
    *,
    inputs: Sequence[str] = INPUT_SETS,
    predictors: Sequence[str] = PREDICTORS,
    tuned_for: str | None = None,
    seed: int = 0,
    jobs: int | None = None,
    device: str = "cpu",
) -> pd.DataFrame:
    """Scores of every predictor on every input set of every family, in the three readings.

    `tuned_for` names the data set whose configurations are used, by default each family's own.
    Columns: family, predictor, inputs, reading, iteration, r2, mae (a fraction), tau.
    """
    tasks = (
        delayed(_scores)(problem, predictor, tuned_for or problem.family, seed, device)
        for problem in _problems(weights, index, inputs, seed)
        for predictor in predictors
    )
    return _run(tasks, index["family"].nunique() * len(inputs) * len(predictors), jobs)


def prediction_table(
    weights: np.ndarray,
    index: pd.DataFrame,
    *,
    predictor: str = "lgbm",
    inputs: str = ALL_LAYER_STATISTICS,
    seed: int = 0,
    jobs: int | None = None,
) -> pd.DataFrame:
    """True and predicted test accuracy of each network in the test halves.

    Columns: family, model_id, target, then one prediction for each reading.
    """
    problems = _problems(weights, index, [inputs], seed)
    tasks = (delayed(_predictions)(problem, predictor, seed) for problem in problems)
    return _run(tasks, index["family"].nunique(), jobs)


def selection_table(
    weights: np.ndarray,
    index: pd.DataFrame,
    *,
    predictors: Sequence[str] = PREDICTORS,
    inputs: str = ALL_LAYER_STATISTICS,
    seed: int = 0,
    jobs: int | None = None,
) -> pd.DataFrame:
    """What choosing a configuration by test score is worth, all fits being leak-free otherwise.

    Each predictor is fitted with the configuration tuned for each of the four data sets; the
    highest R2 on the test half chooses one of them (the leak), the highest on the validation part
    another. Columns: family, predictor, chosen_by (test or validation), tuned_for, r2 (test half).
    """
    tasks = (
        delayed(_candidate)(problem, predictor, tuned_for, seed)
        for problem in _problems(weights, index, [inputs], seed)
        for predictor in predictors
        for tuned_for in DATASETS
    )
    number = index["family"].nunique() * len(predictors) * len(DATASETS)
    candidates = _run(tasks, number, jobs).fillna({"validation": -np.inf, "test": -np.inf})
    rows = [
        {**group.loc[group[part].idxmax()], "chosen_by": part}
        for _, group in candidates.groupby(["family", "predictor"], sort=False)
        for part in ("test", "validation")
    ]
    chosen = pd.DataFrame(rows).rename(columns={"test": "r2"})
    return chosen[["family", "predictor", "chosen_by", "tuned_for", "r2"]]


def learning_curve(
    weights: np.ndarray,
    index: pd.DataFrame,
    sizes: Sequence[int],
    *,
    predictors: Sequence[str] = PREDICTORS,
    inputs: str = ALL_LAYER_STATISTICS,
    repeats: int = 5,
    seed: int = 0,
    jobs: int | None = None,
) -> pd.DataFrame:
    """Leak-free scores on the test half against the number of networks given for training.

    Each repeat draws that many of the first half (80 % to train, 20 % to stop); a family is left
    out of sizes that it does not have. Columns: family, predictor, networks, repeat, r2, mae, tau.
    """
    tasks = [
        delayed(_curve_point)(problem, predictor, size, repeat, seed)
        for problem in _problems(weights, index, [inputs], seed)
        for size in sizes
        if size <= len(problem.parts.first_half)
        for predictor in predictors
        for repeat in range(repeats)
    ]
    return _run(tasks, len(tasks), jobs)


def transfer_table(
    weights: np.ndarray,
    index: pd.DataFrame,
    *,
    inputs: str = ALL_LAYER_STATISTICS,
    seed: int = 0,
    jobs: int | None = None,
) -> pd.DataFrame:
    """Gradient boosting trained on one family and tested on the test half of every family.

    At most 4,000 trees; the stopping set belongs to the family it is trained on, so off the
    diagonal no reading sees its test networks. Columns: trained_on, tested_on, reading, r2, mae,
    tau.

    Source: Unterthiner et al. 2020, figure 4 (Kendall's tau).
    """
    problems = list(_problems(weights, index, [inputs], seed))
    tasks = (delayed(_transfers)(problem, problems, seed) for problem in problems)
    return _run(tasks, len(problems), jobs)


def importance_table(
    weights: np.ndarray,
    index: pd.DataFrame,
    *,
    inputs: str = ALL_LAYER_STATISTICS,
    seed: int = 0,
    jobs: int | None = None,
) -> pd.DataFrame:
    """Share of each feature in the total gain of the leak-free gradient boosting.

    Columns: family, layer (conv1, conv2, conv3, dense), tensor (bias, kernel), statistic, gain
    (sums to 1 in a family).
    """
    problems = _problems(weights, index, [inputs], seed)
    tasks = (delayed(_gains)(problem, seed) for problem in problems)
    table = _run(tasks, index["family"].nunique(), jobs)
    parts = table.pop("feature").str.extract(r"(?P<layer>\w+)/(?P<tensor>\w+) (?P<statistic>\w+)")
    return pd.concat([table[["family"]], parts, table[["gain"]]], axis=1)


def _problems(weights, index, inputs, seed) -> Iterator[Problem]:
    """Each family's input sets, one at a time: those of all weights are as large as the zoo."""
    for family, rows in index.reset_index(drop=True).groupby("family", sort=False).groups.items():
        ours, part = weights[rows], index.iloc[rows]
        target, parts = part["test_accuracy"].to_numpy(float), split(len(rows), seed=seed)
        for name in inputs:
            table = input_features(name, ours, part)
            features, names = table.to_numpy(np.float32), tuple(table.columns)
            yield Problem(family, name, part["model_id"].to_numpy(), features, names, target, parts)


def _run(tasks, number, jobs) -> pd.DataFrame:
    """The rows that the tasks return, in their order, whatever process made them."""
    with warnings.catch_warnings():
        # joblib renews a worker whose memory grew, with a warning; no task is lost.
        warnings.filterwarnings("ignore", "A worker stopped while some jobs", UserWarning)
        results = Parallel(n_jobs=jobs or -1, return_as="generator")(tasks)
        done = [row for rows in tqdm(results, total=number, unit="fit") for row in rows]
    return pd.DataFrame(done)


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


def _score(target, predictions, rows) -> dict[str, float]:
    target, predictions = target[rows], predictions[rows]
    error = float(np.abs(target - predictions).mean())
    return {"r2": r2(target, predictions), "mae": error, "tau": kendall_tau(target, predictions)}


def _scores(problem, predictor, tuned_for, seed, device):
    fits = _readings(problem, predictor, tuned_for, seed, device=device)
    labels = {"family": problem.family, "predictor": predictor, "inputs": problem.inputs}
    return [
        {**labels, "reading": reading, "iteration": fit.iteration}
        | _score(problem.target, fit.predictions, problem.parts.test)
        for reading, fit in fits.items()
    ]


def _predictions(problem, predictor, seed):
    fits = _readings(problem, predictor, problem.family, seed)
    return [
        {
            "family": problem.family,
            "model_id": problem.models[row],
            "target": problem.target[row],
            **{reading: float(fit.predictions[row]) for reading, fit in fits.items()},
        }
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
    parts = _split_half(random.permutation(problem.parts.first_half)[:size], problem.parts.test)
    stop_on = {"leak_free": parts.validation}
    fits = _fit_problem(problem, predictor, parts.train, stop_on, problem.family, seed + repeat)
    labels = {"family": problem.family, "predictor": predictor}
    score = _score(problem.target, fits["leak_free"].predictions, parts.test)
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
    return [
        {"trained_on": source.family, "tested_on": problem.family, "reading": reading}
        | _score(joined.target, fit.predictions, problem.parts.test + at[problem.family])
        for problem in problems
        for reading, fit in fits.items()
    ]


def _gains(problem, seed):
    parts = problem.parts
    booster, best = _grow_trees(
        problem.features,
        problem.target.astype(np.float32),
        parts.train,
        {"leak_free": parts.validation},
        tuned_config("lgbm", problem.family, problem.inputs),
        seed=problem.seed("lgbm", seed),
        trees=TREES,
    )
    gains = booster.feature_importance("gain", iteration=best["leak_free"])
    return [
        {"family": problem.family, "feature": name, "gain": gain / gains.sum()}
        for name, gain in zip(problem.names, gains)
    ]
