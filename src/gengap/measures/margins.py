"""Measures of the network's outputs on its training sample, and of their distance to a change.

A margin is the true-class logit minus the best other logit. Divided by the norm of its gradient
with respect to a stage's output it is, to first order, the distance of that output to the decision
boundary: a *hidden* margin, negative where the sample is misclassified. Large margins predict a
small gap, so what measures return has the opposite sign.
"""

import math
from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gengap.errors import NotAvailable
from gengap.measures import ALL, measure, work
from gengap.measures.norms import layer_norms, per_sample
from gengap.measures.shared import drawn_images, once_per_model
from gengap.measures.stages import IMAGES_AT_ONCE, has_strides, split_at, stage_outputs
from gengap.model import Model, true_class_margins

IMAGES_PER_CLASS = 200
EPSILON = 1e-6  # of Jiang et al. 2019: inside the root, keeps dead units from dividing by zero
ROUNDING = 1e-5  # variation below this, relative to the size of the activations, is none
# Keras layers counted from 0, in the order in which the released k-variance code tries them.
FIRST = (2, 3, 4, 5)
EIGHTH = (8, 9, 6, 7, 5, 4, 3, 2)


@measure
@work(images=ALL)
def inverse_margin(model: Model) -> float:
    r"""One over the margin at the lowest tenth of the training sample. Unit: 1 / logit.

    .. math:: \sqrt{\frac{1}{m \, \gamma^2}}

    with :math:`\gamma` the `low_margin` and :math:`m` the number of training images.

    Source:
        Jiang et al. 2020 (Fantastic Generalization Measures), eq. 22; with m as in the released
        code of Dziugaite et al. 2020.

    Raises:
        NotAvailable: without a training sample, or if the margin is 0.
    """
    return per_sample(low_margin(model) ** -2, model)


@measure
@work(per_class=200)
def margin(model: Model) -> float:
    r"""Minus the median margin of at most 200 training images a class. Unit: logit.

    .. math:: -\operatorname{median}_n (f_y - f_j)

    Source:
        Chuang et al. 2021 (Measuring Generalization with Optimal Transport), baseline "Margin";
        median, number of images and sign as in the released k-variance code.

    Raises:
        NotAvailable: if the collection has no training sample.
    """
    return -median(drawn_margins(model))


@measure
@work(per_class=200)
def spectrally_normalized_margin(model: Model) -> float:
    r"""Minus the median margin over the network's spectral complexity. Unit: logit / weight^layers.

    .. math:: -\operatorname{median}_n (f_y - f_j) \Bigg/ \prod_i \lVert W_i \rVert_2 \Big( \sum_i
       \big( \lVert W_i^T \rVert_{2,1} / \lVert W_i \rVert_2 \big)^{2/3} \Big)^{3/2} ,

    where :math:`\lVert W^T \rVert_{2,1}` sums the Euclidean norms of the weights of each unit;
    kernels are matrices (out, in * kh * kw), batch norm is folded in, reference matrices are 0,
    activations count as 1-Lipschitz. On the images of `margin`.

    Source:
        Bartlett et al. 2017, eq. 1.2; Chuang et al. 2021, baseline "SN-Margin".

    Differs:
        the size of the inputs, ||X||_2 / n, which all networks of a data set share, is left out.

    Raises:
        NotAvailable: without a training sample, or if all weights of a layer are 0.
    """
    return -median(drawn_margins(model)) / spectral_complexity(model)


@measure
@work(per_class=200, differentiates=True)
def gradient_normalized_margin_first(model: Model) -> float:
    r"""Minus the median hidden margin at the first hidden layer. Unit: of its activations.

    .. math:: -\operatorname{median}_n \gamma_h , \qquad
       \gamma_h = \frac{f_y - f_j}{\sqrt{\lVert \nabla_h (f_y - f_j) \rVert_2^2 + 10^{-6}}} ,

    with :math:`h` the input of the first among the layers 2, 3, 4, 5 (from 0) that has strides; on
    the images of `margin`.

    Source:
        Jiang et al. 2019 (Predicting the Generalization Gap with Margin Distributions); Chuang et
        al. 2021, baseline "GN-Margin 1st"; choice of layer as in its released code.

    Raises:
        NotAvailable: without a training sample or a layer with strides.
    """
    return -median(hidden_margins(model, FIRST).normalized())


