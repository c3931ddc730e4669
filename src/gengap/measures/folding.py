"""Networks without batch normalization, for measures of weights that its scale would hide."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Linear = nn.Conv2d | nn.Linear


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
    """
    network = copy.deepcopy(network)
    before = None
    for parent, name, module in _leaves(network):
        if isinstance(module, _BatchNorm):
            scale, shift = _scale_and_shift(module)
            if before is None or len(scale) != len(before.weight):
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
    """Each layer's weights as a matrix, in order: kernels (out, in * kh * kw), scales diagonal."""
    matrices = []
    for module in network.modules():
        if isinstance(module, Linear):
            matrices.append(module.weight.detach().flatten(1))
        elif isinstance(module, _BatchNorm):
            matrices.append(module.weight.detach().diag())
    return matrices


def _leaves(module: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    """(parent, name in it, module) of all modules without children, in the order they run."""
    found = []
    for name, child in module.named_children():
        found += _leaves(child) or [(module, name, child)]
    return found


def _scale_and_shift(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    scale = (norm.running_var + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight
    shift = -norm.running_mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias


def _multiply(layer: Linear, scale: Tensor, shift: Tensor) -> None:
    bias = torch.zeros_like(scale) if layer.bias is None else layer.bias
    layer.weight.mul_(scale.reshape(-1, *[1] * (layer.weight.ndim - 1)))
    layer.bias = nn.Parameter(bias * scale + shift)


def _make_affine(norm: _BatchNorm, scale: Tensor, shift: Tensor) -> None:
    norm.weight, norm.bias = nn.Parameter(scale), nn.Parameter(shift)
    norm.eps = 0.0
    norm.running_mean.zero_()
    norm.running_var.fill_(1)
