"""State dicts in files that nobody vouches for, as PyTorch or safetensors wrote them.

Tensors, numbers and text are read, and no code: a file that wants to run some is refused.
PyTorch's zip files have a checksum of each tensor, which is compared; its files from before
version 1.6 and safetensors have none, so that a flipped bit in them is not seen.
Nothing is read that is larger than its file: see `gengap.formats.places`.
"""

import io
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError  # as torch.load raises it; nothing is unpickled here
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from gengap.errors import GengapError, NotAvailable
from gengap.formats.containers import Member
from gengap.formats.places import naming, open_zip, read_json, unpacked_size

# Under what a checkpoint keeps its state dict, beside the states of optimizers and the like. The
# weights that were trained come before their moving average, which is another network.
CONTAINERS = (
    *("state_dict", "model_state_dict", "model_state", "state_dict_network", "net_state_dict"),
    *("model", "network", "net", "params", "weights", "params_ema", "ema"),
)
PARALLEL = "module."  # what nn.DataParallel puts before every name
SAFETENSORS, SHARDS = ".safetensors", ".index.json"  # how files of these formats end
ONE_SHARD = re.compile(r"-\d+-of-\d+\.(safetensors|bin|pt|pth)$", re.IGNORECASE)
LONGEST_NAME, DEEPEST_NAME = 1_000, 64  # of a tensor: letters, and modules around it
REFUSED_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
# Numbers of numpy, which trainers leave beside the weights: they hold no code either. The second
# name of the same function is that of numpy 1.
SCALAR = np.float64(0).__reduce__()[0]
NUMPY: list[Any] = [
    *(SCALAR, (SCALAR, "numpy.core.multiarray.scalar")),
    *(np.dtype, np.dtypes.Float32DType, np.dtypes.Float64DType, np.dtypes.Int64DType),
]
# What LoRA adds to a weight, in PEFT and other trainers: two factors, times a scale kept elsewhere.
LOW_RANK = re.compile(r"(.+\.)?lora_(A|B|up|down|embedding_[AB])(\..+)?$")


def read_checkpoint(file: Path | Member, *, mapped: bool = False) -> Any:
    """What torch.save wrote, on the CPU; tensors of older versions and of a GPU too.

    mapped: tensors are not read, but taken from the disk where they are looked at, and their
    checksums not compared; not in files from before PyTorch 1.6, nor in members of containers.
    Raises: GengapError that names the file where it is missing, damaged or holds other objects.
    """
    with reading(file), torch.serialization.safe_globals(NUMPY):
        mapped = mapped and isinstance(file, Path) and zipfile.is_zipfile(file)
        source: Any = file if mapped else io.BytesIO(file.read_bytes())
        check_pickles(source, checksums=not mapped)
        return torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)


def check_pickles(source: Path | io.BytesIO, *, checksums: bool) -> None:
    """GengapError where a zip file is damaged, or a pickle makes memory out of a number."""
    if isinstance(source, io.BytesIO) and not zipfile.is_zipfile(source):
        pickles = [source.getvalue()]
    else:
        with open_zip(source) as archive:
            if checksums and (damaged := archive.testzip()):
                raise GengapError(f"the checksum of {damaged} in it is wrong; get it again")
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise GengapError("it is a program of TorchScript; save its state_dict() alone")
            pickles = [archive.read(name) for name in archive.namelist() if name.endswith(".pkl")]
    if any(b"\nbytearray\n" in pickle for pickle in pickles):
        raise UnpicklingError("GLOBAL builtins.bytearray")
    if isinstance(source, io.BytesIO):
        source.seek(0)


