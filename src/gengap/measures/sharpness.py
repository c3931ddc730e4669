"""How far weights can move before the training accuracy falls."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gengap.measures import measure, work
from gengap.measures.shared import drawn_images
from gengap.model import Model

LARGEST = 0.5  # of its own size, what a weight may move by
BISECTIONS = 20
CLOSE_ENOUGH = 0.01  # of the accuracy's fall


@measure
@work(images=27_520, differentiates=True)
def sharpness(model: Model, *, fall: float = 0.1, images: int = 640, steps: int = 10) -> float:
    r"""One over the square of the relative move of weights that costs a tenth of the accuracy.

    .. math:: 1 / m^2 ,

    with :math:`m` such that the training accuracy falls by `fall` when each weight :math:`w` goes
    up the loss within :math:`w \pm m \lvert w \rvert`. It is sought in (0, 0.5] by bisection, until
    the fall is right to 0.01; the measure is at least 4, where no :math:`m` is large enough. No
    unit.

    Source:
        Jiang et al. 2020 (PGDL competition), baseline `sharpness` of its kit, after Keskar et al.
        2017.

    Differs:
        the released code goes *down* the loss, by plain steps of 0.001 times the gradient, which
        hardly leave the weights, and returns m, which predicts a smaller gap. Here each step moves
        each weight by its sign of the gradient and a fixed part of :math:`m \lvert w \rvert`, so
        that the corner of the box can be reached. Accuracy is read on `images` drawn once, the
        gradient on 64 of them a step, in ten steps that read each image once, not twenty; the fall
        is counted from the accuracy of the network, not from 1.

    Raises:
        NotAvailable: if the collection has no training sample.
    """
    inputs, labels = drawn_images(model, images)
    weights = {name: weight.detach() for name, weight in model.network.named_parameters()}
    target = _accuracy(model.network, weights, inputs, labels) - fall

    def excess(bound: float) -> float:
        moved = climbed(model.network, weights, inputs, labels, bound=bound, steps=steps)
        return target - _accuracy(model.network, moved, inputs, labels)

    return 1 / smallest_bound(excess) ** 2


def smallest_bound(excess: Callable[[float], float]) -> float:
    """Where an increasing function crosses 0 in (0, LARGEST], or nearly; LARGEST if nowhere."""
    low, high = 0.0, LARGEST
    if excess(high) <= 0:
        return high
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        value = excess(middle)
        if abs(value) < CLOSE_ENOUGH:
            return middle
        low, high = (low, middle) if value > 0 else (middle, high)
    return high


def climbed(
    network: nn.Module,
    weights: dict[str, Tensor],
    inputs: Tensor,
    labels: Tensor,
    *,
    bound: float,
    steps: int,
    batch: int = 64,
) -> dict[str, Tensor]:
    """The weights after signed steps up the loss, each weight w kept within w +- bound |w|."""
    room = {name: bound * weight.abs() for name, weight in weights.items()}
    moved = weights
    batches = list(zip(inputs.split(batch), labels.split(batch), strict=True))
    for step in range(steps):
        part, classes = batches[step % len(batches)]
        with torch.enable_grad():
            moved = {name: weight.requires_grad_() for name, weight in moved.items()}
            logits = functional_call(network, moved, (part,))
            loss = nn.functional.cross_entropy(logits, classes)
        slopes = torch.autograd.grad(loss, list(moved.values()))
        moved = {
            name: _within(moved[name].detach() + 2.5 / steps * room[name] * slope.sign(), weight, r)
            for (name, weight), slope, r in zip(weights.items(), slopes, room.values(), strict=True)
        }
    return moved


def _within(moved: Tensor, weight: Tensor, room: Tensor) -> Tensor:
    return moved.maximum(weight - room).minimum(weight + room)


@torch.no_grad()
def _accuracy(network: nn.Module, weights: dict[str, Tensor], inputs: Tensor, labels: Tensor):
    parts = zip(inputs.split(64), labels.split(64), strict=True)
    hits = sum(
        int((functional_call(network, weights, (x,)).argmax(1) == y).sum()) for x, y in parts
    )
    return hits / len(labels)
