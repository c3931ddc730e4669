"""The Small CNN Zoo's loader: golden values, closed forms, the real table's format, bad files."""

import shutil
import subprocess
import sys
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torch

import gengap
from gengap.collection import last_epoch
from gengap.collections import cnnzoo
from gengap.collections.cnnzoo import LAYOUT, PARAMETERS, weight_statistics


@pytest.fixture
def weights():
    return np.random.default_rng(0).normal(size=(5, PARAMETERS)).astype(np.float32)


@pytest.fixture
def zoo_root(tmp_path, weights, write_zoo):
    """Two networks in the published format: one at epochs 0, 3 and 86, one at 0 and 86."""
    metrics = pd.DataFrame(
        {
            "modeldir": ["a", "a", "a", "b", "b"],
            "step": [0, 3, 86, 0, 86],
            "test_accuracy": [0.1, 0.5, 0.9, 0.1, 0.2],
            "train_accuracy": [0.1, 0.6, 0.95, 0.1, 0.2],
            "test_loss": [2.3, 1.0, 0.3, 2.3, 2.0],
            "train_loss": [2.3, 1.0, 0.2, 2.3, 2.0],
            "config.activation": ["relu"] * 3 + ["tanh"] * 2,
            "config.b_init": "zeros",
            "config.dropout": [0.25] * 3 + [0.5] * 2,
            "config.init_std": 0.1,
            "config.l2reg": 1e-4,
            "config.learning_rate": 0.01,
            "config.optimizer": "adam",
            "config.train_fraction": 0.5,
            "config.w_init": "orthogonal",
        }
    )
    write_zoo(tmp_path / "mnist", weights, metrics)
    return tmp_path


def edit_metrics(root, edit):
    file = root / "mnist" / "metrics.csv.gz"
    edit(pd.read_csv(file)).to_csv(file, index=False)


def test_weight_statistics_equal_those_of_the_released_notebook(reference):
    golden = np.load(reference / "golden" / "cnnzoo" / "features.npz")
    np.testing.assert_allclose(
        weight_statistics(golden["weights"]), golden["features"], rtol=0, atol=1e-6
    )


def test_weight_statistics_equal_numpy_tensor_by_tensor(weights):
    def seven(vector):
        vector = vector.astype(float)
        return [*np.percentile(vector, [0, 25, 50, 75, 100]), vector.std(), vector.mean()]

    expected = [[x for s in LAYOUT for x in seven(row[s.start : s.end])] for row in weights]
    np.testing.assert_allclose(weight_statistics(weights), expected, rtol=1e-12, atol=1e-15)


def test_weight_statistics_of_a_tensor_are_a_tensor_with_the_same_values(weights):
    found = weight_statistics(torch.from_numpy(weights))
    np.testing.assert_array_equal(found.numpy(), weight_statistics(weights))


def test_weight_statistics_do_not_depend_on_the_rows_read_at_once(weights):
    one_by_one = weight_statistics(weights, rows_at_once=1)
    np.testing.assert_array_equal(one_by_one, weight_statistics(weights, rows_at_once=3))


def test_weight_statistics_leave_a_read_only_memory_map_as_it_is(tmp_path, weights):
    np.save(tmp_path / "w.npy", weights)
    mapped = np.load(tmp_path / "w.npy", mmap_mode="r")
    np.testing.assert_array_equal(weight_statistics(mapped), weight_statistics(weights))


