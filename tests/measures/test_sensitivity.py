import colorsys
from collections import OrderedDict

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import sobel
from torch import nn

import gengap
from gengap.measures.sensitivity import (
    PENALTIES,
    augmentation_robustness,
    cropped,
    erased,
    horizontal_edges,
    jacobian_norm,
    mixup_error,
    saturated,
    squared_jacobians,
    transformations,
)
from gengap.measures.stages import seeded


def model(network: nn.Module, inputs, labels) -> gengap.Model:
    sample = torch.as_tensor(inputs), torch.as_tensor(labels)
    network = network if isinstance(network, nn.Sequential) else nn.Sequential(network)
    return gengap.Model(network.eval(), pd.Series(), read_sample=lambda: sample)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Band(nn.Module):
    """Class 1 outside [-1, 1], class 0 inside; inputs (N, 1)."""

    def forward(self, inputs):
        return torch.cat([torch.ones_like(inputs), inputs.abs()], dim=1)


class Brightness(nn.Module):
    """Class 1, without any doubt, where the mean of an image is above 1/4."""

    def forward(self, images):
        excess = images.flatten(1).mean(1, keepdim=True) - 0.25
        return 1e4 * torch.cat([-excess, excess], dim=1)


def test_the_jacobian_norm_is_the_kits(kit):
    for network, expected in kit:
        assert jacobian_norm(network) == pytest.approx(expected["jacobian_norm"], rel=1e-6)


def test_the_jacobian_of_linear_layers_is_their_product():
    first, second = nn.Linear(5, 4), nn.Linear(4, 3)
    squares = squared_jacobians(nn.Sequential(first, second), noise(7, 5))
    expected = [(second.weight @ first.weight).square().mean(), second.weight.square().mean()]
    torch.testing.assert_close(squares, torch.stack(expected).double().expand(7, 2))


def test_jacobians_equal_those_of_torch_func():
    hidden, outputs = nn.Sequential(nn.Linear(4, 6), nn.Tanh()).double(), nn.Linear(6, 3).double()
    network = nn.Sequential(OrderedDict(hidden=hidden, logits=outputs))
    inputs = noise(5, 4).double()
    by_input = torch.func.vmap(torch.func.jacrev(network))(inputs).square().mean((1, 2))
    by_hidden = torch.func.vmap(torch.func.jacrev(outputs))(hidden(inputs)).square().mean((1, 2))
    expected = torch.stack([by_input, by_hidden], dim=1).detach()
    torch.testing.assert_close(squared_jacobians(network, inputs), expected)


def test_a_last_batch_of_fewer_images_counts_as_a_batch():
    class Square(nn.Module):
        def forward(self, inputs):
            return inputs.square()

    inputs = torch.arange(17.0)[:, None]
    slopes = (2 * inputs).square()
    expected = (slopes[:16].mean() + slopes[16]) / 2
    assert jacobian_norm(model(Square(), inputs, [0] * 17)) == pytest.approx(float(expected))


def test_the_order_of_hidden_units_leaves_the_jacobian_norm():
    network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    order = torch.randperm(6, generator=seeded())
    turned = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    turned.load_state_dict(
        network.state_dict()
        | {"0.weight": network[0].weight[order], "0.bias": network[0].bias[order]}
        | {"2.weight": network[2].weight[:, order]}
    )
    sample = noise(20, 4), [0] * 20
    expected = jacobian_norm(model(network, *sample))
    assert jacobian_norm(model(turned, *sample)) == pytest.approx(expected, rel=1e-6)


def test_midpoints_across_the_other_class_are_errors():
    # Class 1 has the midpoints 0, 2.5 and -0.5 of its three pairs: one is right; class 0 has 0.25.
    inputs = torch.tensor([[-3.0], [0.0], [3.0], [2.0], [0.5]])
    assert mixup_error(model(Band(), inputs, [1, 0, 1, 1, 0])) == pytest.approx((2 / 3 + 0) / 2)


def test_each_class_weighs_the_same_in_the_mixup_error():
    inputs = torch.tensor([[-3.0], [3.0], *[[0.1 * i] for i in range(8)]])
    assert mixup_error(model(Band(), inputs, [1, 1] + [0] * 8)) == pytest.approx(1 / 2)


