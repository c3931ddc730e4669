"""One trained network at one checkpoint, with what measures of it share."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from pandas import DataFrame, Series
from torch import Tensor, nn

from gengap.errors import NotAvailable

# Images a forward pass takes at once: 1.5 GB at width 512 and 32 x 32 pixels, and half the time of
# 1,000 in the small networks of the replicas. The same everywhere, so that values do not depend on
# how much memory a machine has.
BATCH = 250


def no_sample() -> tuple[Tensor, Tensor]:
    """What a model made without a training sample answers when asked for it."""
    raise NotAvailable("this model comes without a training sample")


def no_trajectory() -> DataFrame:
    """What a model of which no other epochs are recorded answers when asked for them."""
    raise NotAvailable("no losses of this network's earlier epochs are recorded")


@dataclass(frozen=True, eq=False)
class Model:
    """A trained network, its training sample, its initial weights and its row of the index."""

    network: nn.Sequential  # named stages, in eval mode
    record: Series  # the model's row of its collection's index
    # Parameters, and moving statistics of batch normalization, named as in network.state_dict().
    initial_weights: Mapping[str, Tensor] | None = None
    read_sample: Callable[[], tuple[Tensor, Tensor]] = no_sample

    @cached_property
    def sample(self) -> tuple[Tensor, Tensor]:
        """Training inputs (N, C, H, W) float32 and labels (N,) int64, on the network's device.

        Read when first asked for, so that what needs only weights works without images.

        Raises:
            NotAvailable: where the collection has no training sample at hand.
        """
        return self.read_sample()

    @cached_property
    def sample_size(self) -> int:
        """How many images the network was trained on, m in bounds.

        That is `train_images` of its record; where it has none, the sample is taken for all images.

        Raises:
            NotAvailable: where there is no training sample at hand either.
        """
        images = self.record.get("train_images", math.nan)
        if not math.isnan(images):
            return int(images)
        try:
            return len(self.sample[1])
        except NotAvailable as missing:
            raise NotAvailable(
                "it is not known how many images this network was trained on: the index has no"
                f" train_images of it, and {missing}"
            ) from None

    @cached_property
    def logits(self) -> Tensor:
        """The network's outputs on the sample, (N, K) float32, before any softmax."""
        with torch.no_grad():
            return torch.cat([self.network(batch) for batch in self.sample[0].split(BATCH)])

    @cached_property
    def margins(self) -> Tensor:
        """Margins of the sample, (N,); negative where misclassified."""
        return true_class_margins(self.logits, self.sample[1])


@dataclass(frozen=True, eq=False)
class RecordedModel(Model):
    """A model as a collection loads it, which may tell of the epochs before.

    Apart from `Model`, whose code is part of every measure's (see gengap.tables.identity).
    """

    read_trajectory: Callable[[], DataFrame] = no_trajectory


def trajectory(model: Model) -> DataFrame:
    """`epoch` and `train_loss` (nats) of the recorded epochs up to the model's own, in order.

    Raises:
        NotAvailable: where the collection records no other epochs, or not all of them.
    """
    return model.read_trajectory() if isinstance(model, RecordedModel) else no_trajectory()


def true_class_margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits (N, K), labels (N,) -> true-class logit minus the best other, (N,)."""
    columns = labels.unsqueeze(1)
    others = logits.scatter(1, columns, -torch.inf)
    return logits.gather(1, columns).squeeze(1) - others.amax(dim=1)
