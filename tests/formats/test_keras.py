"""Keras's layers: its own outputs where there are golden values, else values worked by hand."""

import io
import json
import math

import h5py
import numpy as np
import pytest
import torch
from torch import nn

from gengap import GengapError
from gengap.formats.keras import network_from_config, read_weights, weights_in, write_weights


@pytest.fixture
def golden(reference):
    return reference / "golden" / "pgdl"


def network(*layers, shape=(4, 4, 1)):
    return network_from_config({"model_config": [*layers], "input_shape": [*shape]})


def layer(kind, **arguments):
    return {"layer_name": kind, **arguments}


def output(made, inputs):
    """Channels last in, channels last out, as Keras shows them; one input."""
    with torch.no_grad():
        result = made(torch.as_tensor(inputs, dtype=torch.float32)[None].movedim(-1, 1))
    return result.movedim(1, -1)[0].numpy()


def fill(made, *weights):
    """Put weights in Keras's layout and order into a network, by way of a file."""
    file = io.BytesIO()
    with h5py.File(file, "w") as opened:
        opened.attrs["layer_names"] = ["only"]
        names = [str(number) for number in range(len(weights))]
        opened.create_group("only").attrs["weight_names"] = names
        for name, values in zip(names, weights):
            opened["only"].create_dataset(name, data=np.asarray(values, np.float32))
    read_weights(file, made)
    return made


RAMP = np.arange(16.0).reshape(4, 4, 1)


