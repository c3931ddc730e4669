import pandas as pd
import pytest
import torch
from torch import nn

import gengap
from gengap.measures.gradient_noise import (
    gradient_noise,
    gradient_noise_scale,
    gradient_signal_to_noise_ratio,
)
from gengap.measures.tangents import cross_entropies


def linear(inputs: list[float], labels: list[int]) -> gengap.Model:
    """Two logits without a weight: the gradient of an image x of class 0 is (-x / 2, x / 2)."""
    network = nn.Sequential(nn.Linear(1, 2, bias=False))
    nn.init.zeros_(network[0].weight)
    sample = torch.tensor(inputs).unsqueeze(1), torch.tensor(labels)
    return gengap.Model(network, pd.Series(), read_sample=lambda: sample)


def test_a_linear_model_has_the_moments_of_its_inputs():
    # Gradients -1/2 and -3/2 of one weight: mean -1, variance 1/2; of the other the opposite.
    model = linear([1.0, 3.0], [0, 0])
    assert gradient_noise(model) == pytest.approx(1.0)
    assert gradient_noise_scale(model) == pytest.approx(0.5)
    assert gradient_signal_to_noise_ratio(model) == pytest.approx(2.0)


def test_gradients_that_cancel_have_no_signal_and_no_scale():
    model = linear([1.0, 1.0], [0, 1])
    assert gradient_noise(model) == pytest.approx(1.0)
    assert gradient_signal_to_noise_ratio(model) == 0
    with pytest.raises(gengap.NotAvailable, match="mean gradient is 0"):
        gradient_noise_scale(model)


def test_equal_gradients_have_no_noise():
    model = linear([1.0, 1.0], [0, 0])
    assert gradient_noise(model) == gradient_noise_scale(model) == 0
    with pytest.raises(gengap.NotAvailable, match="no weight's gradient varies"):
        gradient_signal_to_noise_ratio(model)


def test_one_image_has_no_variance():
    with pytest.raises(gengap.NotAvailable, match="two images"):
        gradient_noise(linear([1.0], [0]))


def test_moments_are_those_of_gradients_taken_one_by_one():
    generator = torch.Generator().manual_seed(1)
    norm = nn.BatchNorm1d(4)
    norm.running_mean = torch.randn(4, generator=generator)
    network = nn.Sequential(nn.Linear(3, 4), norm, nn.ReLU(), nn.Linear(4, 3)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    inputs = torch.randn(120, 3, generator=generator)
    labels = torch.randint(3, (120,), generator=generator)
    rows = []
    for image, label in zip(inputs, labels):
        loss = nn.functional.cross_entropy(network(image[None]), label[None])
        parts = torch.autograd.grad(loss, list(network.parameters()))
        rows.append(torch.cat([part.flatten() for part in parts]).double())
    mean, variance = torch.stack(rows).mean(0), torch.stack(rows).var(0)
    model = gengap.Model(network, pd.Series(), read_sample=lambda: (inputs, labels))
    assert gradient_noise(model) == pytest.approx(float(variance.sum()), rel=1e-5)
    scale = float(variance.sum() / mean.square().sum())
    assert gradient_noise_scale(model) == pytest.approx(scale, rel=1e-5)
    ratios = (mean.square() / variance)[variance > 0]
    assert gradient_signal_to_noise_ratio(model) == pytest.approx(float(ratios.mean()), rel=1e-5)


def test_a_small_loss_keeps_its_digits():
    logits = torch.tensor([[20.0, 0.0, 1.0], [0.5, -1.0, 2.0]], requires_grad=True)
    labels = torch.tensor([0, 1])
    exact = logits.detach().double().requires_grad_()
    expected = nn.functional.cross_entropy(exact, labels, reduction="none")
    found = cross_entropies(logits, labels)
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    (slopes,) = torch.autograd.grad(found.sum(), logits)
    (true,) = torch.autograd.grad(expected.sum(), exact)
    assert slopes.flatten().tolist() == pytest.approx(true.flatten().tolist(), rel=1e-5)
