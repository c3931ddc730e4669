"""Margins at the first layer on images that were mixed or augmented."""

import torch
from scipy.stats import trim_mean
from torch import Tensor, nn

from gengap.errors import NotAvailable
from gengap.measures import measure, work
from gengap.measures.margins import gradients_of_margins
from gengap.measures.shared import drawn_images
from gengap.measures.stages import IMAGES_AT_ONCE, seeded, split_at
from gengap.model import Model

IMAGES = 500
EPSILON = 1e-7  # of the released code: added to what is divided by
TRIMMED = 0.05  # of the units' variances, at each end


@measure
@work(images=500, differentiates=True)
def mixup_margin(model: Model) -> float:
    r"""Minus the mean margin at the first layer on means of two images of one class. No unit.

    .. math:: -\frac1s \operatorname{mean}_n
       \frac{f_y - f_j}{\lVert \nabla_h (f_y - f_j) \rVert_2 + 10^{-7}} , \qquad
       s = \sqrt{\operatorname{trim}_u \operatorname{Var}_n h_{nu}} + 10^{-7} ,

    with :math:`h` the output of the first convolution or dense layer and
    :math:`\operatorname{trim}` the mean over its units without the 5 % at either end. On 500
    training images, each averaged with another of its class among the same 50 (or itself).

    Source:
        Natekar & Sharma 2020 (Representation Based Complexity Measures), mixup margin, and its
        released code; misclassified images stay, with negative margins.

    Raises:
        NotAvailable: if the collection has no training sample.
    """
    generator = seeded()
    return _score(model, lambda images, labels: mixed_within_classes(images, labels, generator))


@measure
@work(images=500, differentiates=True)
def augmented_margin(model: Model) -> float:
    """Minus the mean margin at the first layer on augmented images. No unit.

    The formula of `mixup_margin`, on 500 training images that are flipped, coloured and zoomed at
    random (`augmented`).

    Source:
        Natekar & Sharma 2020 (Representation Based Complexity Measures), augmented margin, and its
        released code.

    Raises:
        NotAvailable: without a training sample, or if it does not hold images.
    """
    if model.sample[0].ndim != 4:
        raise NotAvailable("augmentation needs images (N, C, H, W)")
    generator = seeded()
    return _score(model, lambda images, labels: augmented(images, generator))


def mixed_within_classes(images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """Each image averaged with one of its class; over a class the partners are a permutation."""
    partners = torch.arange(len(labels))
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().squeeze(1).cpu()
        partners[members] = members[torch.randperm(len(members), generator=generator)]
    return (images + images[partners.to(images.device)]) / 2


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (N, C, H, W), each changed at random and on its own.

    Flipped left to right, half of them; hue turned by up to 0.05 of the circle and saturation
    times 0.6 to 1.2, if there are three channels; up to 0.05 added; contrast times 0.7 to 1.0;
    zoomed in to 0.85 to 0.99 of the sides, half of them.

    Source:
        the released code of Natekar & Sharma 2020.

    Differs:
        the hue is turned around the grey axis and saturation is not clipped, so that pixels need
        not be in [0, 1].
    """

    def uniform(low: float, high: float) -> Tensor:
        draw = torch.rand(len(images), 1, 1, 1, generator=generator)
        return (low + (high - low) * draw).to(images)

    images = torch.where(uniform(0, 1) < 0.5, images.flip(3), images)
    turn, saturation, lift, contrast = (
        uniform(*ends) for ends in ((-0.05, 0.05), (0.6, 1.2), (-0.05, 0.05), (0.7, 1.0))
    )
    if images.shape[1] == 3:
        images = _turned(images, 2 * torch.pi * turn)
        brightest = images.amax(dim=1, keepdim=True)
        images = brightest - (brightest - images) * saturation
    images = images + lift
    mean = images.mean(dim=(2, 3), keepdim=True)
    images = mean + (images - mean) * contrast
    scale = 0.85 + 0.01 * (15 * uniform(0, 1)).floor()
    return _zoomed(images, torch.where(uniform(0, 1) < 0.5, scale, 1.0).flatten())


def _turned(images: Tensor, angle: Tensor) -> Tensor:
    """Colours (N, 3, H, W) rotated around the grey axis by angles (N, 1, 1, 1), in radians."""
    grey = images.mean(dim=1, keepdim=True)
    across = (images.roll(1, dims=1) - images.roll(2, dims=1)) / 3**0.5  # axis x colour
    return grey + (images - grey) * angle.cos() + across * angle.sin()


def _zoomed(images: Tensor, scale: Tensor) -> Tensor:
    """The middle `scale` (N,) of the sides of each image, bilinearly brought to full size."""
    maps = torch.zeros(len(images), 2, 3).to(images)
    maps[:, 0, 0] = maps[:, 1, 1] = scale
    grid = nn.functional.affine_grid(maps, list(images.shape), align_corners=True)
    return nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=True)


def _score(model: Model, change) -> float:
    images, labels = drawn_images(model, IMAGES)
    below, above = split_at(model.network, _first_weights(model.network))
    distances, activations = [], []
    for inputs, classes in zip(images.split(IMAGES_AT_ONCE), labels.split(IMAGES_AT_ONCE)):
        with torch.no_grad():
            hidden = below(change(inputs, classes))
        margins, _, gradients = gradients_of_margins(above, hidden, classes)
        norms = gradients["inputs"].flatten(1).norm(dim=1)
        distances.append(margins.double() / (norms.double() + EPSILON))
        activations.append(hidden.flatten(1))
    variances = torch.cat(activations).double().var(dim=0, correction=0).cpu().numpy()
    scale = trim_mean(variances, TRIMMED) ** 0.5 + EPSILON
    return -float(torch.cat(distances).mean()) / float(scale)


def _first_weights(network: nn.Sequential) -> int:
    """The number of stages up to and with the first that convolves or multiplies by weights."""
    layers = nn.Conv2d | nn.Linear
    for place, stage in enumerate(network, start=1):
        if any(isinstance(module, layers) for module in stage.modules()) and place < len(network):
            return place
    raise NotAvailable("no convolution or dense layer below the logits")
