"""Keras's sequential networks and their HDF5 weights as PyTorch ones, without TensorFlow.

A configuration is a list of layers, each named by its class in tf.keras.layers with its keyword
arguments; every Keras layer becomes one named stage of an `nn.Sequential`, in torch's layout
(N, C, H, W). Weights are those of `model.save_weights`: a group per layer, matched by position.

Source: documentation and behaviour of TensorFlow 2.2, with which the networks of the PGDL
competition were written; tests compare with Keras's own outputs.
"""

import inspect
import math
import re
from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO

import h5py
import numpy as np
import torch
from torch import Tensor, nn

from gengap import folders
from gengap.errors import GengapError

Shape = tuple[int, ...]  # of one input: (C, H, W), (D,), or channels first and any other axes

# Arguments that change no output of a trained network.
WITHOUT_EFFECT = re.compile(
    r"name|trainable|dtype|seed|momentum|noise_shape|(batch_)?input_shape"
    r"|(kernel|bias|beta|gamma|moving_mean|moving_variance)_(initializer|regularizer|constraint)"
    r"|activity_regularizer"
)
# Arguments that are known with these values alone.
USUAL_VALUES = {
    "data_format": (None, "channels_last"),
    "keepdims": (False,),
    "renorm": (False,),
    "virtual_batch_size": (None,),
}
ALIASES = {
    "AvgPool2D": "AveragePooling2D",
    "Convolution2D": "Conv2D",
    "GlobalAvgPool2D": "GlobalAveragePooling2D",
    "GlobalMaxPool2D": "GlobalMaxPooling2D",
    "MaxPool2D": "MaxPooling2D",
}
# What HDF5's library and reading by its names raise where a file is damaged.
DAMAGE = (OSError, LookupError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError)
# Axes of a kernel in Keras, by their number: HWIO becomes OIHW, (in, out) becomes (out, in).
TO_TORCH = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
TO_KERAS = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}
BATCH_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


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

    def __init__(self, padding: tuple[int, ...], pool: nn.AvgPool2d):
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
ACTIVATIONS = {
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


def network_from_config(config: dict) -> nn.Sequential:
    """The network that a `config.json` describes, in eval mode, with PyTorch's own random weights.

    config: `model_config`, a list of `{"layer_name": class in tf.keras.layers, **arguments}`, and
    `input_shape`, of one input without the batch: (H, W, C) or (D,).
    Stages are named as Keras names layers: conv2d, conv2d_1, re_lu, ...

    Raises: GengapError for a layer, argument or activation that is not known here.
    """
    layers, shape = _checked(config)
    stages, counts = OrderedDict(), Counter()
    for number, layer in enumerate(layers):
        try:
            kind = _kind(layer)
            stage = _stage(kind, layer, shape)
            shape = _output_shape(stage, shape)
        except (ValueError, TypeError, RuntimeError, OverflowError) as error:
            raise GengapError(f"layer {number}, {layer}: {error}") from error
        name = _snake_case(kind)
        stages[f"{name}_{counts[name]}" if counts[name] else name] = stage
        counts[name] += 1
    return nn.Sequential(stages).eval()


def read_weights(file: Path | BinaryIO, network: nn.Sequential) -> None:
    """Put the weights of a Keras HDF5 file into a network of `network_from_config`, by position.

    Raises: GengapError where the file is damaged or its layers are not the network's.
    """
    state = weights_in(file, network)
    network.load_state_dict(network.state_dict() | state)


def weights_in(file: Path | BinaryIO, network: nn.Sequential) -> dict[str, Tensor]:
    """The weights in a Keras HDF5 file for a network, named as in its state_dict, float32.

    Layers are matched by position, whatever their names; batch normalization's moving statistics
    are among the weights.

    Raises: GengapError where the file is damaged or its layers are not the network's.
    """
    try:
        with h5py.File(file, "r") as opened:
            return _matched(opened, _slots(network))
    except FileNotFoundError as error:
        raise GengapError("the weights are missing: put them there") from error
    except DAMAGE as error:
        raise GengapError(
            f"no Keras weights can be read ({error}): the file is truncated or damaged, get it"
            " again"
        ) from error


def write_weights(file: Path, network: nn.Sequential) -> None:
    """Write a network's weights as `model.save_weights` of Keras does."""

    def write(path: Path) -> None:
        with h5py.File(path, "w") as opened:
            opened.attrs["layer_names"] = np.array([*_slots(network)], "S")
            opened.attrs["backend"] = "tensorflow"
            opened.attrs["keras_version"] = "2.3.0-tf"  # TensorFlow 2.2's
            for stage, slots in _slots(network).items():
                group = opened.create_group(stage)
                names = [f"{stage}/{name}:0" for name in _keras_names(slots)]
                group.attrs["weight_names"] = np.array(names, "S")
                for name, tensor in zip(names, slots.values()):
                    values = tensor.cpu().permute(TO_KERAS[tensor.ndim])
                    group.create_dataset(name, data=values.contiguous().numpy())

    folders.write_atomically(file, write)


def _checked(config: dict) -> tuple[list[dict], Shape]:
    """The layers and the shape of an input, (C, H, W) or (D,)."""
    try:
        layers, (*spatial, channels) = config["model_config"], config["input_shape"]
        shape = tuple(int(size) for size in (channels, *spatial))
        if min(shape) > 0 and layers and all("layer_name" in dict(layer) for layer in layers):
            return layers, shape
    except (KeyError, TypeError, ValueError, OverflowError):
        pass
    raise GengapError(
        "a configuration has `model_config`, a list of layers each with a `layer_name`, and"
        f" `input_shape`, without the batch; this is {str(config)[:100]}"
    )


def _kind(layer: dict) -> str:
    kind = ALIASES.get(layer["layer_name"], layer["layer_name"])
    if kind not in _LAYERS:
        raise ValueError(f"only these layers are known: {', '.join(_LAYERS)}")
    return kind


def _snake_case(name: str) -> str:
    """Conv2D -> conv2d, GlobalAveragePooling2D -> global_average_pooling2d, ReLU -> re_lu."""
    words = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()


def _stage(kind: str, layer: dict, shape: Shape) -> nn.Module:
    """[padding,] layer [, activation] of one Keras layer."""
    arguments = {
        name: _as_integer(value)
        for name, value in layer.items()
        if name != "layer_name"
        and not WITHOUT_EFFECT.fullmatch(name)
        and value not in USUAL_VALUES.get(name, ())
    }
    takes_activation = kind in ("Activation", "Conv2D", "Dense")
    activation = (takes_activation and arguments.pop("activation", None)) or "linear"
    if activation not in ACTIVATIONS:
        raise ValueError(f"only these activations are known: {', '.join(ACTIVATIONS)}")
    known = list(inspect.signature(_LAYERS[kind]).parameters)[1:]
    if unknown := [f"{name}={arguments[name]!r}" for name in arguments if name not in known]:
        raise ValueError(f"the argument {unknown[0]} is not known here")
    modules = _LAYERS[kind](shape, **arguments)
    if kind == "Activation" or activation != "linear":
        modules = [*modules, ACTIVATIONS[activation]()]
    return modules[0] if len(modules) == 1 else nn.Sequential(*modules)


def _as_integer(value):
    """Some configurations write 512.0 for 512."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _pair(value) -> tuple[int, int]:
    height, width = (value, value) if isinstance(value, int | float) else value
    if min(height, width) < 1:
        raise ValueError(f"sizes and strides are positive, not {value}")
    return int(height), int(width)


def _output_shape(stage: nn.Module, shape: Shape) -> Shape:
    with torch.no_grad():
        return tuple(stage.eval()(torch.zeros(1, *shape)).shape[1:])


def _is_same(padding: str) -> bool:
    if padding.lower() not in ("same", "valid"):
        raise ValueError(f"padding is 'same' or 'valid', not {padding!r}")
    return padding.lower() == "same"


def _same_padding(shape: Shape, kernel: Shape, strides: Shape) -> tuple[int, int, int, int]:
    """TensorFlow's padding "same" (left, right, top, bottom): the odd pixel is at the end."""
    sides = []
    for size, width, stride in zip(reversed(shape[1:]), reversed(kernel), reversed(strides)):
        total = max((math.ceil(size / stride) - 1) * stride + width - size, 0)
        sides += [total // 2, total - total // 2]
    return tuple(sides)


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
    kind = nn.BatchNorm1d if len(shape) < 3 else nn.BatchNorm2d
    layer = kind(shape[0], eps=epsilon)
    layer.weight = layer.weight if scale else None
    layer.bias = layer.bias if center else None
    return [layer]


def _relu(shape, *, max_value=None, negative_slope=0, threshold=0):
    if max_value is None and not negative_slope and not threshold:
        return [nn.ReLU()]
    bound = math.inf if max_value is None else max_value
    settings = {"max_value": bound, "negative_slope": negative_slope, "threshold": threshold}
    return [Function(partial(bounded_relu, **settings))]


def _max_pooling(shape, *, pool_size=2, strides=None, padding="valid"):
    pool, strides = _pair(pool_size), _pair(strides or pool_size)
    layer = nn.MaxPool2d(pool, strides)
    if not _is_same(padding):
        return [layer]
    return [nn.ConstantPad2d(_same_padding(shape, pool, strides), -math.inf), layer]


def _average_pooling(shape, *, pool_size=2, strides=None, padding="valid"):
    pool, strides = _pair(pool_size), _pair(strides or pool_size)
    layer = nn.AvgPool2d(pool, strides)
    if not _is_same(padding):
        return [layer]
    return [AveragePoolingSame(_same_padding(shape, pool, strides), layer)]


def _flatten(shape):
    return [nn.Flatten() if len(shape) == 1 else FlattenChannelsLast()]


_LAYERS = {
    "Activation": lambda shape: [],
    "AveragePooling2D": _average_pooling,
    "BatchNormalization": _batch_normalization,
    "Conv2D": _conv2d,
    "Dense": _dense,
    "Dropout": lambda shape, *, rate: [nn.Dropout(rate)],
    "Flatten": _flatten,
    "GlobalAveragePooling2D": lambda shape: [nn.AdaptiveAvgPool2d(1), nn.Flatten()],
    "GlobalMaxPooling2D": lambda shape: [nn.AdaptiveMaxPool2d(1), nn.Flatten()],
    "MaxPooling2D": _max_pooling,
    "ReLU": _relu,
}


def _slots(network: nn.Sequential) -> dict[str, dict[str, Tensor]]:
    """The tensors of each stage that Keras saves, in Keras's order, named as in the stage."""
    return {
        stage: {name: t for name, t in module.state_dict().items() if t.is_floating_point()}
        for stage, module in network.named_children()
    }


def _keras_names(slots: dict[str, Tensor]) -> list[str]:
    """What Keras calls the tensors of a stage: kernel and bias, or batch normalization's."""
    own = [name.rpartition(".")[2] for name in slots]
    names = BATCH_NORM if "running_mean" in own else {"weight": "kernel", "bias": "bias"}
    return [names[name] for name in own]


def _matched(opened: h5py.File, slots: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """The file's tensors in torch's layout, named by the network's stages."""
    groups = [(name, opened[name]) for name in _names(opened, "layer_names")]
    saved = [(name, [g[w] for w in weights]) for name, g in groups if (weights := _weights(g))]
    expected = [(stage, tensors) for stage, tensors in slots.items() if tensors]
    if len(saved) != len(expected):
        raise GengapError(
            f"the weights are of {len(saved)} layers, the configuration has {len(expected)} layers"
            " with weights: these files do not belong together"
        )
    state = {}
    for (layer, found), (stage, tensors) in zip(saved, expected):
        _check_shapes(layer, found, stage, tensors)
        for name, dataset in zip(tensors, found):
            values = torch.from_numpy(dataset[()].astype(np.float32))
            state[f"{stage}.{name}"] = values.permute(TO_TORCH[values.ndim]).contiguous()
    return state


def _check_shapes(layer: str, found: list, stage: str, tensors: dict[str, Tensor]) -> None:
    shapes = [tuple(dataset.shape) for dataset in found]
    expected = [tuple(t.permute(TO_KERAS[t.ndim]).shape) for t in tensors.values()]
    kinds = {dataset.dtype.kind for dataset in found}
    if shapes != expected or kinds != {"f"}:
        raise GengapError(
            f"the weights of layer {layer!r} have shapes {shapes} of kind {', '.join(kinds)}, the"
            f" configuration's layer {stage!r} expects {expected} of kind f (floating point)"
        )


def _names(group: h5py.Group, attribute: str) -> list[str]:
    names = group.attrs[attribute]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def _weights(group: h5py.Group) -> list[str]:
    return _names(group, "weight_names")
