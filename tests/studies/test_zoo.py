"""The predictors: stopping as Keras and LightGBM do, no leak where none is claimed, repeatable."""

from functools import partial

import lightgbm
import numpy as np
import pandas as pd
import pytest
import torch

from gengap.collections.cnnzoo import DATASETS, LAYOUT, PARAMETERS
from gengap.evaluation.regression import r2
from gengap.evaluation.resampling import bootstrap_interval
from gengap.evaluation.scores import plain_tau
from gengap.measures.weight_features import ALL_LAYER_STATISTICS, INPUT_SETS, input_features
from gengap.studies import zoo_predictors as predictors
from gengap.studies.zoo import READINGS, Fits, score_table
from gengap.studies.zoo_predictors import (
    PREDICTORS,
    batch_size,
    build_network,
    early_stopping,
    fit,
    split,
    tuned_config,
)

NORMS = "wnorm-layers:0,1,2,3-l2"


@pytest.fixture
def zoo():
    """Two families of 60 and 50 networks whose dense kernel grows with their accuracy."""
    generator = np.random.default_rng(1)
    accuracy = generator.uniform(0.1, 0.9, size=110)
    weights = generator.normal(size=(110, PARAMETERS)) * 0.1
    weights[:, LAYOUT[-1].start :] *= (1 + 20 * accuracy)[:, None]
    index = pd.DataFrame(
        {
            "family": ["mnist"] * 60 + ["cifar10"] * 50,
            "model_id": [f"network {i}" for i in range(110)],
            "test_accuracy": accuracy,
            "hp_w_init": "he_normal",
            "hp_activation": "relu",
            "hp_learning_rate": generator.uniform(5e-4, 5e-2, size=110),
        }
    )
    return weights.astype(np.float32), index


@pytest.fixture
def few_bootstraps(monkeypatch):
    """Intervals of a transfer are tested where bootstraps are; here they only take time."""
    few = partial(bootstrap_interval, samples=20)
    monkeypatch.setattr("gengap.studies.zoo.bootstrap_interval", few)


@pytest.fixture
def few_epochs(monkeypatch):
    """Where fits are compared with fits, it does not matter how far they come."""
    monkeypatch.setattr(predictors, "EPOCHS", 30)


def problem(networks, features, seed=0):
    """Features (N, F), a target that is a sigmoid of their sum, and the parts."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(networks, features))
    return x, 1 / (1 + np.exp(-x.sum(axis=1))), split(networks, seed=seed)


# The split


def test_parts_are_disjoint_cover_everything_and_have_the_stated_shares():
    parts = split(601, seed=3)
    assert [len(rows) for rows in (parts.train, parts.validation, parts.test)] == [240, 60, 301]
    everything = np.concatenate([parts.train, parts.validation, parts.test])
    assert sorted(everything) == list(range(601))
    assert set(parts.first_half) == set(parts.train) | set(parts.validation)


def test_the_published_number_of_networks_gives_the_published_halves():
    parts = split(30_000)
    assert len(parts.first_half) == len(parts.test) == predictors.PUBLISHED_NETWORKS


def test_a_split_repeats_with_its_seed_and_differs_with_another():
    np.testing.assert_array_equal(split(50, seed=1).test, split(50, seed=1).test)
    assert set(split(50, seed=1).test) != set(split(50, seed=2).test)


def test_too_few_networks_are_an_error():
    with pytest.raises(ValueError, match="9 networks"):
        split(9)


# The stopping rule


def keras_early_stopping(errors, patience):
    """Keras' documented rule, step by step."""
    lowest, best, waited = np.inf, -1, 0
    for iteration, error in enumerate(errors):
        waited += 1
        if error < lowest:
            lowest, best, waited = error, iteration, 0
        if waited >= patience:
            break
    return best, iteration


