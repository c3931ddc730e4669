"""What a state dict alone tells of a network: its layers, and which of its tensors are weights.

A module has the tensors with its name. Its layers are found by the names that PyTorch's modules
give their tensors and by shapes:

| tensors of one module | layers |
|---|---|
| `weight` of 2 dimensions | dense (an embedding too: the file does not tell) |
| `weight` of 3 to 5 dimensions | convolution, transposed where its bias does not fit another |
| `weight_ih_l0`, `weight_hh_l0`, ... | a dense layer for each gate: LSTM 4, GRU 3, RNN 1 |
| `in_proj_weight` | three dense layers: query, key and value of an attention |
| `q_proj_weight`, `k_proj_weight`, `v_proj_weight` | the same three where their sizes differ |
| `running_mean` and `running_var` | batch normalization |

A weight that is written in parts is first put together, by `gengap.formats.weight_parts`.

A batch normalization is folded into the layer whose outputs it is taken to normalize, with the
epsilon 1e-5 that PyTorch gives it: the layer beside it with its number (`bn2` after `conv2`, `bn`
after `conv`), or in a sequence the one right before it (`1` after `0`), if that has as many
outputs. Else it stays a layer of its own. A convolution without a bias, right before one in a
sequence, is transposed where its outputs fit no other way.

The masks, positions and statistics of well-known networks are no weights: BUFFER has their names.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from gengap.errors import GengapError, NotAvailable
from gengap.formats.weight_parts import Tensors, effective

# Names of tensors that are kept beside the weights and are none: statistics, masks, positions.
BUFFER = re.compile(
    r"(running_(mean|var)|num_batches_tracked|n_averaged|(\w+_)?masks?|masked_bias|tril|triu"
    r"|position_ids|relative_position_index|relative_coords_table|pe|(\w+_)?inv_freq"
    r"|freqs(_\w+)?|(cos|sin)(_cached)?|(pixel|image)_(mean|std)|anchors?|anchor_grid|queue"
    r"|betas|(\w+_)?alphas_cumprod(_\w+)?|window|pos_weight|total_(ops|params)|weight_(u|v)"
    r"|_u|_v|(min|max)_vals?)"
)
CONVOLUTIONS: dict[int, Any] = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
TRANSPOSED: dict[int, Any] = {3: nn.ConvTranspose1d, 4: nn.ConvTranspose2d, 5: nn.ConvTranspose3d}
GATES = {4: "LSTM", 3: "GRU", 1: "RNN"}  # matrices of the hidden size in weight_hh
RECURRENT = re.compile(r"weight_(ih|hh|hr)(_l\d+(_reverse)?)?$")
PROJECTION = re.compile(r"[qkv]_proj_weight$")

MOST_NAMED = 4  # tensors, in a remark
MOST_PAIRS = 1_000_000  # of a batch normalization and a module beside it: seconds
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class Unknown(nn.Module):
    """Stands before a batch norm where it is not known what comes before it in the network."""


def weights_only_network(state: Mapping[str, Tensor], why: str) -> nn.Sequential:
    """Modules with the names and weights of a state dict, for measures that need only weights.

    The module's documentation says what becomes a layer. Other tensors are parameters, or buffers,
    of a plain module; those of the network itself are in a module `network`. How the modules are
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
        # Not by add_module, which refuses the names of a module's own methods.
        children = modules[parent]._modules
        if isinstance(modules[path], nn.BatchNorm2d) and path not in before:
            children[f"unknown before {name}"] = Unknown()
        children[name] = modules[path]

    def refuse(*_):
        raise NotAvailable(why)

    for module in network.modules():
        module.forward = refuse
    return network.eval()


def left_out(state: Mapping[str, Tensor]) -> list[str]:
    """What of a state dict measures do not see, or not all: a remark for each kind."""
    weights = effective(state)
    kept = once(weights)
    remarks = {"stored twice, counted once": [name for name in weights if name not in kept]}
    for path, tensors in by_module(kept).items():
        module = module_for(tensors)
        for name, tensor in tensors.items():
            if (why := unseen(name, tensor, module)) and name not in STATISTICS:
                of_root = f"{path}." if f"{path}.{name}" in kept else ""
                remarks.setdefault(why, []).append(of_root + name)
    return [f"{some(names)} ({why})" for why, names in remarks.items() if names]


def unseen(name: str, tensor: Tensor, module: nn.Module) -> str:
    """Why measures of layers do not see a tensor of a module; empty where they do, or need not."""
    if not tensor.numel():
        return "empty"
    if is_buffer(name, tensor):
        return "no weights"
    of_layer = is_layer(module) and name == "weight"
    matrix = tensor.ndim > 1 and name in dict(module.named_parameters(recurse=False))
    return "in no layer, among all parameters alone" if matrix and not of_layer else ""