@measure
@work(per_class=200, differentiates=True)
def gradient_normalized_margin_eighth(model: Model) -> float:
    """Minus the median hidden margin at the eighth layer. Unit: of its activations.

    The formula of `gradient_normalized_margin_first`, at the first of the layers 8, 9, 6, 7, 5, 4,
    3, 2 that has strides: in a small network both may be the same.

    Source:
        Jiang et al. 2019; Chuang et al. 2021, baseline "GN-Margin 8th"; choice of layer as in its
        released code.

    Raises:
        NotAvailable: without a training sample or a layer with strides.
    """
    return -median(hidden_margins(model, EIGHTH).normalized())


@measure
@work(per_class=200, differentiates=True)
def total_variation_margin_first(model: Model) -> float:
    r"""Minus the median hidden margin at the first hidden layer over its total variation. No unit.

    .. math:: -\operatorname{median}_n \gamma_h \Big/
       \sqrt{\textstyle\sum_u \operatorname{Var}_n h_{nu}}

    over the layer's units :math:`u`, layer and hidden margins as in
    `gradient_normalized_margin_first`.

    Source:
        Jiang et al. 2019, the normalized margin; Chuang et al. 2021, baseline "TV-GN-Margin 1st".

    Differs:
        the released DEMOGEN code divides the total variation by the number of samples once more.

    Raises:
        NotAvailable: without a training sample, a layer with strides, or any variation.
    """
    return gradient_normalized_margin_first(model) / positive_variation(model, FIRST)


@measure
@work(per_class=200, differentiates=True)
def total_variation_margin_eighth(model: Model) -> float:
    """Minus the median hidden margin at the eighth layer over its total variation. No unit.

    The formula of `total_variation_margin_first`, at the layer of
    `gradient_normalized_margin_eighth`.

    Source:
        Jiang et al. 2019, the normalized margin; Chuang et al. 2021, baseline "TV-GN-Margin 8th".

    Differs:
        the released DEMOGEN code divides the total variation by the number of samples once more.

    Raises:
        NotAvailable: without a training sample, a layer with strides, or any variation.
    """
    return gradient_normalized_margin_eighth(model) / positive_variation(model, EIGHTH)


def margin_distribution(
    network: nn.Sequential, inputs: Tensor, labels: Tensor, *, norm: float = 2, epsilon=EPSILON
) -> dict[str, Tensor]:
    """Hidden margins at the inputs and at every stage but the last: {stage: (N,)}, signed.

    inputs (N, ...), labels (N,) int64. norm: of the gradient, 1, 2 or infinity. epsilon: added to
    the sum of squares inside the root for norm 2, to the norm for the others.

    Source:
        Jiang et al. 2019; misclassified samples stay, with negative margins, as in the released
        `margin()`.
    """
    return margin_pass(network, inputs, labels, norm=norm, epsilon=epsilon).margins


def total_variation(network: nn.Sequential, inputs: Tensor) -> dict[str, float]:
    """Root of the summed variances of the units of the inputs and of every stage but the last.

    Population variance over the N samples. Unit: of the activations.

    Source:
        Jiang et al. 2019.

    Differs:
        the released code divides by N once more.
    """
    spreads: dict[str, Spread] = defaultdict(Spread)
    with torch.no_grad():
        for images in inputs.split(IMAGES_AT_ONCE):
            outputs = {"inputs": images} | stage_outputs(network, images)
            for stage in list(outputs)[:-1]:
                spreads[stage].add(outputs[stage])
    return {stage: spread.total_variation for stage, spread in spreads.items()}


