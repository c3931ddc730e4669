"""Measures of how much the outputs change when inputs or activations do."""

import math

import torch
from torch import Tensor, nn

from gengap.errors import NotAvailable
from gengap.measures import measure, work
from gengap.measures.stages import IMAGES_AT_ONCE, seeded, stage_outputs
from gengap.model import Model

# What a changed prediction costs, by transformation.
PENALTIES = {
    "flipped": 6.0,
    "saturated": 1.0,
    "cropped": 2.0,
    "edges": 3.0,
    "brightened": 1.0,
    "flipped and saturated": 12.0,
    "erased": 2.0,
}
SATURATION = (0.6, 1.6)  # range of the factor
ERASED_AREA = (0.02, 0.4)  # range, as a fraction of the image's area
ERASED_ASPECT = 0.3


@measure
@work(images=528, differentiates=True)
def jacobian_norm(model: Model, *, images: int = 528) -> float:
    r"""Mean squared derivative of a logit by an entry of a stage's input.

    .. math:: \operatorname{mean}_n \operatorname{mean}_t \frac1{K d_t}
       \sum_{k=1}^K \sum_{i=1}^{d_t} \Big( \frac{\partial f_k}{\partial h_{ti}} \Big)^2

    over the :math:`d_t` entries of the input :math:`h_t` of each stage :math:`t`, then over stages,
    over the images of a batch of 16, and over batches. The first 33 batches of the training sample
    are read. Unit: logit² / activation².

    Source:
        Jiang et al. 2020 (PGDL competition), baseline `jacobian_norm` of its kit.

    Raises:
        NotAvailable: if the collection has no training sample.
    """
    inputs = model.sample[0][:images].split(IMAGES_AT_ONCE)
    squares = torch.cat([squared_jacobians(model.network, batch).mean(1) for batch in inputs])
    return float(torch.stack([batch.mean() for batch in squares.split(16)]).mean())


def squared_jacobians(network: nn.Sequential, inputs: Tensor) -> Tensor:
    """Mean square of d logits / d (a stage's input), by image and stage: (N, stages) float64."""
    with torch.enable_grad():
        inputs = inputs.detach().requires_grad_()
        *hidden, logits = stage_outputs(network, inputs).values()
    shape = len(inputs), 1 + len(hidden)
    total = torch.zeros(shape, dtype=torch.float64, device=logits.device)
    for logit in logits.unbind(1):
        rows = torch.autograd.grad(logit.sum(), [inputs, *hidden], retain_graph=True)
        total += torch.stack([row.flatten(1).double().square().mean(1) for row in rows], dim=1)
    return total / logits.shape[1]


@measure
@work(per_class=600)
def mixup_error(model: Model, *, batches: int = 10, per_class: int = 10) -> float:
    r"""Fraction of midpoints between two images of one class that are classified otherwise.

    .. math:: \operatorname{mean}_c \operatorname{mean}_b \operatorname{mean}_{x, x'} \Big[
       \textstyle\operatorname{argmax}_k f_k \big( \frac{x + x'}2 \big) \ne c \Big]

    Of each batch of `per_class` times as many images as there are classes, all pairs within a
    class are averaged; the errors are averaged over batches, then over classes. The training sample
    is read in its order, and again from its start where it ends too early; a batch holds no image
    twice. A fraction in [0, 1].

    Source:
        Natekar and Sharma 2020 (arXiv 2012.02775), label-wise mixup.

    Differs:
        they report the accuracy, 1 minus this. Where a batch has fewer than two images of a class,
        the released code drops the class or returns NaN; here that batch does not count for that
        class.

    Raises:
        NotAvailable: without a training sample, or where no batch has a class twice.
    """
    inputs, labels = model.sample
    classes = int(labels.max()) + 1
    size = min(per_class * classes, len(labels))
    drawn = torch.arange(batches * size, device=labels.device) % len(labels)
    errors = torch.full((batches, classes), math.nan, dtype=torch.float64)
    for row, batch in zip(errors, drawn.split(size), strict=True):
        for label in labels[batch].unique().tolist():
            chosen = inputs[batch[labels[batch] == label]]
            if len(chosen) > 1:
                row[label] = _midpoint_error(model.network, chosen, label)
    if errors.isnan().all():
        raise NotAvailable("no two images of one class in a batch of the training sample")
    by_class = errors.nanmean(dim=0)
    return float(by_class.nanmean())


@torch.no_grad()
def _midpoint_error(network: nn.Sequential, inputs: Tensor, label: int) -> float:
    first, second = torch.triu_indices(len(inputs), len(inputs), offset=1, device=inputs.device)
    wrong = 0
    for one, other in zip(first.split(IMAGES_AT_ONCE), second.split(IMAGES_AT_ONCE)):
        logits = network((inputs[one] + inputs[other]) / 2)
        wrong += int((logits.argmax(1) != label).sum())
    return wrong / len(first)


