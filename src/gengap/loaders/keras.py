"""Keras's sequential networks as PyTorch ones, without TensorFlow.

A configuration is a list of layers, each named by its class in tf.keras.layers with its keyword
arguments; every Keras layer becomes one named stage of an `nn.Sequential`, in torch's layout
(N, C, H, W).
"""

import math
import re
from collections import Counter, OrderedDict
from functools import partial

import torch
from torch import Tensor, nn

from gengap.errors import GengapError


class Function(nn.Module):
    """An activation that PyTorch has no module for."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(inputs)


class FlattenChannelsLast(nn.Module):
    """(N, C, H, W) -> (N, H * W * C): Keras counts channels fastest."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.permute(0, 2, 3, 1).flatten(1)


class PerPosition(nn.Module):
    """A dense layer or softmax over channels at each position of (N, C, H, W)."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, inputs: Tensor) -> Tensor:
        return self.module(inputs.movedim(1, -1)).movedim(-1, 1)


# As TensorFlow 2.2, which the competition used, defines them.
ACTIVATIONS = {
    "linear": nn.Identity,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "hard_sigmoid": partial(Function, lambda x: (0.2 * x + 0.5).clamp(0, 1)),
    "elu": nn.ELU,
    "selu": nn.SELU,
    "softplus": nn.Softplus,
    "softsign": nn.Softsign,
    "swish": nn.SiLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "exponential": partial(Function, torch.exp),
    "softmax": partial(nn.Softmax, dim=1),
}


def network_from_config(config: dict) -> nn.Sequential:
    """The network that a `config.json` describes, in eval mode, with PyTorch's own random weights.

    config: `model_config`, a list of `{"layer_name": class in tf.keras.layers, **arguments}`, and
    `input_shape`, of one input without the batch: (H, W, C) or (D,).
    Stages are named as Keras names layers: conv2d, conv2d_1, re_lu, ...

    Raises: GengapError for a layer, argument or activation that is not known here.
    """
    *spatial, channels = (int(n) for n in config["input_shape"])
    shape = (channels, *spatial)
    stages, counts = OrderedDict(), Counter()
    for layer in config["model_config"]:
        stage = _stage(dict(layer), shape)
        name = _snake_case(layer["layer_name"])
        stages[f"{name}_{counts[name]}" if counts[name] else name] = stage
        counts[name] += 1
        shape = _output_shape(stage, shape)
    return nn.Sequential(stages).eval()


def _snake_case(name: str) -> str:
    """Conv2D -> conv2d, GlobalAveragePooling2D -> global_average_pooling2d, ReLU -> re_lu."""
    words = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()


def _stage(arguments: dict, shape: tuple[int, ...]) -> nn.Module:
    name = arguments.pop("layer_name")
    arguments = {key: _as_integer(value) for key, value in arguments.items()}
    activation = arguments.pop("activation", None) or "linear"
    modules = _LAYERS[name](shape, **arguments)
    if name == "Activation" or activation != "linear":
        modules = [*modules, ACTIVATIONS[activation]()]
    return modules[0] if len(modules) == 1 else nn.Sequential(*modules)


def _as_integer(value):
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _pair(value) -> tuple[int, int]:
    return (int(value), int(value)) if isinstance(value, int | float) else tuple(map(int, value))


def _output_shape(stage: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    with torch.no_grad():
        return tuple(stage.eval()(torch.zeros(1, *shape)).shape[1:])


def _same_padding(shape, kernel, strides) -> tuple[int, int, int, int]:
    """TensorFlow's padding "same" (left, right, top, bottom): the odd pixel is at the end."""
    sides = []
    for size, width, stride in zip(reversed(shape[1:]), reversed(kernel), reversed(strides)):
        total = max((math.ceil(size / stride) - 1) * stride + width - size, 0)
        sides += [total // 2, total - total // 2]
    return tuple(sides)


def _conv2d(shape, *, filters, kernel_size, strides=1, padding="valid", use_bias=True, **_):
    kernel, strides = _pair(kernel_size), _pair(strides)
    conv = partial(nn.Conv2d, shape[0], filters, kernel, strides, bias=use_bias)
    if padding == "valid":
        return [conv()]
    left, right, top, bottom = sides = _same_padding(shape, kernel, strides)
    if left == right and top == bottom:
        return [conv(padding=(top, left))]
    return [nn.ZeroPad2d(sides), conv()]


def _dense(shape, *, units, use_bias=True, **_):
    layer = nn.Linear(shape[0], units, bias=use_bias)
    return [layer if len(shape) == 1 else PerPosition(layer)]


def _batch_normalization(shape, *, epsilon=1e-3, momentum=0.99, **_):
    kind = nn.BatchNorm1d if len(shape) == 1 else nn.BatchNorm2d
    return [kind(shape[0], eps=epsilon, momentum=1 - momentum)]


def _max_pooling(shape, *, pool_size=2, strides=None, padding="valid", **_):
    pool = _pair(pool_size)
    strides = _pair(strides or pool)
    layer = nn.MaxPool2d(pool, strides)
    if padding == "valid":
        return [layer]
    return [nn.ConstantPad2d(_same_padding(shape, pool, strides), -math.inf), layer]


_LAYERS = {
    "Conv2D": _conv2d,
    "Dense": _dense,
    "BatchNormalization": _batch_normalization,
    "ReLU": lambda shape, **_: [nn.ReLU()],
    "Activation": lambda shape: [],
    "MaxPooling2D": _max_pooling,
    "GlobalAveragePooling2D": lambda shape, **_: [nn.AdaptiveAvgPool2d(1), nn.Flatten()],
    "GlobalMaxPooling2D": lambda shape, **_: [nn.AdaptiveMaxPool2d(1), nn.Flatten()],
    "Flatten": lambda shape, **_: [nn.Flatten() if len(shape) == 1 else FlattenChannelsLast()],
    "Dropout": lambda shape, *, rate, **_: [nn.Dropout(rate)],
}
