"""All measures of Dziugaite et al. 2020, against their released code."""

import json
from collections import OrderedDict

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.func import functional_call

import gengap
from gengap.collections.pgdl import PGDL
from gengap.collections.robust_measures import REGISTERED
from gengap.measures import MEASURES
from gengap.measures.flatness import (
    MAGNITUDE_EPSILON,
    pac_bayes_bound,
    pac_bayes_magnitude_bound,
)
from gengap.measures.folding import folded
from gengap.measures.norms import changed, layer_weights, squared_norm, trained

INIT, ORIGIN = "from_initialization", "from_origin"
OF_WEIGHTS = {  # released name -> registered one
    "PARAMS": "parameter_count",
    "PARAM_NORM": "folded_parameter_norm",
    "FRO_DIST": f"folded_distance_{INIT}",
    "DIST_SPEC_INIT": f"spectral_distance_{INIT}",
    "DIST_SPEC_INIT_FFT": f"spectral_distance_{INIT}_fft",
    "LOG_PROD_OF_FRO": "log_product_of_frobenius_norms",
    "LOG_SUM_OF_FRO": "log_sum_of_frobenius_norms",
    "LOG_PROD_OF_SPEC": "log_product_of_spectral_norms",
    "LOG_SUM_OF_SPEC": "log_sum_of_spectral_norms",
    "FRO_OVER_SPEC": "frobenius_over_spectral_norms",
    "LOG_PROD_OF_SPEC_FFT": "log_product_of_spectral_norms_fft",
    "LOG_SUM_OF_SPEC_FFT": "log_sum_of_spectral_norms_fft",
    "FRO_OVER_SPEC_FFT": "frobenius_over_spectral_norms_fft",
}
OF_MARGINS = {
    "INVERSE_MARGIN": "inverse_margin",
    "LOG_PROD_OF_FRO_OVER_MARGIN": "log_product_of_frobenius_norms_over_margin",
    "LOG_SUM_OF_FRO_OVER_MARGIN": "log_sum_of_frobenius_norms_over_margin",
    "LOG_PROD_OF_SPEC_OVER_MARGIN": "log_product_of_spectral_norms_over_margin",
    "LOG_SUM_OF_SPEC_OVER_MARGIN": "log_sum_of_spectral_norms_over_margin",
    "LOG_SPEC_INIT_MAIN": f"log_spectral_bound_{INIT}",
    "LOG_SPEC_ORIG_MAIN": f"log_spectral_bound_{ORIGIN}",
    "LOG_PROD_OF_SPEC_OVER_MARGIN_FFT": "log_product_of_spectral_norms_over_margin_fft",
    "LOG_SUM_OF_SPEC_OVER_MARGIN_FFT": "log_sum_of_spectral_norms_over_margin_fft",
    "LOG_SPEC_INIT_MAIN_FFT": f"log_spectral_bound_{INIT}_fft",
    "LOG_SPEC_ORIG_MAIN_FFT": f"log_spectral_bound_{ORIGIN}_fft",
}
OF_PATHS = {"PATH_NORM": "path_norm", "PATH_NORM_OVER_MARGIN": "path_norm_over_margin"}
OF_NOISE = {
    "PACBAYES_INIT": f"pac_bayes_bound_{INIT}",
    "PACBAYES_ORIG": f"pac_bayes_bound_{ORIGIN}",
    "PACBAYES_FLATNESS": "pac_bayes_flatness",
    "PACBAYES_MAG_INIT": f"pac_bayes_magnitude_bound_{INIT}",
    "PACBAYES_MAG_ORIG": f"pac_bayes_magnitude_bound_{ORIGIN}",
    "PACBAYES_MAG_FLATNESS": "pac_bayes_magnitude_flatness",
}
ROOTS = {"L2": "PARAM_NORM", "L2_DIST": "FRO_DIST"}  # of the same norms, without a bound
EVERY = OF_WEIGHTS | OF_MARGINS | OF_PATHS | OF_NOISE
NETWORKS = ["vgg_fashion_mnist/model_3", "nin_fashion_mnist/model_5"]


