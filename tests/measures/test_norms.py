from collections import OrderedDict

import pandas as pd
import pytest
import torch
from torch import nn

import gengap
from gengap.measures.norms import distance_from_initialization, parameter_norm


def orthogonal_model(scale: float = 1.0) -> gengap.Model:
    """One square layer: an orthogonal matrix times `scale`, and a bias of ones."""
    stage = nn.Linear(7, 7)
    with torch.no_grad():
        nn.init.orthogonal_(stage.weight, gain=scale)
        stage.bias.fill_(1.0)
    start = {name: weight.detach().clone() for name, weight in stage.named_parameters("logits")}
    return gengap.Model(nn.Sequential(OrderedDict(logits=stage)), pd.Series(), start)


def test_the_norm_of_an_orthogonal_layer_is_its_width_plus_its_bias():
    assert parameter_norm(orthogonal_model()) == pytest.approx(7 + 7, rel=1e-6)


def test_scaling_the_weights_scales_the_norm_by_the_square():
    assert parameter_norm(orthogonal_model(3.0)) == pytest.approx(9 * 7 + 7, rel=1e-6)


def test_the_distance_is_the_sum_of_squared_changes():
    model = orthogonal_model()
    assert distance_from_initialization(model) == 0
    with torch.no_grad():
        model.network.logits.weight += 0.5
    assert distance_from_initialization(model) == pytest.approx(49 * 0.25, rel=1e-6)


def test_without_initial_weights_there_is_no_distance():
    model = gengap.Model(orthogonal_model().network, pd.Series())
    with pytest.raises(gengap.NotAvailable, match="without initial weights"):
        distance_from_initialization(model)


def test_a_million_equal_weights_are_summed_without_loss():
    stage = nn.Linear(1000, 1000, bias=False)
    nn.init.constant_(stage.weight, 0.1)
    model = gengap.Model(nn.Sequential(stage), pd.Series())
    exact = 1_000_000 * float(torch.tensor(0.1)) ** 2
    assert parameter_norm(model) == pytest.approx(exact, rel=1e-12)
