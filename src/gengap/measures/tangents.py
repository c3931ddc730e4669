"""Derivatives by the weights, image by image: what measures of curvature and noise share."""

import copy

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, vmap

from gengap.errors import NotAvailable
from gengap.measures.shared import drawn_images, once_per_model
from gengap.model import Model

TANGENT_IMAGES = 50  # of which the logits are derived: 2.5 GB in a network of 1.2 million weights
GRADIENT_IMAGES = 500
AT_ONCE = 50  # images whose gradients are held at once


def detached(network: nn.Sequential) -> dict[str, Tensor]:
    """The parameters by name, apart from any graph."""
    return {name: weight.detach() for name, weight in network.named_parameters()}


def in_double(network: nn.Sequential) -> nn.Sequential:
    """A copy of the network in float64, for differences that rounding in float32 would drown."""
    return copy.deepcopy(network).double().requires_grad_()


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """Losses (N,) of logits (N, K), whose derivatives keep their digits where the loss is small."""
    columns = labels.unsqueeze(1)
    others = (logits - logits.gather(1, columns)).scatter(1, columns, -torch.inf)
    return nn.functional.softplus(others.logsumexp(1))


def odds(logits: Tensor) -> tuple[Tensor, Tensor]:
    r"""Factors of the loss's second derivative by the logits, and the largest logit, (N,).

    .. math:: F^\top F = \operatorname{diag}(p) - p p^\top , \qquad
       F_{kl} = \sqrt{p_k} \, (\delta_{kl} - p_l) \quad (N, K, K) .

    The column of the largest logit is left out (0): the factors multiply logits *minus the
    largest* (`leads`), so that nothing cancels where one probability is almost 1.
    """
    top = logits.argmax(dim=1)
    chances = logits.double().softmax(dim=1)
    minus = chances.scatter(1, top.unsqueeze(1), 0.0)
    ones = torch.eye(logits.shape[1], dtype=torch.float64, device=logits.device)
    kept = ones * (1 - ones[top]).unsqueeze(1)
    return chances.sqrt().unsqueeze(2) * (kept - minus.unsqueeze(1)), top


def leads(logits: Tensor, top: Tensor) -> Tensor:
    """Logits (N, K) minus the one at `top` (N,), and at `top` that logit itself."""
    largest = logits.gather(1, top.unsqueeze(1))
    return (logits - largest).scatter(1, top.unsqueeze(1), largest)


@torch.no_grad()
def lead_gradients(network: nn.Sequential, weights: dict, images: Tensor, top: Tensor) -> dict:
    """Derivatives of the `leads` of each image by some of the weights: (N, K, *shape) by name."""

    def of_one(chosen: dict, image: Tensor, largest: Tensor) -> Tensor:
        logits = functional_call(network, chosen, (image.unsqueeze(0),))
        return leads(logits, largest.unsqueeze(0)).squeeze(0)

    return vmap(jacrev(of_one), (None, 0, 0), chunk_size=AT_ONCE)(weights, images, top)


@once_per_model
def tangent_kernel(model: Model) -> tuple[Tensor, Tensor, Tensor]:
    """Inner products of the `leads`' gradients on TANGENT_IMAGES images; factors, largest logits.

    (N, K, N, K) and the two of `odds`, float64.

    Raises:
        NotAvailable: without a training sample, or where a derivative is not finite.
    """
    images, _ = drawn_images(model, TANGENT_IMAGES)
    with torch.no_grad():
        factors, top = odds(model.network(images))
    rows = len(images) * factors.shape[1]
    products = torch.zeros(rows, rows, dtype=torch.float64, device=images.device)
    for gradients in lead_gradients(model.network, detached(model.network), images, top).values():
        flat = gradients.reshape(rows, -1)
        products += flat @ flat.T
    if not (products.isfinite().all() and factors.isfinite().all()):
        raise NotAvailable("derivatives of this network's logits are not finite")
    return products.view(*factors.shape[:2], *factors.shape[:2]), factors, top


@once_per_model
def gradient_moments(model: Model) -> tuple[Tensor, Tensor]:
    """Mean and variance, over GRADIENT_IMAGES images, of each weight's gradient: (P,) float64.

    The gradient is that of an image's cross-entropy; the variance is the unbiased one.

    Raises:
        NotAvailable: without a training sample of two images, or if a gradient is not finite.
    """
    images, labels = drawn_images(model, GRADIENT_IMAGES)
    weights = detached(model.network)

    def loss(chosen: dict, image: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(model.network, chosen, (image.unsqueeze(0),))
        return cross_entropies(logits, label.unsqueeze(0)).squeeze(0)

    total = squares = torch.zeros((), dtype=torch.float64, device=images.device)
    for part, classes in zip(images.split(AT_ONCE), labels.split(AT_ONCE)):
        found = vmap(grad(loss), (None, 0, 0))(weights, part, classes)
        gradients = torch.cat([each.flatten(1) for each in found.values()], dim=1).double()
        total, squares = total + gradients.sum(0), squares + gradients.square().sum(0)
    count = len(images)
    mean = total / count
    variance = (squares - count * mean.square()).clamp(min=0) / max(count - 1, 1)
    if count < 2 or not variance.isfinite().all():
        raise NotAvailable("the variance of gradients needs two images and finite gradients")
    return mean, variance
