"""Keras's layers as modules of PyTorch, in torch's layout (N, C, H, W).

Each builder takes the shape of one input and Keras's keyword arguments, and returns the modules
that compute the layer one after another; its parameters are the arguments that are known.

Source: documentation and behaviour of TensorFlow 2.2.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]  # of one input: (C, H, W), (D,), or channels first and any other axes
WIDEST = 1024  # pixels of a kernel: padding must not fill the memory
Sides = tuple[int, int, int, int]  # of padding: left, right, top, bottom


class Function(nn.Module):
    """An activation that PyTorch has no module for."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function = function

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(inputs)


class FlattenChannelsLast(nn.Module):
    """(N, C, H, W) -> (N, H * W * C): Keras counts channels fastest."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.movedim(1, -1).flatten(1)


class PerPosition(nn.Module):
    """A dense layer over the channels at each position of (N, C, ...)."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, inputs: Tensor) -> Tensor:
        return self.module(inputs.movedim(1, -1)).movedim(-1, 1)


class AveragePoolingSame(nn.Module):
    """Average pooling of zero-padded inputs in which the padding does not count."""

    def __init__(self, padding: Sides, pool: nn.AvgPool2d):
        super().__init__()
        self.padding = nn.ZeroPad2d(padding)
        self.pool = pool

    def forward(self, inputs: Tensor) -> Tensor:
        inside = torch.ones_like(inputs[:1, :1])
        return self.pool(self.padding(inputs)) / self.pool(self.padding(inside))


def hard_sigmoid(inputs: Tensor) -> Tensor:
    """TensorFlow 2.2's, 0.2 x + 0.5 cut to [0, 1]; PyTorch's has the slope 1/6."""
    return (0.2 * inputs + 0.5).clamp(0, 1)


def bounded_relu(
    inputs: Tensor, max_value: float, negative_slope: float, threshold: float
) -> Tensor:
    """Keras's ReLU: inputs above the threshold, up to max_value; below it, a line or 0."""
    below = negative_slope * (inputs - threshold)
    return torch.where(inputs > threshold, inputs, below).clamp(max=max_value)


# As TensorFlow 2.2 defines them, those that it lacks as later versions do.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "elu": nn.ELU,
    "exponential": partial(Function, torch.exp),
    "gelu": nn.GELU,
    "hard_sigmoid": partial(Function, hard_sigmoid),
    "leaky_relu": partial(nn.LeakyReLU, 0.2),
    "linear": nn.Identity,
    "log_softmax": partial(nn.LogSoftmax, dim=1),
    "mish": nn.Mish,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "selu": nn.SELU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "softmax": partial(nn.Softmax, dim=1),
    "softplus": nn.Softplus,
    "softsign": nn.Softsign,
    "swish": nn.SiLU,
    "tanh": nn.Tanh,
}


def _pair(value) -> tuple[int, int]:
    height, width = (value, value) if isinstance(value, int | float) else value
    if not {height, width} <= {*range(1, WIDEST + 1)}:
        raise ValueError(f"sizes and strides are whole numbers from 1 to {WIDEST}, not {value}")
    return int(height), int(width)


def _is_same(padding: str) -> bool:
    if padding.lower() not in ("same", "valid"):
        raise ValueError(f"padding is 'same' or 'valid', not {padding!r}")
    return padding.lower() == "same"


def _same_padding(shape: Shape, kernel: Shape, strides: Shape) -> Sides:
    """TensorFlow's padding "same" (left, right, top, bottom): the odd pixel is at the end."""
    down, across = (
        max((math.ceil(size / stride) - 1) * stride + width - size, 0)
        for size, width, stride in zip(shape[1:], kernel, strides)
    )
    return across // 2, across - across // 2, down // 2, down - down // 2


def _conv2d(
    shape,
    *,
    filters,
    kernel_size,
    strides=1,
    padding="valid",
    dilation_rate=1,
    groups=1,
    use_bias=True,
):
    kernel, strides, dilation = _pair(kernel_size), _pair(strides), _pair(dilation_rate)
    settings = {"stride": strides, "dilation": dilation, "groups": groups, "bias": use_bias}
    conv = partial(nn.Conv2d, shape[0], filters, kernel, **settings)
    if not _is_same(padding):
        return [conv()]
    reach = tuple((width - 1) * step + 1 for width, step in zip(kernel, dilation))
    left, right, top, bottom = sides = _same_padding(shape, reach, strides)
    if left == right and top == bottom:
        return [conv(padding=(top, left))]
    return [nn.ZeroPad2d(sides), conv()]


def _dense(shape, *, units, use_bias=True):
    layer = nn.Linear(shape[0], units, bias=use_bias)
    return [layer if len(shape) == 1 else PerPosition(layer)]


def _batch_normalization(shape, *, axis=-1, epsilon=1e-3, center=True, scale=True):
    last = len(shape)  # Keras counts the batch
    if axis not in (-1, last, [-1], [last]):
        raise ValueError(f"only the channels, axis {last} or -1, are normalized here")
    layer = (nn.BatchNorm1d if len(shape) < 3 else nn.BatchNorm2d)(shape[0], eps=epsilon)
    for name, present in (("weight", scale), ("bias", center)):
        if not present:
            layer.register_parameter(name, None)
    return [layer]


def _relu(shape, *, max_value=None, negative_slope=0, threshold=0):
    if max_value is None and not negative_slope and not threshold:
        return [nn.ReLU()]
    bound = math.inf if max_value is None else max_value
    settings = {"max_value": bound, "negative_slope": negative_slope, "threshold": threshold}
    return [Function(partial(bounded_relu, **settings))]


def _pooling(kind, padded):
    def build(shape, *, pool_size=2, strides=None, padding="valid"):
        pool, strides = _pair(pool_size), _pair(strides or pool_size)
        layer = kind(pool, strides)
        same = _is_same(padding)
        return padded(_same_padding(shape, pool, strides), layer) if same else [layer]

    return build


def _flatten(shape):
    return [nn.Flatten() if len(shape) == 1 else FlattenChannelsLast()]


LAYERS: dict[str, Callable[..., list[nn.Module]]] = {
    "Activation": lambda shape: [],
    "AveragePooling2D": _pooling(nn.AvgPool2d, lambda *same: [AveragePoolingSame(*same)]),
    "BatchNormalization": _batch_normalization,
    "Conv2D": _conv2d,
    "Dense": _dense,
    "Dropout": lambda shape, *, rate: [nn.Dropout(rate)],
    "Flatten": _flatten,
    "GlobalAveragePooling2D": lambda shape: [nn.AdaptiveAvgPool2d(1), nn.Flatten()],
    "GlobalMaxPooling2D": lambda shape: [nn.AdaptiveMaxPool2d(1), nn.Flatten()],
    "MaxPooling2D": _pooling(nn.MaxPool2d, lambda by, p: [nn.ConstantPad2d(by, -math.inf), p]),
    "ReLU": _relu,
}
