import pandas as pd
import pytest
import torch
from torch import nn

import gengap
from gengap.measures.sharpness import climbed, sharpness, smallest_bound


def two_logits(first: float, second: float) -> gengap.Model:
    """Positive numbers, all of class 0, with logits `first` x and `second` x."""
    network = nn.Sequential(nn.Linear(1, 2, bias=False))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[first], [second]]))
    sample = torch.linspace(0.5, 1, 100)[:, None], torch.zeros(100, dtype=torch.int64)
    return gengap.Model(network, pd.Series(), read_sample=lambda: sample)


def random_model(*, scale: float = 1.0, order=None) -> gengap.Model:
    generator = torch.Generator().manual_seed(3)
    order = torch.arange(8) if order is None else order
    network = nn.Sequential(nn.Linear(5, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False))
    first, second = torch.randn(8, 5, generator=generator), torch.randn(3, 8, generator=generator)
    with torch.no_grad():
        network[0].weight.copy_(scale * first[order])
        network[2].weight.copy_(second[:, order] / scale)
    inputs = torch.randn(300, 5, generator=generator)
    labels = (second @ (first @ inputs.T).relu()).argmax(0)
    return gengap.Model(network, pd.Series(), read_sample=lambda: (inputs, labels))


def test_a_linear_classifier_errs_where_its_logits_meet():
    # 3 (1 - m) = 2 (1 + m) at m = 1/5.
    assert sharpness(two_logits(3.0, 2.0)) == pytest.approx(25, rel=1e-4)


def test_a_negative_weight_moves_by_its_size():
    # -2 (1 + m) = -3 (1 - m) at m = 1/5.
    assert sharpness(two_logits(-2.0, -3.0)) == pytest.approx(25, rel=1e-4)


def test_accuracy_that_no_move_costs_gives_the_least_value():
    assert sharpness(two_logits(1.0, -1.0)) == 4


def test_the_scale_of_layers_does_not_matter():
    expected = sharpness(random_model())
    assert sharpness(random_model(scale=16.0)) == pytest.approx(expected, rel=1e-6)


def test_the_order_of_hidden_units_does_not_matter():
    order = torch.tensor([3, 1, 0, 7, 6, 5, 2, 4])
    assert sharpness(random_model(order=order)) == pytest.approx(
        sharpness(random_model()), rel=1e-4
    )


def test_weights_climb_inside_their_box():
    model = random_model()
    weights = {name: weight.detach() for name, weight in model.network.named_parameters()}
    moved = climbed(model.network, weights, *model.sample, bound=0.1, steps=20)
    for name, weight in weights.items():
        assert ((moved[name] - weight).abs() <= 0.1 * weight.abs() * (1 + 1e-5)).all()
    before, after = (
        nn.functional.cross_entropy(
            torch.func.functional_call(model.network, w, (model.sample[0],)), model.sample[1]
        )
        for w in (weights, moved)
    )
    assert after > before


def test_bisection_stops_close_to_the_crossing():
    assert smallest_bound(lambda bound: bound - 0.3) == pytest.approx(0.3, abs=0.01)
    assert smallest_bound(lambda bound: 1.0 if bound > 0.3 else -1.0) == pytest.approx(
        0.3, abs=1e-6
    )
    assert smallest_bound(lambda bound: -1.0) == 0.5