def test_without_two_images_of_a_class_there_is_no_mixup():
    with pytest.raises(gengap.NotAvailable, match="no two images of one class"):
        mixup_error(model(Band(), [[0.0], [2.0]], [0, 1]))


def test_a_network_that_looks_at_nothing_is_robust():
    network = nn.Sequential(nn.Flatten(), nn.Linear(108, 4))
    nn.init.zeros_(network[1].weight)
    assert augmentation_robustness(model(network, noise(9, 3, 6, 6), [0] * 9)) == 0


def test_changed_predictions_cost_their_penalties():
    # Of a black image, brightness and edges (0 becomes 1/2) change the mean.
    found = augmentation_robustness(model(Brightness(), torch.zeros(70, 1, 8, 8), [0] * 70))
    assert found == pytest.approx(PENALTIES["brightened"] + PENALTIES["edges"])


def test_unchanged_predictions_cost_the_change_of_their_probability():
    class Soft(nn.Module):
        def forward(self, images):
            mean = images.flatten(1).mean(1, keepdim=True)
            return torch.cat([torch.zeros_like(mean), 1 + mean], dim=1)

    sigmoid = torch.tensor([1.0, 1.5]).sigmoid()
    expected = 2 * float(sigmoid[1] - sigmoid[0])  # brightness and edges, both by 1/2
    found = augmentation_robustness(model(Soft(), torch.zeros(3, 1, 8, 8), [1] * 3))
    assert found == pytest.approx(expected, rel=1e-5)


def test_vectors_cannot_be_augmented():
    with pytest.raises(gengap.NotAvailable, match="needs images"):
        augmentation_robustness(model(Band(), [[0.0]], [0]))


def test_saturation_equals_colorsys():
    images = noise(2, 3, 4, 4).sigmoid().double()
    for factor in (0.6, 1.6):
        found = saturated(images, torch.tensor(factor).double())
        for before, after in zip(
            images.movedim(1, 3).reshape(-1, 3), found.movedim(1, 3).reshape(-1, 3)
        ):
            hue, saturation, value = colorsys.rgb_to_hsv(*before.tolist())
            expected = colorsys.hsv_to_rgb(hue, min(1.0, saturation * factor), value)
            assert after.tolist() == pytest.approx(expected)


def test_grey_images_have_no_saturation_to_change():
    grey = noise(2, 1, 4, 4)
    assert torch.equal(saturated(grey, torch.tensor(0.6)), grey)
    black = torch.zeros(1, 3, 2, 2)
    assert torch.equal(saturated(black, torch.tensor(1.6)), black)


def test_a_crop_magnifies_around_the_centre():
    ramp = torch.arange(32.0).expand(1, 2, 32, 32)
    middle = cropped(ramp)[0, 0, 5, 2:-2]  # ends are clamped to the crop
    expected = 15.5 + (torch.arange(2, 30) - 15.5) * 30 / 32
    torch.testing.assert_close(middle, expected)


def test_edges_equal_scipys_sobel_filter():
    images = noise(2, 3, 6, 5).double()
    # One channel at a time: scipy smooths along all other axes.
    expected = np.stack(
        [[sobel(c, axis=1, mode="mirror") for c in image] for image in images.numpy()]
    )
    np.testing.assert_allclose(horizontal_edges(images).numpy(), expected, atol=1e-12)


def test_a_rectangle_of_each_image_is_erased():
    images = noise(200, 3, 28, 28)
    found = erased(images, seeded())
    for before, after in zip(images, found):
        gone = (after == 0).all(0)
        assert torch.equal(after[:, ~gone], before[:, ~gone])
        rows, columns = gone.any(1), gone.any(0)
        assert gone.sum() == rows.sum() * columns.sum()
        assert 2 <= rows.sum() < 28 and 2 <= columns.sum() < 28


def test_transformations_are_the_same_again_and_have_their_penalties():
    images = noise(4, 3, 8, 8)
    first, again = (transformations(images, seeded()) for _ in range(2))
    assert first.keys() == PENALTIES.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert torch.equal(images, noise(4, 3, 8, 8))
