import copy

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import nn

import gengap
from gengap.measures import MEASURES, spectra
from gengap.measures.spectra import model_spectra, network_spectra
from gengap.measures.spectral_aggregation import VARIANTS

NAMES = [f"{prefix}{name}" for name in VARIANTS for prefix in ("", "low_rank_")]


def model(*layers: nn.Module) -> gengap.Model:
    return gengap.Model(nn.Sequential(*layers).eval(), pd.Series())


def low_rank_convolution(*shape: int, seed: int) -> nn.Conv2d:
    """A convolution of three components of different size and a little noise."""
    out, inputs, size, _ = shape
    generator = torch.Generator().manual_seed(seed)
    matrices = (torch.randn(n, 3, generator=generator) for n in (out, inputs, size * size))
    kernel = torch.einsum("ar,br,cr,r->abc", *matrices, torch.tensor([3.0, 2, 1]))
    layer = nn.Conv2d(inputs, out, size)
    noise = 0.1 * torch.randn(shape, generator=generator)
    layer.weight.data = kernel.reshape(shape) + noise
    return layer


@pytest.fixture
def network() -> nn.Sequential:
    layers = [low_rank_convolution(24, 6, 3, 3, seed=0), nn.BatchNorm2d(24), nn.ReLU()]
    layers += [low_rank_convolution(20, 24, 3, 3, seed=1), nn.Flatten(), nn.Linear(20, 10)]
    return nn.Sequential(*layers)


@pytest.mark.parametrize("low_rank", [False, True])
def test_the_measures_follow_from_the_released_numbers_of_layers(reference, low_rank):
    with np.load(reference / "golden/genprob/layer_metrics.npz") as file:
        kernels = [torch.from_numpy(file[f"weight_{i}"]) for i in range(6)]
        released = file["metrics"].reshape(6, 2, 10)[:, int(low_rank)]
    layers = [nn.Conv2d(kernel.shape[1], len(kernel), 3) for kernel in kernels]
    for layer, kernel in zip(layers, kernels):
        layer.weight.data = kernel
    gain, condition, rank, spectral, frobenius = released.reshape(12, 5).T
    there = gain > 0
    quality = np.arctan2(gain[there], 1 - 1 / condition[there])
    expected = {
        "stable_quality": stats.gmean(quality),
        "log_effective_rank": np.log(np.sqrt(np.mean(rank[rank > 0] ** 2))) / 2,
        "log_spectral_norm": np.log(12 * stats.gmean(spectral[there])) / 2,
        "log_condition_number": np.log(stats.gmean(condition[there])),
    }
    if not low_rank:  # the released Frobenius norms of low-rank parts are wrong
        expected["log_frobenius_norm"] = np.log(12 * stats.gmean(frobenius)) / 2
    for name, value in expected.items():
        found = MEASURES[f"low_rank_{name}" if low_rank else name](model(*layers))
        assert found == pytest.approx(value, rel=1e-5), name


def orthogonal_model(*scales: float, width: int = 6) -> gengap.Model:
    """Convolutions of one place, orthogonal times these scales."""
    layers = [nn.Conv2d(width, width, 1) for _ in scales]
    for layer, scale in zip(layers, scales):
        matrix = torch.linalg.qr(torch.randn(width, width, dtype=torch.float64)).Q
        layer.double().weight.data = scale * matrix[..., None, None]
    return model(*layers)


def test_orthogonal_convolutions_have_the_measures_of_their_scale_and_width():
    expected = {
        "stable_quality": np.pi / 2,
        "log_effective_rank": np.log(np.log(6)) / 2,
        "log_frobenius_norm": np.log(4 * (2 * 8) ** 0.5 * 6**0.5) / 2,
        "log_spectral_norm": np.log(4 * (2 * 8) ** 0.5) / 2,
        "log_condition_number": 0,
    }
    found = orthogonal_model(2.0, 8.0)
    for name, value in expected.items():
        assert MEASURES[name](found) == pytest.approx(value, rel=1e-6, abs=1e-6), name


