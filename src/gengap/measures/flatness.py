"""Measures of how far the weights may move: PAC-Bayes noise, and the Fisher-Rao norm.

A sigma is a standard deviation, everywhere.
"""

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

from gengap.measures import measure, work
from gengap.measures.folding import folded
from gengap.measures.norms import changed, layer_weights, per_sample, squared_norm, trained
from gengap.measures.shared import drawn_images, once_per_model
from gengap.measures.stages import IMAGES_AT_ONCE
from gengap.model import Model

LARGEST_SIGMA = 2.0
DEPTH = 15  # bisections at most: sigma to 6e-5
DRAWS = 10  # of noise
IMAGES_PER_DRAW = 50
ACCURACY_CHANGE, TOLERANCE = 0.1, 0.01
MAGNITUDE_EPSILON = 1e-3
FISHER_IMAGES = 1000

# (sigma, weight) -> the noise's standard deviation, for all of the weight or for each element.
Deviation = Callable[[float, Tensor], float | Tensor]


@measure
@work(images=8_000)
def pac_bayes_flatness(model: Model) -> float:
    r"""One over the standard deviation of weight noise that the network bears. Unit: 1 / weight.

    .. math:: \sqrt{\frac{1}{m \, \sigma^2}} ,

    with the :math:`\sigma` of `pac_bayes_sigma`, which is at most 2 and at least 6e-5.

    Source:
        Jiang et al. 2020 (Fantastic Generalization Measures), eq. 53; with m as in the released
        code of Dziugaite et al. 2020.

    Raises:
        NotAvailable: if the collection has no training sample.
    """
    return per_sample(pac_bayes_sigma(model) ** -2, model)


@measure
@work(images=8_000)
def pac_bayes_bound_from_initialization(model: Model) -> float:
    r"""PAC-Bayes bound around the initial weights. No unit.

    .. math:: \sqrt{\frac1m \Big( \frac{\lVert w - w^0 \rVert_2^2}{4 \sigma^2}
       + \ln \frac{m}{\sigma} + 10 \Big)}

    of the weights :math:`w` of layers, batch norm folded in, with the :math:`\sigma` of
    `pac_bayes_sigma`.

    Source:
        Jiang et al. 2020 (Fantastic Generalization Measures), eq. 48; with m as in the released
        code of Dziugaite et al. 2020.

    Raises:
        NotAvailable: without a training sample or initial weights.
    """
    squared = squared_norm([layer_weights(changed(model))])
    return float(pac_bayes_bound(squared, pac_bayes_sigma(model), model.sample_size))


@measure
@work(images=8_000)
def pac_bayes_bound_from_origin(model: Model) -> float:
    r"""PAC-Bayes bound around 0. No unit.

    .. math:: \sqrt{\frac1m \Big( \frac{\lVert w \rVert_2^2}{4 \sigma^2}
       + \ln \frac{m}{\sigma} + 10 \Big)}

    as `pac_bayes_bound_from_initialization`.

    Source:
        Jiang et al. 2020 (Fantastic Generalization Measures), eq. 49; with m as in the released
        code of Dziugaite et al. 2020.

    Raises:
        NotAvailable: if the collection has no training sample.
    """
    squared = squared_norm([layer_weights(trained(model))])
    return float(pac_bayes_bound(squared, pac_bayes_sigma(model), model.sample_size))


@measure
@work(images=8_000)
def pac_bayes_magnitude_flatness(model: Model) -> float:
    r"""One over the noise, in units of each weight's magnitude, that the network bears. No unit.

    .. math:: \sqrt{\frac{1}{m \, \sigma^2}} ,

    with the :math:`\sigma` of `pac_bayes_magnitude_sigma`, which is at most 2 and at least 6e-5.

    Source:
        Jiang et al. 2020 (Fantastic Generalization Measures), eq. 61; with m as in the released
        code of Dziugaite et al. 2020.

    Raises:
        NotAvailable: if the collection has no training sample.
    """
    return per_sample(pac_bayes_magnitude_sigma(model) ** -2, model)