def test_published_tables_of_the_study_give_these_names():
    assert {name.lower(): ours for name, ours in EVERY.items()} == REGISTERED


@pytest.fixture(scope="module", params=NETWORKS)
def golden(request, reference) -> tuple[gengap.Model, dict]:
    """A network, and what the released code returns for it with m = 500."""
    root = reference / "golden/dziugaite"
    expected = json.loads((root / "expected.json").read_text())[request.param]
    model = PGDL(root).load(request.param)
    assert model.sample_size == expected["m"] == 500
    return model, expected["values"]


def as_released_folded(network: nn.Sequential, *, times: float = 0) -> nn.Sequential:
    """The folded network with the batch norms that the released code leaves, of variance 1.

    They divide by sqrt(1 + epsilon), which Keras has larger than PyTorch, and have the weight
    (1 + epsilon)^times.
    """
    left = folded(network)
    for name, norm in network.named_children():
        if isinstance(norm, nn.BatchNorm2d):
            setattr(left, name, nn.BatchNorm2d(norm.num_features, eps=norm.eps).eval())
            left.get_parameter(f"{name}.weight").data *= (1 + norm.eps) ** times
    return left


def test_all_measures_of_the_study_are_registered_and_compared(golden):
    assert set(golden[1]) == {*EVERY, *ROOTS}
    assert set(EVERY.values()) <= set(MEASURES)


@pytest.mark.parametrize("released", OF_WEIGHTS)
def test_measures_of_weights_are_the_released_ones(golden, released):
    model, expected = golden
    found = MEASURES[OF_WEIGHTS[released]](model)
    assert found == pytest.approx(expected[released], rel=1e-5)


@pytest.mark.parametrize("released", ROOTS)
def test_what_is_left_out_is_a_root_of_a_registered_measure(golden, released):
    model, expected = golden
    registered = MEASURES[OF_WEIGHTS[ROOTS[released]]](model)
    assert (registered / 500**0.5) ** 0.5 == pytest.approx(expected[released], rel=1e-5)


def with_released_margins(model: gengap.Model, network: nn.Sequential) -> gengap.Model:
    """A model with this network and the margins of what the released code folds of the other."""
    left = gengap.Model(as_released_folded(model.network), model.record, None, model.read_sample)
    mixed = gengap.Model(network, model.record, model.initial_weights, model.read_sample)
    mixed.__dict__["margins"] = left.margins
    return mixed


@pytest.mark.parametrize("released", OF_MARGINS)
def test_measures_over_margins_are_the_released_ones_for_margins_as_released(golden, released):
    model, expected = golden
    found = MEASURES[OF_MARGINS[released]](with_released_margins(model, model.network))
    assert found == pytest.approx(expected[released], rel=1e-5)


