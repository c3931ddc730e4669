from collections import OrderedDict

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import gengap
from gengap.measures.flatness import (
    fisher_rao,
    loss_slopes,
    pac_bayes_bound,
    pac_bayes_bound_from_initialization,
    pac_bayes_bound_from_origin,
    pac_bayes_flatness,
    pac_bayes_magnitude_bound,
    pac_bayes_magnitude_bound_from_initialization,
    pac_bayes_magnitude_bound_from_origin,
    pac_bayes_magnitude_flatness,
    pac_bayes_magnitude_sigma,
    pac_bayes_sigma,
)
from gengap.measures.folding import folded


def relu_network(*, bias: bool = False) -> nn.Sequential:
    torch.manual_seed(3)
    stages = OrderedDict(
        h1=nn.Sequential(nn.Conv2d(1, 3, 3, bias=bias), nn.ReLU()),
        h2=nn.Sequential(nn.Conv2d(3, 4, 3, bias=bias), nn.ReLU(), nn.MaxPool2d(2)),
        flat=nn.Flatten(),
        logits=nn.Linear(16, 3, bias=bias),
    )
    return nn.Sequential(stages).double().eval()


def model(network: nn.Sequential, inputs, labels) -> gengap.Model:
    return gengap.Model(network, pd.Series(), read_sample=lambda: (inputs, labels))


def images(count: int = 130) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(count, 1, 8, 8, generator=generator).double()
    return inputs, torch.randint(3, (count,), generator=generator)


def fitted(network: nn.Sequential) -> gengap.Model:
    """The network on images labelled by itself: it is right about all."""
    inputs, _ = images()
    return model(network, inputs, network(inputs).argmax(dim=1))


def two_logits(weight: float) -> gengap.Model:
    """Logits (w, -w) for every sample, always right: noise errs where it exceeds 2 w."""
    network = nn.Sequential(OrderedDict(logits=nn.Linear(1, 2, bias=False)))
    network.logits.weight.data = torch.tensor([[weight], [-weight]])
    return model(network, torch.ones(30, 1), torch.zeros(30, dtype=torch.int64))


def test_sigma_is_the_standard_deviation_at_which_one_draw_in_ten_errs():
    draws = [torch.randn(2, 1, generator=torch.Generator().manual_seed(k)) for k in range(10)]
    downward = sorted(float(noise[1] - noise[0]) for noise in draws)
    sigma = pac_bayes_sigma(two_logits(0.4))
    assert 0.8 / downward[-1] < sigma < 0.8 / downward[-2]
    assert pac_bayes_flatness(two_logits(0.4)) == pytest.approx(1 / (sigma * 30**0.5))


def test_the_magnitude_aware_deviation_is_the_root_of_sigma_w_squared_and_a_thousandth_squared():
    draws = [torch.randn(2, 1, generator=torch.Generator().manual_seed(k)) for k in range(10)]
    downward = sorted(float(noise[1] - noise[0]) for noise in draws)
    weight = 2e-3  # so small that the thousandth counts
    sigma = pac_bayes_magnitude_sigma(two_logits(weight))
    deviation = (sigma**2 * weight**2 + 1e-6) ** 0.5
    assert downward[-2] < 2 * weight / deviation < downward[-1]
    expected = pytest.approx(1 / (sigma * 30**0.5))
    assert pac_bayes_magnitude_flatness(two_logits(weight)) == expected


def test_the_accuracy_at_sigma_has_changed_by_a_tenth():
    fit = fitted(relu_network())
    sigma = pac_bayes_sigma(fit)
    inputs, labels = fit.sample
    order = torch.randperm(130, generator=torch.Generator().manual_seed(0))
    wrong = 0
    for draw, part in enumerate(order.tensor_split(10)):
        noisy = relu_network()
        generator = torch.Generator().manual_seed(draw)
        for parameter in noisy.parameters():
            parameter.data += sigma * torch.randn(parameter.shape, generator=generator).double()
        wrong += int((noisy(inputs[part]).argmax(dim=1) != labels[part]).sum())
    assert wrong / 130 == pytest.approx(0.1, abs=0.01)


def test_magnitude_aware_noise_does_not_see_the_scale_of_a_layer():
    network, scaled = relu_network(), relu_network()
    for parameter in [*network.parameters(), *scaled.parameters()]:
        parameter.data *= 100  # so large that the constant 1e-3 does not matter
    scaled.h1[0].weight.data *= 7
    expected = pac_bayes_magnitude_sigma(fitted(network))
    assert pac_bayes_magnitude_sigma(fitted(scaled)) == expected
    assert pac_bayes_sigma(fitted(scaled)) != pac_bayes_sigma(fitted(network))


def test_noise_reaches_the_weights_with_batch_norm_folded_in():
    torch.manual_seed(4)
    network = nn.Sequential(
        OrderedDict(
            conv2d=nn.Conv2d(1, 3, 3),
            norm=nn.BatchNorm2d(3),
            relu=nn.ReLU(),
            flat=nn.Flatten(),
            logits=nn.Linear(108, 3),
        )
    )
    nn.init.uniform_(network.norm.running_var, 0.01, 0.02)
    network = network.double().eval()
    assert pac_bayes_sigma(fitted(network)) == pac_bayes_sigma(fitted(folded(network)))


