"""What a state dict alone tells of a network: its layers, and which of its tensors are weights.

A module has the tensors with its name. Its layers are found by the names that PyTorch's modules
give their tensors and by shapes:

| tensors of one module | layers |
|---|---|
| `weight` of 2 dimensions | dense (an embedding too: the file does not tell) |
| `weight` of 3 to 5 dimensions | convolution, transposed if its bias fits the second axis alone |
| `weight_ih_l0`, `weight_hh_l0`, ... | a dense layer for each gate: LSTM 4, GRU 3, RNN 1 |
| `in_proj_weight` | three dense layers: query, key and value of an attention |
| `running_mean` and `running_var` | batch normalization |

A weight that is written in parts counts as the weight which the network computes with: `weight_g`
and `weight_v`, or `parametrizations.weight.original0` and `1` (weight_norm); `weight_orig` with
`weight_u`, or `parametrizations.weight.original` with `0._u` (spectral_norm); `weight_orig` with
`weight_mask` (pruning).

A batch normalization is folded into the layer whose outputs it is taken to normalize: the layer
beside it with its number (`bn2` after `conv2`, `bn` after `conv`), or in a sequence the one before
it (`1` after `0`), if that has as many outputs. Else it stays a layer of its own.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from gengap.errors import GengapError, NotAvailable

# Names of tensors that are kept beside the weights and are none: statistics, masks, positions.
BUFFER = re.compile(
    r"(running_(mean|var)|num_batches_tracked|(\w+_)?masks?|masked_bias|position_ids"
    r"|relative_position_index|relative_coords_table|inv_freq|weight_(u|v)|_u|_v)$"
)
CONVOLUTIONS = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
TRANSPOSED = {3: nn.ConvTranspose1d, 4: nn.ConvTranspose2d, 5: nn.ConvTranspose3d}
GATES = {4: "LSTM", 3: "GRU", 1: "RNN"}  # matrices of the hidden size in weight_hh
RECURRENT = re.compile(r"weight_(ih|hh|hr)_l\d+(_reverse)?$")
PARAMETRIZED = re.compile(r"(?:(.+)\.)?parametrizations\.(\w+)\.(.+)$")

MOST_PAIRS = 1_000_000  # of a batch normalization and a module beside it: seconds
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")

Tensors = dict[str, Tensor]


class Unknown(nn.Module):
    """Stands before a batch norm where it is not known what comes before it in the network."""


def weights_only_network(state: Mapping[str, Tensor], why: str) -> nn.Sequential:
    """Modules with the names and weights of a state dict, for measures that need only weights.

    The module's documentation says what becomes a layer. Other tensors are parameters, or buffers,
    of a plain module; those of the network itself are under `network.`. How the modules are
    connected is not known: `why` is what NotAvailable says when one is called.

    Raises: NotAvailable where there is no layer; GengapError for weights written in parts that do
    not fit together.
    """
    own = by_module(once(effective(state)))
    modules = {path: module_for(tensors) for path, tensors in own.items()}
    if not any(is_layer(part) for module in modules.values() for part in module.modules()):
        raise NotAvailable("there is neither a convolution nor a dense layer among the weights")
    network = modules[""] = nn.Sequential()
    before = layers_before(modules)
    for path in in_running_order(list(modules)[1:], before):
        parent, _, name = path.rpartition(".")
        if isinstance(modules[path], nn.BatchNorm2d) and path not in before:
            modules[parent].add_module(f"unknown before {name}", Unknown())
        modules[parent].add_module(name, modules[path])

    def refuse(*_):
        raise NotAvailable(why)

    for module in network.modules():
        module.forward = refuse
    return network.eval()


def left_out(state: Mapping[str, Tensor]) -> list[str]:
    """What of a state dict no measure sees, or sees once for two names: a remark for each kind."""
    weights = effective(state)
    kept = once(weights)
    tied = [name for name in weights if name not in kept]
    buffers = [name for name in kept if is_buffer(name, kept[name])]
    buffers = [name for name in buffers if not name.endswith(STATISTICS)]
    empty = [name for name, tensor in kept.items() if not tensor.numel()]
    remarks = {"no weights": buffers, "stored twice, counted once": tied, "empty": empty}
    return [f"{', '.join(names)} ({why})" for why, names in remarks.items() if names]


def by_module(state: Mapping[str, Tensor]) -> dict[str, Tensors]:
    """Path of each module, parents before their children, to the tensors that are its own."""
    own: dict[str, Tensors] = {"": {}}
    for key, tensor in state.items():
        path, _, name = key.rpartition(".")
        parts = path.split(".") if path else ["network"]
        for depth in range(1, len(parts) + 1):
            own.setdefault(".".join(parts[:depth]), {})
        own[".".join(parts)][name] = tensor
    return own


def once(state: Mapping[str, Tensor]) -> Tensors:
    """The tensors without those that tie two names to one weight.

    Tied are tensors that share their memory, as a .pt file keeps them, and matrices that are equal
    throughout and not constant, as they come from formats that write each name.
    """
    kept: Tensors = {}
    memory: set[tuple] = set()
    contents: set[tuple] = set()
    for name, tensor in state.items():
        place = (tensor.data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride())
        if tensor.numel() and place in memory:
            continue
        if tensor.ndim > 1 and tensor.numel() and bool((tensor != tensor.flatten()[0]).any()):
            numbers = (tensor + 0).cpu().contiguous().numpy()  # -0.0 is 0.0
            content = tensor.shape, tensor.dtype, hashlib.sha256(numbers).digest()
            if content in contents:
                continue
            contents.add(content)
        memory.add(place)
        kept[name] = tensor
    return kept


# Weights in parts


def effective(state: Mapping[str, Tensor]) -> Tensors:
    """The state dict with each weight that is written in parts as the one that is computed with."""
    parts: dict[str, Tensors] = defaultdict(dict)
    whole: Tensors = {}
    for name, tensor in state.items():
        place = part_of(name, state)
        if place is None:
            whole[name] = tensor
        else:
            weight, part = place
            whole.setdefault(weight, tensor)  # keeps the weight's place among the others
            parts[weight][part] = tensor
    return whole | {weight: joined(weight, of_it) for weight, of_it in parts.items()}


def part_of(name: str, state: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """Of which weight a tensor is a part, and which; None if it is whole."""
    if found := PARAMETRIZED.match(name):
        path, weight, part = found.groups()
        return (f"{path}.{weight}" if path else weight), part
    stem, _, part = name.rpartition("_")
    is_part = part in ("g", "v") and {f"{stem}_g", f"{stem}_v"} <= state.keys()
    is_part |= part in ("orig", "mask", "u", "v") and f"{stem}_orig" in state
    return (stem, part) if is_part else None


@torch.no_grad()
def joined(weight: str, parts: Tensors) -> Tensor:
    """The weight that its parts make."""
    try:
        match parts:
            case {"g": size, "v": direction} | {"original0": size, "original1": direction}:
                return size * direction / axes_norm(direction, size)
            case {"orig": whole, "mask": mask}:
                return whole * mask
            case {"orig": whole, "u": left, "v": right} | {
                "original": whole,
                "0._u": left,
                "0._v": right,
            }:
                return whole / largest_singular_value(whole, left, right)
    except RuntimeError as error:
        raise GengapError(f"the parts of {weight} do not fit together ({error})") from error
    raise GengapError(
        f"{weight} is written in the parts {', '.join(parts)}, which are none of weight_norm,"
        " spectral_norm or pruning; save the network after removing the parametrization"
    )


def axes_norm(direction: Tensor, size: Tensor) -> Tensor:
    """Norms of a tensor over the axes in which its sizes have length 1."""
    axes = [axis for axis in range(direction.ndim) if size.ndim == 0 or size.shape[axis] == 1]
    if not axes:
        return direction.abs()
    return torch.linalg.vector_norm(direction, dim=axes, keepdim=True)


def largest_singular_value(weight: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """As spectral_norm estimates it: u^T W v of the singular vectors that it keeps."""
    axis = list(weight.shape).index(len(left)) if len(left) in weight.shape else 0
    return left @ weight.movedim(axis, 0).flatten(1) @ right


# Modules


def is_layer(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.modules.conv._ConvNd)


def is_buffer(name: str, tensor: Tensor) -> bool:
    """Whether a tensor is kept beside the weights: by its name, its type or an infinite number.

    The mask of GPT-2, called `attn.bias`, is known by its shape (1, 1, n, n).
    """
    if not tensor.is_floating_point() or BUFFER.search(name.rpartition(".")[2]):
        return True
    if name.endswith("attn.bias") and tensor.ndim == 4 and tensor.shape[:2] == (1, 1):
        return True
    infinite = tensor.ndim > 1 and bool(tensor.isneginf().any())
    return infinite and not name.rpartition(".")[2].startswith(("weight", "bias"))


def module_for(tensors: Mapping[str, Tensor]) -> nn.Module:
    """The module that has these tensors, named as in it; gates and projections are its children."""
    module, rest = layer_for(tensors), dict(tensors)
    for name in tensors:
        if matrices := split_of(name, tensors):
            del rest[name]
            for part, matrix in matrices.items():
                module.add_module(f"{name}_{part}", dense(matrix))
    for name, tensor in rest.items():
        if name in module._buffers or is_buffer(name, tensor):
            module.register_buffer(name, tensor)
        else:
            module.register_parameter(name, nn.Parameter(tensor))
    return module


def layer_for(tensors: Mapping[str, Tensor]) -> nn.Module:
    """A layer of the kind and size that these tensors tell, its parameters not yet in it."""
    if {"running_mean", "running_var"} <= tensors.keys():
        affine = not tensors.keys().isdisjoint({"weight", "bias"})
        return nn.BatchNorm2d(len(tensors["running_mean"]), affine=affine)
    weight, bias = tensors.get("weight"), tensors.get("bias")
    if weight is None or not weight.numel():
        return nn.Module()
    # Without memory, since each of its tensors is replaced.
    kinds = {"bias": bias is not None, "device": "meta"}
    first, second, *size = *weight.shape, 0, 0
    if weight.ndim == 2:
        return nn.Linear(second, first, **kinds)
    if weight.ndim not in CONVOLUTIONS:
        return nn.Module()
    size = tuple(weight.shape[2:])
    if bias is not None and len(bias) != first and len(bias) == second:
        return TRANSPOSED[weight.ndim](first, second, size, **kinds)
    return CONVOLUTIONS[weight.ndim](second, first, size, **kinds)


def dense(matrix: Tensor) -> nn.Linear:
    layer = nn.Linear(matrix.shape[1], matrix.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(matrix)
    return layer


def split_of(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The matrices that one tensor holds of several layers, by what tells them apart."""
    tensor = tensors[name]
    if name == "in_proj_weight" and tensor.ndim == 2 and len(tensor) == 3 * tensor.shape[1]:
        return dict(zip(("query", "key", "value"), tensor.chunk(3)))
    if not RECURRENT.match(name) or tensor.ndim != 2:
        return {}
    if name.startswith("weight_hr"):
        return {"projection": tensor}
    hidden = tensors.get(name.replace("_ih_", "_hh_"), tensor)
    gates = len(hidden) // max(hidden.shape[1], 1)
    if gates not in GATES or len(tensor) % gates:
        gates = 4  # an LSTM with a projection, whose hidden size weight_hh does not tell
    return {f"gate_{place}": gate for place, gate in enumerate(tensor.chunk(gates))}


