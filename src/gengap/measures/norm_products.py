r"""Measures of the products of layers' norms, alone and over the margin, which bound the gap.

Of the weights :math:`W_i` of :math:`d` layers, as matrices (out, in * kh * kw), batch norm folded
in and biases left out, :math:`s_i` is the spectral norm, :math:`f_i` the Frobenius norm and
:math:`c_i` the Frobenius norm of what training changed, :math:`W_i - W_i^0`; there are :math:`m`
training images, and :math:`\gamma` is their `low_margin`. Measures that end in `_fft` have
:math:`\hat s_i` in place of :math:`s_i`, of convolutions the spectral norm as a linear map
(`fft_spectral_norms`) at the size of the network's inputs, for which they need a training sample.
"""

import math

import torch
from torch import Tensor

from gengap.errors import NotAvailable
from gengap.measures import ALL, measure, work
from gengap.measures.folding import weighted_layers
from gengap.measures.margins import low_margin
from gengap.measures.norms import (
    changed,
    fft_spectral_norms,
    input_size,
    layer_norms,
    log_per_sample,
    nonzero,
    per_sample,
    squared_path_norm,
    trained,
)
from gengap.measures.shared import once_per_model
from gengap.model import Model


@measure
def log_product_of_spectral_norms(model: Model) -> float:
    r"""Logarithm of the root of the product of matrices' squared spectral norms. No unit.

    .. math:: \tfrac12 \Big( \sum_i \ln s_i^2 - \ln m \Big)

    Source:
        Jiang et al. 2020 (Fantastic Generalization Measures), eq. 32; with m as in the released
        code of Dziugaite et al. 2020.

    Raises:
        NotAvailable: if all weights of a layer are 0, or m is not known.
    """
    return log_per_sample(_log_product(layer_norms(model).spectral), model)


@measure
@work(images=ALL)
def log_product_of_spectral_norms_over_margin(model: Model) -> float:
    r"""`log_product_of_spectral_norms`, the product over the squared margin. No unit.

    .. math:: \tfrac12 \Big( \sum_i \ln s_i^2 - 2 \ln \gamma - \ln m \Big)

    Source:
        Jiang et al. 2020 (Fantastic Generalization Measures), eq. 31; with m as in the released
        code of Dziugaite et al. 2020.

    Raises:
        NotAvailable: without a training sample, or if its low margin or a layer's norm is 0.
    """
    return log_per_sample(_log_product(layer_norms(model).spectral, low_margin(model)), model)


@measure
def log_sum_of_spectral_norms(model: Model) -> float:
    r"""Logarithm of the root of a sum of matrices' squared spectral norms. No unit.

    .. math:: \tfrac12 \Big( \ln d + \frac1d \sum_i \ln s_i^2 - \ln m \Big)

    the product made a sum of its geometric mean, for networks of different depth.

    Source:
        Jiang et al. 2020 (Fantastic Generalization Measures), eq. 35; with m as in the released
        code of Dziugaite et al. 2020.

    Raises:
        NotAvailable: if all weights of a layer are 0, or m is not known.
    """
    return log_per_sample(_log_sum(layer_norms(model).spectral), model)


@measure
@work(images=ALL)
def log_sum_of_spectral_norms_over_margin(model: Model) -> float:
    r"""`log_sum_of_spectral_norms` of the product over the squared margin. No unit.

    .. math:: \tfrac12 \Big( \ln d + \frac1d \big( \sum_i \ln s_i^2 - 2 \ln \gamma \big)
       - \ln m \Big)

    Source:
        Jiang et al. 2020 (Fantastic Generalization Measures), eq. 34; with m as in the released
        code of Dziugaite et al. 2020.

    Raises:
        NotAvailable: without a training sample, or if its low margin or a layer's norm is 0.
    """
    return log_per_sample(_log_sum(layer_norms(model).spectral, low_margin(model)), model)


@measure
def frobenius_over_spectral_norms(model: Model) -> float:
    r"""Root of the sum of the layers' stable ranks. No unit.

    .. math:: \sqrt{\frac1m \sum_i f_i^2 / s_i^2}

    Source:
        Jiang et al. 2020 (Fantastic Generalization Measures), eq. 33; with m as in the released
        code of Dziugaite et al. 2020.

    Raises:
        NotAvailable: if all weights of a layer are 0, or m is not known.
    """
    return per_sample(_ratios(layer_norms(model).frobenius, layer_norms(model).spectral), model)


@measure
@work(images=ALL)
def log_spectral_bound_from_origin(model: Model) -> float:
    r"""Logarithm of the main term of the spectral bound around 0. No unit.

    .. math:: \tfrac12 \Big( \ln \prod_i s_i^2 + \ln \sum_i \frac{f_i^2}{s_i^2}
       - 2 \ln \gamma - \ln m \Big)

    Source:
        Jiang et al. 2020 (Fantastic Generalization Measures), eq. 30; with m as in the released
        code of Dziugaite et al. 2020.

    Raises:
        NotAvailable: without a training sample, or if its low margin or a layer's norm is 0.
    """
    return _log_spectral_bound(model, layer_norms(model).frobenius, layer_norms(model).spectral)


