"""The zoo's compiled network against torch's: gradients, logits, dropout, numbers not finite."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gengap.collections.cnnzoo import LAYOUT, PARAMETERS, small_cnn, state_dict
from gengap.replicas import small_cnn as compiled
from gengap.replicas.cnnzoo_training import ACTIVATIONS, stacked_logits

IMAGES = 40


@pytest.fixture(params=[28, 32])
def images(request):
    """MNIST's and CIFAR's size: both have windows that do not fill the last tile."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(IMAGES, 1, request.param, request.param, generator=generator) * 2 - 1
    return inputs, torch.randint(0, 10, (IMAGES,), generator=generator)


@pytest.fixture
def weights():
    return 0.2 * torch.randn(PARAMETERS, generator=torch.Generator().manual_seed(1))


def masks_of(noise, images: int):
    """The compiled network's noise, one layer after another, as torch's stack takes it."""

    def masks(shape):
        batch, _, channels, height, width = shape
        units = channels * height * width
        drawn = np.empty((batch, units), np.float32)
        for number, row in enumerate(drawn):
            compiled.fill_mask(row, number * per_image + masks.first, noise)
        masks.first += units
        mask = torch.from_numpy(drawn).view(batch, height, width, channels)
        return mask.permute(0, 3, 1, 2)[:, None]

    per_image = 16 * sum({28: (169, 36, 4), 32: (225, 49, 9)}[images])
    masks.first = 0
    return masks


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_the_gradient_is_torchs(images, weights, activation, rate):
    inputs, labels = images
    chosen = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(2))[:25]
    noise = compiled.dropout(rate, 7, 8)
    leaf = weights[None].clone().requires_grad_()
    masks = masks_of(noise, inputs.shape[-1])
    logits = stacked_logits(leaf, inputs[chosen], ACTIVATIONS[activation], masks)
    loss = F.cross_entropy(logits[0], labels[chosen])
    expected = torch.autograd.grad(loss, leaf)[0][0].numpy()
    found = compiled.gradient(
        weights.numpy(),
        inputs.flatten(1).numpy(),
        labels.numpy(),
        chosen.numpy(),
        activation == "tanh",
        noise,
    )
    for slot in LAYOUT:
        theirs = expected[slot.start : slot.end]
        tolerance = 1e-5 * np.abs(theirs).max()
        np.testing.assert_allclose(found[slot.start : slot.end], theirs, rtol=0, atol=tolerance)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_logits_are_those_of_the_network_that_the_loader_builds(images, weights, activation):
    network = small_cnn(activation).eval()
    network.load_state_dict(state_dict(weights.numpy()))
    pixels = images[0].flatten(1).numpy()
    found = compiled.logits(weights.numpy(), pixels, activation == "tanh")
    with torch.no_grad():
        np.testing.assert_allclose(found, network(images[0]), rtol=1e-5, atol=1e-6)


def test_tanh_is_right_to_a_few_units_of_the_last_place():
    values = np.linspace(-12, 12, 200_001).astype(np.float32)
    found = values.copy()
    compiled._activate(found, True)
    np.testing.assert_allclose(found, np.tanh(values.astype(float)), rtol=4e-7, atol=1e-10)


def test_dropout_drops_at_its_rate_and_keeps_the_mean():
    for rate in (0.0, 0.25, 0.7):
        mask = np.empty(200_000, np.float32)
        compiled.fill_mask(mask, 0, compiled.dropout(rate, 0))
        assert (mask == 0).mean() == pytest.approx(rate, abs=0.005)
        assert mask.mean() == pytest.approx(1, abs=0.02)


def test_the_noise_of_batches_and_of_units_is_unrelated():
    masks = np.empty((2, 100_000), np.float32)
    for number, row in enumerate(masks):
        compiled.fill_mask(row, 0, compiled.dropout(0.5, 42, 1, number))
    assert abs(np.corrcoef(masks)[0, 1]) < 0.015
    for lag in (1, 16, 13 * 16, 3344):
        assert abs(np.corrcoef(masks[0, lag:], masks[0, :-lag])[0, 1]) < 0.015


@pytest.mark.parametrize("activation", [False, True])
def test_numbers_that_are_not_finite_show_in_gradient_and_logits(images, weights, activation):
    weights[100] = np.nan
    pixels, labels = images[0].flatten(1).numpy(), images[1].numpy()
    assert np.isnan(compiled.logits(weights.numpy(), pixels, activation)).all()
    chosen, noise = np.arange(5), compiled.dropout(0.0, 1)
    assert np.isnan(
        compiled.gradient(weights.numpy(), pixels, labels, chosen, activation, noise)
    ).any()
