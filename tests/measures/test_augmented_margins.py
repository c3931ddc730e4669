from collections import OrderedDict

import pandas as pd
import pytest
import torch
from scipy.stats import trim_mean
from torch import nn

import gengap
from gengap.measures import augmented_margins as module
from gengap.measures.augmented_margins import (
    augmented,
    augmented_margin,
    mixed_within_classes,
    mixup_margin,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def model(inputs: torch.Tensor, labels: torch.Tensor) -> gengap.Model:
    torch.manual_seed(0)
    units = inputs[0].numel()
    stages = OrderedDict(flat=nn.Flatten(), h1=nn.Linear(units, 9), logits=nn.Linear(9, 3))
    network = nn.Sequential(stages).double().eval()
    return gengap.Model(network, pd.Series(), read_sample=lambda: (inputs, labels))


def test_images_are_mixed_within_their_class_and_each_is_a_partner_once():
    labels = torch.tensor([0, 1, 0, 2, 1, 1, 0])
    images = torch.randn(7, 1, 2, 2, generator=generator(1)).double()
    mixed = mixed_within_classes(images, labels, generator())
    for label in range(3):
        of_class = labels == label
        assert torch.allclose(mixed[of_class].mean(dim=0), images[of_class].mean(dim=0))
        halves = {tuple(((a + b) / 2).flatten().tolist()) for a in images[of_class] for b in images}
        assert all(tuple(image.flatten().tolist()) in halves for image in mixed[of_class])
    assert torch.equal(mixed[3], images[3])  # alone in its class


def test_the_margin_at_a_linear_head_is_worked_out_by_hand():
    inputs = torch.randn(40, 6, generator=generator(2)).double()
    labels = torch.zeros(40, dtype=torch.int64)
    made = model(inputs, labels)
    order = torch.randperm(40, generator=generator())
    hidden = made.network[:2](mixed_within_classes(inputs[order], labels, generator())).detach()
    logits, weights = made.network.logits(hidden).detach(), made.network.logits.weight.detach()
    others = logits[:, 1:].argmax(dim=1) + 1
    gaps = logits[:, 0] - logits.gather(1, others[:, None])[:, 0]
    distances = gaps / ((weights[0] - weights[others]).norm(dim=1) + 1e-7)
    scale = trim_mean(hidden.numpy().var(axis=0), 0.05) ** 0.5 + 1e-7
    assert mixup_margin(made) == pytest.approx(-float(distances.mean()) / scale, rel=1e-10)


def test_grey_and_colour_images_are_augmented_the_same_in_every_run():
    for channels in (1, 3, 4):
        images = torch.rand(30, channels, 12, 10, generator=generator(3))
        found = augmented(images, generator())
        assert found.shape == images.shape
        assert torch.equal(found, augmented(images, generator()))
        assert not torch.equal(found, images)


def test_an_even_grey_image_is_only_lifted():
    images = torch.full((200, 3, 6, 6), 0.4).double()
    found = augmented(images, generator())
    assert torch.allclose(found, found[:, :1, :1, :1].expand_as(found))
    lifts = found[:, 0, 0, 0] - 0.4
    assert -0.05 <= lifts.min() < -0.045 and 0.045 < lifts.max() <= 0.05


def test_a_third_of_a_turn_of_the_hue_moves_red_to_green():
    images = torch.rand(5, 3, 4, 4, generator=generator(4)).double()
    third = torch.full((5, 1, 1, 1), 2 * torch.pi / 3, dtype=torch.float64)
    assert torch.allclose(module._turned(images, third), images.roll(1, dims=1))
    assert torch.allclose(module._turned(images, 3 * third), images)


def test_zooming_shows_the_middle():
    ramp = torch.linspace(-1, 1, 11).double().expand(2, 1, 11, 11)
    found = module._zoomed(ramp, torch.tensor([1.0, 0.9]).double())
    assert torch.allclose(found[0], ramp[0])
    assert torch.allclose(found[1], 0.9 * ramp[1])


def test_augmentation_needs_images():
    vectors = model(torch.randn(40, 6).double(), torch.zeros(40, dtype=torch.int64))
    with pytest.raises(gengap.NotAvailable, match="needs images"):
        augmented_margin(vectors)


def test_without_augmentation_the_margins_are_those_at_the_first_layer(monkeypatch):
    monkeypatch.setattr(module, "augmented", lambda images, generator: images)
    images = torch.rand(60, 1, 3, 3, generator=generator(5)).double()
    made = model(images, torch.arange(60) % 3)
    hidden = made.network[:2](images).detach()
    found = gengap.measures.margins.margin_distribution(made.network, *made.sample, epsilon=0)
    scale = trim_mean(hidden.numpy().var(axis=0), 0.05) ** 0.5
    expected = -float(found["h1"].mean()) / scale
    assert augmented_margin(made) == pytest.approx(expected, rel=1e-6)


def test_a_network_of_one_layer_has_no_first_layer_below_the_logits():
    network = nn.Sequential(OrderedDict(logits=nn.Linear(6, 3)))
    sample = torch.randn(40, 6), torch.zeros(40, dtype=torch.int64)
    with pytest.raises(gengap.NotAvailable, match="below the logits"):
        mixup_margin(gengap.Model(network, pd.Series(), read_sample=lambda: sample))