@measure
@work(images=ALL)
def log_spectral_bound_from_initialization(model: Model) -> float:
    r"""Logarithm of the main term of the spectral bound around the start. No unit.

    .. math:: \tfrac12 \Big( \ln \prod_i s_i^2
       + \ln \sum_i \frac{c_i^2}{s_i^2} - 2 \ln \gamma - \ln m \Big)

    Source:
        Jiang et al. 2020 (Fantastic Generalization Measures), eq. 29; with m as in the released
        code of Dziugaite et al. 2020.

    Raises:
        NotAvailable: without a training sample or initial weights, or if the low margin, a layer's
            norm or all changes are 0.
    """
    return _log_spectral_bound(model, change_norms(model), layer_norms(model).spectral)


@measure
def log_product_of_frobenius_norms(model: Model) -> float:
    r"""Logarithm of the root of the product of layers' squared Frobenius norms. No unit.

    .. math:: \tfrac12 \Big( \sum_i \ln f_i^2 - \ln m \Big)

    Source:
        Jiang et al. 2020 (Fantastic Generalization Measures), eq. 37; with m as in the released
        code of Dziugaite et al. 2020.

    Raises:
        NotAvailable: if all weights of a layer are 0, or m is not known.
    """
    return log_per_sample(_log_product(layer_norms(model).frobenius), model)


@measure
@work(images=ALL)
def log_product_of_frobenius_norms_over_margin(model: Model) -> float:
    r"""`log_product_of_frobenius_norms`, the product over the squared margin. No unit.

    .. math:: \tfrac12 \Big( \sum_i \ln f_i^2 - 2 \ln \gamma - \ln m \Big)

    Source:
        Jiang et al. 2020 (Fantastic Generalization Measures), eq. 36; with m as in the released
        code of Dziugaite et al. 2020.

    Raises:
        NotAvailable: without a training sample, or if its low margin or a layer's norm is 0.
    """
    return log_per_sample(_log_product(layer_norms(model).frobenius, low_margin(model)), model)


@measure
def log_sum_of_frobenius_norms(model: Model) -> float:
    r"""Logarithm of the root of a sum of layers' squared Frobenius norms. No unit.

    .. math:: \tfrac12 \Big( \ln d + \frac1d \sum_i \ln f_i^2 - \ln m \Big)

    the product made a sum of its geometric mean, for networks of different depth.

    Source:
        Jiang et al. 2020 (Fantastic Generalization Measures), eq. 39; with m as in the released
        code of Dziugaite et al. 2020.

    Raises:
        NotAvailable: if all weights of a layer are 0, or m is not known.
    """
    return log_per_sample(_log_sum(layer_norms(model).frobenius), model)


@measure
@work(images=ALL)
def log_sum_of_frobenius_norms_over_margin(model: Model) -> float:
    r"""`log_sum_of_frobenius_norms` of the product over the squared margin. No unit.

    .. math:: \tfrac12 \Big( \ln d + \frac1d \big( \sum_i \ln f_i^2 - 2 \ln \gamma \big)
       - \ln m \Big)

    Source:
        Jiang et al. 2020 (Fantastic Generalization Measures), eq. 38; with m as in the released
        code of Dziugaite et al. 2020.

    Raises:
        NotAvailable: without a training sample, or if its low margin or a layer's norm is 0.
    """
    return log_per_sample(_log_sum(layer_norms(model).frobenius, low_margin(model)), model)


@measure
@work(images=ALL)
def path_norm_over_margin(model: Model) -> float:
    r"""`path_norm` over the margin. Unit: weight^layers / logit.

    .. math:: \sqrt{\frac1m \sum_k f_k(\mathbf 1; \, w^2) \Big/ \gamma^2}

    Source:
        Jiang et al. 2020 (Fantastic Generalization Measures), eq. 43; with m as in the released
        code of Dziugaite et al. 2020.

    Raises:
        NotAvailable: without a training sample, or if its low margin is 0.
    """
    return per_sample(squared_path_norm(model) / low_margin(model) ** 2, model)


@measure
def log_product_of_spectral_norms_fft(model: Model) -> float:
    r"""Logarithm of the root of the product of convolutions' squared spectral norms. No unit.

    .. math:: \tfrac12 \Big( \sum_i \ln \hat s_i^2 - \ln m \Big)

    Source:
        Dziugaite et al. 2020, the released code's LOG_PROD_OF_SPEC_FFT; with matrices
        Jiang et al. 2020, eq. 32.

    Raises:
        NotAvailable: without a training sample, or if all weights of a layer are 0.
    """
    return log_per_sample(_log_product(fft_norms(model)), model)


@measure
@work(images=ALL)
def log_product_of_spectral_norms_over_margin_fft(model: Model) -> float:
    r"""`log_product_of_spectral_norms_fft`, the product over the squared margin. No unit.

    .. math:: \tfrac12 \Big( \sum_i \ln \hat s_i^2 - 2 \ln \gamma - \ln m \Big)

    Source:
        Dziugaite et al. 2020, the released code's LOG_PROD_OF_SPEC_OVER_MARGIN_FFT; with matrices
        Jiang et al. 2020, eq. 31.

    Raises:
        NotAvailable: without a training sample, or if its low margin or a layer's norm is 0.
    """
    return log_per_sample(_log_product(fft_norms(model), low_margin(model)), model)


