"""Three predictors of a network's test accuracy from its weights, trained as released.

Source: Unterthiner et al. 2020, section 4; released notebook and best_configs.json.
"""

from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import lightgbm
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional, init

from gengap.studies.published import reported

PREDICTORS = ("linear", "lgbm", "dnn")
PUBLISHED_NETWORKS = 15_000  # training networks of a data set in the paper
EPOCHS, EPOCH_PATIENCE = 300, 10
TREES, TREE_PATIENCE = 2000, 500
PUBLISHED_LEAF, SMALLEST_LEAF = 20, 5  # networks
SMALLEST_BATCH = {"linear": 8, "dnn": 32}  # networks
ROWS_AT_ONCE = 1024  # whose activations stay in a processor's cache
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
    return split_half(rows[: networks // 2], rows[networks // 2 :])


def split_half(first_half: np.ndarray, test: np.ndarray) -> Split:
    """These rows for test, the first fifth of the others for validation."""
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
    # Row after row, of which steps take some each; those of a DataFrame lie column after column.
    data = np.array(features, np.float32, order="C"), np.array(target, np.float32)
    if predictor == "lgbm":
        booster, best = grow_trees(*data, train, stop_on, config, seed=seed, trees=trees)
        return {name: Fit(n, booster.predict(data[0], num_iteration=n)) for name, n in best.items()}
    with _repeatable_torch(), torch.random.fork_rng():
        torch.manual_seed(seed)
        return _train_network(predictor, *data, train, stop_on, config, device)


def grow_trees(features, target, train, stop_on, config, *, seed, trees):
    """The booster and, for each stopping set, its best number of trees."""
    parameters = _tree_parameters(config, len(train), seed)
    data = lightgbm.Dataset(features[train], target[train], params=parameters)
    booster = lightgbm.Booster(parameters, data)
    for name, rows in stop_on.items():
        valid = data.create_valid(features[rows], target[rows], params=parameters)
        booster.add_valid(valid, name)
    errors: dict[str, list[float]] = {name: [] for name in stop_on}
    grown: list[int] = []
    for _ in range(trees):
        booster.update()
        grown.append(max(1, booster.current_iteration()))  # an update that finds no split adds none
        for name, _, error, *_ in booster.eval_valid():
            errors[name].append(error)
        if all(_is_over(history, TREE_PATIENCE) for history in errors.values()):
            break
    best = {name: early_stopping(errors[name], TREE_PATIENCE)[0] for name in stop_on}
    return booster, {name: grown[iteration] for name, iteration in best.items()}


def _tree_parameters(config, networks, seed):
    """The published configuration, with what belongs to 15,000 networks scaled to fewer.

    Penalties and the smallest leaf (LightGBM's default, 20 networks) shrink in proportion, the leaf
    no further than to 5. The bound on leaves changes no tree; without it, memory grows by
    gigabytes. A tree sees one network at least.
    """
    share = min(1.0, networks / PUBLISHED_NETWORKS)
    leaf = max(SMALLEST_LEAF, round(PUBLISHED_LEAF * share))
    scaled = {
        "reg_lambda": config["reg_lambda"] * share,
        "reg_alpha": config["reg_alpha"] * share,
        "min_child_samples": leaf,
        "num_leaves": max(2, min(config["num_leaves"], networks // leaf)),
        "subsample": max(config["subsample"], min(1.0, 1.5 / networks)),
    }
    fixed = {"objective": "regression", "metric": "rmse", "subsample_freq": 1, "verbosity": -1}
    repeatable = {"seed": seed, "num_threads": 1, "deterministic": True, "force_row_wise": True}
    return config | scaled | fixed | repeatable


def _train_network(predictor, features, target, train, stop_on, config, device):
    """Keras' fit with EarlyStopping on the validation loss: squared error plus the l2 penalty."""
    features, target = (torch.as_tensor(values, device=device) for values in (features, target))
    network, kernels = build_network(features.shape[1], config)
    network.to(device)
    optimizer = _optimizer(network, kernels, config)
    batch = batch_size(predictor, config["batch_size"], len(train))
    given = {name: (features[rows], target[rows]) for name, rows in stop_on.items()}
    errors: dict[str, list[float]] = {name: [] for name in stop_on}
    train, fits = torch.tensor(train, device=device), dict[str, Fit]()
    for epoch in range(1, EPOCHS + 1):
        _train_epoch(network, optimizer, features, target, train, batch)
        penalty = config["l2_penalty"] * sum(float(k.detach().square().sum()) for k in kernels)
        for name in stop_on.keys() - fits.keys():
            inputs, wanted = given[name]
            error = (_predict(network, inputs) - wanted).square().mean()
            errors[name].append(float(error) + penalty)
            if epoch == EPOCHS or _is_over(errors[name], EPOCH_PATIENCE):
                fits[name] = Fit(epoch, _predict(network, features).cpu().numpy())
        if len(fits) == len(stop_on):
            break
    return {name: fits[name] for name in stop_on}


def build_network(inputs: int, config: dict) -> tuple[nn.Sequential, list[Tensor]]:
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


def _normal(kernel, std):
    init.normal_(kernel, std=std)


def _orthogonal(kernel, _):
    init.orthogonal_(kernel)


def _he_normal(kernel, _):
    _truncated_normal(kernel, (2 / kernel.shape[1]) ** 0.5 / TRUNCATED_STD)


def _glorot_normal(kernel, _):
    _truncated_normal(kernel, (2 / sum(kernel.shape)) ** 0.5 / TRUNCATED_STD)


# No lambdas: their code is not known in several lines, and a kept fit would outlive a change.
_INITIALIZERS: dict[str, Callable] = {
    "RandomNormal": _normal,
    "TruncatedNormal": _truncated_normal,
    "orthogonal": _orthogonal,
    "he_normal": _he_normal,
    "glorot_normal": _glorot_normal,
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


def _train_epoch(network, optimizer, features, target, train, batch):
    network.train()
    for rows in train[torch.randperm(len(train), device=train.device)].split(batch):
        optimizer.zero_grad()
        functional.mse_loss(network(features[rows])[:, 0], target[rows]).backward()
        optimizer.step()


@torch.no_grad()
def _predict(network, features):
    network.eval()
    return torch.cat([network(some)[:, 0] for some in features.split(ROWS_AT_ONCE)])


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