@pytest.mark.parametrize(
    ("errors", "patience", "expected"),
    [
        ([3, 2, 1, 2, 3, 0], 2, (2, 4)),  # the 0 comes too late
        ([3, 2, 1, 2, 0, 3], 2, (4, 5)),  # ... and here in time; the end stops it
        ([1, 1, 1, 1], 3, (0, 3)),  # an equal error is no progress
        ([4, 3, 2, 1], 3, (3, 3)),
        ([np.nan, 2, np.nan, 1, np.nan], 3, (3, 4)),
        ([np.nan] * 5, 3, (-1, 2)),
    ],
)
def test_stopping_on_sequences_worked_out_by_hand(errors, patience, expected):
    assert early_stopping(errors, patience) == expected


def test_stopping_equals_keras_rule_on_random_walks():
    generator = np.random.default_rng(0)
    for _ in range(200):
        walk = generator.normal(size=60).cumsum().round(1)
        for patience in (1, 4, 10):
            assert early_stopping(walk, patience) == keras_early_stopping(walk, patience)


@pytest.mark.parametrize("predictor", ["linear", "dnn"])
def test_a_network_trains_exactly_patience_epochs_beyond_its_lowest_validation_loss(
    predictor, monkeypatch
):
    histories = []
    monkeypatch.setattr(
        predictors,
        "early_stopping",
        lambda errors, patience: histories.append(list(errors)) or early_stopping(errors, patience),
    )
    generator = np.random.default_rng(0)
    x, y, parts = generator.normal(size=(40, 3)), generator.uniform(size=40), split(40)
    config = tuned_config(predictor, "mnist", ALL_LAYER_STATISTICS)
    fits = fit(predictor, x, y, parts.train, {"stop": parts.validation}, config)
    errors = histories[-1]
    assert fits["stop"].iteration == len(errors) < predictors.EPOCHS
    assert np.argmin(errors) == len(errors) - 1 - predictors.EPOCH_PATIENCE


def test_boosting_equals_the_released_call_of_lightgbm():
    x, y, parts = problem(60, 4)
    config = tuned_config("lgbm", "mnist", NORMS) | {"min_child_weight": 1}
    ours = fit("lgbm", x, y, parts.first_half, {"test": parts.test}, config, seed=5)["test"]
    parameters = predictors._tree_parameters(config, len(parts.first_half), 5)
    regressor = lightgbm.LGBMRegressor(n_estimators=predictors.TREES, **parameters)
    x, y = x.astype(np.float32), y.astype(np.float32)
    regressor.fit(
        x[parts.first_half],
        y[parts.first_half],
        eval_X=x[parts.test],
        eval_y=y[parts.test],
        callbacks=[lightgbm.early_stopping(predictors.TREE_PATIENCE, verbose=False)],
    )
    assert ours.iteration == regressor.best_iteration_ < predictors.TREES
    np.testing.assert_array_equal(ours.predictions, regressor.predict(x))


def test_updates_that_find_no_split_do_not_shift_the_best_number_of_trees(monkeypatch):
    histories = []
    monkeypatch.setattr(
        predictors,
        "early_stopping",
        lambda errors, patience: histories.append(list(errors)) or early_stopping(errors, patience),
    )
    x, y, parts = problem(80, 2)
    config = tuned_config("lgbm", "mnist", NORMS) | {"subsample": 0.33, "learning_rate": 0.01}
    fits = fit("lgbm", x, y, parts.train, {"stop": parts.validation}, config, trees=200)
    errors = histories[-1]
    assert fits["stop"].iteration < 1 + np.argmin(errors)  # some updates did fail
    residuals = y[parts.validation] - fits["stop"].predictions[parts.validation]
    assert np.sqrt(np.mean(residuals**2)) == pytest.approx(min(errors), rel=1e-5)


# Configurations


def test_published_configurations_are_used_as_they_are_with_the_published_number_of_networks():
    config = tuned_config("lgbm", "fashion_mnist", ALL_LAYER_STATISTICS)
    parameters = predictors._tree_parameters(config, predictors.PUBLISHED_NETWORKS, 0)
    changed = {key for key in config if parameters[key] != config[key]}
    assert changed == {"num_leaves"}
    assert parameters["min_child_samples"] == 20
    for predictor in ("linear", "dnn"):
        assert batch_size(predictor, 512, predictors.PUBLISHED_NETWORKS) == 512
        assert batch_size(predictor, 64, predictors.PUBLISHED_NETWORKS) == 64