def some(names: list[str]) -> str:
    """The names, of many the first."""
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def by_module(state: Mapping[str, Tensor]) -> dict[str, Tensors]:
    """Path of each module, parents before their children, to the tensors that are its own."""
    own: dict[str, Tensors] = {"": {}}
    root = "itself" if any(key.startswith("network.") for key in state) else "network"
    for key, tensor in state.items():
        path, _, name = key.rpartition(".")
        parts = path.split(".") if path else [root]
        for depth in range(1, len(parts) + 1):
            own.setdefault(".".join(parts[:depth]), {})
        own[".".join(parts)][name] = tensor
    return own


def once(state: Mapping[str, Tensor]) -> Tensors:
    """The tensors without those that tie two names to one weight.

    Tied are tensors that share their memory, as a .pt file keeps them, and weights that are equal
    throughout and not constant, as they come from formats that write each name. Equal statistics
    are no weights: two normalizations of one input have them.
    """
    kept: Tensors = {}
    known: set[tuple] = set()
    for name, tensor in state.items():
        marks = marks_of(name, tensor) if tensor.numel() else set()
        if known.isdisjoint(marks):
            kept[name] = tensor
            known |= marks
    return kept


def marks_of(name: str, tensor: Tensor) -> set[tuple]:
    """Where a tensor lies and, of a weight that is not constant, what it holds."""
    place = (tensor.data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride())
    if is_buffer(name, tensor) or not bool((tensor != tensor.flatten()[:1]).any()):
        return {place}
    numbers = (tensor + 0).cpu().contiguous().numpy()  # -0.0 is 0.0
    return {place, (tensor.shape, tensor.dtype, hashlib.sha256(numbers.data).digest())}


# Modules


def is_layer(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.modules.conv._ConvNd)


def is_buffer(name: str, tensor: Tensor) -> bool:
    """Whether a tensor is kept beside the weights: by its name, its type or an infinite number.

    The mask of GPT-2, called `bias` of an attention, is known by its shape (1, 1, n, n).
    """
    name = name.rpartition(".")[2]
    if not tensor.is_floating_point() or BUFFER.fullmatch(name):
        return True
    if name == "bias" and tensor.ndim == 4 and tensor.shape == (1, 1, *tensor.shape[-1:] * 2):
        return tensor.shape[-1] > 1
    infinite = tensor.ndim > 1 and bool(tensor.isneginf().any())
    return infinite and not name.startswith(("weight", "bias"))


def module_for(tensors: Mapping[str, Tensor]) -> nn.Module:
    """The module that has these tensors, named as in it; gates and projections are its children."""
    tensors = upright(tensors)
    module = layer_for(tensors)
    for name, tensor in tensors.items():
        # Not by register_parameter and the like, which refuse the names of a module's attributes.
        if matrices := split_of(name, tensors):
            for part, matrix in matrices.items():
                module._modules[f"{name}_{part}"] = dense(matrix)
        elif name in module._buffers or is_buffer(name, tensor):
            module._buffers[name] = tensor
        else:
            module._parameters[name] = nn.Parameter(tensor)
    return module