@measure
@work(images=8_000)
def pac_bayes_magnitude_bound_from_initialization(model: Model) -> float:
    r"""Magnitude-aware PAC-Bayes bound around the initial weights. No unit.

    .. math:: \sqrt{\frac1m \Big( \frac14 \sum_{j=1}^\omega \ln
       \frac{\epsilon^2 + (\sigma^2 + 1) \lVert w - w^0 \rVert_2^2 / \omega}
       {\epsilon^2 + \sigma^2 (w_j - w^0_j)^2} + \ln \frac{m}{\sigma} + 10 \Big)}

    of the :math:`\omega` weights of layers, batch norm folded in, with the :math:`\sigma` of
    `pac_bayes_magnitude_sigma` and :math:`\epsilon = 10^{-3}`.

    Source:
        Jiang et al. 2020 (Fantastic Generalization Measures), eq. 56; with m as in the released
        code of Dziugaite et al. 2020.

    Raises:
        NotAvailable: without a training sample or initial weights.
    """
    change = layer_weights(changed(model))
    return pac_bayes_magnitude_bound(model, change, change, pac_bayes_magnitude_sigma(model))


@measure
@work(images=8_000)
def pac_bayes_magnitude_bound_from_origin(model: Model) -> float:
    r"""Magnitude-aware PAC-Bayes bound around 0. No unit.

    .. math:: \sqrt{\frac1m \Big( \frac14 \sum_{j=1}^\omega \ln
       \frac{\epsilon^2 + (\sigma^2 + 1) \lVert w \rVert_2^2 / \omega}
       {\epsilon^2 + \sigma^2 (w_j - w^0_j)^2} + \ln \frac{m}{\sigma} + 10 \Big)}

    as `pac_bayes_magnitude_bound_from_initialization`; as released, the distances from the start
    stay below the line.

    Source:
        Jiang et al. 2020 (Fantastic Generalization Measures), eq. 57; with m as in the released
        code of Dziugaite et al. 2020.

    Raises:
        NotAvailable: without a training sample or initial weights, or if the sum is negative.
    """
    weights, change = layer_weights(trained(model)), layer_weights(changed(model))
    return pac_bayes_magnitude_bound(model, weights, change, pac_bayes_magnitude_sigma(model))


@measure
@work(images=1_000, differentiates=True)
def fisher_rao(model: Model) -> float:
    r"""Fisher-Rao norm: the mean squared derivative of the loss along the weights. Unit: nats².

    .. math:: \frac1N \sum_{n=1}^N \langle \theta, \nabla_\theta \ell(x_n, y_n) \rangle^2

    over at most 1,000 training images and their labels, :math:`\ell` the cross-entropy of each; one
    forward-mode derivative gives all products at once.

    Source:
        Liang et al. 2019 (Fisher-Rao Metric, Geometry, and Complexity of Neural Networks).

    Raises:
        NotAvailable: if the collection has no training sample.
    """
    images, labels = drawn_images(model, FISHER_IMAGES)
    parts = zip(images.split(IMAGES_AT_ONCE), labels.split(IMAGES_AT_ONCE))
    slopes = [loss_slopes(model.network, inputs, classes) for inputs, classes in parts]
    return float(torch.cat(slopes).square().mean())


def pac_bayes_bound(squared_norm: float, sigma: float, images: int) -> float:
    """The bound of `pac_bayes_bound_from_initialization`; of arrays too.

    squared_norm: of the weights less where the bound is centred.
    """
    return np.sqrt((squared_norm / (4 * sigma**2) + np.log(images / sigma) + 10) / images)


def pac_bayes_magnitude_bound(model: Model, moved: Tensor, change: Tensor, sigma: float) -> float:
    """The bound of `pac_bayes_magnitude_bound_from_initialization`.

    moved: the weights less where the bound is centred; change: less their start.
    """
    above = MAGNITUDE_EPSILON**2 + (sigma**2 + 1) * moved.square().mean()
    below = MAGNITUDE_EPSILON**2 + sigma**2 * change.square()
    divergence = float((above / below).log().sum()) / 4
    return per_sample(divergence + math.log(model.sample_size / sigma) + 10, model)


