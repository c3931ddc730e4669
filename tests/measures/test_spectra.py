import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import nn

import gengap
from gengap.measures.low_rank import bounded_minima, low_rank_values
from gengap.measures.spectra import STATISTICS, layer_spectra, network_spectra

RELEASED = ["knowledge_gain", "condition_number", "effective_rank", "spectral_norm"]
FROBENIUS = "frobenius_norm"
# The released order: before low-rank factorization, then after it.
ORDER = [("in", False), ("out", False), ("in", True), ("out", True)]


def kernel(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def golden(reference) -> list[tuple[torch.Tensor, np.ndarray]]:
    """Six kernels, each with the released metrics (4, 5) in ORDER."""
    with np.load(reference / "golden/genprob/layer_metrics.npz") as file:
        weights = [torch.from_numpy(file[f"weight_{i}"]) for i in range(6)]
        return list(zip(weights, file["metrics"].reshape(6, 4, 5), strict=True))


def test_the_eighteen_sound_metrics_are_the_released_ones(golden):
    for weight, expected in golden:
        found = layer_spectra(weight).loc[ORDER]
        np.testing.assert_allclose(found[RELEASED], expected[:, :4], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(found[FROBENIUS][:2], expected[:2, 4], rtol=1e-5)


def test_a_frobenius_norm_is_never_below_the_spectral_norm_as_two_released_ones_are(golden):
    released_below = 0
    for weight, expected in golden:
        found = layer_spectra(weight)
        assert (found[FROBENIUS] >= found["spectral_norm"]).all()
        released_below += (expected[2:, 4] < expected[2:, 3]).sum()
    assert released_below > 1


def test_a_network_has_the_spectra_of_its_layers(golden):
    layers = [(weight, nn.Conv2d(*reversed(weight.shape[:2]), 3)) for weight, _ in golden]
    for weight, layer in layers:
        layer.weight = nn.Parameter(weight)
    table = network_spectra(nn.Sequential(*(layer for _, layer in layers), nn.Linear(5, 4)))
    assert list(table["layer"].unique()) == [str(i) for i in range(7)]
    assert list(table["kind"]) == 24 * ["conv"] + 4 * ["dense"]
    assert list(table["size"][:4]) == [3, 3, 27, 27]
    for i, (weight, _) in enumerate(layers):
        found = table[table["layer"] == str(i)].set_index(["unfolding", "low_rank"])
        pd.testing.assert_frame_equal(found[list(STATISTICS)], layer_spectra(weight), rtol=1e-9)


def test_an_orthogonal_matrix_has_equal_singular_values():
    weight = 3 * torch.linalg.qr(kernel(12, 12).double()).Q
    found = layer_spectra(weight).loc["out", False]
    expected = [1, 1, np.log(12), 3, 3 * np.sqrt(12), np.pi / 2, 12]
    np.testing.assert_allclose(found, expected, rtol=1e-7)


def test_known_singular_values_give_the_worked_statistics():
    weight = torch.zeros(3, 5)
    weight[0, 1], weight[1, 0], weight[2, 4] = 4, 2, -1
    shares = np.array([4, 2, 1]) / 7
    entropy = -(shares * np.log(shares)).sum()
    gain, quality = 7 / 12, np.arctan2(7 / 12, 3 / 4)
    found = layer_spectra(weight).loc["in", False]
    np.testing.assert_allclose(found, [gain, 4, entropy, 4, np.sqrt(21), quality, 3], rtol=1e-12)


def test_the_in_and_out_of_a_dense_layer_are_the_same_matrix():
    found = layer_spectra(kernel(6, 9))
    pd.testing.assert_frame_equal(found.loc["in"], found.loc["out"])


def test_a_kernel_of_one_place_is_the_dense_layer_of_its_matrix():
    weight = kernel(6, 9)
    pd.testing.assert_frame_equal(layer_spectra(weight), layer_spectra(weight[..., None, None]))


def test_the_low_rank_part_finds_planted_components_in_noise():
    left, right = (torch.linalg.qr(kernel(n, 3, seed=n).double()).Q for n in (40, 200))
    signal = left @ torch.diag(torch.tensor([60.0, 50, 40]).double()) @ right.T
    found = layer_spectra(signal + kernel(40, 200, seed=1)).loc["out", True]
    assert found["rank"] == 3
    # The expected shrinkage of Nakajima et al. 2013 takes back what noise adds to a singular value.
    np.testing.assert_allclose(found["spectral_norm"], 60, rtol=0.05)


def test_the_low_rank_part_scales_with_the_weights():
    weight = kernel(20, 60) * torch.linspace(0.1, 2, 20)[:, None]
    found, small = layer_spectra(weight), layer_spectra(weight.double() * 1e-6)
    assert found.loc[("in", True), "rank"] > 1
    np.testing.assert_allclose(small[[FROBENIUS]] * 1e6, found[[FROBENIUS]], rtol=1e-6)
    np.testing.assert_allclose(small[RELEASED[:3]], found[RELEASED[:3]], rtol=1e-6)


def test_a_row_alone_has_no_low_rank_part():
    found = layer_spectra(kernel(8, 1, 3, 3)).loc["in"]
    assert list(found.loc[False, ["condition_number", "effective_rank", "rank"]]) == [1, 0, 1]
    assert (found.loc[True] == 0).all()


def test_weights_of_zeros_have_spectra_of_zeros():
    assert (layer_spectra(torch.zeros(4, 3, 3, 3)) == 0).all(axis=None)


def test_a_dead_channel_makes_the_condition_number_infinite_and_no_more():
    weight = kernel(8, 4, 3, 3)
    weight[2] = 0
    found = layer_spectra(weight)
    assert found.loc[("out", False), "condition_number"] == np.inf
    assert found.loc[("out", False), "rank"] == 7
    assert np.isfinite(found.drop(index=("out", False))).all(axis=None)
    assert np.isfinite(found.drop(columns="condition_number")).all(axis=None)


def test_a_matrix_without_noise_is_its_own_low_rank_part():
    weight = kernel(30, 2, seed=1).double() @ kernel(2, 50, seed=2).double()
    found = layer_spectra(weight).loc["out"]
    np.testing.assert_allclose(found.loc[True, "rank"], 2)
    np.testing.assert_allclose(found.loc[True, FROBENIUS], found.loc[False, FROBENIUS], rtol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_layer_with_a_bad_weight_has_no_numbers_and_others_keep_theirs(bad):
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3), nn.Linear(4, 4))
    expected = network_spectra(network)
    with torch.no_grad():
        network[0].weight[1, 2, 0, 0] = bad
    found = network_spectra(network)
    assert found.loc[:3, list(STATISTICS)].isna().all(axis=None)
    pd.testing.assert_frame_equal(found[4:], expected[4:])


def test_small_singular_values_are_as_exact_as_said():
    left, right = (torch.linalg.qr(kernel(n, 30, seed=n).double()).Q for n in (30, 90))
    for k, error in ((1e3, 1e-9), (1e5, 1e-5)):
        values = torch.linspace(0, -np.log10(k), 30).double()
        weight = left @ torch.diag(10**values) @ right.T
        found = layer_spectra(weight).loc[("out", False), "condition_number"]
        assert found == pytest.approx(k, rel=error)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_finds_the_same_spectra(golden):
    for weight, _ in golden:
        np.testing.assert_allclose(layer_spectra(weight.cuda()), layer_spectra(weight), rtol=1e-4)


@pytest.mark.parametrize("shape", [(5,), (), (4, 0)])
def test_what_is_no_layers_weight_is_refused(shape):
    with pytest.raises(gengap.GengapError, match="is not that of a layer; expected"):
        layer_spectra(torch.zeros(shape))


def test_a_network_without_layers_has_no_spectra():
    with pytest.raises(gengap.NotAvailable, match="neither a convolution nor a dense layer"):
        network_spectra(nn.ReLU())


def test_many_minima_are_those_that_scipy_finds_one_by_one():
    generator = np.random.default_rng(0)
    slopes, waves = generator.uniform(1, 30, size=(2, 40))
    low, high = generator.uniform(0.1, 1, 40), generator.uniform(2, 9, 40)

    def rugged(x, slope=slopes, wave=waves):
        return slope / x + x + np.sin(wave * x)

    found = bounded_minima(rugged, low, high, 1e-6 * high)
    for i in range(40):
        alone = minimize_scalar(
            rugged,
            args=(slopes[i], waves[i]),
            bounds=(low[i], high[i]),
            method="bounded",
            options={"xatol": 1e-6 * high[i]},
        )
        assert found[i] == pytest.approx(alone.x, rel=1e-6)


def test_a_low_rank_part_does_not_depend_on_the_other_matrices():
    values = np.sort(np.random.default_rng(0).exponential(1, size=(5, 12)))[:, ::-1]
    rows, columns = np.full(5, 12), np.array([12, 20, 50, 100, 1000])
    together = low_rank_values(values, rows, columns)
    for i in range(5):
        alone = low_rank_values(values[i : i + 1], rows[i : i + 1], columns[i : i + 1])
        np.testing.assert_allclose(together[i], alone[0], rtol=1e-9)