def test_fewer_networks_get_smaller_batches_and_penalties():
    assert batch_size("linear", 512, 1500) == batch_size("dnn", 512, 1500) == 51
    assert batch_size("linear", 64, 240) == 8
    assert batch_size("dnn", 512, 240) == 32
    config = tuned_config("lgbm", "mnist", ALL_LAYER_STATISTICS)
    parameters = predictors._tree_parameters(config, 1500, 0)
    assert parameters["reg_lambda"] == pytest.approx(config["reg_lambda"] / 10)
    assert parameters["min_child_samples"] == 5


def test_the_bound_on_leaves_changes_no_tree(monkeypatch):
    x, y, parts = problem(60, 4)
    config = tuned_config("lgbm", "mnist", NORMS)
    arguments = ("lgbm", x, y, parts.train, {"stop": parts.test}, config)
    bounded = fit(*arguments, trees=50)["stop"].predictions
    original = predictors._tree_parameters
    monkeypatch.setattr(
        predictors,
        "_tree_parameters",
        lambda *a: original(*a) | {"num_leaves": config["num_leaves"]},
    )
    np.testing.assert_array_equal(fit(*arguments, trees=50)["stop"].predictions, bounded)


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("inputs", INPUT_SETS)
def test_every_published_network_can_be_built(dataset, inputs):
    linear, [kernel] = build_network(5, tuned_config("linear", dataset, inputs))
    assert [type(layer).__name__ for layer in linear] == ["Linear", "Sigmoid"]
    assert kernel is linear[0].weight
    config = tuned_config("dnn", dataset, inputs)
    network, kernels = build_network(5, config)
    widths = [5] + [config["units"]] * config["layers"] + [1]
    dense = [layer for layer in network if isinstance(layer, torch.nn.Linear)]
    assert [layer.weight.shape[::-1] for layer in dense] == list(zip(widths, widths[1:]))
    assert [id(kernel) for kernel in kernels] == [id(layer.weight) for layer in dense[:-1]]
    assert all((layer.bias == 0).all() for layer in dense)


@pytest.mark.parametrize(
    ("name", "std"),
    [
        ("RandomNormal", 0.05),
        ("TruncatedNormal", 0.05 * predictors.TRUNCATED_STD),
        ("he_normal", (2 / 300) ** 0.5),
        ("glorot_normal", (2 / 500) ** 0.5),
        ("orthogonal", (1 / 300) ** 0.5),
    ],
)
def test_initial_kernels_have_keras_deviation(name, std):
    torch.manual_seed(0)
    config = {"layers": 1, "units": 200, "dropout": 0.1, "w_init": name, "init_std": 0.05}
    kernel = build_network(300, config)[1][0].detach()
    assert kernel.std().item() == pytest.approx(std, rel=0.02)
    if name == "orthogonal":
        torch.testing.assert_close(kernel @ kernel.T, torch.eye(200), atol=1e-5, rtol=0)


def test_one_step_follows_the_gradient_of_the_penalized_squared_error():
    config = tuned_config("linear", "mnist", "weights") | {"l2_penalty": 0.3}
    network, kernels = build_network(4, config)
    x, y = torch.randn(6, 4), torch.rand(6)
    loss = (network(x)[:, 0] - y).square().mean() + 0.3 * kernels[0].square().sum()
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    expected = [
        p.detach() - config["learning_rate"] * g for p, g in zip(network.parameters(), gradients)
    ]
    optimizer = predictors._optimizer(network, kernels, config)
    predictors._train_epoch(network, optimizer, x, y, torch.arange(6), batch=6)
    torch.testing.assert_close([p.detach() for p in network.parameters()], expected)


