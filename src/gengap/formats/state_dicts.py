"""State dicts in files that nobody vouches for, as PyTorch or safetensors wrote them.

Tensors, numbers and text are read, and no code: a file that wants to run some is refused.
"""

import io
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError  # as torch.load raises it; nothing is unpickled here

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from gengap.errors import GengapError, NotAvailable
from gengap.formats.containers import Member

# Under what a checkpoint keeps its state dict, beside the states of optimizers and the like.
CONTAINERS = (
    "state_dict",
    "model_state_dict",
    "state_dict_network",
    "model",
    "network",
    "net",
)
PARALLEL = "module."  # what nn.DataParallel puts before every name
# Numbers of numpy, which trainers leave beside the weights: they hold no code either. The second
# name of the same function is that of numpy 1.
NUMPY = [
    np._core.multiarray.scalar,
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),
    np.dtype,
    np.dtypes.Float32DType,
    np.dtypes.Float64DType,
    np.dtypes.Int64DType,
]


def read_checkpoint(file: Path | Member, *, mapped: bool = False) -> object:
    """What torch.save wrote, on the CPU; tensors of older versions and of a GPU too.

    mapped: tensors are not read, but taken from the disk where they are looked at; not in files
    from before PyTorch 1.6, nor in members of containers.
    Raises: GengapError that names the file where it is missing, damaged or holds other objects.
    """
    with reading(file), torch.serialization.safe_globals(NUMPY):
        on_disk = isinstance(file, Path)
        mapped = mapped and on_disk and zipfile.is_zipfile(file)
        source = file if on_disk else io.BytesIO(file.read_bytes())
        return torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)


def read_state_dict(file: Path | Member) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of a PyTorch checkpoint, on the CPU, by name.

    Floating-point tensors are float32. A checkpoint may be the state dict, or hold it under one of
    CONTAINERS, where all else is ignored; the prefix of nn.DataParallel is left out. Safetensors
    does not keep the order of tensors: they are in that of their names, numbers as numbers.
    Raises: GengapError that names the file where it is missing, damaged or without tensors.
    """
    if file.name.endswith(".safetensors"):
        with reading(file):
            content = safetensors.torch.load_file(file)
            content = {name: content[name] for name in sorted(content, key=with_numbers)}
    else:
        content = read_checkpoint(file)
    with reading(file):
        tensors = tensors_in(content)
        if all(name.startswith(PARALLEL) for name in tensors):
            tensors = {name.removeprefix(PARALLEL): tensor for name, tensor in tensors.items()}
        return {name: as_float32(tensor) for name, tensor in tensors.items()}


def with_numbers(name: str) -> list[str | int]:
    """What sorts block.2 before block.10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def tensors_in(content: object) -> dict[str, Tensor]:
    """Name -> tensor of the state dict that a checkpoint is or holds."""
    if not isinstance(content, Mapping):
        raise GengapError(f"it holds a {type(content).__name__}, not a state dict; save one")
    for container in CONTAINERS:
        if isinstance(content.get(container), Mapping):
            return tensors_in(content[container])
    tensors = {name: tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}
    if not tensors:
        raise GengapError(
            f"it has no tensors, only {', '.join(map(repr, [*content][:5])) or 'nothing'};"
            f" save a state dict, alone or under one of {', '.join(CONTAINERS)}"
        )
    return tensors


def as_float32(tensor: Tensor) -> Tensor:
    """Floating-point tensors in float32, the others as they are."""
    # A few bytes that claim to be a huge tensor, by strides of 0, would fill the memory.
    if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        raise GengapError(
            f"a tensor of shape {tuple(tensor.shape)} holds fewer numbers; save a copy of it"
        )
    return tensor.detach().float() if tensor.is_floating_point() else tensor.detach()