@once_per_model
def pac_bayes_sigma(model: Model) -> float:
    r"""The standard deviation of Gaussian noise on all weights that changes accuracy by 0.1.

    .. math:: \lvert \operatorname{mean}_u \operatorname{accuracy}(w + u)
       - \operatorname{accuracy}(w) \rvert = 0.1 , \qquad u_i \sim \mathcal N(0, \sigma^2) .

    The mean is over ten draws of noise, the change right to 0.01, or as near as 15 bisections of
    [0, 2] come; batch norm is folded in. Each draw is tried on its own 50 training images.

    Source:
        Jiang et al. 2020, appendix; constants as in the released code of Dziugaite et al. 2020.

    Differs:
        the code passes sigma^2 where a standard deviation is meant, draws new noise at each
        bisection, tries each draw on all training images, and lets noise also reach the scales and
        shifts of batch norms that are folded in.

    Raises:
        NotAvailable: if the collection has no training sample.
    """
    return _bisected_sigma(model, lambda sigma, weight: sigma)


@once_per_model
def pac_bayes_magnitude_sigma(model: Model) -> float:
    r"""The noise as a multiple of each weight's size that changes accuracy by 0.1.

    As `pac_bayes_sigma`, with :math:`u_i \sim \mathcal N(0, \sigma^2 w_i^2 + 10^{-6})`.

    Source:
        Jiang et al. 2020, appendix; constants as in the released code of Dziugaite et al. 2020.

    Differs:
        As `pac_bayes_sigma` does, and the code's standard deviation is the square of this.

    Raises:
        NotAvailable: if the collection has no training sample.
    """

    def deviation(sigma: float, weight: Tensor) -> Tensor:
        return (weight.square() * sigma**2 + MAGNITUDE_EPSILON**2).sqrt()

    return _bisected_sigma(model, deviation)


def loss_slopes(network: nn.Sequential, inputs: Tensor, labels: Tensor) -> Tensor:
    """<theta, grad loss> of each sample, (N,) float64, theta all parameters of the network."""
    theta = {name: weight.detach() for name, weight in network.named_parameters()}
    logits, slopes, *_ = jvp(lambda at: functional_call(network, at, (inputs,)), (theta,), (theta,))
    logits, slopes, columns = logits.double(), slopes.double(), labels.unsqueeze(1)
    # softmax - one-hot, written so that a sample that is fitted well keeps its digits
    others = logits.softmax(dim=1).scatter(1, columns, 0.0)
    return (others * (slopes - slopes.gather(1, columns))).sum(dim=1)


@torch.no_grad()
def _bisected_sigma(model: Model, deviation: Deviation) -> float:
    network = folded(model.network)
    images, labels = drawn_images(model, DRAWS * IMAGES_PER_DRAW)
    parts = list(zip(images.tensor_split(DRAWS), labels.tensor_split(DRAWS)))
    accuracy = _correct((network(inputs), classes) for inputs, classes in parts) / len(labels)
    low, high = 0.0, LARGEST_SIGMA
    for _ in range(DEPTH):
        sigma = (low + high) / 2
        perturbed = _perturbed_correct(network, parts, sigma, deviation) / len(labels)
        excess = abs(perturbed - accuracy) - ACCURACY_CHANGE
        if abs(excess) < TOLERANCE:
            break
        low, high = (low, sigma) if excess > 0 else (sigma, high)
    return sigma


def _perturbed_correct(
    network: nn.Sequential, parts: list, sigma: float, deviation: Deviation
) -> int:
    """Correct answers with one draw of noise for each part; the same draws for every sigma."""

    def answers():
        for draw, (inputs, labels) in enumerate(parts):
            generator = torch.Generator().manual_seed(draw)
            noisy = {}
            for name, weight in network.named_parameters():
                noise = torch.randn(weight.shape, generator=generator).to(weight)
                noisy[name] = weight + noise * deviation(sigma, weight)
            yield functional_call(network, noisy, (inputs,)), labels

    return _correct(answers())


def _correct(answers: Iterable[tuple[Tensor, Tensor]]) -> int:
    return sum(int((logits.argmax(dim=1) == labels).sum()) for logits, labels in answers)
