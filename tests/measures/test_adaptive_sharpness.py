import pandas as pd
import pytest
import torch
from torch import nn
from torch.func import functional_call

import gengap
from gengap.measures.adaptive_sharpness import (
    NormalizedLogits,
    average_adaptive_sharpness,
    worst_adaptive_sharpness,
)


def random_model(*, scale: float = 1.0, last: float = 1.0) -> gengap.Model:
    generator = torch.Generator().manual_seed(3)
    network = nn.Sequential(nn.Linear(5, 8, bias=False), nn.ReLU(), nn.Linear(8, 4, bias=False))
    with torch.no_grad():
        network[0].weight.copy_(scale * torch.randn(8, 5, generator=generator))
        network[2].weight.copy_(last / scale * torch.randn(4, 8, generator=generator))
    inputs = torch.randn(100, 5, generator=generator)
    labels = network(inputs).argmax(1)
    return gengap.Model(network, pd.Series(), read_sample=lambda: (inputs, labels))


def normalized_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(NormalizedLogits()(logits), labels)


both = pytest.mark.parametrize("measure", [average_adaptive_sharpness, worst_adaptive_sharpness])


@both
def test_no_scale_of_a_layer_matters(measure):
    expected = measure(random_model())
    assert measure(random_model(scale=16.0)) == pytest.approx(expected, rel=1e-5)
    assert measure(random_model(last=8.0)) == pytest.approx(expected, rel=1e-5)


def test_logits_are_divided_by_their_norm():
    logits, labels = torch.tensor([[3.0, 1.0], [5.0, 1.0]]), torch.tensor([0, 1])
    # 1 and -1 over the root of 2, whatever they were: a lead of that root, or as much behind.
    root = 2**0.5
    expected = (torch.tensor([-root, root]).exp() + 1).log().mean()
    assert float(normalized_cross_entropy(logits, labels)) == pytest.approx(float(expected))


def test_a_small_worst_case_is_the_slope_along_the_corner_of_the_box():
    model, rho = random_model(), 1e-4
    weights = list(model.network.parameters())
    logits = model.network(model.sample[0])
    loss = normalized_cross_entropy(logits, model.sample[1])
    slopes = torch.autograd.grad(loss, weights)
    expected = rho * sum(float((w.detach() * s).abs().sum()) for w, s in zip(weights, slopes))
    assert worst_adaptive_sharpness(model, rho=rho) == pytest.approx(expected, rel=0.01)


def test_the_worst_case_exceeds_every_corner_that_is_drawn():
    model, generator = random_model(), torch.Generator().manual_seed(8)
    weights = {name: weight.detach() for name, weight in model.network.named_parameters()}
    inputs, labels = model.sample
    before = normalized_cross_entropy(model.network(inputs), labels)
    worst = worst_adaptive_sharpness(model, rho=0.1)
    for _ in range(100):
        corner = {
            name: w * (1 + 0.1 * (torch.randint(2, w.shape, generator=generator) * 2 - 1))
            for name, w in weights.items()
        }
        moved = normalized_cross_entropy(functional_call(model.network, corner, (inputs,)), labels)
        assert float((moved - before).detach()) < worst


def test_the_average_is_that_of_many_other_draws_up_to_its_noise():
    model, generator = random_model(), torch.Generator().manual_seed(9)
    inputs, labels = model.sample
    before = normalized_cross_entropy(model.network(inputs), labels)
    rises = []
    for _ in range(400):
        noisy = {
            name: w.detach() * (1 + 0.2 * torch.randn(w.shape, generator=generator))
            for name, w in model.network.named_parameters()
        }
        moved = normalized_cross_entropy(functional_call(model.network, noisy, (inputs,)), labels)
        rises.append(float((moved - before).detach()))
    expected = torch.tensor(rises)
    error = float(expected.std()) * (1 / 10 + 1 / 400) ** 0.5
    found = average_adaptive_sharpness(model, rho=0.2)
    # Each draw is tried on 20 of the 100 images, whose mean rise varies a little more.
    assert found == pytest.approx(float(expected.mean()), abs=4 * error)
    assert found > 0


@both
def test_equal_logits_stay_equal(measure):
    assert measure(random_model(last=0.0)) == 0


@both
def test_infinite_logits_are_not_available(measure):
    with pytest.raises(gengap.NotAvailable, match="not finite"):
        measure(random_model(last=torch.inf))