PEAK = """
import resource, sys
from gengap.collections.cnnzoo import open_matrix, weight_statistics
weight_statistics(open_matrix(sys.argv[1]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def test_memory_does_not_grow_with_the_number_of_rows(tmp_path):
    peaks = []
    for rows in (1_000, 10_000):  # 20 MB and 200 MB of weights, in sparse files
        file = tmp_path / f"{rows}.npy"
        shape = (rows, PARAMETERS)
        np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=shape).flush()
        run = [sys.executable, "-c", PEAK, file]
        peaks.append(float(subprocess.run(run, capture_output=True, check=True).stdout))
    assert peaks[1] - peaks[0] < 100  # MB, of which the statistics themselves take 5


def test_a_nan_shows_in_the_seven_statistics_of_its_tensor_alone(weights):
    weights[2, LAYOUT[3].start + 5] = np.nan
    statistics = weight_statistics(weights).reshape(5, 8, 7)
    assert np.isnan(statistics[2, 3]).all()
    assert np.isnan(statistics).sum() == 7


def test_no_rows_have_no_statistics_and_another_width_is_refused():
    assert weight_statistics(np.empty((0, PARAMETERS), np.float32)).shape == (0, 56)
    with pytest.raises(ValueError, match=r"\(3, 100\), expected \(N, 4970\)"):
        weight_statistics(np.zeros((3, 100), np.float32))


def test_the_network_computes_what_the_layout_says(weights):
    """Against explicit sums over kernels HWIO, in float64."""
    inputs = np.random.default_rng(1).uniform(-1, 1, (2, 9, 11, 1))
    hidden = inputs
    bias, kernel = [
        [weights[0, s.start : s.end].reshape(s.shape).astype(float) for s in LAYOUT[i::2]]
        for i in (0, 1)
    ]
    layer = 0
    network = cnnzoo.small_cnn("tanh").eval()
    network.load_state_dict(cnnzoo.state_dict(weights[0]))
    windows = np.lib.stride_tricks.sliding_window_view(hidden, (3, 3), axis=(1, 2))[:, ::2, ::2]
    hidden = np.tanh(np.einsum("nhwiab,abio->nhwo", windows, kernel[layer]) + bias[layer])
    stage = network.h1(torch.tensor(inputs.transpose(0, 3, 1, 2), dtype=torch.float32))
    np.testing.assert_allclose(stage.detach().permute(0, 2, 3, 1), hidden, atol=1e-5)
    pooled = np.random.default_rng(2).normal(size=(3, 16))
    logits = network.logits(torch.tensor(pooled, dtype=torch.float32))
    np.testing.assert_allclose(logits.detach(), pooled @ kernel[3] + bias[3], atol=1e-5)


@pytest.mark.parametrize("side, last", [(28, 2), (32, 3)])
def test_feature_maps_have_the_published_sizes(side, last):
    network = cnnzoo.small_cnn("relu")
    hidden = network.h3(network.h2(network.h1(torch.zeros(1, 1, side, side))))
    assert hidden.shape == (1, 16, last, last)
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS


def test_a_written_zoo_is_read_back(zoo_root, weights):
    zoo = gengap.open_collection("cnnzoo", root=zoo_root)
    index = zoo.index()
    assert list(index["model_id"]) == [f"mnist/{row}" for row in range(5)]
    assert list(index["hp_activation"]) == ["relu"] * 3 + ["tanh"] * 2
    np.testing.assert_array_equal(zoo.weights(index.iloc[[4, 1]]), weights[[4, 1]])
    last = last_epoch(index)
    assert list(last["model_id"]) == ["mnist/2", "mnist/4"]


def test_initial_weights_are_those_of_epoch_0_of_the_same_network(zoo_root, weights):
    zoo = gengap.open_collection("cnnzoo", root=zoo_root).select("epoch == 86")
    model = zoo.load("mnist/4")
    assert not model.network.training
    expected = cnnzoo.state_dict(weights[3])
    assert all(torch.equal(model.initial_weights[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    "edit", [lambda table: table.drop(columns="modeldir"), lambda table: table.assign(modeldir="")]
)
def test_networks_without_a_folder_are_told_apart_by_their_settings(zoo_root, weights, edit):
    edit_metrics(zoo_root, edit)
    zoo = gengap.open_collection("cnnzoo", zoo_root)
    assert list(zoo.index()["run"]) == ["0", "0", "0", "1", "1"]
    first = zoo.load("mnist/2").initial_weights["h1.0.bias"]
    np.testing.assert_array_equal(first, weights[0, :16])


def test_the_real_metrics_table_is_read(tmp_path, reference, zoo_root):
    """25 rows of the published MNIST table, which lacks the column modeldir."""
    real = reference / "golden" / "cnnzoo" / "metrics_25_real_rows.csv"
    metrics = pd.read_csv(real)
    folder = zoo_root / "mnist"
    metrics.to_csv(folder / "metrics.csv.gz", index=False)
    np.save(folder / "weights.npy", np.zeros((25, PARAMETERS), np.float32))
    index = gengap.open_collection("cnnzoo", root=zoo_root).index()
    assert len(index) == 25
    last = last_epoch(index)
    assert set(last["epoch"]) == {86}
    # The table ends within a network, and begins within one: the first has its last epoch.
    assert len(last) == metrics["config.learning_rate"].nunique() - 1
    np.testing.assert_array_equal(index["test_accuracy"], metrics["test_accuracy"])


def test_rows_with_metrics_that_are_not_finite_are_reported_and_left_out(zoo_root):
    edit_metrics(zoo_root, lambda table: table.assign(test_loss=[2.3, np.nan, 0.3, np.inf, 2.0]))
    with pytest.warns(UserWarning, match=r"mnist: 2 of 5 rows .* left out"):
        index = gengap.open_collection("cnnzoo", root=zoo_root).index()
    assert list(index["row"]) == [0, 2, 4]


def test_an_early_epoch_does_not_stand_for_a_network_that_diverged(zoo_root, weights):
    edit_metrics(zoo_root, lambda table: table.assign(test_loss=[2.3, 0.4, np.nan, 2.3, 2.0]))
    with pytest.warns(UserWarning, match="1 of 5 rows"):
        zoo = gengap.open_collection("cnnzoo", root=zoo_root)
        assert list(last_epoch(zoo.index())["model_id"]) == ["mnist/4"]
    weights[4, 7] = np.inf
    np.save(zoo_root / "mnist" / "weights.npy", weights)
    index, finite = gengap.open_collection("cnnzoo", root=zoo_root).last_networks()
    assert index.empty and finite.shape == (0, PARAMETERS)


def test_a_network_with_weights_that_are_not_finite_is_not_available(zoo_root, weights):
    weights[2, 7] = np.inf
    np.save(zoo_root / "mnist" / "weights.npy", weights)
    zoo = gengap.open_collection("cnnzoo", root=zoo_root)
    assert list(cnnzoo.finite_rows(zoo.weights(zoo.index()))) == [True, True, False, True, True]
    with pytest.raises(gengap.NotAvailable, match="mnist/2 has weights that are not finite"):
        zoo.load("mnist/2")


@pytest.mark.parametrize("given", ["gelu", None])
def test_an_activation_that_is_not_known_is_named_with_its_value(zoo_root, given):
    edit_metrics(zoo_root, lambda table: table.assign(**{"config.activation": given}))
    reason = rf"^mnist/2 cannot be read \(hp_activation is {given or 'nan'}, not relu or tanh\)"
    with pytest.raises(gengap.GengapError, match=reason):
        gengap.open_collection("cnnzoo", root=zoo_root).load("mnist/2")


def test_indexing_270000_rows_reads_no_weights(zoo_root):
    rows = 270_000
    edit_metrics(zoo_root, lambda table: pd.concat([table] * (rows // 5)).assign(modeldir="a"))
    file = zoo_root / "mnist" / "weights.npy"
    shape = (rows, PARAMETERS)  # 5.4 GB, of which a sparse file stores nothing
    np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=shape).flush()
    zoo = gengap.open_collection("cnnzoo", root=zoo_root)
    tracemalloc.start()
    assert len(zoo.index()) == rows
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500e6


def test_fewer_metrics_than_weights_are_refused(zoo_root):
    edit_metrics(zoo_root, lambda table: table.iloc[:4])
    with pytest.raises(gengap.GengapError, match="5 rows of weights and 4 of metrics"):
        gengap.open_collection("cnnzoo", root=zoo_root).index()


def test_a_lacking_column_is_named(zoo_root):
    edit_metrics(zoo_root, lambda table: table.drop(columns="config.w_init"))
    with pytest.raises(gengap.GengapError, match="lacks the columns config.w_init"):
        gengap.open_collection("cnnzoo", root=zoo_root).index()


def test_a_shape_cell_is_never_executed(zoo_root, tmp_path):
    file = zoo_root / "mnist" / "layout.csv"
    layout = pd.read_csv(file)
    layout.loc[0, "shape"] = f"open({str(tmp_path / 'made')!r}, 'w') or (16,)"
    layout.to_csv(file, index=False)
    gengap_error = pytest.raises(gengap.GengapError, match="not a table of the Small CNN Zoo")
    with gengap_error:
        gengap.open_collection("cnnzoo", root=zoo_root).index()
    assert not (tmp_path / "made").exists()


def test_a_layout_whose_tensors_lie_elsewhere_is_refused(zoo_root):
    file = zoo_root / "mnist" / "layout.csv"
    layout = pd.read_csv(file)
    layout.loc[3, "start_idx"] = 2320  # the slice that a third-party loader uses by mistake
    layout.to_csv(file, index=False)
    with pytest.raises(gengap.GengapError, match="not a table of the Small CNN Zoo"):
        gengap.open_collection("cnnzoo", root=zoo_root).index()


@pytest.mark.parametrize("bad", ["truncated", "pickled", "wrong shape", "empty"])
def test_a_bad_weight_matrix_is_one_clear_sentence(zoo_root, weights, bad):
    file = zoo_root / "mnist" / "weights.npy"
    if bad == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    elif bad == "pickled":
        np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    elif bad == "wrong shape":
        np.save(file, weights[:, :-1])
    else:
        file.write_bytes(b"")
    with pytest.raises(gengap.GengapError, match="weights.npy"):
        gengap.open_collection("cnnzoo", root=zoo_root).index()


def test_a_truncated_metrics_table_is_one_clear_sentence(zoo_root):
    file = zoo_root / "mnist" / "metrics.csv.gz"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(gengap.GengapError, match="metrics.csv.gz cannot be read"):
        gengap.open_collection("cnnzoo", root=zoo_root).index()


def test_a_data_set_with_a_missing_file_is_left_out_and_named(zoo_root):
    shutil.copytree(zoo_root / "mnist", zoo_root / "cifar10")
    (zoo_root / "cifar10" / "layout.csv").unlink()
    zoo = gengap.open_collection("cnnzoo", root=zoo_root)
    assert set(zoo.index()["family"]) == {"mnist"}
    missing = zoo.families().set_index("family")["missing"]
    assert [path.name for path in missing["cifar10"]] == ["layout.csv"]
