"""Defects, against the numbers of the released code itself."""

import numpy as np

from gengap.errata import released_low_rank_frobenius_norm
from gengap.measures.low_rank import low_rank_values


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
