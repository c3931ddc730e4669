"""Defects, against the numbers of the released code itself."""

import numpy as np
import pandas as pd
import torch

from gengap.errata import released_low_rank_frobenius_norm, released_low_rank_frobenius_norms
from gengap.loaders.genprob import genprob_network
from gengap.measures.low_rank import low_rank_values
from gengap.measures.spectra import spectra_rows
from gengap.model import Model


def test_the_wrong_norm_is_the_released_one(reference):
    with np.load(reference / "golden/genprob/layer_metrics.npz") as file:
        names, metrics = list(file["metric_names"]), file["metrics"]
        weights = [file[f"weight_{number}"] for number in range(6)]
    for weight, released in zip(weights, metrics, strict=True):
        for name, kernel in (("in_fro_AE", np.moveaxis(weight, 1, 0)), ("out_fro_AE", weight)):
            found = released_low_rank_frobenius_norm(kernel.reshape(len(kernel), -1))
            np.testing.assert_allclose(found, released[names.index(name)], rtol=1e-5)


def test_the_wrong_norm_is_never_larger_than_the_right_one():
    generator = np.random.default_rng(0)
    planted = generator.normal(size=(8, 3)) @ generator.normal(size=(3, 40))
    matrix = planted + 0.1 * generator.normal(size=(8, 40))
    values = np.linalg.svd(matrix, compute_uv=False)
    right = np.linalg.norm(low_rank_values(values[None], np.array([8]), np.array([40])))
    for same in (matrix, matrix.T):
        assert 0 < released_low_rank_frobenius_norm(same) < right


def test_without_a_low_rank_part_the_wrong_norm_is_zero():
    assert released_low_rank_frobenius_norm(np.ones((1, 20))) == 0


def test_the_wrong_norms_of_a_network_have_the_rows_of_its_spectra():
    torch.manual_seed(0)
    network = genprob_network([6] * 5, 10)
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.5 * torch.rand(len(weight)).reshape(-1, *[1] * (weight.ndim - 1))  # signal
    model = Model(network, pd.Series({"model_id": "a"}))
    found = released_low_rank_frobenius_norms(model)
    spectra = spectra_rows(model)
    expected = spectra[(spectra["kind"] == "conv") & spectra["low_rank"]]
    keys = ["model_id", "layer", "kind", "unfolding", "low_rank", "size"]
    assert found[keys].to_numpy().tolist() == expected[keys].to_numpy().tolist()
    right = expected["frobenius_norm"].to_numpy()
    assert (found["released"] <= right * (1 + 1e-9)).all() and (found["released"] < right).any()
