r"""Measures of the size of the weights.

Sums run in float64 on the CPU, so that a value does not depend on the device. Measures of layers
fold batch norm into the layer before it, take a kernel as the matrix (out, in * kh * kw), as the
released code of Dziugaite et al. 2020 does, and leave biases out; *raw* ones take all parameters as
they are. As in that code, what bounds the gap is taken for :math:`m` training images:
:math:`\sqrt{x / m}`, or of a logarithm :math:`(x - \ln m) / 2`.
"""

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from gengap.errors import NotAvailable
from gengap.measures import measure, work
from gengap.measures.folding import folded, weight_matrices, weighted_layers
from gengap.measures.shared import once_per_model
from gengap.model import Model


@measure
def raw_parameter_norm(model: Model) -> float:
    r"""Squared Euclidean norm of all parameters as they are. Unit: weight².

    .. math:: \lVert \theta \rVert_2^2

    with biases and the scales and shifts of normalizations; `folded_parameter_norm` is of the
    weights of layers, batch norm folded in.

    Source:
        Jiang et al. 2020 (Fantastic Generalization Measures), eq. 42.

    Differs:
        the paper sums over weight tensors of layers, and its authors' code folds batch norm first.
    """
    return squared_norm(model.network.parameters())


@measure
def distance_from_initialization(model: Model) -> float:
    r"""Squared Euclidean distance of all parameters, as they are, from their start. Unit: weight².

    .. math:: \lVert \theta - \theta^0 \rVert_2^2

    of all that training moves: the moving statistics of batch normalization count where their start
    is known. `folded_distance_from_initialization` is of the weights of layers, batch norm folded
    in.

    Source:
        Jiang et al. 2020 (PGDL competition), baseline `distance_from_init` of its kit, where it is
        squared too.

    Raises:
        NotAvailable: if the model comes without initial weights.
    """
    weights = model.network.state_dict()
    return squared_norm(weights[name] - start for name, start in initial_weights(model).items())


@measure
def folded_parameter_norm(model: Model) -> float:
    r"""Frobenius norm of the layers' weights, batch norm folded in. Unit: weight.

    .. math:: \sqrt{\frac1m \sum_i \lVert W_i \rVert_F^2}

    Source:
        Jiang et al. 2020 (Fantastic Generalization Measures), eq. 42; with m as in the released
        code of Dziugaite et al. 2020.

    Raises:
        NotAvailable: if m is not known.
    """
    return per_sample(squared_norm([layer_weights(trained(model))]), model)


@measure
def folded_distance_from_initialization(model: Model) -> float:
    r"""Frobenius norm of what training changed of the layers' weights. Unit: weight.

    .. math:: \sqrt{\frac1m \sum_i \lVert W_i - W_i^0 \rVert_F^2}

    batch norm folded in, at the end and at the start. Moving statistics whose start is not known
    start at mean 0 and variance 1.

    Source:
        Jiang et al. 2020 (Fantastic Generalization Measures), eq. 40; with m as in the released
        code of Dziugaite et al. 2020.

    Raises:
        NotAvailable: without initial weights, or if m is not known.
    """
    return per_sample(squared_norm([layer_weights(changed(model))]), model)


@measure
def spectral_distance_from_initialization(model: Model) -> float:
    r"""Root of the summed squared spectral norms of the layers' changes. Unit: weight.

    .. math:: \sqrt{\frac1m \sum_i \lVert W_i - W_i^0 \rVert_2^2}

    of weights as in `folded_distance_from_initialization`.

    Source:
        Jiang et al. 2020 (Fantastic Generalization Measures), eq. 41; with m as in the released
        code of Dziugaite et al. 2020.

    Raises:
        NotAvailable: without initial weights, or if m is not known.
    """
    norms = [spectral_norm(matrix) for matrix in weight_matrices(changed(model))]
    return per_sample(torch.stack(norms).square().sum(), model)