def upright(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors, the matrix turned if the bias fits its columns alone, as in GPT-2: (in, out)."""
    weight, bias = tensors.get("weight"), tensors.get("bias")
    if weight is None or bias is None or (weight.ndim, bias.ndim) != (2, 1):
        return tensors
    outputs, inputs = weight.shape
    fits_columns_alone = len(bias) == inputs and len(bias) not in (outputs, 0)
    return {**tensors, "weight": weight.T} if fits_columns_alone else tensors


def layer_for(tensors: Mapping[str, Tensor]) -> nn.Module:
    """A layer of the kind and size that these tensors tell, its parameters not yet in it."""
    if {"running_mean", "running_var"} <= tensors.keys():
        affine = not tensors.keys().isdisjoint({"weight", "bias"})
        return nn.BatchNorm2d(len(tensors["running_mean"]), affine=affine)
    weight, bias = tensors.get("weight"), tensors.get("bias")
    if weight is None or not weight.numel():
        return nn.Module()
    # Without memory, since each of its tensors is replaced.
    kinds: dict[str, Any] = {"bias": bias is not None, "device": "meta"}
    first, second, *size = *weight.shape, 0, 0
    if weight.ndim == 2:
        return nn.Linear(second, first, **kinds)
    if weight.ndim not in CONVOLUTIONS:
        return nn.Module()
    if bias is not None and (groups := groups_of_transposed(weight, len(bias))):
        return transposed(weight, groups, bias=True)
    return CONVOLUTIONS[weight.ndim](second, first, tuple(size[:-2]), **kinds)


def groups_of_transposed(weight: Tensor, outputs: int) -> int:
    """In how many groups a kernel gives so many outputs if it is transposed alone; 0 if it cannot.

    Where as many come of it as an ordinary kernel, (out, in / groups, ...), it is taken for one.
    """
    groups, left = divmod(outputs, weight.shape[1])
    fits = outputs != len(weight) and groups and not left and len(weight) % groups == 0
    return groups if fits else 0


def transposed(weight: Tensor, groups: int, *, bias: bool) -> nn.Module:
    """A transposed convolution for this kernel, its parameters not yet in it."""
    inputs, of_group, *size = weight.shape
    kind = TRANSPOSED[weight.ndim]
    return kind(inputs, groups * of_group, tuple(size), groups=groups, bias=bias, device="meta")


def dense(matrix: Tensor) -> nn.Linear:
    layer = nn.Linear(matrix.shape[1], matrix.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(matrix)
    return layer


def split_of(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The matrices that one tensor holds of several layers, by what tells them apart."""
    tensor = tensors[name]
    if not tensor.numel():
        return {}
    if PROJECTION.match(name) and tensor.ndim == 2:
        return {"matrix": tensor}
    if name == "in_proj_weight" and tensor.ndim == 2 and len(tensor) == 3 * tensor.shape[1]:
        return dict(zip(("query", "key", "value"), tensor.chunk(3)))
    if not RECURRENT.match(name) or tensor.ndim != 2:
        return {}
    if name.startswith("weight_hr"):
        return {"projection": tensor}
    hidden = tensors.get(name.replace("_ih", "_hh"), tensor)
    gates = len(hidden) // hidden.shape[-1] if hidden.numel() else 0
    if gates not in GATES or len(tensor) % gates:
        gates = 4  # an LSTM with a projection, whose hidden size weight_hh does not tell
    return {f"gate_{place}": gate for place, gate in enumerate(tensor.chunk(gates))}


# Batch normalization


def layers_before(modules: dict[str, nn.Module]) -> dict[str, str]:
    """Path of each batch normalization whose layer is known -> path of that layer."""
    found, taken = {}, set()
    children = defaultdict(list)
    for path in modules:
        children[path.rpartition(".")[0]].append(path)
    norms = {path: norm for path, norm in modules.items() if isinstance(norm, nn.BatchNorm2d)}
    if sum(len(children[path.rpartition(".")[0]]) for path in norms) > MOST_PAIRS:
        raise GengapError("more layers stand side by side with batch normalizations than are read")
    for path, norm in norms.items():
        features = norm.num_features
        siblings = beside(path, children[path.rpartition(".")[0]])
        free = [other for other in siblings if other not in taken]
        if path.rpartition(".")[2].isdecimal():  # what comes right before it in a sequence is known
            modules |= {other: turned(modules[other], features) for other in free}
        if fitting := [other for other in free if outputs_of(modules[other]) == features]:
            found[path] = fitting[0]
            taken.add(fitting[0])
    return found


def turned(layer: Any, outputs: int) -> nn.Module:
    """The layer, transposed if it is a convolution without bias that only so has these outputs."""
    ordinary = isinstance(layer, tuple(CONVOLUTIONS.values()))
    if not ordinary or layer.bias is not None:
        return layer
    groups = groups_of_transposed(layer.weight, outputs)
    if not groups:
        return layer
    found = transposed(layer.weight, groups, bias=False)
    found._parameters, found._modules = layer._parameters, layer._modules
    return found


def beside(path: str, modules: Iterable[str]) -> list[str]:
    """Modules of the same parent that a module may follow: those of its number, or in a sequence
    the one right before it."""
    parent, _, name = path.rpartition(".")
    siblings = [other for other in modules if other and other.rpartition(".")[0] == parent]
    names = {other: other.rpartition(".")[2] for other in siblings if other != path}
    if name.isdecimal():  # a number that is left out is of a layer without weights, as ReLU is
        return [other for other in names if names[other] == str(int(name) - 1)]
    alike = [other for other in names if number(names[other]) == number(name)]
    return sorted(alike, key=lambda other: not names[other].startswith("conv"))


def number(name: str) -> str:
    """The digits at the end of a name."""
    return name.removeprefix(name.rstrip("0123456789"))


def outputs_of(module: Any) -> int:
    if not is_layer(module):
        return -1
    return module.out_features if isinstance(module, nn.Linear) else module.out_channels


def in_running_order(paths: list[str], before: Mapping[str, str]) -> list[str]:
    """The paths with each batch normalization right after its layer."""
    after = {layer: norm for norm, layer in before.items()}
    rest = [path for path in paths if path not in before]
    return [each for path in rest for each in (path, after.get(path)) if each]
