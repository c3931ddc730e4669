"""Measures of the network's outputs on its training sample."""

from torch import nn

from gengap.measures import measure
from gengap.model import Model


@measure
def training_loss(model: Model) -> float:
    """Mean cross-entropy of the softmax outputs on the training sample. Unit: nats.

    Source: Jiang et al. 2020 (Fantastic Generalization Measures), the cross-entropy that training
    is stopped at; weight decay is no part of it.
    Raises: NotAvailable if the collection has no training sample.
    """
    logits, labels = model.logits.cpu().double(), model.sample[1].cpu()
    return float(nn.functional.cross_entropy(logits, labels))


@measure
def inverse_margin(model: Model, *, quantile: float = 0.1) -> float:
    """One over the squared margin at a low quantile of the training sample.

    1 / gamma^2, gamma the `quantile` of margins (logits, unnormalized). Unit: 1 / logit^2.
    The sign of gamma is lost, as in the paper, which looks only at networks that fit their
    training set. Infinite if gamma is 0.

    Source: Jiang et al. 2020 (Fantastic Generalization Measures), eq. 22. Differs: the paper
    takes the exact order statistic, we interpolate.
    Raises: NotAvailable if the collection has no training sample.
    """
    return float(model.margins.cpu().double().quantile(quantile).square().reciprocal())
