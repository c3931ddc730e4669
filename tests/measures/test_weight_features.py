"""The 14 input sets against closed forms, the golden statistics and the layout."""

import numpy as np
import pandas as pd
import pytest

from gengap.collections.cnnzoo import LAYOUT, PARAMETERS
from gengap.measures.weight_features import ALL_LAYER_STATISTICS, INPUT_SETS, input_features
from gengap.studies.published import reported

WIDTHS = (160, 2320, 2320, 170, 4970, 12, 4982, 7, 8, 8, 1, 28, 14, 56)


@pytest.fixture
def zoo():
    """Five networks: weights (5, 4970) and their index, not numbered from zero."""
    weights = np.random.default_rng(0).normal(size=(5, PARAMETERS)).astype(np.float32)
    index = pd.DataFrame(
        {
            "hp_w_init": ["he_normal", "orthogonal", "RandomNormal", "he_normal", "glorot_normal"],
            "hp_activation": ["relu", "tanh", "relu", "tanh", "tanh"],
            "hp_learning_rate": [0.1, 0.01, 0.02, 0.03, 0.04],
            "hp_init_std": 0.2,
            "hp_l2reg": 1e-5,
            "hp_train_fraction": [0.1, 0.25, 0.5, 1.0, 1.0],
            "hp_dropout": 0.3,
            "hp_optimizer": "adam",
        },
        index=[7, 3, 11, 5, 2],
    )
    return weights, index


def test_input_sets_are_the_published_ones_in_their_order():
    assert list(INPUT_SETS) == reported("cnnzoo_r2").inputs.unique().tolist()


@pytest.mark.parametrize(("name", "width"), list(zip(INPUT_SETS, WIDTHS, strict=True)))
def test_every_input_set_has_its_width_distinct_names_and_finite_numbers(zoo, name, width):
    features = input_features(name, *zoo)
    assert features.shape == (5, width)
    assert features.columns.is_unique
    assert list(features.index) == list(zoo[1].index)
    assert np.isfinite(features.to_numpy(float)).all()


def test_statistics_of_all_layers_equal_the_golden_ones(reference):
    golden = np.load(reference / "golden" / "cnnzoo" / "features.npz")
    index = pd.DataFrame(index=range(len(golden["weights"])))
    features = input_features(ALL_LAYER_STATISTICS, golden["weights"], index)
    np.testing.assert_allclose(features, golden["features"], rtol=0, atol=1e-6)


def test_statistics_of_some_layers_are_columns_of_those_of_all(zoo):
    every = input_features(ALL_LAYER_STATISTICS, *zoo)
    for name in INPUT_SETS[11:13]:
        some = input_features(name, *zoo)
        pd.testing.assert_frame_equal(some, every[some.columns])
    assert some.columns[0] == "dense/bias p0"


def test_layers_of_weights_are_slices_that_tile_the_row(zoo):
    weights, index = zoo
    layers = [input_features(f"weights.{layer}", weights, index) for layer in range(4)]
    np.testing.assert_array_equal(np.hstack(layers), weights)
    assert layers[3].columns[0] == "dense/bias 0"


def test_global_statistics_are_those_of_the_whole_row(zoo):
    weights, index = zoo
    expected = [np.percentile(weights, q, axis=1) for q in (0, 25, 50, 75, 100)]
    expected += [weights.std(axis=1, dtype=float), weights.mean(axis=1, dtype=float)]
    np.testing.assert_allclose(
        input_features("wstats-glob", weights, index), np.stack(expected, axis=1), atol=1e-6
    )


def test_norms_are_sums_over_each_tensor(zoo):
    weights, index = zoo
    absolute = np.expm1(input_features("wnorm-layers:0,1,2,3-l1", weights, index))
    euclidean = np.expm1(input_features("wnorm-layers:0,1,2,3-l2", weights, index))
    for slot in LAYOUT:
        part = weights[:, slot.start : slot.end].astype(float)
        np.testing.assert_allclose(absolute[slot.name], np.abs(part).sum(axis=1), rtol=1e-5)
        np.testing.assert_allclose(euclidean[slot.name], np.sqrt((part**2).sum(1)), rtol=1e-5)


def test_hyper_parameters_are_one_hot_and_leave_out_the_optimizer(zoo):
    features = input_features("hyper", *zoo)
    assert not any("optimizer" in column for column in features)
    assert features.loc[3, "hp_w_init=orthogonal"] == 1
    assert features.filter(like="hp_w_init=").sum(axis=1).eq(1).all()
    assert features["hp_activation=tanh"].tolist() == [0, 1, 0, 1, 1]
    assert features.loc[5, "hp_train_fraction"] == 1.0


def test_mistakes_are_named(zoo):
    weights, index = zoo
    with pytest.raises(ValueError, match="unknown input set 'wstats-perlayer'"):
        input_features("wstats-perlayer", weights, index)
    with pytest.raises(ValueError, match="4 rows of weights, but 5 rows"):
        input_features("weights", weights[:4], index)
    with pytest.raises(ValueError, match=r"hp_activation has \['gelu'\]"):
        input_features("hyper", weights, index.assign(hp_activation="gelu"))
