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
from pathlib import Path
from typing import BinaryIO

import h5py
import numpy as np
import torch
from torch import Tensor, nn

from gengap import folders
from gengap.errors import GengapError, reason_of
from gengap.formats.keras_layers import ACTIVATIONS, LAYERS, Shape
from gengap.formats.places import memory_for, unpacked_size

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
DEEPEST = 1_000  # layers
LARGEST = 2**28  # weights of a network; those of the competition have a hundredth
# Axes of a kernel in Keras, by their number: HWIO becomes OIHW, (in, out) becomes (out, in).
TO_TORCH = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
TO_KERAS = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}
BATCH_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


def network_from_config(config: dict, most: int = LARGEST) -> nn.Sequential:
    """The network that a `config.json` describes, in eval mode, with PyTorch's own random weights.

    most: weights that it may have.

    config: `model_config`, a list of `{"layer_name": class in tf.keras.layers, **arguments}`, and
    `input_shape`, of one input without the batch: (H, W, C) or (D,).
    Stages are named as Keras names layers: conv2d, conv2d_1, re_lu, ...

    Raises: GengapError for a layer, argument or activation that is not known here.
    """
    layers, shape = _checked(config)
    stages: OrderedDict[str, nn.Module] = OrderedDict()
    counts: Counter[str] = Counter()
    weights = 0
    for number, layer in enumerate(layers):
        try:
            kind = _kind(layer)
            with torch.device("meta"):  # sizes before memory: a few digits may ask for all of it
                weights += sum(p.numel() for p in _stage(kind, layer, shape).parameters())
            if weights > most:
                raise ValueError(f"{weights} weights and more are too many; {most} are expected")
            stage = _stage(kind, layer, shape)
            shape = _output_shape(stage, shape)
        except Exception as error:  # arguments may be anything
            raise GengapError(f"layer {number}, {layer}: {reason_of(error)}"[:1000]) from error
        name = _snake_case(kind)
        stages[f"{name}_{counts[name]}" if counts[name] else name] = stage
        counts[name] += 1
    return nn.Sequential(stages).eval()


def read_weights(file: Path | BinaryIO, network: nn.Sequential) -> None:
    """Put the weights of a Keras HDF5 file into a network of `network_from_config`, by position.

    Raises: GengapError where the file is damaged or its layers are not the network's.
    """
    network.load_state_dict(network.state_dict() | weights_in(file, network))


def weights_in(file: Path | BinaryIO, network: nn.Sequential) -> dict[str, Tensor]:
    """The weights in a Keras HDF5 file for a network, named as in its state_dict, float32.

    Layers are matched by position, whatever their names; within one, weights that have Keras's
    names by these. Batch normalization's moving statistics are among the weights.

    Raises: GengapError where the file is damaged or its layers are not the network's.
    """
    try:
        size = file.stat().st_size if isinstance(file, Path) else file.seek(0, 2)
        with memory_for(size), h5py.File(file, "r") as opened:
            return _matched(opened, _slots(network))
    except GengapError:
        raise
    except Exception as error:  # what HDF5's library and reading by its names raise
        raise GengapError(
            f"no Keras weights can be read ({reason_of(error)}): the file is damaged, get it again,"
            " or is no HDF5 file of Keras 2's save_weights, write one"
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
        named = all("layer_name" in dict(layer) for layer in layers)
        if named and 0 < len(layers) <= DEEPEST and min(shape) > 0:
            return layers, shape
    except (KeyError, TypeError, ValueError, OverflowError):
        pass
    raise GengapError(
        f"a configuration has `model_config`, a list of up to {DEEPEST} layers each with a"
        f" `layer_name`, and `input_shape`, without the batch; this is {str(config)[:100]}"
    )


def _kind(layer: dict) -> str:
    kind = ALIASES.get(layer["layer_name"], layer["layer_name"])
    if kind not in LAYERS:
        raise ValueError(f"only these layers are known: {', '.join(LAYERS)}")
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
    known = list(inspect.signature(LAYERS[kind]).parameters)[1:]
    if unknown := [f"{name}={arguments[name]!r}" for name in arguments if name not in known]:
        raise ValueError(f"the argument {unknown[0]} is not known here")
    modules = LAYERS[kind](shape, **arguments)
    if kind == "Activation" or activation != "linear":
        modules = [*modules, ACTIVATIONS[activation]()]
    return modules[0] if len(modules) == 1 else nn.Sequential(*modules)


def _as_integer(value):
    """Some configurations write 512.0 for 512."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _output_shape(stage: nn.Module, shape: Shape) -> Shape:
    with torch.no_grad():
        return tuple(stage.eval()(torch.empty(0, *shape)).shape[1:])  # of no inputs: no memory


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
    groups = [(name, _inside(opened, name)) for name in _names(opened, "layer_names")]
    saved = [
        (name, [_inside(group, weight) for weight in weights])
        for name, group in groups
        if (weights := _names(group, "weight_names"))
    ]
    expected = [(stage, tensors) for stage, tensors in slots.items() if tensors]
    if len(saved) != len(expected):
        raise GengapError(
            f"the weights are of {len(saved)} layers, the configuration has {len(expected)} layers"
            " with weights: these files do not belong together"
        )
    state = {}
    for (layer, found), (stage, tensors) in zip(saved, expected):
        place = {f"{name}:0": at for at, name in enumerate(_keras_names(tensors))}
        found.sort(key=lambda dataset: place.get(dataset.name.rpartition("/")[2], 0))
        _check_shapes(layer, found, stage, tensors)
        _check_storage(layer, found, unpacked_size(opened.id.get_filesize()))
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


def _check_storage(layer: str, found: list[h5py.Dataset], most: int) -> None:
    """GengapError where numbers are not in the file, or more than its bytes can be."""
    for dataset in found:
        if dataset.external or dataset.is_virtual or not dataset.id.get_storage_size():
            raise GengapError(f"the weights of layer {layer!r} are not in the file; get it again")
        if max(dataset.size, math.prod(dataset.chunks or ())) * dataset.dtype.itemsize > most:
            raise GengapError(
                f"the weights of layer {layer!r} are larger than the file; get it again"
            )


def _inside(group: h5py.Group, path: str) -> h5py.Group | h5py.Dataset:
    """A group or data set below a group; GengapError where a link leads elsewhere."""
    for name in path.split("/"):
        if isinstance(group.get(name, getlink=True), h5py.ExternalLink | h5py.SoftLink):
            raise GengapError(
                f"{path!r} is a link to elsewhere, which is not followed; save a copy"
            )
        group = group[name]
    return group


def _names(group: h5py.Group, attribute: str) -> list[str]:
    names = group.attrs[attribute]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]
