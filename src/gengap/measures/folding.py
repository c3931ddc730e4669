"""Networks without batch normalization, for measures of weights that its scale would hide."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from gengap.errors import NotAvailable

Linear = nn.Linear | _ConvNd  # convolutions of 1 to 3 dimensions, transposed or in groups too


@torch.no_grad()
def folded(network: nn.Sequential) -> nn.Sequential:
    """A copy that computes the same, its batch norms part of the layers before them.

    A batch norm right after a convolution or dense layer (dropout between does not matter) is
    multiplied into its weights. Another one stays, as what it is at test time: a scale (`weight`)
    and a shift (`bias`) for each channel.

    Source:
        Dziugaite et al. 2020, the released `_reparam`.

    Differs:
        there a batch norm after an activation is multiplied into the layer before the activation,
        which changes the network.

    Raises:
        NotAvailable: for a batch norm without moving statistics.
    """
    network = copy.deepcopy(network)
    before = None
    for parent, name, module in _leaves(network):
        if isinstance(module, _BatchNorm):
            scale, shift = _scale_and_shift(module)
            if before is None or len(scale) != outputs_of(before):
                _make_affine(module, scale, shift)
            else:
                _multiply(before, scale, shift)
                setattr(parent, name, nn.Identity())
        elif isinstance(module, Linear):
            before = module
        elif not isinstance(module, nn.Dropout | nn.Identity):
            before = None
    return network


def weight_matrices(network: nn.Sequential) -> list[Tensor]:
    """Each layer's weights as a matrix, in order: `weight_matrix` of it, scales diagonal."""
    return [
        weight_matrix(layer) if isinstance(layer, Linear) else layer.weight.detach().diag()
        for layer in weighted_layers(network)
    ]


def weighted_layers(network: nn.Sequential) -> list[Linear | _BatchNorm]:
    """Convolutions, dense layers and batch norms of a network, in order."""
    return [layer for layer in network.modules() if isinstance(layer, Linear | _BatchNorm)]


def weight_matrix(layer: Linear) -> Tensor:
    """A layer's weight with a row for each output: (out, in), of kernels (out, in / groups * size).

    A transposed convolution keeps its kernel as (in, out / groups, size).
    """
    weight = layer.weight.detach()
    if not isinstance(layer, _ConvTransposeNd):
        return weight.flatten(1)
    groups = weight.unflatten(0, (layer.groups, -1)).transpose(1, 2)  # (groups, out, in, size)
    return groups.flatten(0, 1).flatten(1)


def outputs_of(layer: Linear) -> int:
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def _leaves(module: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    """(parent, name in it, module) of all modules without children, in the order they run."""
    found = []
    for name, child in module.named_children():
        found += _leaves(child) or [(module, name, child)]
    return found


def _scale_and_shift(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    mean, variance = _moving_statistics(norm)
    scale = (variance + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight
    shift = -mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias


def _moving_statistics(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    if norm.running_mean is None or norm.running_var is None:
        raise NotAvailable(
            "a batch norm without moving statistics scales by each batch, and cannot be folded"
        )
    return norm.running_mean, norm.running_var


def _multiply(layer: Linear, scale: Tensor, shift: Tensor) -> None:
    bias = torch.zeros_like(scale) if layer.bias is None else layer.bias
    kernel = layer.weight
    if isinstance(layer, _ConvTransposeNd):
        of_groups = scale.reshape(layer.groups, 1, -1, *[1] * (kernel.ndim - 2))
        kernel.copy_((kernel.unflatten(0, (layer.groups, -1)) * of_groups).flatten(0, 1))
    else:
        kernel.mul_(scale.reshape(-1, *[1] * (kernel.ndim - 1)))
    layer.bias = nn.Parameter(bias * scale + shift)


def _make_affine(norm: _BatchNorm, scale: Tensor, shift: Tensor) -> None:
    norm.weight, norm.bias = nn.Parameter(scale), nn.Parameter(shift)
    norm.eps = 0.0
    mean, variance = _moving_statistics(norm)
    mean.zero_()
    variance.fill_(1)