@contextmanager
def reading(file: Path | Member) -> Iterator[None]:
    """Names the file in whatever goes wrong while its content is read."""
    try:
        yield
    except NotAvailable:
        raise
    except GengapError as error:
        raise GengapError(f"{file}: {error}") from error
    except FileNotFoundError as error:
        raise GengapError(f"{file} is missing; get it again") from error
    except UnpicklingError as error:
        raise GengapError(
            f"{file} cannot be read: it is damaged, or holds other objects than tensors, numbers"
            " and text; get it again, or save the network's state_dict() alone"
        ) from error
    except Exception as error:  # damaged bytes raise a dozen kinds, and PyTorch its own
        first = (str(error).splitlines() or [""])[0]
        raise GengapError(
            f"{file} cannot be read, it is truncated or damaged ({type(error).__name__}: {first});"
            " get it again"
        ) from error


class Unknown(nn.Module):
    """Stands before a batch norm where it is not known what comes before it in the network."""


def weights_only_network(
    state: Mapping[str, Tensor], why: str, *, in_order: bool = True
) -> nn.Sequential:
    """Modules with the names and tensors of a state dict, for measures that need only weights.

    What has a 4-D `weight` is an nn.Conv2d, a 2-D `weight` an nn.Linear (an embedding too: the file
    does not tell), moving statistics an nn.BatchNorm2d; other tensors are parameters, or if not
    floating-point buffers, of a plain module. Those of the network itself are under `network.`.
    How the modules are connected is not known: `why` is what NotAvailable says when one is called.
    A batch norm is taken to follow the layer right before it, and thus can be folded into it, only
    if that has as many outputs and the tensors are in_order, as the network registered them.

    Raises: NotAvailable where there is neither a convolution nor a dense layer.
    """
    own: dict[str, dict[str, Tensor]] = {"": {}}
    for key, tensor in state.items():
        path, _, name = key.rpartition(".")
        parts = path.split(".") if path else ["network"]
        for depth in range(1, len(parts) + 1):
            own.setdefault(".".join(parts[:depth]), {})
        own[".".join(parts)][name] = tensor
    modules = {path: module_for(tensors) for path, tensors in own.items()}
    if not any(isinstance(module, nn.Conv2d | nn.Linear) for module in modules.values()):
        raise NotAvailable("there is neither a convolution nor a dense layer among the weights")
    network = modules[""] = nn.Sequential()
    outputs = None
    for path, module in list(modules.items())[1:]:
        parent, _, name = path.rpartition(".")
        if isinstance(module, nn.BatchNorm2d):
            if not in_order or module.num_features != outputs:
                modules[parent].add_module(f"unknown before {name}", Unknown())
            outputs = None  # a second one hardly normalizes the same
        elif isinstance(module, nn.Conv2d | nn.Linear):
            outputs = len(module.weight)
        modules[parent].add_module(name, module)

    def refuse(*_):
        raise NotAvailable(why)

    for module in network.modules():
        module.forward = refuse
    return network.eval()


def module_for(tensors: Mapping[str, Tensor]) -> nn.Module:
    """The module that has these tensors, named as in it."""
    module = layer_for(tensors)
    for name, tensor in tensors.items():
        if name in module._buffers or not tensor.is_floating_point():
            module.register_buffer(name, tensor)
        else:
            module.register_parameter(name, nn.Parameter(tensor))
    return module


def layer_for(tensors: Mapping[str, Tensor]) -> nn.Module:
    """A layer of the kind and size that these tensors tell, its parameters not yet in it."""
    if {"running_mean", "running_var"} <= tensors.keys():
        affine = not tensors.keys().isdisjoint({"weight", "bias"})
        return nn.BatchNorm2d(len(tensors["running_mean"]), affine=affine)
    shape = tensors["weight"].shape if "weight" in tensors else ()
    # Without memory, since each of its tensors is replaced.
    kinds = {"bias": "bias" in tensors, "device": "meta"}
    if len(shape) == 4:
        return nn.Conv2d(shape[1], shape[0], tuple(shape[2:]), **kinds)
    if len(shape) == 2:
        return nn.Linear(shape[1], shape[0], **kinds)
    return nn.Module()


def check_finite(network: nn.Module, name: str) -> None:
    """NotAvailable, with the network's name, where a weight is infinite or NaN: no measure is."""
    if not all(tensor.isfinite().all() for tensor in network.state_dict().values()):
        raise NotAvailable(f"{name} has weights that are not finite")
