"""The two architectures of DEMOGEN, of any width: Network in Network and ResNet-32."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from gengap.collections.layers import Sum
from gengap.errors import GengapError

BLOCKS = 5  # in each stage of ResNet-32
Norm = Callable[[int], nn.Module]  # number of channels -> their normalization


class PadSame(nn.Module):
    """TensorFlow's padding "same" of 3 x 3 kernels that stride by 2: the odd pixel at the end."""

    def forward(self, inputs: Tensor) -> Tensor:
        top, left = (size % 2 for size in inputs.shape[2:])
        return nn.functional.pad(inputs, (left, 1, top, 1))


def nin(width: int, batch_norm: bool, dropout: float, classes: int) -> nn.Sequential:
    """Network in Network for inputs (N, 3, 32, 32), with the stages h1, h2, h3, logits.

    h1, h2, h3 are what enters the last ReLU of each block: that ReLU and the dropout after it begin
    the next stage. dropout: the probability that a unit is dropped in training.

    Source: demogen/models/nin.py; published widths are 192, 288 and 384. Its dropout_prob went to
    TensorFlow 1 as the probability to keep a unit.
    """

    def convolution(channels: int, size: int, stride: int = 1) -> list[nn.Module]:
        norm = [nn.BatchNorm2d(width, eps=1e-3, momentum=0.01)] if batch_norm else []
        return [nn.Conv2d(channels, width, size, stride), *norm]

    def block(channels: int) -> list[nn.Module]:
        first = [PadSame(), *convolution(channels, 3, stride=2), nn.ReLU()]
        return [*first, *convolution(width, 1), nn.ReLU(), *convolution(width, 1)]

    network = nn.Sequential()
    network.add_module("h1", nn.Sequential(*block(3)))
    for stage in ("h2", "h3"):
        network.add_module(stage, nn.Sequential(nn.ReLU(), nn.Dropout(dropout), *block(width)))
    last = [nn.ReLU(), nn.Dropout(dropout), nn.Conv2d(width, classes, 4), nn.Flatten()]
    network.add_module("logits", nn.Sequential(*last))
    return network


class GroupNorm(nn.GroupNorm):
    """Group normalization with at most 32 groups, in the released code's order of arithmetic.

    PyTorch multiplies by gamma / deviation before the mean is subtracted, and near 0 rounds to the
    other side of the ReLU so often that single margins differ by 1e-3.
    """

    def __init__(self, channels: int):
        super().__init__(min(32, channels), channels, eps=1e-6)

    def forward(self, inputs: Tensor) -> Tensor:
        groups = inputs.reshape(len(inputs), self.num_groups, -1)
        standardized = nn.functional.layer_norm(groups, groups.shape[2:], eps=self.eps)
        scale, shift = self.weight[:, None, None], self.bias[:, None, None]
        return torch.addcmul(shift, standardized.reshape(inputs.shape), scale)


def resnet32(width: int, normalization: str, classes: int) -> nn.Sequential:
    """ResNet-32 v2 for inputs (N, 3, H, W), with the stages h1, h2, h3, logits.

    normalization: "batch", or "group" with at most 32 groups. h1, h2, h3 have `width` channels and
    two and four times as many; h1 begins with the first convolution, `logits` normalizes h3.

    Source: demogen/models/resnet.py; published widths are 16, 32 and 64.
    Raises: GengapError for another normalization.
    """
    if normalization not in NORMALIZATIONS:
        known = ", ".join(NORMALIZATIONS)
        raise GengapError(f"no normalization {normalization!r} in ResNet-32; there are: {known}")
    norm = NORMALIZATIONS[normalization]
    network, channels = nn.Sequential(), width
    for stage, filters, stride in (("h1", width, 1), ("h2", 2 * width, 2), ("h3", 4 * width, 2)):
        blocks = [ResidualBlock(norm, channels, filters, stride=stride, project=True)]
        blocks += [ResidualBlock(norm, filters, filters) for _ in range(BLOCKS - 1)]
        first = [convolution3x3(3, width)] if stage == "h1" else []
        network.add_module(stage, nn.Sequential(*first, *blocks))
        channels = filters
    pooled = [norm(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    network.add_module("logits", nn.Sequential(*pooled, nn.Linear(channels, classes)))
    return network


class ResidualBlock(nn.Module):
    """Two normalized and rectified convolutions beside the inputs or their projection."""

    def __init__(self, norm: Norm, channels: int, filters: int, *, stride=1, project=False):
        super().__init__()
        # In the order in which TensorFlow's graph was built: variables are numbered by it.
        self.norm1 = norm(channels)
        self.projection = (
            nn.Conv2d(channels, filters, 1, stride=stride, bias=False) if project else None
        )
        self.conv1 = convolution3x3(channels, filters, stride)
        self.norm2 = norm(filters)
        self.conv2 = convolution3x3(filters, filters)
        self.sum = Sum()

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.norm1(inputs).relu()
        shortcut = inputs if self.projection is None else self.projection(hidden)
        hidden = self.norm2(self.conv1(hidden)).relu()
        return self.sum(self.conv2(hidden), shortcut)


def convolution3x3(channels: int, filters: int, stride: int = 1) -> nn.Conv2d:
    """Without bias; one pixel of padding on each side, also where it strides."""
    return nn.Conv2d(channels, filters, 3, stride=stride, padding=1, bias=False)


NORMALIZATIONS: dict[str, Norm] = {
    "batch": partial(nn.BatchNorm2d, eps=1e-5, momentum=0.003),
    "group": GroupNorm,
}


def in_fastest_format(network: nn.Sequential) -> nn.Sequential:
    """The network, its kernels in the memory format in which this architecture is fastest.

    On a CPU that is channels last, but for group normalization, which would have to copy its
    inputs. The format of the kernels decides that of the activations, and changes only the
    rounding.
    """
    on_cpu = next(network.parameters()).device.type == "cpu"
    if not on_cpu or any(isinstance(module, nn.GroupNorm) for module in network.modules()):
        return network
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