def test_where_no_noise_changes_the_accuracy_flatness_is_that_of_the_largest_noise():
    network = nn.Sequential(OrderedDict(logits=nn.Linear(1, 2)))
    network.logits.weight.data = torch.tensor([[1e6], [-1e6]])
    inputs = torch.ones(30, 1)
    tough = model(network, inputs, torch.zeros(30, dtype=torch.int64))
    assert pac_bayes_flatness(tough) == pytest.approx(0.5 / 30**0.5, rel=1e-3)


def test_the_bound_has_its_closed_form_and_grows_with_the_norm():
    assert pac_bayes_bound(0.0, 1.0, 1) == pytest.approx(np.sqrt(10))
    found = pac_bayes_bound(np.array([4.0, 8.0]), 0.5, 100)
    np.testing.assert_allclose(found**2 * 100 - np.log(200) - 10, [4, 8])


def test_bounds_around_the_start_and_around_0_are_of_weights_without_biases():
    network = two_logits(0.4).network
    network.logits.bias = nn.Parameter(torch.tensor([3.0, 3.0]))
    start = {"logits.weight": torch.tensor([[0.1], [-0.2]]), "logits.bias": torch.zeros(2)}
    sample = torch.ones(30, 1), torch.zeros(30, dtype=torch.int64)
    moved = gengap.Model(network, pd.Series(), start, lambda: sample)
    sigma = pac_bayes_sigma(moved)
    for measure, squared in (
        (pac_bayes_bound_from_initialization, 0.3**2 + 0.2**2),
        (pac_bayes_bound_from_origin, 2 * 0.4**2),
    ):
        expected = squared / (4 * sigma**2) + np.log(30 / sigma) + 10
        assert measure(moved) == pytest.approx((expected / 30) ** 0.5, rel=1e-6)
    sigma = pac_bayes_magnitude_sigma(moved)
    for measure, mean in (
        (pac_bayes_magnitude_bound_from_initialization, (0.3**2 + 0.2**2) / 2),
        (pac_bayes_magnitude_bound_from_origin, 0.4**2),
    ):
        above = 1e-6 + (sigma**2 + 1) * mean
        sides = [above / (1e-6 + sigma**2 * change**2) for change in (0.3, 0.2)]
        expected = np.log(sides).sum() / 4 + np.log(30 / sigma) + 10
        assert measure(moved) == pytest.approx((expected / 30) ** 0.5, rel=1e-6)


def test_a_magnitude_aware_bound_with_a_negative_sum_is_none():
    tiny = torch.full((100_000,), 1e-6)
    still = model(nn.Sequential(nn.Linear(1, 2)), *images(10))
    with pytest.raises(gengap.NotAvailable, match="square is negative"):
        pac_bayes_magnitude_bound(still, tiny, torch.full((100_000,), 10.0), 1.0)


def test_a_homogeneous_network_has_the_closed_form_of_the_fisher_rao_norm():
    network = relu_network()
    inputs, labels = images()
    logits = network(inputs).detach()
    rows = torch.arange(len(labels))
    inner = (logits.softmax(dim=1) * logits).sum(dim=1) - logits[rows, labels]
    expected = 3**2 * float(inner.square().mean())  # three layers
    assert fisher_rao(model(network, inputs, labels)) == pytest.approx(expected, rel=1e-10)


def test_slopes_equal_the_products_of_weights_and_gradients():
    network = relu_network(bias=True)
    inputs, labels = images(9)
    expected = []
    for image, label in zip(inputs.split(1), labels.split(1)):
        loss = nn.functional.cross_entropy(network(image), label)
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        pairs = zip(network.parameters(), gradients)
        expected.append(sum((weight * gradient).sum().item() for weight, gradient in pairs))
    assert loss_slopes(network, inputs, labels).tolist() == pytest.approx(expected, rel=1e-9)


def test_slopes_equal_finite_differences_of_the_loss_of_scaled_weights():
    inputs, labels = images(9)
    losses = []
    for step in (1e-6, -1e-6):
        network = relu_network(bias=True)
        for parameter in network.parameters():
            parameter.data *= 1 + step
        losses.append(nn.functional.cross_entropy(network(inputs), labels, reduction="none"))
    expected = (losses[0] - losses[1]).detach() / 2e-6
    found = loss_slopes(relu_network(bias=True), inputs, labels)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-8)


def test_a_sample_that_is_fitted_to_the_last_digit_keeps_its_slope():
    network = nn.Sequential(OrderedDict(logits=nn.Linear(1, 2, bias=False)))
    network.logits.weight.data = torch.tensor([[20.0], [-20.0]])
    slope = loss_slopes(network, torch.ones(1, 1), torch.tensor([0])).item()
    assert slope == pytest.approx(-40 * torch.tensor(-40.0).double().exp().item(), rel=1e-5)