@dataclass(frozen=True)
class MarginPass:
    """What one pass over a sample of N images tells of a network."""

    logits: Tensor  # (N,) margins in logits, signed
    margins: dict[str, Tensor]  # by stage, the inputs first, (N,) hidden margins, signed
    total_variation: dict[str, float]  # by stage


def margin_pass(
    network: nn.Sequential, inputs: Tensor, labels: Tensor, *, norm: float = 2, epsilon=EPSILON
) -> MarginPass:
    """What `margin_distribution` and `total_variation` return, with half the forward passes.

    One backward pass for all stages; no more than IMAGES_AT_ONCE images' activations are held at
    once, so that memory grows with N by the returned numbers alone.
    """
    stages = ["inputs", *dict(network.named_children())][:-1]
    # Filled in place: small results between large activations would leave the heap full of holes.
    logits, sizes = inputs.new_empty(len(inputs)), inputs.new_empty(len(stages), len(inputs))
    spreads = {stage: Spread() for stage in stages}
    for start in range(0, len(inputs), IMAGES_AT_ONCE):
        part = slice(start, start + IMAGES_AT_ONCE)
        values, outputs, gradients = gradients_of_margins(network, inputs[part], labels[part])
        logits[part] = values
        for size, stage in zip(sizes, stages):
            size[part] = gradients[stage].flatten(1).norm(norm, dim=1)
            spreads[stage].add(outputs[stage])
    variations = {stage: spread.total_variation for stage, spread in spreads.items()}
    return MarginPass(logits, dict(zip(stages, logits / _padded(sizes, norm, epsilon))), variations)


class Spread:
    """The summed variance of units over samples that come in batches (Chan et al. 1979)."""

    def __init__(self):
        self.count, self.squares = 0, 0.0
        self.mean = torch.zeros((), dtype=torch.float64)

    def add(self, batch: Tensor) -> None:
        """Take in (N, ...) more samples; sums run in float64."""
        batch = batch.detach().flatten(1)
        mean, count = batch.mean(dim=0, dtype=torch.float64), self.count + len(batch)
        # Near their mean the samples' own precision is exact, and four times as fast as float64.
        center = mean.to(batch.dtype)
        within = torch.linalg.vector_norm(batch - center, dtype=torch.float64).square()
        rounding = (mean - center).square().sum() * len(batch)
        difference = mean - self.mean
        between = difference.square().sum() * self.count * len(batch) / count
        self.squares += max(float(within - rounding + between), 0.0)
        self.mean = self.mean + difference * len(batch) / count
        self.count = count

    @property
    def total_variation(self) -> float:
        return math.sqrt(self.squares / self.count)