@pytest.mark.parametrize("task", ["toy_data", "conv_data"])
def test_the_logits_are_those_that_keras_computes(golden, task):
    expected = np.load(golden / f"expected_{task}.npz")
    inputs = torch.from_numpy(expected["inputs"]).movedim(-1, 1)
    folders = sorted((golden / "input_data" / task).glob("model_*"))
    assert len(folders) == {"toy_data": 18, "conv_data": 4}[task]
    for folder in folders:
        made = network_from_config(json.loads((folder / "config.json").read_text()))
        read_weights(folder / "weights.hdf5", made)
        with torch.no_grad():
            logits = made(inputs).numpy()
        np.testing.assert_allclose(logits, expected[f"logits_{folder.name}"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("task", ["toy_data", "conv_data"])
def test_weights_are_written_with_the_tensors_that_keras_wrote(golden, task, tmp_path):
    for folder in (golden / "input_data" / task).glob("model_*"):
        made = network_from_config(json.loads((folder / "config.json").read_text()))
        read_weights(folder / "weights.hdf5", made)
        write_weights(tmp_path / "weights.hdf5", made)
        with h5py.File(tmp_path / "weights.hdf5") as ours, h5py.File(folder / "weights.hdf5") as by:
            assert len(ours.attrs["layer_names"]) == len(by.attrs["layer_names"])
            assert set(ours.attrs) == set(by.attrs)
            for our_layer, its_layer in zip(ours.attrs["layer_names"], by.attrs["layer_names"]):
                our_names = ours[our_layer].attrs["weight_names"]
                its_names = by[its_layer].attrs["weight_names"]
                assert list(map(role, our_names)) == list(map(role, its_names))
                for our_name, its_name in zip(our_names, its_names):
                    ours_now, its_own = ours[our_layer][our_name], by[its_layer][its_name]
                    np.testing.assert_array_equal(ours_now[()], its_own[()])


def role(name):
    return str(getattr(name, "decode", lambda: name)()).rpartition("/")[2]


def test_stages_are_named_and_numbered_as_keras_does():
    made = network(
        layer("Conv2D", filters=2, kernel_size=1),
        layer("ReLU"),
        layer("Convolution2D", filters=2, kernel_size=1),
        layer("MaxPool2D"),
        layer("BatchNormalization"),
        layer("GlobalAveragePooling2D"),
        layer("Dense", units=3),
    )
    expected = "conv2d re_lu conv2d_1 max_pooling2d batch_normalization global_average_pooling2d"
    assert " ".join(name for name, _ in made.named_children()) == f"{expected} dense"
    assert not made.training


def test_same_padding_puts_the_odd_pixel_at_the_end():
    # 4 pixels, kernel 3, stride 2: one pixel of padding, at the bottom and at the right.
    made = network(layer("Conv2D", filters=1, kernel_size=3, strides=2, padding="same"))
    fill(made, np.ones((3, 3, 1, 1)), [0])
    expected = [[RAMP[:3, :3].sum(), RAMP[:3, 2:].sum()], [RAMP[2:, :3].sum(), RAMP[2:, 2:].sum()]]
    np.testing.assert_allclose(output(made, RAMP)[..., 0], expected)


@pytest.mark.parametrize("size", [(5, 6), (7, 4)])
@pytest.mark.parametrize("kernel", [1, 2, 3, [2, 5]])
@pytest.mark.parametrize(("strides", "dilation"), [(1, 1), (2, 1), ([3, 1], 1), (1, 2)])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_a_convolution_is_the_sum_that_it_is_defined_as(size, kernel, strides, dilation, padding):
    options = {"kernel_size": kernel, "strides": strides, "dilation_rate": dilation}
    shape = (*size, 2)
    reach = [(k - 1) * dilation + 1 for k in np.broadcast_to(kernel, 2)]
    if padding == "valid" and any(n < r for n, r in zip(size, reach)):
        return
    made = network(layer("Conv2D", filters=3, padding=padding, **options), shape=shape)
    generator = np.random.default_rng(0)
    weights = generator.normal(size=(*np.broadcast_to(kernel, 2), 2, 3))
    bias, inputs = generator.normal(size=3), generator.normal(size=shape)
    fill(made, weights, bias)
    step = np.broadcast_to(strides, 2)
    windows = windows_of(inputs, reach, step, padding, 0)[..., ::dilation, ::dilation]
    expected = np.einsum("xycij,ijcf->xyf", windows, weights) + bias
    np.testing.assert_allclose(output(made, inputs), expected, atol=1e-5)


def windows_of(inputs, reach, step, padding, value):
    """(H', W', C, h, w): TensorFlow's windows, by its documented formulas for padding."""
    sides = [(0, 0)] * 3
    if padding == "same":
        sizes = [math.ceil(n / s) for n, s in zip(inputs.shape, step)]
        total = [
            max((o - 1) * s + r - n, 0) for o, s, r, n in zip(sizes, step, reach, inputs.shape)
        ]
        sides = [*((t // 2, t - t // 2) for t in total), (0, 0)]
    padded = np.pad(inputs, sides, constant_values=value)
    windows = np.lib.stride_tricks.sliding_window_view(padded, tuple(reach), axis=(0, 1))
    return windows[:: step[0], :: step[1]]


@pytest.mark.parametrize("size", [(4, 4), (5, 7)])
@pytest.mark.parametrize(("pool", "strides"), [(2, None), (3, 2), (3, 1), ([2, 3], [1, 2])])
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("kind", ["MaxPooling2D", "AveragePooling2D"])
def test_pooling_never_counts_the_padding(kind, size, pool, strides, padding):
    inputs = np.random.default_rng(0).normal(size=(*size, 3)) - 5  # all negative: 0 would be seen
    options = {"pool_size": pool, "strides": strides, "padding": padding}
    made = network(layer(kind, **options), shape=inputs.shape)
    step = np.broadcast_to(strides or pool, 2)
    windows = windows_of(inputs, np.broadcast_to(pool, 2), step, padding, np.nan)
    reduce = np.nanmax if kind == "MaxPooling2D" else np.nanmean
    np.testing.assert_allclose(output(made, inputs), reduce(windows, axis=(3, 4)), rtol=1e-5)


def test_a_grouped_convolution_sees_its_own_channels():
    made = network(layer("Conv2D", filters=2, kernel_size=1, groups=2), shape=(1, 1, 4))
    fill(made, [[[[1, 10], [2, 20]]]], [0, 0])
    np.testing.assert_allclose(output(made, [[[1, 1, 3, 4]]]), [[[3, 110]]])


def test_flatten_counts_channels_fastest():
    inputs = np.arange(24.0).reshape(2, 3, 4)
    made = network(layer("Flatten"), shape=(2, 3, 4))
    np.testing.assert_array_equal(output(made, inputs), np.arange(24))
    assert output(network(layer("Flatten"), shape=(5,)), np.arange(5.0)).shape == (5,)


def test_a_dense_layer_acts_on_the_last_axis():
    weights = [[1, 2, 3], [4, 5, 6]]
    for shape in [(2,), (5, 2), (3, 4, 2)]:
        made = fill(network(layer("Dense", units=3), shape=shape), weights, [1, 0, 0])
        inputs = np.random.default_rng(0).normal(size=shape)
        expected = inputs @ np.array(weights) + [1, 0, 0]
        np.testing.assert_allclose(output(made, inputs), expected, rtol=1e-5)


def test_global_pooling_is_over_positions():
    inputs = np.random.default_rng(0).normal(size=(3, 5, 2))
    average = network(layer("GlobalAveragePooling2D"), shape=inputs.shape)
    np.testing.assert_allclose(output(average, inputs), inputs.mean(axis=(0, 1)), rtol=1e-5)
    largest = network(layer("GlobalMaxPooling2D"), shape=inputs.shape)
    np.testing.assert_allclose(output(largest, inputs), inputs.max(axis=(0, 1)), rtol=1e-6)


@pytest.mark.parametrize("shape", [(2,), (3, 2), (2, 2, 2)])
@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("center", [True, False])
def test_batch_normalization_uses_moving_statistics_and_its_epsilon(shape, scale, center):
    options = {"epsilon": 0.25, "axis": len(shape), "scale": scale, "center": center}
    made = network(layer("BatchNormalization", **options), shape=shape)
    gamma, beta, mean, variance = [2, 3], [10, 20], [1, -1], [3.75, 0.75]
    fill(made, *[gamma] * scale, *[beta] * center, mean, variance)
    inputs = np.random.default_rng(0).normal(size=shape)
    expected = (inputs - mean) / [2, 1] * (gamma if scale else 1) + (beta if center else 0)
    np.testing.assert_allclose(output(made, inputs), expected, rtol=1e-5)


def test_batch_normalization_has_the_epsilon_of_keras():
    made = fill(network(layer("BatchNormalization"), shape=(1,)), [1], [0], [0], [0.0])
    np.testing.assert_allclose(output(made, [1.0]), [1 / math.sqrt(1e-3)], rtol=1e-5)


def test_dropout_passes_everything_in_a_trained_network():
    made = network(layer("Dropout", rate=0.9), shape=(100,))
    np.testing.assert_array_equal(output(made, np.ones(100)), np.ones(100))


X = np.array([-8, -3, -1, -0.5, 0, 0.3, 1, 2, 6.5, 9])
SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772
FORMULAS = {
    "elu": np.where(X > 0, X, np.expm1(X)),
    "exponential": np.exp(X),
    "gelu": X * [0.5 * math.erfc(-x / math.sqrt(2)) for x in X],
    "hard_sigmoid": np.clip(0.2 * X + 0.5, 0, 1),
    "leaky_relu": np.where(X > 0, X, 0.2 * X),
    "linear": X,
    "log_softmax": X - np.log(np.exp(X).sum()),
    "mish": X * np.tanh(np.log1p(np.exp(X))),
    "relu": np.maximum(X, 0),
    "relu6": np.clip(X, 0, 6),
    "selu": SELU_SCALE * np.where(X > 0, X, SELU_ALPHA * np.expm1(X)),
    "sigmoid": 1 / (1 + np.exp(-X)),
    "silu": X / (1 + np.exp(-X)),
    "softmax": np.exp(X) / np.exp(X).sum(),
    "softplus": np.log1p(np.exp(X)),
    "softsign": X / (1 + np.abs(X)),
    "swish": X / (1 + np.exp(-X)),
    "tanh": np.tanh(X),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_an_activation_is_its_formula_alone_and_within_a_layer(name):
    alone = network(layer("Activation", activation=name), shape=(10,))
    np.testing.assert_allclose(output(alone, X), FORMULAS[name], rtol=1e-5, atol=1e-6)
    dense = network(layer("Dense", units=10, activation=name, use_bias=False), shape=(10,))
    fill(dense, np.eye(10))
    np.testing.assert_allclose(output(dense, X), FORMULAS[name], rtol=1e-5, atol=1e-6)
    conv = network(layer("Conv2D", filters=10, kernel_size=1, activation=name), shape=(1, 1, 10))
    fill(conv, np.eye(10)[None, None], np.zeros(10))
    np.testing.assert_allclose(
        output(conv, X[None, None])[0, 0], FORMULAS[name], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, np.maximum(X, 0)),
        ({"max_value": 6.0}, np.clip(X, 0, 6)),
        ({"negative_slope": 0.1}, np.where(X > 0, X, 0.1 * X)),
        ({"threshold": 1.5}, np.where(X > 1.5, X, 0)),
        (
            {"max_value": 2, "negative_slope": 0.5, "threshold": 1},
            np.where(X > 1, np.minimum(X, 2), 0.5 * (X - 1)),
        ),
    ],
)
def test_relu_takes_a_bound_a_slope_and_a_threshold(options, expected):
    made = network(layer("ReLU", **options), shape=(10,))
    np.testing.assert_allclose(output(made, X), expected, rtol=1e-6)


def test_numbers_may_be_written_as_floats_and_training_arguments_are_passed_over():
    made = network(
        layer(
            "Conv2D",
            filters=6.0,
            kernel_size=[3.0, 3.0],
            strides=[2.0, 1.0],
            data_format="channels_last",
            kernel_initializer="he_normal",
            kernel_regularizer=None,
            name="first",
        ),
        layer("Dense", units=2.0),
    )
    assert output(made, RAMP).shape == (1, 2, 2)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (layer("LSTM", units=3), "layer 1, .*LSTM.* only these layers are known: Activation"),
        (layer("Dense", units=3, activation="glu"), "only these activations are known: elu"),
        (layer("Activation", activation={"class_name": "x"}), "unhashable"),
        (layer("Conv2D", filters=1, kernel_size=1, data_format="channels_first"), "data_format="),
        (layer("Conv2D", filters=1, kernel_size=1, padding="causal"), "'same' or 'valid'"),
        (layer("Conv2D", filters=1, kernel_size=9), "[Kk]ernel size"),
        (layer("Conv2D", filters=1, kernel_size=0), "whole numbers from 1"),
        (layer("Conv2D", filters=1), "kernel_size"),
        (layer("MaxPooling2D", pool_size=9), "[Oo]utput size"),
        (layer("BatchNormalization", axis=1), "only the channels"),
        (layer("Dropout", rate=2), "between 0 and 1"),
        (layer("MaxPooling2D", pool_size=2.5), "whole numbers from 1 to 1024, not 2.5"),
        (layer("Conv2D", filters=1, kernel_size=[2, 1.5]), r"to 1024, not \[2, 1.5\]"),
        (layer("Flatten", order="F"), "the argument order='F' is not known here"),
    ],
)
def test_what_is_not_known_is_one_sentence_that_names_the_layer(wrong, reason):
    with pytest.raises(GengapError, match=reason):
        network(layer("ReLU"), wrong)


@pytest.mark.parametrize(
    "config",
    [
        {},
        [],
        {"model_config": [], "input_shape": [3]},
        {"model_config": [{"units": 3}], "input_shape": [3]},
        {"model_config": ["layer_name"], "input_shape": [3]},
        {"model_config": [layer("ReLU")], "input_shape": []},
        {"model_config": [layer("ReLU")], "input_shape": [0]},
        {"model_config": [layer("ReLU")], "input_shape": "x"},
    ],
)
def test_a_configuration_without_layers_or_shape_is_one_sentence(config):
    with pytest.raises(GengapError, match="a configuration has `model_config`"):
        network_from_config(config)


@pytest.fixture
def two_layers(tmp_path):
    """A network of a convolution with its normalization and of a dense layer, and its file."""
    made = network(
        layer("Conv2D", filters=2, kernel_size=3, strides=2, padding="same", activation="relu"),
        layer("BatchNormalization"),
        layer("Flatten"),
        layer("Dense", units=3),
    )
    with torch.no_grad():
        for tensor in made.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(0.1, 1)
    write_weights(tmp_path / "weights.hdf5", made)
    return made, tmp_path / "weights.hdf5"


def test_what_is_written_is_read_again_into_another_network(two_layers):
    made, file = two_layers
    again = network(
        layer("Conv2D", filters=2, kernel_size=3, strides=2, padding="same", activation="relu"),
        layer("BatchNormalization"),
        layer("Flatten"),
        layer("Dense", units=3),
    )
    read_weights(io.BytesIO(file.read_bytes()), again)
    for name, tensor in made.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    assert {name for name, _ in made.named_parameters()} < set(weights_in(file, made))


def test_weights_of_a_layer_are_told_apart_by_their_names_in_whatever_order(two_layers):
    made, file = two_layers
    whole = weights_in(file, made)
    with h5py.File(file, "r+") as opened:
        for group in opened.values():
            group.attrs["weight_names"] = group.attrs["weight_names"][::-1]
    found = weights_in(file, made)
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], whole[name]) for name in whole)


