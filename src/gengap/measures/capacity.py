"""Measures of how much a network of its shape could fit, whatever its weights are."""

import math

from gengap.errors import NotAvailable
from gengap.measures import measure
from gengap.measures.norms import layer_weights, per_sample, trained
from gengap.model import Model


@measure
def parameter_count(model: Model) -> float:
    r"""Root of the number of weights for each training image. Unit: (weight / image)^(1/2).

    .. math:: \sqrt{\frac1m \sum_i \lvert W_i \rvert}

    of the weights of layers, without biases; batch norm is no layer where it is folded in.

    Source:
        Jiang et al. 2020 (Fantastic Generalization Measures), eq. 20; with m as in the released
        code of Dziugaite et al. 2020.

    Raises:
        NotAvailable: if m is not known.
    """
    return per_sample(len(layer_weights(trained(model))), model)


@measure
def vc_dimension(model: Model) -> float:
    r"""An upper bound on the VC dimension of a convolutional network. Unit: samples.

    .. math:: d + 2 d P \ln(22 d \cdot 32^2) ,

    with :math:`d` the number of kernels (of convolutions and dense layers) and :math:`P` the number
    of their entries; biases and normalizations are not counted.

    Source:
        Jiang et al. 2020 (PGDL competition), baseline `vc_dim` of its kit, which takes 32 x 32
        inputs for granted, as here.

    Raises:
        NotAvailable: for a network without kernels.
    """
    kernels = [weight.numel() for weight in model.network.parameters() if weight.ndim > 1]
    if not kernels:
        raise NotAvailable("this network has neither convolutions nor dense layers")
    depth = len(kernels)
    return depth + 2 * depth * math.log(22 * depth * 32**2) * sum(kernels)
