import pandas as pd
import pytest
import torch
from torch import nn

import gengap
from gengap.measures.tangent_kernel_alignment import tangent_kernel_alignment
from gengap.measures.tangents import tangent_kernel


def linear(inputs: torch.Tensor, labels: torch.Tensor, *, classes: int) -> gengap.Model:
    network = nn.Sequential(nn.Linear(inputs.shape[1], classes, bias=False))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        network[0].weight.copy_(torch.randn(classes, inputs.shape[1], generator=generator))
    return gengap.Model(network, pd.Series(), read_sample=lambda: (inputs, labels))


def test_the_kernel_of_a_linear_network_is_the_gram_matrix_of_its_images_for_each_logit():
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(30, 4, generator=generator)
    labels = torch.randint(3, (30,), generator=generator)
    centred, targets = inputs - inputs.mean(0), torch.eye(3)[labels]
    targets = targets - targets.mean(0)
    matched = (centred.T @ targets).square().sum()
    size = 3**0.5 * (centred @ centred.T).norm() * targets.square().sum()
    found = tangent_kernel_alignment(linear(inputs, labels, classes=3))
    assert found == pytest.approx(float(matched / size), rel=1e-5)


def test_the_best_feature_for_two_classes_is_aligned_once_in_two_logits():
    inputs = torch.tensor([[1.0], [-1.0]]).repeat(10, 1)
    labels = torch.tensor([0, 1]).repeat(10)
    found = tangent_kernel_alignment(linear(inputs, labels, classes=2))
    assert found == pytest.approx(0.5**0.5)


def test_one_class_is_not_available():
    inputs, labels = torch.randn(10, 3), torch.zeros(10, dtype=torch.int64)
    with pytest.raises(gengap.NotAvailable, match="one class"):
        tangent_kernel_alignment(linear(inputs, labels, classes=2))


def test_equal_images_are_not_available():
    inputs, labels = torch.full((10, 3), 0.3), torch.arange(10) % 2
    with pytest.raises(gengap.NotAvailable, match="one gradient"):
        tangent_kernel_alignment(linear(inputs, labels, classes=2))


def test_the_kernel_is_computed_once_for_all_that_share_it():
    inputs, labels = torch.randn(10, 3), torch.arange(10) % 2
    model = linear(inputs, labels, classes=2)
    assert tangent_kernel(model) is tangent_kernel(model)