@measure
def spectral_distance_from_initialization_fft(model: Model) -> float:
    r"""`spectral_distance_from_initialization` of convolutions as linear maps. Unit: weight.

    .. math:: \sqrt{\frac1m \sum_i \lVert W_i - W_i^0 \rVert_{\text{FFT}}^2}

    with the norms of `fft_spectral_norms`.

    Source:
        Dziugaite et al. 2020, the released code's DIST_SPEC_INIT_FFT.

    Raises:
        NotAvailable: without initial weights or a training sample, from which the size of an input
            is known.
    """
    return per_sample(fft_spectral_norms(changed(model), input_size(model)).square().sum(), model)


@measure
@work(images=1)
def path_norm(model: Model) -> float:
    r"""Norm over paths from inputs to logits of the product of the weights on them.

    .. math:: \sqrt{\frac1m \sum_k f_k(\mathbf 1; \, w^2)} ,

    of the sum of the logits of the network with squared weights and biases at an input of ones,
    batch norm folded in. Unit: weight^layers. Max pooling passes the largest of its paths; with
    another activation than ReLU it is this output, no longer a sum over paths.

    Source:
        Jiang et al. 2020 (Fantastic Generalization Measures), eq. 44; with m as in the released
        code of Dziugaite et al. 2020.

    Differs:
        after folding, the released code leaves batch norms in place that divide by
        :math:`\sqrt{1 + \epsilon}`.

    Raises:
        NotAvailable: without a training sample, from which the size of an input is known.
    """
    return per_sample(squared_path_norm(model), model)


@measure
@work(images=1)
def root_path_norm(model: Model) -> float:
    r"""Root of the sum of the logits of the network with squared parameters at an input of ones.

    .. math:: \Big( \sum_k f_k(\mathbf 1; \, w^2) \Big)^{1/2}

    Unit: that of a product of weights over all layers, if there is no batch norm; then it is
    `path_norm` without :math:`m`. Batch norm stays a layer of its own, with squared scale and shift
    and its moving statistics as they are; the moving means that it takes away may leave a negative
    sum, which has no root.

    Source:
        Jaegerman et al. 2021 (GenProb), the path norm of its released process.py.

    Raises:
        NotAvailable: without a training sample, from which the size of an input is known, or if the
            sum is negative or not finite.
    """
    total = _paths(copy.deepcopy(model.network).cpu().double(), model)
    if not 0 <= total < math.inf:
        raise NotAvailable(f"with squared parameters the logits sum to {total:.4g}: no root")
    return math.sqrt(total)


@once_per_model
def squared_path_norm(model: Model) -> float:
    """What `path_norm` takes the root of, without m."""
    return _paths(copy.deepcopy(trained(model)), model)


@torch.no_grad()
def _paths(network: nn.Sequential, model: Model) -> float:
    """Sum of logits at an input of ones, once the parameters of a float64 network are squared."""
    for parameter in network.parameters():
        parameter.square_()
    return float(network(torch.ones_like(model.sample[0][:1].cpu().double())).sum())


def per_sample(value: Tensor | float, model: Model) -> float:
    """sqrt(value / m), with m training images; NotAvailable of a negative value."""
    if value < 0:
        raise NotAvailable(f"the bound's square is negative ({float(value):.4g}): it has no root")
    return math.sqrt(value / model.sample_size)


def log_per_sample(value: Tensor | float, model: Model) -> float:
    """ln sqrt(exp(value) / m), with m training images."""
    return (float(value) - math.log(model.sample_size)) / 2


@dataclass(frozen=True)
class LayerNorms:
    """Norms of each layer's matrix, float64 on the CPU, none of them 0."""

    spectral: Tensor  # (layers,)
    frobenius: Tensor  # (layers,)
    units: Tensor  # (layers,) sum of the Euclidean norms of the rows, ||W^T||_{2,1}