def test_a_file_that_is_whole_but_not_of_save_weights_is_said_to_be_possible(two_layers):
    made, file = two_layers
    with h5py.File(file, "r+") as opened:
        del opened.attrs["layer_names"]
    with pytest.raises(GengapError, match="layer_names.*or is no HDF5 file of Keras 2's save_weig"):
        weights_in(file, made)


def test_a_file_of_other_layers_is_one_sentence_that_names_them(two_layers):
    file = two_layers[1]
    with pytest.raises(GengapError, match="of 3 layers, the configuration has 1 layers"):
        read_weights(file, network(layer("Dense", units=3)))
    wider = network(
        layer("Conv2D", filters=2, kernel_size=3, strides=2, padding="same"),
        layer("BatchNormalization"),
        layer("Flatten"),
        layer("Dense", units=4),
    )
    before = {name: tensor.clone() for name, tensor in wider.state_dict().items()}
    with pytest.raises(GengapError, match=r"'dense' have shapes \[\(8, 3\), \(3,\)\]"):
        read_weights(file, wider)
    assert all(torch.equal(tensor, before[name]) for name, tensor in wider.state_dict().items())


def test_a_file_without_a_weight_or_of_integers_is_one_sentence(two_layers):
    made, file = two_layers
    with h5py.File(file, "r+") as opened:
        values = opened["dense/dense/kernel:0"][()]
        del opened["dense/dense/kernel:0"]
    with pytest.raises(GengapError, match="no Keras weights can be read .*kernel:0"):
        read_weights(file, made)
    with h5py.File(file, "r+") as opened:
        opened["dense/dense/kernel:0"] = values.astype(int)
    with pytest.raises(GengapError, match="of kind .*floating point"):
        read_weights(file, made)


def test_a_truncated_file_is_one_sentence(two_layers):
    made, file = two_layers
    content = file.read_bytes()
    for length in range(0, len(content), 97):
        with pytest.raises(GengapError, match="no Keras weights can be read"):
            read_weights(io.BytesIO(content[:length]), made)
    with pytest.raises(GengapError, match="no Keras weights can be read"):
        read_weights(io.BytesIO(b"no HDF5 at all"), made)


def test_a_damaged_header_is_one_sentence(two_layers):
    made, file = two_layers
    whole = file.read_bytes()
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(100):
        damaged = bytearray(whole)
        for position in generator.integers(200, size=5):
            damaged[position] ^= 0xFF
        try:
            weights_in(io.BytesIO(damaged), made)
        except GengapError:
            refused += 1
    assert refused > 50


def test_a_failed_write_leaves_nothing(tmp_path):
    made = nn.Sequential()
    made.add_module("five_axes", nn.Conv3d(1, 1, 1))
    with pytest.raises(KeyError):
        write_weights(tmp_path / "weights.hdf5", made)
    assert not list(tmp_path.iterdir())