@measure
@work(images=102_912)
def augmentation_robustness(model: Model, *, images: int = 12_864, batch: int = 64) -> float:
    r"""Mean change of the prediction under seven transformations of an image, summed over them.

    .. math:: \frac1N \sum_{n=1}^N \sum_T \begin{cases}
       \lvert p(T x_n) - p(x_n) \rvert & \text{where the predicted class stays} \\
       c_T & \text{where it changes,} \end{cases}

    with :math:`p` the probability of the predicted class and :math:`c_T` the penalty of the
    transformation (PENALTIES): flip 6, saturation 1, central crop 2, horizontal edges 3, brightness
    1, flip with saturation 12, erasing 2. The first `images` of the training sample are read, and
    one saturation is drawn for a batch. Between 0 (invariant) and 27. No unit.

    Source:
        Aithal, Kashyap and Subramanyam 2021 (arXiv 2101.06459), runner-up of the PGDL competition.

    Differs:
        the released code returns minus the sum over images, which predicts a smaller gap;
        saturation changes only images of three channels.

    Raises:
        NotAvailable: without a training sample of images.
    """
    inputs = model.sample[0][:images]
    if inputs.ndim != 4:
        raise NotAvailable("augmentation_robustness needs images; this sample holds vectors")
    generator = seeded()
    total = sum(_prediction_change(model.network, part, generator) for part in inputs.split(batch))
    return total / len(inputs)


@torch.no_grad()
def _prediction_change(network: nn.Sequential, images: Tensor, generator: torch.Generator) -> float:
    before, predicted = network(images).softmax(1).max(1)
    total = 0.0
    for name, transformed in transformations(images, generator).items():
        after, now = network(transformed).softmax(1).max(1)
        change = (after - before).abs().double()
        total += float(change.where(now == predicted, PENALTIES[name]).sum())
    return total


def transformations(images: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """The images (N, C, H, W) after each of the seven transformations, by its name."""
    low, high = SATURATION
    factors = low + (high - low) * torch.rand(2, generator=generator).to(images)
    flipped = images.flip(-1)
    return {
        "flipped": flipped,
        "saturated": saturated(images, factors[0]),
        "cropped": cropped(images),
        "edges": horizontal_edges(images) / 4 + 0.5,
        "brightened": images + 0.5,
        "flipped and saturated": saturated(flipped, factors[1]),
        "erased": erased(images, generator),
    }


def saturated(images: Tensor, factor: Tensor) -> Tensor:
    """RGB images with their saturation (of hue, saturation, value) times a factor, at most 1."""
    if images.shape[1] != 3:
        return images
    value = images.amax(1, keepdim=True)
    chroma = value - images.amin(1, keepdim=True)
    # Largest channel fixed, the others move: to grey where no channel is positive, as TensorFlow.
    stretch = factor.minimum(value / chroma).where(chroma > 0, 1.0).where(value > 0, 0.0)
    return value - (value - images) * stretch


def cropped(images: Tensor, *, fraction: float = 0.9) -> Tensor:
    """The central part of each side, enlarged again by bilinear interpolation."""
    height, width = images.shape[2:]
    top, left = (int((side - side * fraction) / 2) for side in (height, width))
    centre = images[:, :, top : height - top, left : width - left]
    return nn.functional.interpolate(centre, (height, width), mode="bilinear")


def horizontal_edges(images: Tensor) -> Tensor:
    """Sobel's derivative along a row, of each channel, the border reflected."""
    kernel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]).to(images)
    padded = nn.functional.pad(images, (1, 1, 1, 1), mode="reflect")
    return nn.functional.conv2d(padded.flatten(0, 1)[:, None], kernel[None, None]).view_as(images)


def erased(images: Tensor, generator: torch.Generator) -> Tensor:
    """The images with a random rectangle of zeros each."""
    height, width = images.shape[2:]
    low, high = ERASED_AREA
    shortest = round(math.sqrt(low * height * width * ERASED_ASPECT))
    longest = round(math.sqrt(high * height * width / ERASED_ASPECT))
    rows = _span(height, shortest, longest, len(images), generator)
    columns = _span(width, shortest, longest, len(images), generator)
    inside = (rows[:, :, None] & columns[:, None, :]).to(images.device)
    return images.masked_fill(inside[:, None], 0.0)


def _span(side: int, shortest: int, longest: int, count: int, generator) -> Tensor:
    """Random intervals on a side, (count, side) bool: length below min(longest, side)."""
    draws = torch.rand(2, count, 1, generator=generator)
    lengths = shortest + (draws[0] * (min(longest, side) - shortest)).long()
    starts = (draws[1] * (side - lengths)).long()
    places = torch.arange(side)
    return (places >= starts) & (places < starts + lengths)