@once_per_model
def layer_norms(model: Model) -> LayerNorms:
    """Norms of the layers, batch norm folded in; NotAvailable if all weights of a layer are 0."""
    matrices = weight_matrices(trained(model))
    frobenius = nonzero(torch.stack([matrix.norm() for matrix in matrices]))
    units = torch.stack([matrix.norm(dim=1).sum() for matrix in matrices])
    return LayerNorms(torch.stack([spectral_norm(m) for m in matrices]), frobenius, units)


def nonzero(norms: Tensor) -> Tensor:
    """The norms; NotAvailable if one is 0."""
    if not norms.all():
        raise NotAvailable("all weights of a layer are 0: its norm has no logarithm or inverse")
    return norms


def spectral_norm(matrix: Tensor) -> Tensor:
    """The largest singular value, from the smaller Gram matrix: fast where one side is short."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    return torch.linalg.eigvalsh(wide @ wide.T)[-1].clamp(min=0).sqrt()


def fft_spectral_norms(network: nn.Sequential, size: torch.Size) -> Tensor:
    r"""Spectral norms of layers as linear maps, (layers,): of a convolution, that of its images.

    With circular padding and without strides a convolution is diagonal in frequencies: its norm is
    the largest among those of the Fourier transforms, at each frequency, of its kernel. All are
    taken for images of the `size` of the network's inputs, as if nothing pooled, or of the kernel's
    where that is larger. Groups do not mix; other layers have the norm of their matrix.

    Source:
        Sedghi et al. 2019 (The Singular Values of Convolutional Layers); the size as in the
        released code of Dziugaite et al. 2020.
    """
    norms = [
        _convolution_norm(layer, size)
        if isinstance(layer, _ConvNd) and max(layer.kernel_size) > 1
        else spectral_norm(matrix)
        for layer, matrix in zip(weighted_layers(network), weight_matrices(network), strict=True)
    ]
    return torch.stack(norms)


def _convolution_norm(layer: _ConvNd, size: torch.Size) -> Tensor:
    kernel = layer.weight.detach().unflatten(0, (layer.groups, -1))  # (groups, a, b, *places)
    places = range(3, kernel.ndim)
    sizes = [max(side) for side in zip(size, layer.kernel_size, strict=True)]
    # The frequencies that are left out have the complex conjugates of those that are not.
    transforms = torch.fft.rfftn(kernel, sizes, dim=[*places])
    matrices = transforms.permute(0, *places, 1, 2).flatten(0, -3)
    wide = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT
    return torch.linalg.eigvalsh(wide @ wide.mH).max().clamp(min=0).sqrt()


def input_size(model: Model) -> torch.Size:
    """The sides of the network's inputs, (H, W) of images."""
    return model.sample[0].shape[2:]


@once_per_model
def trained(model: Model) -> nn.Sequential:
    """The network in float64 on the CPU, batch norm folded in."""
    return _exactly_folded(model.network)


@once_per_model
@torch.no_grad()
def changed(model: Model) -> nn.Sequential:
    """`trained`, its layers' weights what training added to them.

    Raises:
        NotAvailable: if the model comes without initial weights.
    """
    difference = copy.deepcopy(trained(model))
    start = _exactly_folded(_with_weights(model.network, initial_weights(model)))
    for layer, before in zip(weighted_layers(difference), weighted_layers(start), strict=True):
        layer.weight.sub_(before.weight)
    return difference


def initial_weights(model: Model) -> Mapping[str, Tensor]:
    """The model's initial weights; NotAvailable where it has none."""
    if model.initial_weights is None:
        raise NotAvailable("this model comes without initial weights")
    return model.initial_weights


def layer_weights(network: nn.Sequential) -> Tensor:
    """All weights of its layers, in one vector."""
    return torch.cat([layer.weight.detach().flatten() for layer in weighted_layers(network)])


def _exactly_folded(network: nn.Sequential) -> nn.Sequential:
    return folded(copy.deepcopy(network).cpu().double())


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
