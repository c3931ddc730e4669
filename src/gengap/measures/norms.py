"""Measures of the size of the weights.

Sums run in float64 on the CPU, so that a value does not depend on the device. Measures of layers
fold batch norm into the layer before it, take a kernel as the matrix (out, in * kh * kw), as the
released code of Dziugaite et al. 2020 does, and leave biases out.
"""

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gengap.errors import NotAvailable
from gengap.measures import measure
from gengap.measures.folding import folded, weight_matrices
from gengap.measures.shared import once_per_model
from gengap.model import Model


@measure
def parameter_norm(model: Model) -> float:
    r"""Squared Frobenius norm of all parameters. Unit: weight².

    .. math:: \sum_i \lVert w_i \rVert_F^2

    Source:
        Jiang et al. 2020 (Fantastic Generalization Measures), eq. 42.

    Differs:
        the paper sums over weight tensors of layers; biases are counted here as well.
    """
    return squared_norm(model.network.parameters())


@measure
def distance_from_initialization(model: Model) -> float:
    r"""Squared Euclidean distance of the weights from their start. Unit: weight².

    .. math:: \sum_i \lVert w_i - w_i^0 \rVert_F^2

    of all that training moves: the moving statistics of batch normalization count where their start
    is known.

    Source:
        Jiang et al. 2020 (PGDL competition), baseline `distance_from_init` of its kit, where it is
        squared too.

    Raises:
        NotAvailable: if the model comes without initial weights.
    """
    if model.initial_weights is None:
        raise NotAvailable("this model comes without initial weights")
    weights = model.network.state_dict()
    return squared_norm(weights[name] - start for name, start in model.initial_weights.items())


@measure
def log_product_of_spectral_norms(model: Model) -> float:
    r"""Logarithm of the product of the layers' squared spectral norms. No unit.

    .. math:: \sum_i \ln \lVert W_i \rVert_2^2

    of kernels as matrices, not as the linear maps between images that they make.

    Source:
        Jiang et al. 2020 (Fantastic Generalization Measures), eq. 32.

    Raises:
        NotAvailable: if all weights of a layer are 0.
    """
    return float(layer_norms(model).spectral.square().log().sum())


@measure
def log_sum_of_spectral_norms(model: Model) -> float:
    r"""Logarithm of the layers' geometric mean squared spectral norm, times their number. No unit.

    .. math:: \ln \Big( d \, \big( \textstyle\prod_{i=1}^d \lVert W_i \rVert_2^2 \big)^{1/d} \Big)

    Source:
        Jiang et al. 2020 (Fantastic Generalization Measures), eq. 35, the product made a sum, for
        networks of different depth.

    Raises:
        NotAvailable: if all weights of a layer are 0.
    """
    logs = layer_norms(model).spectral.square().log()
    return float(logs.mean()) + math.log(len(logs))


@measure
def log_product_of_frobenius_norms(model: Model) -> float:
    r"""Logarithm of the product of the layers' squared Frobenius norms. No unit.

    .. math:: \sum_i \ln \lVert W_i \rVert_F^2

    Source:
        Jiang et al. 2020 (Fantastic Generalization Measures), eq. 37.

    Raises:
        NotAvailable: if all weights of a layer are 0.
    """
    return float(layer_norms(model).frobenius.square().log().sum())


@measure
def frobenius_over_spectral_norms(model: Model) -> float:
    r"""Sum of the layers' stable ranks. No unit.

    .. math:: \sum_i \lVert W_i \rVert_F^2 / \lVert W_i \rVert_2^2

    Source:
        Jiang et al. 2020 (Fantastic Generalization Measures), eq. 33.

    Raises:
        NotAvailable: if all weights of a layer are 0.
    """
    norms = layer_norms(model)
    return float((norms.frobenius / norms.spectral).square().sum())


