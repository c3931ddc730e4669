"""What several measures draw from a model's training sample, and keep for one another."""

from collections.abc import Callable
from functools import wraps
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from gengap.measures.stages import seeded
from gengap.model import Model


def drawn_images(model: Model, count: int) -> tuple[Tensor, Tensor]:
    """At most `count` training images and their labels, drawn without replacement, in that order.

    The draw is the same for all models of a sample and on all devices.

    Raises:
        NotAvailable: if the collection has no training sample.
    """
    inputs, labels = model.sample
    order = torch.randperm(len(labels), generator=seeded())
    chosen = order[:count].to(labels.device)
    return inputs[chosen], labels[chosen]


def once_per_model(function: Callable) -> Callable:
    """Keep what a function of a model (and other arguments) returned while the model lives."""
    kept: WeakKeyDictionary[Model, dict] = WeakKeyDictionary()

    @wraps(function)
    def remembering(model: Model, *arguments):
        values = kept.setdefault(model, {})
        if arguments not in values:
            values[arguments] = function(model, *arguments)
        return values[arguments]

    return remembering