@measure
def log_sum_of_spectral_norms_fft(model: Model) -> float:
    r"""Logarithm of the root of a sum of convolutions' squared spectral norms. No unit.

    .. math:: \tfrac12 \Big( \ln d + \frac1d \sum_i \ln \hat s_i^2 - \ln m \Big)

    the product made a sum of its geometric mean, for networks of different depth.

    Source:
        Dziugaite et al. 2020, the released code's LOG_SUM_OF_SPEC_FFT; with matrices
        Jiang et al. 2020, eq. 35.

    Raises:
        NotAvailable: without a training sample, or if all weights of a layer are 0.
    """
    return log_per_sample(_log_sum(fft_norms(model)), model)


@measure
@work(images=ALL)
def log_sum_of_spectral_norms_over_margin_fft(model: Model) -> float:
    r"""`log_sum_of_spectral_norms_fft` of the product over the squared margin. No unit.

    .. math:: \tfrac12 \Big( \ln d + \frac1d \big( \sum_i \ln \hat s_i^2 - 2 \ln \gamma \big)
       - \ln m \Big)

    Source:
        Dziugaite et al. 2020, the released code's LOG_SUM_OF_SPEC_OVER_MARGIN_FFT; with matrices
        Jiang et al. 2020, eq. 34.

    Raises:
        NotAvailable: without a training sample, or if its low margin or a layer's norm is 0.
    """
    return log_per_sample(_log_sum(fft_norms(model), low_margin(model)), model)


@measure
def frobenius_over_spectral_norms_fft(model: Model) -> float:
    r"""Root of the sum of the stable ranks of convolutions as linear maps. No unit.

    .. math:: \sqrt{\frac1m \sum_i f_i^2 / \hat s_i^2}

    Source:
        Dziugaite et al. 2020, the released code's FRO_OVER_SPEC_FFT; with matrices
        Jiang et al. 2020, eq. 33.

    Raises:
        NotAvailable: without a training sample, or if all weights of a layer are 0.
    """
    return per_sample(_ratios(layer_norms(model).frobenius, fft_norms(model)), model)


@measure
@work(images=ALL)
def log_spectral_bound_from_origin_fft(model: Model) -> float:
    r"""Logarithm of the main term of the spectral bound around 0, of convolutions. No unit.

    .. math:: \tfrac12 \Big( \ln \prod_i \hat s_i^2 + \ln \sum_i \frac{f_i^2}{\hat s_i^2}
       - 2 \ln \gamma - \ln m \Big)

    Source:
        Dziugaite et al. 2020, the released code's LOG_SPEC_ORIG_MAIN_FFT; with matrices
        Jiang et al. 2020, eq. 30.

    Raises:
        NotAvailable: without a training sample, or if its low margin or a layer's norm is 0.
    """
    return _log_spectral_bound(model, layer_norms(model).frobenius, fft_norms(model))


@measure
@work(images=ALL)
def log_spectral_bound_from_initialization_fft(model: Model) -> float:
    r"""Logarithm of the main term of the spectral bound around the start, of convolutions. No unit.

    .. math:: \tfrac12 \Big( \ln \prod_i \hat s_i^2
       + \ln \sum_i \frac{c_i^2}{\hat s_i^2} - 2 \ln \gamma - \ln m \Big)

    Source:
        Dziugaite et al. 2020, the released code's LOG_SPEC_INIT_MAIN_FFT; with matrices
        Jiang et al. 2020, eq. 29.

    Raises:
        NotAvailable: without a training sample or initial weights, or if the low margin, a layer's
            norm or all changes are 0.
    """
    return _log_spectral_bound(model, change_norms(model), fft_norms(model))


@once_per_model
def fft_norms(model: Model) -> Tensor:
    """Spectral norms of layers as linear maps at the size of the inputs, (layers,), none 0."""
    return nonzero(fft_spectral_norms(trained(model), input_size(model)))


@once_per_model
def change_norms(model: Model) -> Tensor:
    """Frobenius norms of what training added to the layers' weights, (layers,)."""
    return torch.stack([layer.weight.detach().norm() for layer in weighted_layers(changed(model))])


def _log_product(norms: Tensor, margin: float = 1.0) -> float:
    return float(norms.square().log().sum()) - 2 * math.log(margin)


def _log_sum(norms: Tensor, margin: float = 1.0) -> float:
    return math.log(len(norms)) + _log_product(norms, margin) / len(norms)


def _ratios(norms: Tensor, others: Tensor) -> Tensor:
    return (norms / others).square().sum()


def _log_spectral_bound(model: Model, frobenius: Tensor, spectral: Tensor) -> float:
    ratios = float(_ratios(frobenius, spectral))
    if ratios == 0:
        raise NotAvailable("no weight has left its start: the bound is 0 and has no logarithm")
    return log_per_sample(_log_product(spectral, low_margin(model)) + math.log(ratios), model)
