import copy

import numpy as np
import pandas as pd
import pytest
import torch
import weightwatcher
from torch import nn

import gengap
from gengap.measures.power_law import (
    fitted_power_law,
    mean_log10_squared_frobenius_norm,
    mean_stable_rank,
    network_power_laws,
    power_law_alpha,
    weighted_power_law_alpha,
    weightwatcher_alpha,
    weightwatcher_weighted_alpha,
)

MEASURES = [
    power_law_alpha,
    weighted_power_law_alpha,
    mean_log10_squared_frobenius_norm,
    mean_stable_rank,
]


def model(*layers: nn.Module) -> gengap.Model:
    return gengap.Model(nn.Sequential(*layers), pd.Series())


@pytest.fixture(scope="module")
def network() -> nn.Sequential:
    """Two convolutions and a dense layer whose rows differ much in size."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 48, 3), nn.Flatten())
    layers.append(nn.Linear(128, 100))
    for layer in layers:
        if not isinstance(layer, nn.Flatten):
            rows = torch.linspace(0.3, 1, len(layer.weight)) ** 2
            shape = -1, *[1] * (layer.weight.ndim - 1)
            layer.weight.data = torch.randn_like(layer.weight) * rows.reshape(shape)
    return layers


def test_the_measures_are_those_of_weightwatcher(network):
    expected = weightwatcher.WeightWatcher(model=network).analyze()
    found = network_power_laws(network)
    # The package halves the eigenvalues of convolutions.
    scale = np.where(found["kind"] == "conv", 0.5, 1)
    assert list(found["eigenvalues"]) == list(expected["num_evals"])
    pairs = {
        "alpha": found["alpha"],
        "xmin": scale * found["power_law_start"],
        "D": found["power_law_distance"],
        "alpha_weighted": found["alpha_hat"] + found["alpha"] * np.log10(scale),
        "log_norm": found["log_norm"] + np.log10(scale),
        "stable_rank": found["stable_rank"],
    }
    for name, values in pairs.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-5, err_msg=name)


def test_the_means_are_those_of_weightwatchers_summary(network):
    halved = copy.deepcopy(network)
    with torch.no_grad():  # as the package does with the eigenvalues of convolutions
        for layer in halved[:2]:
            layer.weight.mul_(0.5**0.5)
    watcher = weightwatcher.WeightWatcher(model=network)
    watcher.analyze()
    names = ["alpha", "alpha_weighted", "log_norm", "stable_rank"]
    for name, measure in zip(names, MEASURES, strict=True):
        expected = watcher.get_summary()[name]
        assert measure(model(*halved)) == pytest.approx(expected, rel=1e-5), name


def test_alpha_by_the_packages_defaults_is_the_packages(network):
    torch.manual_seed(1)
    small = [nn.Linear(30, size) for size in (5, 8, 12, 19)]  # 5 are too few, 20 no longer few
    small.append(nn.Conv2d(2, 3, 2))  # 8 eigenvalues, of which some are dropped
    small[-1].weight.data[:, :, 0] *= 1e-3
    with torch.no_grad():
        for layer in small:
            layer.weight.mul_(
                torch.linspace(0.2, 1, 30)[: layer.weight.shape[1]].view(
                    1, -1, *[1] * (layer.weight.ndim - 2)
                )
            )
    layers = nn.Sequential(*network, *small)
    watcher = weightwatcher.WeightWatcher(model=layers)
    watcher.analyze()
    expected = watcher.get_summary()
    assert weightwatcher_alpha(model(*layers)) == pytest.approx(expected["alpha"], rel=1e-4)
    found = weightwatcher_weighted_alpha(model(*layers))
    assert found == pytest.approx(expected["alpha_weighted"], rel=1e-4)
    assert found != pytest.approx(weighted_power_law_alpha(model(*layers)), rel=1e-2)


@pytest.mark.parametrize("measure", [weightwatcher_alpha, weightwatcher_weighted_alpha])
@pytest.mark.parametrize(
    "weight, reason", [(0, "no layer has 8 eigenvalues"), (np.nan, "are infinite or NaN")]
)
def test_without_eigenvalues_the_package_has_no_alpha(measure, weight, reason):
    layer = nn.Linear(30, 20)
    nn.init.constant_(layer.weight, weight)
    with pytest.raises(gengap.NotAvailable, match=reason):
        measure(model(layer))


def test_scaling_the_weights_moves_the_norms_and_leaves_the_exponent(network):
    scaled = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in scaled.parameters():
            parameter.mul_(10)
    alpha, weighted, norm, rank = (
        (measure(model(*network)), measure(model(*scaled))) for measure in MEASURES
    )
    assert alpha[1] == pytest.approx(alpha[0], rel=1e-5)
    assert weighted[1] == pytest.approx(weighted[0] + 2 * alpha[0], rel=1e-5)
    assert norm[1] == pytest.approx(norm[0] + 2, rel=1e-5)
    assert rank[1] == pytest.approx(rank[0], rel=1e-5)


def test_the_exponent_is_the_mean_over_layers_that_have_one(network):
    expected = power_law_alpha(model(network[3]))
    assert power_law_alpha(model(network[3], nn.Linear(3, 9))) == expected
    for measure in (power_law_alpha, weighted_power_law_alpha):
        with pytest.raises(gengap.NotAvailable, match="no layer has 10 eigenvalues"):
            measure(model(nn.Linear(3, 9)))


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("weight", [0, np.nan, np.inf])
def test_a_layer_without_a_spectrum_leaves_a_network_without_means(network, measure, weight):
    layer = nn.Linear(30, 20)
    nn.init.constant_(layer.weight, weight)
    with pytest.raises(gengap.NotAvailable, match="'1' are all 0, infinite or NaN"):
        measure(model(network[3], layer))


def test_the_exponent_of_a_sample_is_that_of_its_law():
    uniform = (np.arange(2000) + 0.5) / 2000
    law = fitted_power_law(5 * (1 - uniform) ** (-1 / 1.5))
    assert law.alpha == pytest.approx(2.5, rel=0.02)
    assert law.distance < 0.01


def test_the_exponent_does_not_depend_on_the_scale():
    values = np.random.default_rng(0).exponential(size=60)
    law, scaled = fitted_power_law(values), fitted_power_law(1e-9 * values)
    assert scaled.alpha == pytest.approx(law.alpha, rel=1e-9)
    assert scaled.start == pytest.approx(1e-9 * law.start, rel=1e-9)


def test_equal_values_follow_no_law():
    assert np.isnan(fitted_power_law(np.ones(20)).alpha)


def test_few_eigenvalues_have_norms_but_no_exponent():
    layer = nn.Linear(2, 9)
    layer.weight.data = torch.zeros(9, 2)
    layer.weight.data[3, 0], layer.weight.data[1, 1] = 3, 1
    found = network_power_laws(layer).iloc[0]
    assert np.isnan(found["alpha"]) and np.isnan(found["alpha_hat"])
    assert found["log_norm"] == pytest.approx(1)
    assert found["stable_rank"] == pytest.approx(10 / 9)


@pytest.mark.parametrize("weight", [0, np.nan, np.inf])
def test_a_layer_without_a_spectrum_has_no_numbers(weight):
    layer = nn.Linear(30, 20)
    nn.init.constant_(layer.weight, weight)
    found = network_power_laws(layer).iloc[0]
    assert found["eigenvalues"] == 0
    assert found[["alpha", "alpha_hat", "log_norm", "stable_rank"]].isna().all()


def test_a_network_without_layers_has_no_power_laws():
    with pytest.raises(gengap.NotAvailable, match="neither a convolution nor a dense layer"):
        network_power_laws(nn.ReLU())