@pytest.mark.parametrize("released", OF_PATHS)
def test_path_norms_are_the_released_ones_where_batch_norm_is_left_as_released(golden, released):
    model, expected = golden
    # The registered measures fold what is left and square it, the released code does not square.
    left = as_released_folded(model.network, times=1 / 4)
    found = MEASURES[OF_PATHS[released]](with_released_margins(model, left))
    assert found == pytest.approx(expected[released], rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_the_bounds_of_the_released_noise_are_the_released_ones(golden, seed):
    model, expected = golden
    expected = {name: expected[name][seed] for name in OF_NOISE}
    weights, change = layer_weights(trained(model)), layer_weights(changed(model))
    sigma = 1 / (expected["PACBAYES_FLATNESS"] * 500**0.5)
    magnitude = 1 / (expected["PACBAYES_MAG_FLATNESS"] * 500**0.5)
    for name, moved in {"INIT": change, "ORIG": weights}.items():
        found = pac_bayes_bound(squared_norm([moved]), sigma, 500)
        assert found == pytest.approx(expected[f"PACBAYES_{name}"], rel=1e-5)
        found = pac_bayes_magnitude_bound(model, moved, change, magnitude)
        assert found == pytest.approx(expected[f"PACBAYES_MAG_{name}"], rel=1e-5)


def bisected_to(end: float) -> list[float]:
    """What a bisection of [0, 2] tries before it ends there."""
    low, high, tried = 0.0, 2.0, []
    while (middle := (low + high) / 2) != end:
        tried.append(middle)
        low, high = (low, middle) if middle > end else (middle, high)
    return tried


@pytest.mark.parametrize(
    "released, seed, deviation",
    [
        ("PACBAYES_FLATNESS", 0, lambda s, weight: torch.full_like(weight, s**2)),
        ("PACBAYES_MAG_FLATNESS", 1, lambda s, weight: s**2 * weight**2 + MAGNITUDE_EPSILON**2),
    ],
)
@torch.no_grad()
def test_noise_as_released_costs_a_tenth_of_the_accuracy_at_the_released_sigma(
    reference, released, seed, deviation
):
    root = reference / "golden/dziugaite"
    expected = json.loads((root / "expected.json").read_text())[NETWORKS[0]]
    model = PGDL(root).load(NETWORKS[0])
    found = 1 / (expected["values"][released][seed] * 500**0.5)
    sigma = round(found * 2**14) / 2**14
    assert sigma == pytest.approx(found, rel=1e-6)
    weights = dict(as_released_folded(model.network).named_parameters())
    generator = torch.Generator().manual_seed(10348628753 + seed)  # the seed of the released code

    def noise(size: float) -> dict[str, torch.Tensor]:
        return {
            name: torch.normal(0, deviation(size, weight), generator=generator)
            for name, weight in weights.items()
        }

    for size in bisected_to(sigma):
        for _ in range(10):
            noise(size)  # drawn before those that count
    images, labels = model.sample
    accuracies = []
    for _ in range(10):
        noisy = {name: weights[name] + drawn for name, drawn in noise(sigma).items()}
        logits = functional_call(as_released_folded(model.network), noisy, (images,))
        accuracies.append(float((logits.argmax(1) == labels).double().mean()))
    fall = expected["accuracy"] - np.mean(accuracies)
    assert fall == pytest.approx(0.1, abs=0.01)


def two_layers(images: int) -> gengap.Model:
    """A convolution and a dense layer that training changed, on eight of so many images."""
    torch.manual_seed(0)
    stages = OrderedDict(conv2d=nn.Conv2d(1, 3, 2), relu=nn.ReLU(), flat=nn.Flatten())
    network = nn.Sequential(stages | {"logits": nn.Linear(12, 3)}).eval()
    start = {name: torch.zeros_like(weight) for name, weight in network.named_parameters()}
    sample = torch.randn(8, 1, 3, 3), torch.arange(8) % 3
    return gengap.Model(network, pd.Series({"train_images": images}), start, lambda: sample)


@pytest.mark.parametrize("name", sorted({**OF_WEIGHTS, **OF_MARGINS, **OF_PATHS}.values()))
def test_a_hundred_times_the_images_take_a_tenth_of_a_bound(name):
    few, many = (MEASURES[name](two_layers(images)) for images in (8, 800))
    if name.startswith("log_"):
        assert many == pytest.approx(few - np.log(10), rel=1e-6)
    else:
        assert many == pytest.approx(few / 10, rel=1e-6)


@pytest.mark.parametrize("name", sorted(OF_NOISE.values()))
def test_more_images_make_a_bound_of_noise_smaller(name):
    few, many = (MEASURES[name](two_layers(images)) for images in (8, 800))
    assert many < few


def test_a_network_that_has_not_moved_has_no_spectral_bound_around_its_start():
    model = two_layers(8)
    start = dict(model.network.named_parameters())
    still = gengap.Model(model.network, model.record, start, model.read_sample)
    with pytest.raises(gengap.NotAvailable, match="no weight has left its start"):
        MEASURES[f"log_spectral_bound_{INIT}"](still)


def test_the_sample_is_all_images_where_the_index_does_not_say_how_many():
    model = two_layers(8)
    assert gengap.Model(model.network, pd.Series(), None, model.read_sample).sample_size == 8
    unknown = gengap.Model(model.network, pd.Series({"train_images": np.nan}))
    with pytest.raises(gengap.NotAvailable, match="no train_images of it, and this model comes"):
        _ = unknown.sample_size
