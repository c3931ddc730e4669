"""Layers that the networks of several collections are made of."""

from torch import Tensor, nn


class Sum(nn.Module):
    """The sum of what comes together; a module, so that a batch norm after it is seen to be."""

    def forward(self, *terms: Tensor) -> Tensor:
        return sum(terms[1:], start=terms[0])
