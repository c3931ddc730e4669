from collections import OrderedDict

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.stats import wasserstein_distance
from torch import nn

import gengap
from gengap.measures.margins import margin_distribution
from gengap.measures.transport import (
    k_variance_gradient_margin_eighth,
    k_variance_gradient_margin_first,
    k_variance_margin_eighth,
    k_variance_margin_first,
    wasserstein_1,
)

MEASURES = (
    k_variance_margin_first,
    k_variance_margin_eighth,
    k_variance_gradient_margin_first,
    k_variance_gradient_margin_eighth,
)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    stages = OrderedDict(
        h1=nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU()),
        h2=nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()),
        h3=nn.Sequential(nn.Conv2d(4, 5, 3), nn.ReLU()),
        flat=nn.Flatten(),
        logits=nn.Linear(20, 3),
    )
    return nn.Sequential(stages).double().eval()


def sample(count: int = 41) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    inputs = 3 * torch.randn(count, 1, 8, 8, generator=generator).double()
    return inputs, torch.randint(3, (count,), generator=generator)


def model(made: nn.Sequential, drawn=None) -> gengap.Model:
    return gengap.Model(made, pd.Series(), read_sample=lambda: drawn or sample())


def test_on_a_line_the_distance_is_the_mean_difference_of_sorted_points():
    generator = np.random.default_rng(0)
    first, second = generator.standard_normal(50), 2 * generator.standard_normal(50)
    expected = np.abs(np.sort(first) - np.sort(second)).mean()
    points = (torch.tensor(values)[:, None] for values in (first, second))
    assert wasserstein_1(*points) == pytest.approx(expected, rel=1e-12)


def test_on_a_line_the_distance_of_sets_of_unequal_size_equals_scipy():
    generator = np.random.default_rng(1)
    first, second = generator.standard_normal(30), generator.exponential(size=47)
    points = (torch.tensor(values)[:, None] for values in (first, second))
    assert wasserstein_1(*points) == pytest.approx(wasserstein_distance(first, second), rel=1e-12)


def assigned(first: np.ndarray, second: np.ndarray) -> float:
    costs = cdist(first, second)
    return costs[linear_sum_assignment(costs)].mean()


def test_the_distance_of_sets_of_equal_size_is_that_of_the_best_assignment():
    first, second = np.random.default_rng(2).standard_normal((2, 60, 7))
    found = wasserstein_1(torch.tensor(first), torch.tensor(second))
    assert found == pytest.approx(assigned(first, second), rel=1e-12)


def test_a_shift_costs_its_length():
    points = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)).double()
    shift = torch.tensor([3.0, 0.0, 0.0, 4.0]).double()
    assert wasserstein_1(points, points + shift) == pytest.approx(5.0, rel=1e-12)


def test_both_margins_equal_the_released_recipe_worked_out_by_hand():
    made = network()
    inputs, labels = sample()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    inputs, labels = inputs[order], labels[order]
    logits = made(inputs).detach().numpy()
    margins, steepness = [], []
    hidden = made[:2](inputs).detach().requires_grad_()
    for i, label in enumerate(labels.tolist()):
        other = max((k for k in range(3) if k != label), key=lambda k, row=logits[i]: row[k])
        output = made[2:](hidden[i : i + 1])[0]
        gradient = torch.autograd.grad(output[label] - output[other], hidden)[0]
        margins.append(logits[i, label] - logits[i, other])
        steepness.append(float(gradient.norm()))
    margins, steepness = np.array(margins), np.array(steepness)
    features = hidden.detach().flatten(1).numpy()
    plain = lipschitz = 0.0
    for label in range(3):
        members = np.flatnonzero(labels.numpy() == label)
        k = len(members) // 2
        variance = assigned(features[members[:k]], features[members[k : 2 * k]])
        plain += len(members) / 41 * variance
        lipschitz += len(members) / 41 * variance * steepness[members].max()
    assert k_variance_margin_first(model(made)) == pytest.approx(
        -np.median(margins) / lipschitz, rel=1e-10
    )
    assert k_variance_gradient_margin_first(model(made)) == pytest.approx(
        -np.median(margins / (steepness + 1e-6)) / plain, rel=1e-10
    )
    assert margin_distribution(made, inputs, labels)["h2"].numpy() == pytest.approx(
        margins / np.sqrt(steepness**2 + 1e-6), rel=1e-10
    )


@pytest.mark.parametrize("measure", MEASURES)
def test_the_scale_of_the_layer_does_not_matter(measure):
    scaled = network()
    with torch.no_grad():
        for parameter in scaled.h2.parameters():
            parameter.mul_(3.0)
        scaled.h3[0].weight.div_(3.0)
    # The constant 1e-6 beside gradient norms of about 0.1 is what remains.
    assert measure(model(scaled)) == pytest.approx(measure(model(network())), rel=1e-4)


@pytest.mark.parametrize("measure", MEASURES)
def test_a_layer_that_does_not_vary_has_no_k_variance(measure):
    dead = network()
    nn.init.zeros_(dead.h2[0].weight)
    nn.init.ones_(dead.h2[0].bias)
    with pytest.raises(gengap.NotAvailable, match="the same for all images"):
        measure(model(dead))


@pytest.mark.parametrize("measure", MEASURES)
def test_classes_of_equal_images_have_no_k_variance(measure):
    inputs, labels = sample()
    equal = torch.stack([inputs[label] for label in labels])
    with pytest.raises(gengap.NotAvailable, match="do not vary within any class"):
        measure(model(network(), (equal, labels)))


def test_a_class_with_a_single_image_is_left_out():
    inputs, labels = sample()
    one_more = torch.cat([inputs, inputs[:1]]), torch.cat([labels, torch.tensor([2])])
    labels = labels.clamp(max=1)
    lonely = torch.cat([inputs, inputs[:1]]), torch.cat([labels, torch.tensor([2])])
    for drawn in (one_more, lonely):
        assert np.isfinite(k_variance_gradient_margin_first(model(network(), drawn)))
