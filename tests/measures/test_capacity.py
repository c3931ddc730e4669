import math

import pandas as pd
import pytest
from torch import nn

import gengap
from gengap.measures.capacity import vc_dimension


def dimension(*stages: nn.Module) -> float:
    return vc_dimension(gengap.Model(nn.Sequential(*stages), pd.Series()))


def test_the_vc_dimension_is_the_kits(kit):
    for model, expected in kit:
        assert vc_dimension(model) == pytest.approx(expected["vc_dim"], rel=1e-12)


def test_a_linear_classifier_counts_its_weights_once():
    assert dimension(nn.Linear(3, 2)) == pytest.approx(1 + 2 * math.log(22 * 32**2) * 6)


def test_biases_and_normalizations_do_not_count():
    bare = dimension(nn.Conv2d(3, 4, 3, bias=False))
    assert dimension(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()) == bare


def test_a_network_without_kernels_has_none():
    with pytest.raises(gengap.NotAvailable, match="neither convolutions nor dense layers"):
        dimension(nn.Flatten())
