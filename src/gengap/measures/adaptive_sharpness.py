"""How much a loss of normalized logits rises when each weight moves in proportion to its size."""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gengap.errors import NotAvailable
from gengap.measures import measure
from gengap.measures.shared import drawn_images
from gengap.measures.sharpness import climbed
from gengap.measures.stages import seeded
from gengap.measures.tangents import detached
from gengap.model import Model

DRAWS = 20  # of noise
LEAST_SPREAD = 1e-12  # of logits, below which they are equal


@measure
def average_adaptive_sharpness(model: Model, *, rho: float = 0.1, images: int = 250) -> float:
    r"""Mean rise of the loss under Gaussian noise in proportion to each weight. Unit: nats.

    .. math:: \operatorname{mean}_\delta L(w + \delta) - L(w) , \qquad
       \delta_i \sim \mathcal N(0, \rho^2 w_i^2) ,

    with L the cross-entropy of logits that are divided, image by image, by their standard
    deviation, so that no scale of a layer matters. Twenty draws of noise, each on one of five parts
    of `images` training images in turn. Another draw of noise and images moves it by a seventh at
    the median of 15 embedded networks, and by more than its value where that is near 0.

    Source:
        Andriushchenko et al. 2023 (A Modern Look at the Relationship between Sharpness and
        Generalization), average-case, elementwise adaptive, logit-normalized; the scaling after
        Kwon et al. 2021 (ASAM).

    Differs:
        rho is one of the four values that their script tries (0.05 to 0.4); they take 1,024 images
        in batches of 128, with 20 draws each.

    Raises:
        NotAvailable: without a training sample, or where a logit is not finite.
    """
    inputs, labels = drawn_images(model, images)
    parts = list(zip(inputs.tensor_split(5), labels.tensor_split(5)))
    weights = detached(model.network)
    generator = seeded()
    rises = 0.0
    before = [_loss(model.network, weights, *part) for part in parts]
    for draw in range(DRAWS):
        noisy = {
            name: weight * (1 + rho * torch.randn(weight.shape, generator=generator).to(weight))
            for name, weight in weights.items()
        }
        place = draw % len(parts)
        rises += _loss(model.network, noisy, *parts[place]) - before[place]
    return rises / DRAWS


@measure
def worst_adaptive_sharpness(
    model: Model, *, rho: float = 0.002, images: int = 100, steps: int = 3
) -> float:
    r"""Rise of the loss when each weight moves up the loss by at most a part of its size.

    .. math:: \max_{\lvert \delta_i \rvert \le \rho \lvert w_i \rvert} L(w + \delta) - L(w) ,

    with the loss L of `average_adaptive_sharpness` on `images` training images, the maximum sought
    by `steps` steps by the sign of the gradient. Unit: nats. Another draw of images moves it by an
    eighth at the median of 15 embedded networks, and by a quarter at most.

    Source:
        Andriushchenko et al. 2023 (A Modern Look at the Relationship between Sharpness and
        Generalization), worst-case in the maximum norm, elementwise adaptive, logit-normalized; the
        scaling after Kwon et al. 2021 (ASAM).

    Differs:
        rho is one of the four values that their script tries (0.001 to 0.008); they take the mean
        over eight batches of 128 images, and 20 steps with momentum.

    Raises:
        NotAvailable: without a training sample, or where a logit is not finite.
    """
    inputs, labels = drawn_images(model, images)
    weights = detached(model.network)
    before = _loss(model.network, weights, inputs, labels)
    moved = climbed(
        model.network, weights, inputs, labels,
        bound=rho, steps=steps, batch=images, loss=normalized_cross_entropy,
    )  # fmt: skip
    return _loss(model.network, moved, inputs, labels) - before


def normalized_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean cross-entropy of logits (N, K) over their standard deviation, image by image.

    Equal logits stay equal.
    """
    logits = logits.double()
    spread, mean = torch.std_mean(logits, dim=1, correction=0, keepdim=True)
    return nn.functional.cross_entropy((logits - mean) / spread.clamp(min=LEAST_SPREAD), labels)


@torch.no_grad()
def _loss(network: nn.Module, weights: dict, inputs: Tensor, labels: Tensor) -> float:
    found = normalized_cross_entropy(functional_call(network, weights, (inputs,)), labels)
    if not found.isfinite():
        raise NotAvailable("logits of this network are not finite")
    return float(found)