def test_unknown_predictors_and_data_sets_are_named():
    with pytest.raises(ValueError, match="unknown predictor 'forest'"):
        tuned_config("forest", "mnist", NORMS)
    with pytest.raises(ValueError, match="no lgbm configuration is published for .* on kmnist"):
        tuned_config("lgbm", "kmnist", NORMS)
    with pytest.raises(ValueError, match="unknown predictor 'forest'"):
        fit("forest", np.ones((5, 1)), np.ones(5), np.arange(3), {}, {})


# What they learn


def test_a_logit_linear_target_is_learned_by_the_linear_predictor():
    x, y, parts = problem(400, 3)
    config = tuned_config("linear", "mnist", ALL_LAYER_STATISTICS)
    fits = fit("linear", x, y, parts.train, {"leak_free": parts.validation}, config)
    assert r2(y[parts.test], fits["leak_free"].predictions[parts.test]) > 0.99


@pytest.mark.parametrize("predictor", ["lgbm", "dnn"])
def test_a_target_that_is_not_monotone_is_learned_by_the_others_only(predictor):
    x, _, parts = problem(400, 2)
    y = np.exp(-(x[:, 0] ** 2))
    score = {}
    for name in (predictor, "linear"):
        config = tuned_config(name, "mnist", ALL_LAYER_STATISTICS)
        predicted = fit(name, x, y, parts.train, {"stop": parts.validation}, config)["stop"]
        score[name] = r2(y[parts.test], predicted.predictions[parts.test])
    assert score[predictor] > 0.9
    assert score["linear"] < 0.2


def test_on_pure_noise_the_leaky_score_is_better_and_neither_is_good():
    leaks, honest = [], []
    for seed in range(12):
        generator = np.random.default_rng(seed)
        x, y, parts = generator.normal(size=(40, 5)), generator.uniform(size=40), split(40)
        stop_on = {"leaky": parts.test, "leak_free": parts.validation}
        config = tuned_config("lgbm", "mnist", ALL_LAYER_STATISTICS)
        fits = fit("lgbm", x, y, parts.train, stop_on, config, seed=seed, trees=300)
        scores = {
            name: r2(y[parts.test], each.predictions[parts.test]) for name, each in fits.items()
        }
        leaks.append(scores["leaky"] - scores["leak_free"])
        honest.append(scores["leak_free"])
    assert np.mean(leaks) > 0.01
    assert np.mean(honest) < 0.05


