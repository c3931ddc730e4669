"""One trained network at one checkpoint, with what measures of it share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from pandas import Series
from torch import Tensor, nn

from gengap.errors import NotAvailable

# Images a forward pass takes at once: bounds memory, and the same everywhere so that values do
# not depend on how much memory a machine has.
BATCH = 1000


def no_sample() -> tuple[Tensor, Tensor]:
    """What a model made without a training sample answers when asked for it."""
    raise NotAvailable("this model comes without a training sample")


@dataclass(frozen=True, eq=False)
class Model:
    """A trained network, its training sample, its initial weights and its row of the index."""

    network: nn.Sequential  # named stages, in eval mode
    record: Series  # the model's row of its collection's index
    initial_weights: Mapping[str, Tensor] | None = None  # named as network.named_parameters()
    read_sample: Callable[[], tuple[Tensor, Tensor]] = no_sample

    @cached_property
    def sample(self) -> tuple[Tensor, Tensor]:
        """Training inputs (N, C, H, W) float32 and labels (N,) int64, on the network's device.

        Read when first asked for, so that what needs only weights works without images.
        Raises: NotAvailable where the collection has no training sample at hand.
        """
        return self.read_sample()

    @cached_property
    def logits(self) -> Tensor:
        """The network's outputs on the sample, (N, K) float32, before any softmax."""
        with torch.no_grad():
            return torch.cat([self.network(batch) for batch in self.sample[0].split(BATCH)])

    @cached_property
    def margins(self) -> Tensor:
        """True-class logit minus the best other logit, (N,); negative where misclassified."""
        labels = self.sample[1].unsqueeze(1)
        others = self.logits.scatter(1, labels, -torch.inf)
        return self.logits.gather(1, labels).squeeze(1) - others.amax(dim=1)