def read_state_dict(file: Path | Member) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of a PyTorch checkpoint, on the CPU, by name.

    A file that ends in .index.json stands for the shards that it names. Floating-point tensors are
    float32. A checkpoint may be the state dict, or hold it under one of CONTAINERS, where all else
    is ignored; the prefix of nn.DataParallel is left out.
    Tensors are in the order of their names, numbers as numbers: safetensors keeps no other, and a
    network must not depend on its file's format.

    Raises: GengapError that names the file where it is missing, damaged, without tensors or a
    single shard of several; NotAvailable where a tensor's numbers are of a type without a meaning.
    """
    if file.name.endswith(SHARDS) and isinstance(file, Path):
        tensors = read_shards(file)
    elif ONE_SHARD.search(file.name):
        raise GengapError(
            f"{file} is one shard of several; give the file that names them all, which ends in"
            f" {SHARDS}, in its place"
        )
    else:
        tensors = read_one(file)
    if all(name.startswith(PARALLEL) for name in tensors):
        tensors = {name.removeprefix(PARALLEL): tensor for name, tensor in tensors.items()}
    return {name: tensors[name] for name in sorted(tensors, key=with_numbers)}


def read_one(file: Path | Member) -> dict[str, Tensor]:
    """The tensors of one file by their names in it, else as `read_state_dict` gives them."""
    if file.name.lower().endswith(SAFETENSORS):
        with reading(file):
            content = safetensors.torch.load(file.read_bytes())
    else:
        content = read_checkpoint(file)
    with reading(file):
        tensors = tensors_in(content)
        size = len(file.read_bytes()) if isinstance(file, Member) else file.stat().st_size
        check_tensors(tensors, unpacked_size(size))
        check_scales(tensors)
        return {name: as_float32(name, tensor) for name, tensor in tensors.items()}


def read_shards(file: Path) -> dict[str, Tensor]:
    """The tensors of all shards that a transformers index, {"weight_map": {...}}, names."""
    places = read_shard_places(file)
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(places.values())):
        found = read_one(file.parent / shard)
        tensors |= {name: found[name] for name in found if places.get(name) == shard}
    if lacking := sorted(places.keys() - tensors.keys()):
        raise GengapError(
            f"{file} names {len(lacking)} tensors that its shards lack, as {lacking[0]!r}; get all"
            " of them again"
        )
    return tensors


def read_shard_places(file: Path) -> dict[str, str]:
    """Tensor -> name of the file beside the index `file` that holds it."""
    content = read_json(file)
    with reading(file):
        places = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(places, dict) or not places:
            raise GengapError('it has no "weight_map" from tensors to files; get it again')
        for name in places.values():
            if not isinstance(name, str) or Path(name).name != name or len(name) > 255:
                raise GengapError(f"it names the shard {name!r:.100}; a file beside it is expected")
        return places


def with_numbers(name: str) -> list[tuple[int, int, str]]:
    """What sorts block.2 before block.10."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


def tensors_in(content: object) -> dict[str, Tensor]:
    """Name -> tensor of the state dict that a checkpoint is or holds."""
    if not isinstance(content, Mapping):
        raise GengapError(f"it holds a {type(content).__name__}, not a state dict; save one")
    for container in CONTAINERS:
        if holds_tensors(inner := content.get(container)) or containers_in(inner):
            return tensors_in(inner)
    tensors = {name: tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}
    several = [name for name, inner in content.items() if holds_tensors(inner)]
    if not tensors or (several and max(tensor.ndim for tensor in tensors.values()) < 2):
        held = ", ".join(map(repr, [*content][:5])) or "nothing"
        raise GengapError(
            f"it has no tensors of a network, only {held}; save a state dict, alone or under one of"
            f" {', '.join(CONTAINERS)}"
        )
    for name, packed in content.items():
        if isinstance(packed, tuple) and any(isinstance(part, Tensor) for part in packed):
            raise NotAvailable(f"{name} is packed, a quantized weight; save it dequantized")
    return tensors


def holds_tensors(content: object) -> bool:
    """Whether something is a mapping to tensors, or to tensors among others."""
    values = content.values() if isinstance(content, Mapping) else ()
    return any(isinstance(value, Tensor) for value in values)


def containers_in(content: object) -> bool:
    """Whether something is a mapping that may hold a state dict under one of CONTAINERS."""
    inner = (content.get(name) for name in CONTAINERS) if isinstance(content, Mapping) else ()
    return any(isinstance(value, Mapping) for value in inner)


def check_tensors(tensors: Mapping[str, Tensor], most: int) -> None:
    """GengapError where names are none of a network's, or tensors need more bytes than these."""
    size = 0
    for name, tensor in tensors.items():
        parts = name.split(".") if isinstance(name, str) else [""]
        of_module = any(hasattr(nn.Module, part) for part in parts)
        if "" in parts or of_module or len(name) > LONGEST_NAME or len(parts) > DEEPEST_NAME:
            raise GengapError(f"{str(name)[:100]!r} is no name of a tensor in a state dict")
        if tensor.is_nested:
            raise GengapError(f"{name} is several tensors; save each under a name of its own")
        if tensor.is_meta:
            raise GengapError(f"{name} has a shape and no numbers; save a network that has weights")
        size += tensor.numel() * tensor.element_size()
        if size > most:
            raise GengapError(
                f"{name} of shape {tuple(tensor.shape)} and those before it need {size} bytes, far"
                " more than the file has; save copies of them, dense"
            )