def test_a_leak_free_fit_never_sees_the_accuracies_of_the_test_half():
    x, y, parts = problem(60, 4)
    other = y.copy()
    other[parts.test] = 1 - y[parts.test]
    for predictor in PREDICTORS:
        config = tuned_config(predictor, "mnist", ALL_LAYER_STATISTICS)
        arguments = parts.train, {"leak_free": parts.validation}, config
        first, second = (fit(predictor, x, target, *arguments) for target in (y, other))
        np.testing.assert_array_equal(
            first["leak_free"].predictions, second["leak_free"].predictions
        )


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_a_fit_repeats_with_its_seed_however_features_lie_and_leaves_torchs_generator(predictor):
    x, y, parts = problem(60, 4)
    config = tuned_config(predictor, "mnist", ALL_LAYER_STATISTICS)
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    rest = (y, parts.train, {"stop": parts.validation}, config)
    first, again, other = (
        fit(predictor, lying(x), *rest, seed=seed)["stop"].predictions
        for lying, seed in ((np.ascontiguousarray, 1), (np.asfortranarray, 1), (np.array, 2))
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert torch.rand(1) == expected


# The tables


def fitted(name, weights, index, *arguments, seed=0, jobs=1, table=None, **options):
    """A table of the fits on networks."""
    fits = Fits(weights, index, seed=seed, jobs=jobs, table=table)
    return getattr(fits, name)(*arguments, **options)


def test_kept_fits_are_those_of_the_same_networks_and_settings(zoo, tmp_path, monkeypatch):
    monkeypatch.setattr("gengap.tables.fits._file", lambda table: tmp_path / f"{table}.parquet")
    weights, index = (part[:60] for part in zoo)
    settings = {"inputs": [NORMS], "predictors": ["lgbm"], "seed": 2, "jobs": 1}
    computed = fitted("predictions", weights, index, **settings)
    settings |= {"table": "zoo.fits"}
    first = fitted("predictions", weights, index, **settings)
    pd.testing.assert_frame_equal(first, computed)
    monkeypatch.setattr("gengap.tables.fits._called", None)  # nothing more can be computed
    pd.testing.assert_frame_equal(fitted("predictions", weights, index, **settings), first)
    others = index.assign(test_accuracy=index["test_accuracy"] / 2)
    for changed in ((weights * 2, index), (weights, others), (weights[:50], index[:50])):
        with pytest.raises(TypeError, match="NoneType"):
            fitted("predictions", *changed, **settings)
    for other in ({"seed": 3}, {"inputs": ["hyper.learning_rate"]}, {"tuned_for": "cifar10"}):
        with pytest.raises(TypeError, match="NoneType"):
            fitted("predictions", weights, index, **(settings | other))


def test_predictions_do_not_depend_on_the_number_of_processes(zoo, monkeypatch):
    monkeypatch.setattr("gengap.tables.engine.SECONDS_ALONE", 1e-9)
    weights, index = (part[:60] for part in zoo)
    settings = {"inputs": [NORMS], "seed": 2}
    one = fitted("predictions", weights, index, **settings, jobs=1)
    pd.testing.assert_frame_equal(one, fitted("predictions", weights, index, **settings, jobs=2))
    names = ["family", "predictor", "inputs", "model_id", "target"]
    assert list(one.columns) == [*names, *READINGS]
    assert len(one) == 3 * 30  # predictors, networks of the test half
    accuracy = index.set_index("model_id")["test_accuracy"]
    np.testing.assert_array_equal(one["target"], accuracy[one["model_id"]])


def test_kept_predictions_have_six_decimals(zoo):
    predictions = fitted("predictions", *zoo, inputs=[NORMS], predictors=["lgbm"], jobs=1)
    pd.testing.assert_frame_equal(predictions, predictions.round(6))


def test_scores_are_those_of_the_predictions(zoo):
    predictions = fitted("predictions", *zoo, inputs=[NORMS], predictors=["lgbm", "linear"], jobs=1)
    scores = score_table(predictions)
    names = ["family", "predictor", "inputs", "reading"]
    assert list(scores.columns) == [*names, "r2", "mae", "tau"] and len(scores) == 2 * 2 * 3
    for row in scores.itertuples():
        part = predictions.query("family == @row.family and predictor == @row.predictor")
        assert row.r2 == r2(part["target"], part[row.reading])
        assert row.mae == pytest.approx((part["target"] - part[row.reading]).abs().mean())
        assert row.tau == plain_tau(part["target"], part[row.reading])


@pytest.mark.usefixtures("few_epochs")
def test_rows_of_an_index_may_be_numbered_anyhow(zoo):
    weights, index = zoo
    settings = {"inputs": [NORMS], "predictors": ["linear"], "jobs": 1}
    renumbered = fitted(
        "predictions", weights, index.set_axis(np.arange(110)[::-1] * 3), **settings
    )
    pd.testing.assert_frame_equal(fitted("predictions", weights, index, **settings), renumbered)


@pytest.mark.usefixtures("few_epochs")
def test_a_family_can_be_fitted_with_the_configuration_of_another(zoo):
    settings = {"inputs": [NORMS], "predictors": ["linear"], "jobs": 1}
    own = score_table(fitted("predictions", *zoo, **settings)).set_index(["family", "reading"])
    exchanged = score_table(fitted("predictions", *zoo, **settings, tuned_for="mnist"))
    exchanged = exchanged.set_index(["family", "reading"])
    pd.testing.assert_frame_equal(own.loc[["mnist"]], exchanged.loc[["mnist"]])
    assert (own.loc["cifar10", "r2"] != exchanged.loc["cifar10", "r2"]).all()


@pytest.mark.usefixtures("few_epochs")
def test_choosing_by_test_score_is_never_worse_on_the_test_half(zoo):
    chosen = fitted("selections", *zoo, predictors=["linear", "lgbm"], inputs=NORMS, jobs=1)
    assert list(chosen.columns) == ["family", "predictor", "chosen_by", "tuned_for", "r2"]
    wide = chosen.pivot(index=["family", "predictor"], columns="chosen_by", values="r2")
    assert len(wide) == 4
    assert (wide["test"] >= wide["validation"]).all()
    settings = {"inputs": [NORMS], "predictors": ["linear"], "jobs": 1}
    own = [
        score_table(fitted("predictions", *zoo, **settings, tuned_for=name)) for name in DATASETS
    ]
    best = pd.concat(own).query("reading == 'leak_free' and family == 'mnist'")["r2"].max()
    assert wide.loc[("mnist", "linear"), "test"] == pytest.approx(best, abs=1e-5)


def test_the_curve_rises_and_leaves_out_sizes_that_a_family_lacks(zoo):
    curve = fitted("learning_curve", *zoo, [10, 25, 30], predictors=["lgbm"], inputs=NORMS, jobs=1)
    assert list(curve.columns) == [
        "family", "predictor", "networks", "repeat", "r2", "mae", "tau",
    ]  # fmt: skip
    assert curve.groupby("family")["networks"].unique().map(list).to_dict() == {
        "mnist": [10, 25, 30],
        "cifar10": [10, 25],
    }
    median = curve[curve["family"] == "mnist"].groupby("networks")["r2"].median()
    assert median[30] > median[10]


@pytest.mark.usefixtures("few_bootstraps")
def test_transfer_between_zoos_that_encode_accuracy_alike_works_and_fails_where_they_do_not(zoo):
    weights, index = zoo
    alike = fitted("transfers", weights, index, inputs=NORMS, jobs=1)
    assert list(alike.columns) == [
        "trained_on",
        "tested_on",
        "reading",
        "r2",
        "mae",
        "tau",
        "low",
        "high",
    ]
    assert len(alike) == 2 * 2 * 3
    assert alike["tau"].min() > 0.5
    mirrored = index.copy()
    other = mirrored["family"] == "cifar10"
    mirrored.loc[other, "test_accuracy"] = 1 - mirrored.loc[other, "test_accuracy"]
    unlike = fitted("transfers", weights, mirrored, inputs=NORMS, jobs=1)
    across = unlike["trained_on"] != unlike["tested_on"]
    assert unlike.loc[~across, "tau"].min() > 0.5
    assert unlike.loc[across, "tau"].max() < -0.5


@pytest.mark.usefixtures("few_bootstraps")
def test_the_diagonal_of_the_transfer_is_a_fit_on_the_family_alone(zoo):
    weights, index = zoo
    transfer = fitted("transfers", weights, index, inputs=NORMS, jobs=1, seed=4)
    rows = np.flatnonzero(index["family"] == "cifar10")
    alone = fitted("transfers", weights[rows], index.iloc[rows], inputs=NORMS, jobs=1, seed=4)
    diagonal = transfer.query("trained_on == 'cifar10' and tested_on == 'cifar10'")
    pd.testing.assert_frame_equal(diagonal.reset_index(drop=True), alone)


def test_importance_sums_to_one_and_finds_the_tensor_that_carries_accuracy(zoo):
    importance = fitted("importances", *zoo, jobs=1)
    assert list(importance.columns) == ["family", "layer", "tensor", "statistic", "gain"]
    assert importance.groupby("family")["gain"].sum().to_numpy() == pytest.approx([1, 1])
    assert len(importance) == 2 * input_features(ALL_LAYER_STATISTICS, *zoo).shape[1]
    gains = importance.groupby(["layer", "tensor"])["gain"].sum() / 2
    assert gains["dense", "kernel"] > 0.8


def test_where_no_tree_finds_a_split_no_feature_is_important(zoo, recwarn):
    weights, index = zoo
    importance = fitted("importances", weights, index.assign(test_accuracy=0.5), jobs=1)
    assert set(importance["gain"]) == {0.0}
    assert not [warning for warning in recwarn if warning.category is RuntimeWarning]
