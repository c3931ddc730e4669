"""The architecture of GenProb's networks, as released."""

from collections.abc import Sequence

from torch import Tensor, nn

from gengap.collections.layers import Sum
from gengap.errors import GengapError

CELLS = 5


def genprob_network(planes: Sequence[int], classes: int) -> nn.Sequential:
    """A network of GenProb's family for inputs (N, 3, H, W); H and W are halved twice.

    planes: channels of the five cells, in the published networks 40 or 48 each; here any.
    The stages are a first convolution with 8 channels, cells (0, 2, 4), reductions (1, 3), a last
    normalization, the mean over all places, and a dense layer.

    Source: source/qc_nin.py of the release, with its names of parameters. The paper's table has
    maps of 18 x 18 and 9 x 9, the released code, as here, of 16 x 16 and 8 x 8. How weights were
    initialized was not released: PyTorch's defaults.
    Raises: GengapError unless five widths are given.
    """
    if len(planes) != CELLS:
        raise GengapError(f"got {len(planes)} widths, {list(planes)}; expected {CELLS}")
    network = nn.Sequential()
    stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
    network.add_module("stem", nn.Sequential(stem, nn.BatchNorm2d(8)))
    for number, (channels, width) in enumerate(zip([8, *planes], planes)):
        stage = Reduction(channels, width) if number % 2 else Cell(channels, width)
        network.add_module(f"cell{number}", stage)
    network.add_module("last_act", nn.Sequential(nn.BatchNorm2d(planes[-1]), nn.ReLU()))
    network.add_module("global_pooling", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    network.add_module("classifier", nn.Linear(planes[-1], classes))
    return network


class Cell(nn.Module):
    """Three nodes, each the sum of normalized convolutions of those before it and of the inputs."""

    def __init__(self, channels: int, planes: int):
        super().__init__()
        for number, inputs in enumerate([channels, channels, planes, planes, planes]):
            self.add_module(f"RELUConvBN{number}", relu_convolution(inputs, planes, 3))
        same = channels == planes
        self.shortcut = nn.Sequential() if same else relu_convolution(channels, planes, 1)
        self.sum = Sum()

    def forward(self, inputs: Tensor) -> Tensor:
        of = [self.get_submodule(f"RELUConvBN{number}") for number in range(5)]
        first = of[0](inputs)
        second = of[2](first) + of[1](inputs)
        return self.sum(of[3](second), of[4](first), self.shortcut(inputs))


class Reduction(nn.Module):
    """Two normalized convolutions, the first with stride 2, beside the inputs at half the size."""

    def __init__(self, channels: int, planes: int):
        super().__init__()
        self.conv_a = relu_convolution(channels, planes, 3, stride=2)
        self.conv_b = relu_convolution(planes, planes, 3)
        pointwise = nn.Conv2d(channels, planes, 1, bias=False)
        self.down_sample = nn.Sequential(nn.AvgPool2d(2), pointwise)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.conv_b(self.conv_a(inputs)) + self.down_sample(inputs)


def relu_convolution(channels: int, planes: int, size: int, stride: int = 1) -> nn.Sequential:
    """ReLU, a convolution that keeps the size but for its stride, batch normalization."""
    kernel = nn.Conv2d(channels, planes, size, stride=stride, padding=size // 2, bias=False)
    return nn.Sequential(nn.ReLU(), kernel, nn.BatchNorm2d(planes))
