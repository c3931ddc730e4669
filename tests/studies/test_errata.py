"""Defects, against the numbers of the released code itself."""

import re

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch

from gengap.collections.genprob import genprob_network
from gengap.collections.participants import read_participants
from gengap.folders import repository
from gengap.measures.low_rank import low_rank_values
from gengap.measures.spectra import spectra_rows
from gengap.model import Model
from gengap.studies.errata import (
    errata_table,
    graph_variation,
    low_rank_part,
    map_sides,
    released_last_runs,
    released_low_rank_frobenius_norm,
    released_low_rank_frobenius_norms,
    released_low_rank_part,
    released_total_variation,
    unfoldings,
)
from gengap.studies.published import reported


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


def matrices_of(kernel):
    """Both unfoldings of a kernel under the names of the released metrics."""
    for name, first in (("in", np.moveaxis(kernel, 1, 0)), ("out", kernel)):
        matrix = first.reshape(len(first), -1)
        yield name, matrix if len(matrix) <= matrix.shape[1] else matrix.T


def test_the_released_low_rank_parts_have_the_released_numbers(reference):
    with np.load(reference / "golden/genprob/layer_metrics.npz") as file:
        names, metrics = list(file["metric_names"]), file["metrics"]
        weights = [file[f"weight_{number}"] for number in range(6)]
    ranks = []
    for weight, row in zip(weights, metrics, strict=True):
        for name, matrix in matrices_of(weight):
            gain, condition, spectral = (
                row[names.index(f"{name}_{what}_AE")] for what in ("S", "C", "spec")
            )
            part = released_low_rank_part(matrix)
            ranks.append(len(part))
            if len(part) == 0:
                assert gain == condition == spectral == 0
            else:
                found = [part.sum() / part[0] / len(matrix), part[0] / part[-1], part[0]]
                np.testing.assert_allclose(found, [gain, condition, spectral], rtol=1e-4)
    assert 0 in ranks and max(ranks) > 8


def test_only_the_released_search_sees_the_scale_of_the_weights():
    generator = np.random.default_rng(0)
    matrix = generator.normal(size=(10, 3)) @ generator.normal(size=(3, 90))
    matrix += generator.normal(size=(10, 90))
    scales = 10.0 ** np.arange(-4, 2)
    assert len({len(low_rank_part(scale * matrix)) for scale in scales}) == 1
    assert len({len(released_low_rank_part(scale * matrix)) for scale in scales}) > 1


def test_a_network_has_two_unfoldings_a_convolution():
    network = genprob_network([6] * 5, 10)
    kernels = [weight for weight in network.state_dict().values() if weight.ndim == 4]
    found = unfoldings(Model(network, pd.Series({"model_id": "a"})))
    assert len(found) == 2 * len(kernels)
    assert all(len(matrix) <= matrix.shape[1] for matrix in found)
    assert [matrix.size for matrix in found[::2]] == [kernel.numel() for kernel in kernels]


def test_twice_the_images_halve_the_released_variation():
    activations = np.random.default_rng(0).normal(size=(50, 7))
    once = released_total_variation(activations)
    assert once == pytest.approx(np.sqrt(np.trace(np.cov(activations.T, bias=True))) / 50)
    assert released_total_variation(np.tile(activations, (2, 1))) == pytest.approx(once / 2)


def test_the_released_filter_keeps_the_last_row_of_every_run_but_the_last():
    assert released_last_runs(pd.Series(list("aaabbc"))) == [2, 4]
    assert released_last_runs(pd.Series(list("aa"))) == []


def test_only_a_graph_of_edges_in_one_direction_has_a_negative_variation():
    star = np.zeros((5, 5))
    star[1:, 0] = star[0, 1] = 1
    signal = np.array([[1, 0]] + 4 * [[0.75, 0.25]])
    # Each vertex has one edge, so that the sum is over y_i (y_i - y_j) along the edges.
    assert graph_variation(star, signal) == pytest.approx(4 * (0.625 - 0.75) + 1 - 0.75)
    generator = np.random.default_rng(0)
    for _ in range(20):
        edges = generator.random((6, 6)) < 0.3
        edges |= edges.T | np.eye(6, dtype=bool)
        assert graph_variation(edges.astype(float), generator.random((6, 2))) >= -1e-12


def test_the_sides_of_feature_maps_are_halved_where_the_network_does():
    sides = map_sides(genprob_network([6] * 5, 10), 32)
    assert sides["stem"] == sides["cell0"] == 32
    assert (sides["cell1"], sides["cell3"]) == (16, 8)
    assert "classifier" not in sides


def test_every_printed_average_is_of_a_measure_in_the_record():
    averages = reported("pgdl_averages")
    assert set(averages["measure"]) <= set(reported("pgdl_scores")["measure"])
    assert not averages.duplicated(["measure", "phase"]).any()
    assert set(averages["phase"]) == {"public", "private"}


def test_the_grids_of_real_tasks_that_are_known_are_those_listed():
    grids = reported("pgdl_grids").groupby("task")
    for task, models in read_participants()[2].items():
        hyper_parameters = next(iter(models.values()))["hparams"].values()
        counts = [len(known["possible_values"]) for known in hyper_parameters]
        assert sorted(grids.get_group(task)["values"]) == sorted(n for n in counts if n > 1)
        assert set(grids.get_group(task)["networks"]) == {len(models)}


def test_the_page_has_a_section_for_each_erratum_in_their_order():
    page = nbformat.read(repository() / "notebooks" / "07-errata.ipynb", as_version=4)
    text = "\n".join(cell.source for cell in page.cells if cell.cell_type == "markdown")
    assert re.findall(r"^### \d+\. (.*)", text, re.MULTILINE) == list(errata_table()["title"])
    numbers = [int(number) for number in re.findall(r"^### (\d+)\. ", text, re.MULTILINE)]
    assert numbers == list(errata_table().index)


def test_errata_are_in_the_order_of_what_they_touch():
    errata = errata_table()
    places = errata["touches"].map(["conclusions", "numbers", "no number"].index)
    assert places.is_monotonic_increasing and set(places) == {0, 1, 2}
    assert errata["title"].is_unique
    assert set(errata["shown"]) == {"computed", "read"}