def gradients_of_margins(
    network: nn.Sequential, inputs: Tensor, labels: Tensor
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Margins (N,), then outputs and gradients of the margins by stage, each (N, ...).

    Stages are the inputs of `network`, "inputs", and every stage but the last.
    """
    with torch.enable_grad():
        start = inputs.detach().requires_grad_()
        outputs = {"inputs": start} | stage_outputs(network, start)
        *stages, last = outputs
        margins = true_class_margins(outputs.pop(last), labels)
        gradients = torch.autograd.grad(margins.sum(), [outputs[stage] for stage in stages])
    return margins.detach(), outputs, dict(zip(stages, gradients))


def low_margin(model: Model) -> float:
    r"""The size of the margin that a tenth of the sample do not exceed, in logits.

    .. math:: \gamma = \lvert \gamma_{(k)} \rvert , \qquad k = \max(1, \lfloor N / 10 \rfloor) ,

    of the :math:`N` margins :math:`f_y - f_j` in ascending order. Its sign is lost, as in the
    paper, which looks only at networks that fit their training set.

    Source:
        Jiang et al. 2020, section 6.1; the order statistic as in the released code of Dziugaite et
        al. 2020.

    Differs:
        after folding, the released code leaves batch norms in place that divide by
        :math:`\sqrt{1 + \epsilon}`.

    Raises:
        NotAvailable: without a training sample, or if the margin is 0.
    """
    margins = model.margins.cpu().double()
    margin = abs(float(margins.kthvalue(max(1, len(margins) // 10)).values))
    if margin == 0:
        raise NotAvailable("the margin at the lowest tenth of the sample is 0: it has no inverse")
    return margin


def median(values: Tensor) -> float:
    """The middle value, or the mean of the two in the middle."""
    return float(values.double().quantile(0.5))


@dataclass(frozen=True)
class HiddenMargins:
    """What the gradient measures of one layer share; float64 on the CPU."""

    labels: Tensor  # (n,)
    margins: Tensor  # (n,) in logits
    gradient_norms: Tensor  # (n,) Euclidean, of the margin with respect to the layer's input
    total_variation: float  # of the layer's input; 0 if that is the same for all images

    def normalized(self) -> Tensor:
        """Hidden margins, (n,)."""
        return self.margins / _padded(self.gradient_norms, 2, EPSILON)


@once_per_model
def hidden_margins(model: Model, places: tuple[int, ...]) -> HiddenMargins:
    """Margins and gradient norms of the drawn images at the first of `places` with strides."""
    place = strided_place(model.network, places)
    below, above = split_at(model.network, place)
    images, labels = class_sized_draw(model)
    margins, norms, spread = [], [], Spread()
    for inputs, classes in zip(images.split(IMAGES_AT_ONCE), labels.split(IMAGES_AT_ONCE)):
        with torch.no_grad():
            hidden = below(inputs)
        values, _, gradients = gradients_of_margins(above, hidden, classes)
        margins.append(values)
        norms.append(gradients["inputs"].flatten(1).norm(dim=1))
        spread.add(hidden)
    signed, lengths = (torch.cat(parts).cpu().double() for parts in (margins, norms))
    variation = spread.total_variation
    varies = variation > ROUNDING * float(spread.mean.norm())
    return HiddenMargins(labels.cpu(), signed, lengths, variation if varies else 0.0)


@once_per_model
def drawn_margins(model: Model) -> Tensor:
    """Margins of the drawn images, (n,) float64 on the CPU."""
    images, labels = class_sized_draw(model)
    with torch.no_grad():
        logits = torch.cat([model.network(batch) for batch in images.split(IMAGES_AT_ONCE)])
    return true_class_margins(logits, labels).cpu().double()


def spectral_complexity(model: Model) -> float:
    """What `spectrally_normalized_margin` divides by. Unit: weight^layers.

    Raises:
        NotAvailable: if all weights of a layer are 0.
    """
    norms = layer_norms(model)
    ratios = (norms.units / norms.spectral).pow(2 / 3)
    return float(norms.spectral.prod() * ratios.sum().pow(3 / 2))


def class_sized_draw(model: Model) -> tuple[Tensor, Tensor]:
    """At most IMAGES_PER_CLASS images for each class, not necessarily as many of each."""
    return drawn_images(model, IMAGES_PER_CLASS * (int(model.sample[1].max()) + 1))


def strided_place(network: nn.Sequential, places: tuple[int, ...]) -> int:
    """The first of these places, from 0, at which a stage has strides: it convolves or pools.

    Raises:
        NotAvailable: if none has.
    """
    stages = list(network)
    for place in places:
        if place < len(stages) and has_strides(stages[place]):
            return place
    raise NotAvailable(f"no convolution or pooling among the stages {sorted(places)} (from 0)")


def positive_variation(model: Model, places: tuple[int, ...]) -> float:
    """The total variation of the layer at `places`; NotAvailable if it does not vary."""
    variation = hidden_margins(model, places).total_variation
    if variation == 0:
        raise NotAvailable("the layer's activations are the same for all images")
    return variation


def _padded(norms: Tensor, norm: float, epsilon: float) -> Tensor:
    return (norms.square() + epsilon).sqrt() if norm == 2 else norms + epsilon