def as_float32(name: str, tensor: Tensor) -> Tensor:
    """Floating-point tensors in float32 and dense, whole numbers and truth values as they are.

    Raises: NotAvailable for weights whose numbers alone say nothing: complex ones, and whole
    numbers, which are quantized weights without their scale.
    """
    kind = str(tensor.dtype).removeprefix("torch.")
    if tensor.layout != torch.strided:
        with torch.sparse.check_sparse_tensor_invariants():
            tensor = dense(tensor)
    # A few bytes that claim to be a huge tensor, by strides of 0, would fill the memory.
    if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        raise GengapError(
            f"{name} of shape {tuple(tensor.shape)} holds fewer numbers; save a copy of it"
        )
    if tensor.is_complex() and not name.endswith("freqs_cis"):  # positions, as LLaMA keeps them
        raise NotAvailable(f"{name} is {kind}; measures are of real weights")
    if tensor.is_quantized or (is_weight(name, tensor) and not tensor.is_floating_point()):
        raise NotAvailable(
            f"{name} is {kind}: quantized weights without their scale; save them dequantized"
        )
    try:
        return tensor.detach().float() if tensor.is_floating_point() else tensor.detach()
    except NotImplementedError as unknown:
        raise NotAvailable(f"{name} is {kind}, several numbers in a byte; save floats") from unknown


def is_weight(name: str, tensor: Tensor) -> bool:
    """Whether a tensor is called a weight, or is the bias of a layer, and no mask."""
    last = name.rpartition(".")[2]
    return ("weight" in last or (last == "bias" and tensor.ndim < 2)) and "mask" not in last


def check_scales(tensors: Mapping[str, Tensor]) -> None:
    """NotAvailable for what is to be taken times a scale that is not applied: quantized, or LoRA's.

    Of numbers of one byte the scale stands beside them, of LoRA's factors in another file.
    """
    for name, tensor in tensors.items():
        if LOW_RANK.match(name):
            raise NotAvailable(f"{name} is of LoRA, without its scale; merge it into its weight")
        if tensor.is_floating_point() and tensor.element_size() == 1:
            beside = [f"{name}_scale", f"{name}_scale_inv", f"{name[:-6]}scale_weight"]
            if scale := next((other for other in beside if other in tensors), None):
                raise NotAvailable(
                    f"{name} is quantized, with its scale in {scale}; save it dequantized"
                )


def dense(tensor: Tensor) -> Tensor:
    """A sparse tensor with its zeros; an error where one lies outside its shape."""
    if tensor.layout == torch.sparse_coo:
        indices, values = tensor._indices(), tensor._values()
        return torch.sparse_coo_tensor(indices, values, tensor.shape).to_dense()
    return tensor.to_dense()


def fill(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put tensors into a network made on the device meta; counters of batches are 0."""
    lacking = {name: t for name, t in network.state_dict().items() if name not in state}
    counters = {n: torch.zeros_like(t, device="cpu") for n, t in lacking.items() if t.ndim == 0}
    network.load_state_dict(counters | {**state}, assign=True)


@contextmanager
def reading(file: Path | Member) -> Iterator[None]:
    """Names the file in whatever goes wrong while its content is read."""
    try:
        with naming(file):
            yield
    except GengapError as error:
        if not isinstance(cause := error.__cause__, UnpicklingError):
            raise
        refused = REFUSED_GLOBAL.search(str(cause))
        held = f"holds a {refused[1]}, which" if refused else "is damaged, or holds what"
        raise GengapError(
            f"{file} cannot be read: it {held} is no tensor, number or text, and may run code; save"
            " the weights alone, torch.save(network.state_dict(), FILE)"
        ) from cause


def check_finite(network: nn.Module, name: str) -> None:
    """NotAvailable, with the network's name, where a weight is infinite or NaN: no measure is.

    Moving statistics of batch normalization count; other buffers, as masks of attention, do not.
    """
    statistics = ((n, b) for n, b in network.named_buffers() if "running_" in n)
    for part, tensor in [*network.named_parameters(), *statistics]:
        if not tensor.isfinite().all():
            raise NotAvailable(f"{name} has weights that are not finite, as in {part}")
