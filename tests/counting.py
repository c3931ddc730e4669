"""A network that counts what measures do with it: images that pass, and derivatives."""

import copy
from collections import Counter
from functools import cache

import torch
from pandas import Series
from torch import nn

import gengap

# More images than any measure reads that does not read all; and one that follows paths.
IMAGES, CLASSES, SIDE, PATH = 13_000, 10, 4, 1


class Counted(torch.autograd.Function):
    """Where images are counted, and those whose logits are derived; also what `vmap` hides."""

    @staticmethod
    def forward(values, place, counts):
        counts[place] += len(values)
        return values.view_as(values)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.counts = inputs[2]

    @staticmethod
    def backward(ctx, slopes):
        ctx.counts["derivatives"] += len(slopes)
        return slopes, None, None

    @staticmethod
    def jvp(ctx, slopes, *_):
        ctx.counts["derivatives"] += len(slopes)
        return slopes.view_as(slopes)

    @staticmethod
    def vmap(info, axes, values, place, counts):
        # Along that axis are the images: each comes alone.
        return Counted.apply(values, place, counts), axes[0]


def network(generator: torch.Generator) -> nn.Sequential:
    """Convolutions with pooling as far as measures look for layers, random weights."""
    stages = nn.Sequential()
    for block in range(2):
        stages.add_module(f"convolution{block}", nn.Conv2d(3, 3, 3, padding=1))
        stages.add_module(f"activation{block}", nn.Tanh())
        stages.add_module(f"pooling{block}", nn.MaxPool2d(2, stride=1, padding=1))
    stages.add_module("flat", nn.Flatten())
    stages.add_module("logits", nn.Linear(3 * (SIDE + 2) ** 2, CLASSES))
    with torch.no_grad():
        for weight in stages.parameters():
            size = 1 / weight[0].numel() ** 0.5 if weight.ndim > 1 else 0.1
            weight.copy_(size * torch.randn(weight.shape, generator=generator))
    return stages.eval()


@cache
def images_and_networks() -> tuple:
    """Images with labels at random, a network, and what it started from."""
    generator = torch.Generator().manual_seed(0)
    trained, start = network(generator), network(generator)
    inputs = torch.rand(IMAGES, 3, SIDE, SIDE, generator=generator)
    labels = torch.randint(CLASSES, (IMAGES,), generator=generator)
    return (inputs, labels), trained, start


def counting(counts: Counter) -> gengap.Model:
    """A model that counts the images which pass its first and its last stage."""
    sample, trained, start = images_and_networks()
    counted = copy.deepcopy(trained)
    first, *_, last = counted
    first.register_forward_pre_hook(lambda _, given: (Counted.apply(*given, "first", counts),))
    last.register_forward_hook(lambda _, given, logits: Counted.apply(logits, "last", counts))
    record = Series({"model_id": "counting", "train_images": float(IMAGES)})
    return gengap.Model(counted, record, start.state_dict(), lambda: sample)
