"""What measures declare of their work, against what passes through a network that counts."""

import copy
from collections import Counter
from functools import cache

import pytest
import torch
from pandas import Series
from torch import nn

import gengap
from gengap.measures import ALL, MEASURES, Work, work_of

# More images than any measure reads that does not read all; and one that follows paths.
IMAGES, CLASSES, SIDE, PATH = 13_000, 4, 4, 1


class Counted(torch.autograd.Function):
    """Where images are counted, and derivatives; what `vmap` hides of a batch counts too."""

    @staticmethod
    def forward(values, place, counts):
        counts[place] += len(values)
        return values.view_as(values)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.counts = inputs[2]

    @staticmethod
    def backward(ctx, slopes):
        ctx.counts["derivatives"] += 1
        return slopes, None, None

    @staticmethod
    def jvp(ctx, slopes, *_):
        ctx.counts["derivatives"] += 1
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


def does_as_declared(function, declared: Work) -> bool:
    """Whether a measure passes as many images as it declares at most, or up to a sixteenth.

    A bisection may end at once.
    """
    counts = Counter()
    try:
        function(counting(counts))
    except gengap.NotAvailable:
        assert declared == Work()  # what weights at random or a record without epochs do not give
    sample = IMAGES + PATH if declared.images == ALL else declared.images
    most, passed = sample + CLASSES * declared.per_class, max(counts["first"], counts["last"])
    differentiates = counts["derivatives"] > 0
    return most / 16 <= passed <= most and differentiates == declared.differentiates


@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_does_the_work_that_it_declares_and_not_much_less(name):
    assert does_as_declared(MEASURES[name], work_of(name))


def test_work_that_is_not_declared_is_seen():
    def reads_eleven(model):
        with torch.no_grad():
            return float(model.network(model.sample[0][:11]).sum())

    def differentiates(model):
        return float(torch.autograd.functional.jacobian(model.network, model.sample[0][:11]).sum())

    @torch.no_grad()
    def one_by_one(model):
        return float(torch.vmap(lambda x: model.network(x[None]))(model.sample[0][:11]).sum())

    for function in (reads_eleven, one_by_one):
        assert does_as_declared(function, Work(images=11))
        assert not does_as_declared(function, Work(images=10))
    assert not does_as_declared(differentiates, Work(images=11))
    assert does_as_declared(differentiates, Work(images=11, differentiates=True))


def test_work_in_words():
    told = [Work(), Work(images=ALL), Work(images=1200, per_class=600), Work(per_class=200)]
    assert [str(each) for each in told] == ["", "all", "1,200 + 600 a class", "200 a class"]