@measure
def spectral_distance_from_initialization(model: Model) -> float:
    r"""Sum of squared spectral norms of the layers' changes. Unit: weight².

    .. math:: \sum_i \lVert W_i - W_i^0 \rVert_2^2

    Moving statistics whose start is not known start at mean 0 and variance 1.

    Source:
        Jiang et al. 2020 (Fantastic Generalization Measures), eq. 41.

    Raises:
        NotAvailable: if the model comes without initial weights.
    """
    if model.initial_weights is None:
        raise NotAvailable("this model comes without initial weights")
    start = _with_weights(model.network, model.initial_weights)
    pairs = zip(_matrices(model.network), _matrices(start))
    return float(sum(spectral_norm(end - start) ** 2 for end, start in pairs))


@measure
@torch.no_grad()
def path_norm(model: Model) -> float:
    r"""Sum over paths from inputs to logits of the product of the squared weights on them.

    .. math:: \sum_k f_k(\mathbf 1; \, w^2) ,

    the sum of the logits of the network with squared weights and biases at an input of ones, batch
    norm folded in. Unit: weight^(2 layers). Max pooling passes the largest of its paths; with
    another activation than ReLU it is this output, no longer a sum over paths.

    Source:
        Jiang et al. 2020 (Fantastic Generalization Measures), eq. 44, without a root.

    Raises:
        NotAvailable: without a training sample, from which the size of an input is known.
    """
    inputs = model.sample[0][:1].cpu().double()
    network = folded(copy.deepcopy(model.network).cpu().double())
    for parameter in network.parameters():
        parameter.square_()
    return float(network(torch.ones_like(inputs)).sum())


@measure
@torch.no_grad()
def root_path_norm(model: Model) -> float:
    r"""Root of the sum of the logits of the network with squared parameters at an input of ones.

    .. math:: \Big( \sum_k f_k(\mathbf 1; \, w^2) \Big)^{1/2}

    Unit: that of a product of weights over all layers, if there is no batch norm; then it is the
    root of `path_norm`. Batch norm stays a layer of its own, with squared scale and shift and its
    moving statistics as they are; the moving means that it takes away may leave a negative sum,
    which has no root.

    Source:
        Jaegerman et al. 2021 (GenProb), the path norm of its released process.py.

    Raises:
        NotAvailable: without a training sample, from which the size of an input is known, or if the
            sum is negative or not finite.
    """
    inputs = model.sample[0][:1].cpu().double()
    network = copy.deepcopy(model.network).cpu().double()
    for parameter in network.parameters():
        parameter.square_()
    total = float(network(torch.ones_like(inputs)).sum())
    if not 0 <= total < math.inf:
        raise NotAvailable(f"with squared parameters the logits sum to {total:.4g}: no root")
    return math.sqrt(total)


@dataclass(frozen=True)
class LayerNorms:
    """Norms of each layer's matrix, float64 on the CPU, none of them 0."""

    spectral: Tensor  # (layers,)
    frobenius: Tensor  # (layers,)
    units: Tensor  # (layers,) sum of the Euclidean norms of the rows, ||W^T||_{2,1}


@once_per_model
def layer_norms(model: Model) -> LayerNorms:
    """Norms of the layers, batch norm folded in; NotAvailable if all weights of a layer are 0."""
    matrices = _matrices(model.network)
    frobenius = torch.stack([matrix.norm() for matrix in matrices])
    if not frobenius.all():
        raise NotAvailable("all weights of a layer are 0: its norm has no logarithm or inverse")
    units = torch.stack([matrix.norm(dim=1).sum() for matrix in matrices])
    return LayerNorms(torch.stack([spectral_norm(m) for m in matrices]), frobenius, units)


def spectral_norm(matrix: Tensor) -> Tensor:
    """The largest singular value, from the smaller Gram matrix: fast where one side is short."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    return torch.linalg.eigvalsh(wide @ wide.T)[-1].clamp(min=0).sqrt()


def _matrices(network: nn.Sequential) -> list[Tensor]:
    return weight_matrices(folded(copy.deepcopy(network).cpu().double()))


def _with_weights(network: nn.Sequential, weights: Mapping[str, Tensor]) -> nn.Sequential:
    """A copy with these weights, and where they have none, moving statistics of the start."""
    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.reset_running_stats()
    network.load_state_dict(dict(weights), strict=False)
    return network


def squared_norm(tensors: Iterable[Tensor]) -> float:
    """Sum of squares over several tensors."""
    return float(sum(tensor.detach().cpu().double().square().sum() for tensor in tensors))