@pytest.mark.parametrize("low_rank", [False, True])
def test_the_measures_are_aggregates_of_both_unfoldings_of_the_convolutions(network, low_rank):
    table = network_spectra(network).query("kind == 'conv' and low_rank == @low_rank")
    assert len(table) == 4 and (table["rank"] > 1).all()
    geometric = {name: np.exp(np.log(table[name]).mean()) for name in spectra.STATISTICS}
    square = np.sqrt((table["effective_rank"] ** 2).mean())
    expected = {
        "stable_quality": geometric["stable_quality"],
        "log_effective_rank": np.log(np.sqrt(square)),
        "log_frobenius_norm": np.log(np.sqrt(4 * geometric["frobenius_norm"])),
        "log_spectral_norm": np.log(np.sqrt(4 * geometric["spectral_norm"])),
        "log_condition_number": np.log(geometric["condition_number"]),
    }
    for name, value in expected.items():
        found = MEASURES[f"low_rank_{name}" if low_rank else name](model(*network))
        assert found == pytest.approx(value, rel=1e-12), name


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_hidden_units_does_not_matter(network, name):
    permuted = copy.deepcopy(network)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    permuted[0].weight.data = network[0].weight.data[order]
    permuted[3].weight.data = network[3].weight.data[:, order]
    expected = MEASURES[name](model(*network))
    assert MEASURES[name](model(*permuted)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_scaling_all_weights_moves_norms_by_half_the_logarithm_and_nothing_else(network, name):
    scaled = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in scaled.parameters():
            parameter.mul_(10)
    moved = np.log(10) / 2 if name.endswith("norm") else 0
    expected = MEASURES[name](model(*network)) + moved
    assert MEASURES[name](model(*scaled)) == pytest.approx(expected, rel=1e-5)


def test_dense_layers_and_batch_norm_do_not_count(network):
    changed = copy.deepcopy(network)
    nn.init.constant_(changed[5].weight, 7)
    nn.init.constant_(changed[1].weight, 7)
    for name in NAMES:
        assert MEASURES[name](model(*changed)) == MEASURES[name](model(*network))


def test_all_measures_of_a_model_share_one_decomposition(network, monkeypatch):
    one, calls = model(*network), []
    original = spectra.network_spectra
    monkeypatch.setattr(spectra, "network_spectra", lambda n: calls.append(n) or original(n))
    for name in NAMES:
        MEASURES[name](one)
    assert model_spectra(one) is model_spectra(one)
    assert len(calls) == 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_leaves_no_measure(network, name, bad):
    with torch.no_grad():
        network[3].weight[1, 2, 0, 0] = bad
    with pytest.raises(gengap.NotAvailable, match="infinite or NaN"):
        MEASURES[name](model(*network))


@pytest.mark.parametrize("name", NAMES)
def test_a_network_without_convolutions_has_no_measure(name):
    with pytest.raises(gengap.NotAvailable, match="no convolution"):
        MEASURES[name](model(nn.Linear(4, 4)))
    with pytest.raises(gengap.NotAvailable, match="neither a convolution nor a dense layer"):
        MEASURES[name](model(nn.ReLU()))


@pytest.mark.parametrize("name", NAMES)
def test_convolutions_of_zeros_have_no_measure(name):
    layer = nn.Conv2d(4, 8, 3)
    nn.init.zeros_(layer.weight)
    with pytest.raises(gengap.NotAvailable, match="of all convolutions is 0|of low-rank parts"):
        MEASURES[name](model(layer))


def test_a_dead_channel_leaves_a_network_without_condition_number_but_of_its_low_rank_part(network):
    with torch.no_grad():
        network[0].weight[2] = 0
    dead = model(*network[:1])
    with pytest.raises(gengap.NotAvailable, match="condition number is infinite"):
        MEASURES["log_condition_number"](dead)
    for name in set(NAMES) - {"log_condition_number"}:
        assert np.isfinite(MEASURES[name](dead))


def test_only_noise_has_no_low_rank_measures():
    torch.manual_seed(0)
    noise = model(nn.Conv2d(16, 16, 3))
    for name in VARIANTS:
        assert np.isfinite(MEASURES[name](noise))
        with pytest.raises(gengap.NotAvailable, match="of low-rank parts of all convolutions is 0"):
            MEASURES[f"low_rank_{name}"](noise)