# Batch normalization


def layers_before(modules: Mapping[str, nn.Module]) -> dict[str, str]:
    """Path of each batch normalization whose layer is known -> path of that layer."""
    found, taken = {}, set()
    children = defaultdict(list)
    for path in modules:
        children[path.rpartition(".")[0]].append(path)
    norms = [path for path, module in modules.items() if isinstance(module, nn.BatchNorm2d)]
    if sum(len(children[path.rpartition(".")[0]]) for path in norms) > MOST_PAIRS:
        raise GengapError("more layers stand side by side with batch normalizations than are read")
    for path, module in modules.items():
        if not isinstance(module, nn.BatchNorm2d):
            continue
        fitting = [
            other
            for other in beside(path, children[path.rpartition(".")[0]])
            if other not in taken and outputs_of(modules[other]) == module.num_features
        ]
        if fitting:
            found[path] = fitting[0]
            taken.add(fitting[0])
    return found


def beside(path: str, modules: Iterable[str]) -> list[str]:
    """Modules of the same parent that a module may follow: those of its number, or in a sequence
    the last before it."""
    parent, _, name = path.rpartition(".")
    siblings = [other for other in modules if other and other.rpartition(".")[0] == parent]
    names = {other: other.rpartition(".")[2] for other in siblings if other != path}
    if name.isdecimal():
        earlier = [other for other in names if names[other].isdecimal()]
        earlier = [other for other in earlier if int(names[other]) < int(name)]
        return sorted(earlier, key=lambda other: int(names[other]))[-1:]
    alike = [other for other in names if number(names[other]) == number(name)]
    return sorted(alike, key=lambda other: not names[other].startswith("conv"))


def number(name: str) -> str:
    """The digits at the end of a name."""
    return re.search(r"\d*$", name)[0]


def outputs_of(module: nn.Module) -> int:
    if not is_layer(module):
        return -1
    axis = 1 if isinstance(module, nn.modules.conv._ConvTransposeNd) else 0
    return module.weight.shape[axis]


def in_running_order(paths: list[str], before: Mapping[str, str]) -> list[str]:
    """The paths with each batch normalization right after its layer."""
    after = {layer: norm for norm, layer in before.items()}
    rest = [path for path in paths if path not in before]
    return [each for path in rest for each in (path, after.get(path)) if each]
