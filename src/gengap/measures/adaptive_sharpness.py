"""How much a loss of normalized logits rises when each weight moves in proportion to its size."""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gengap.errors import NotAvailable
from gengap.measures import measure, work
from gengap.measures.shared import drawn_images
from gengap.measures.sharpness import climbed
from gengap.measures.stages import seeded
from gengap.measures.tangents import detached, in_double
from gengap.model import Model

DIRECTIONS = 10  # of noise, each to either side
PARTS = 5  # of the images
LEAST_NORM = 1e-10  # of logits, below which they are equal


@measure
@work(images=750)
def average_adaptive_sharpness(model: Model, *, rho: float = 0.1, images: int = 150) -> float:
    r"""Mean rise of the loss under Gaussian noise in proportion to each weight. Unit: nats.

    .. math:: \operatorname{mean}_\delta L(w + \delta) - L(w) , \qquad
       \delta_i \sim \mathcal N(0, \rho^2 w_i^2) ,

    with L the cross-entropy of logits that are divided, image by image, by their norm (less their
    mean), so that no scale of a layer matters. Ten directions of noise, each also the other way
    round, so that the slope of the loss cancels; each on one of five parts of `images` training
    images in turn. In float64, for the rises are small beside the loss. Another draw of noise and
    images moves it by 0.15 of its value at the median of 46 embedded networks, and by less than 0.6
    in nine of ten.

    Source:
        Andriushchenko et al. 2023 (A Modern Look at the Relationship between Sharpness and
        Generalization), average-case, elementwise adaptive, logit-normalized; the scaling after
        Kwon et al. 2021 (ASAM).

    Differs:
        rho is one of the four values that their script tries on CIFAR-10 (0.05 to 0.4), with 1,024
        images in batches of 128, 20 draws each, and no opposite ones. Logits are divided by their
        norm as in the released code.

    Raises:
        NotAvailable: without a training sample, or where a logit is not finite.
    """
    inputs, labels = drawn_images(model, images)
    parts = list(zip(inputs.double().tensor_split(PARTS), labels.tensor_split(PARTS)))
    network = in_double(nn.Sequential(model.network, NormalizedLogits()))
    weights, generator = detached(network), seeded()
    before = [_loss(network, weights, *part) for part in parts]
    rises = 0.0
    for direction in range(DIRECTIONS):
        place = direction % PARTS
        noise = {name: torch.randn(w.shape, generator=generator) for name, w in weights.items()}
        for size in (rho, -rho):
            noisy = {name: w * (1 + size * noise[name].to(w)) for name, w in weights.items()}
            rises += _loss(network, noisy, *parts[place]) - before[place]
    return rises / (2 * DIRECTIONS)


@measure
@work(images=500, differentiates=True)
def worst_adaptive_sharpness(
    model: Model, *, rho: float = 0.002, images: int = 100, steps: int = 3
) -> float:
    r"""Rise of the loss when each weight moves up the loss by at most a part of its size.

    .. math:: \max_{\lvert \delta_i \rvert \le \rho \lvert w_i \rvert} L(w + \delta) - L(w) ,

    with the loss L of `average_adaptive_sharpness` on `images` training images, the maximum sought
    by `steps` steps by the sign of the gradient. Unit: nats. Another draw of images moves it by
    0.12 of its value at the median of 46 embedded networks, and by less than 0.4 in nine of ten.

    Source:
        Andriushchenko et al. 2023 (A Modern Look at the Relationship between Sharpness and
        Generalization), worst-case in the maximum norm, elementwise adaptive, logit-normalized; the
        scaling after Kwon et al. 2021 (ASAM).

    Differs:
        rho is one of the four values that their script tries on CIFAR-10 (0.001 to 0.008), as the
        mean over eight batches of 128 images, with 20 steps with momentum.

    Raises:
        NotAvailable: without a training sample, or where a logit is not finite.
    """
    inputs, labels = drawn_images(model, images)
    network = nn.Sequential(model.network, NormalizedLogits())
    weights = detached(network)
    moved = climbed(network, weights, inputs, labels, bound=rho, steps=steps, batch=images)
    exact, inputs = in_double(network), inputs.double()
    after, before = (
        _loss(exact, {name: weight.double() for name, weight in state.items()}, inputs, labels)
        for state in (moved, weights)
    )
    return after - before


class NormalizedLogits(nn.Module):
    """Logits (N, K) less their mean, over their Euclidean norm, image by image."""

    def forward(self, logits: Tensor) -> Tensor:
        centred = logits.double() - logits.double().mean(dim=1, keepdim=True)
        return centred / centred.norm(dim=1, keepdim=True).clamp(min=LEAST_NORM)


@torch.no_grad()
def _loss(network: nn.Module, weights: dict, inputs: Tensor, labels: Tensor) -> float:
    found = nn.functional.cross_entropy(functional_call(network, weights, (inputs,)), labels)
    if not found.isfinite():
        raise NotAvailable("logits of this network are not finite")
    return float(found)
