"""Weights that a state dict writes in parts, as the ones that the network computes with.

| parts of a weight | made by |
|---|---|
| `weight_g` and `weight_v`, or `parametrizations.weight.original0` and `original1` | weight_norm |
| `weight_orig` or `weight_bar` with `weight_u` and `weight_v` | spectral_norm |
| `parametrizations.weight.original` with `0._u` and `0._v` | spectral_norm |
| `weight_orig` with `weight_mask` | pruning |

Parts may be in parts themselves: `weight_v_orig` with `weight_v_mask` beside `weight_g`.
"""

import re
from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

from gengap.errors import GengapError

Tensors = dict[str, Tensor]
PARAMETRIZED = re.compile(r"(?:(.+)\.)?parametrizations\.(\w+)\.(.+)$")


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
    found = whole | {weight: joined(weight, effective(of_it)) for weight, of_it in parts.items()}
    return effective(found) if parts else found


def part_of(name: str, state: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """Of which weight a tensor is a part, and which; None if it is whole."""
    if found := PARAMETRIZED.match(name):
        path, weight, part = found.groups()
        return (f"{path}.{weight}" if path else weight), part
    stem, _, part = name.rpartition("_")
    is_part = part in ("g", "v") and {f"{stem}_g", f"{stem}_v"} <= state.keys()
    is_part |= part in ("orig", "mask", "u", "v") and f"{stem}_orig" in state
    is_part |= part in ("bar", "u", "v") and f"{stem}_bar" in state
    return (stem, part) if is_part else None


@torch.no_grad()
def joined(weight: str, parts: Tensors) -> Tensor:
    """The weight that its parts make."""
    try:
        match sorted(parts.items()):  # all of them: a part more is of another parametrization
            case [("g" | "original0", size), ("v" | "original1", direction)]:
                return size * direction / axes_norm(direction, size)
            case [("mask", mask), ("orig", whole)]:
                return whole * mask
            case [("orig" | "bar", whole), ("u", left), ("v", right)]:
                return whole / largest_singular_value(whole, left, right)
            case [("0._u", left), ("0._v", right), ("original", whole)]:
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
    """As spectral_norm estimates it: u^T W v of the singular vectors that it keeps.

    Which axis has the rows of W is not kept; u fits W v, which it was made of, best along that one.
    """
    axes = [axis for axis, size in enumerate(weight.shape) if size == len(left)] or [0]
    images = [weight.movedim(axis, 0).flatten(1) @ right for axis in axes]
    image = max(images, key=lambda image: float(left @ image / image.norm()))
    return left @ image
