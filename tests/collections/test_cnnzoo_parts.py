"""Parts of a zoo: rows in order, one part in memory at a time, what is damaged or missing."""

import shutil

import numpy as np
import pandas as pd
import pytest

import gengap
from gengap.collections import cnnzoo, cnnzoo_parts
from gengap.collections.cnnzoo import PARAMETERS, contents_of_zoo
from gengap.collections.cnnzoo_parts import Parts, part_files, part_name
from gengap.formats.containers import write_container

COUNTS = (3, 1, 4)  # networks a part, each at epochs 0 and 86


def write_part(folder, networks, contents):
    write_container(folder / part_name(networks), contents.items())


@pytest.fixture
def weights():
    values = np.random.default_rng(0).normal(size=(2 * sum(COUNTS), PARAMETERS))
    return values.astype(np.float32)


@pytest.fixture
def metrics():
    rows = 2 * sum(COUNTS)
    table = pd.DataFrame({"step": [0, 86] * (rows // 2)})
    table["modeldir"] = [f"mnist/{row // 2}" for row in range(rows)]
    constants = {f"config.{name}": 0.5 for name in cnnzoo.HYPER_PARAMETERS}
    constants |= {"config.activation": "relu"} | dict.fromkeys(cnnzoo.METRICS[1:], 0.25)
    return table.assign(**constants)


@pytest.fixture
def root(tmp_path, weights, metrics):
    first = 0
    for count in COUNTS:
        networks = range(first, first + count)
        rows = slice(2 * networks.start, 2 * networks.stop)
        write_part(tmp_path / "mnist", networks, contents_of_zoo(weights[rows], metrics[rows]))
        first += count
    return tmp_path


def test_parts_are_read_as_one_family(root, weights):
    zoo = gengap.open_collection("cnnzoo", root=root)
    index = zoo.index()
    assert list(index["model_id"]) == [f"mnist/{row}" for row in range(len(weights))]
    np.testing.assert_array_equal(zoo.weights(index), weights)
    mixed = index.sample(frac=1, random_state=0)
    np.testing.assert_array_equal(zoo.weights(mixed), weights[mixed["row"]])
    assert zoo.weights(index[:0]).shape == (0, PARAMETERS)


def test_a_network_of_a_part_has_its_own_and_its_initial_weights(root, weights):
    model = gengap.open_collection("cnnzoo", root=root).select("epoch == 86").load("mnist/7")
    for found, row in ((model.network.state_dict(), 7), (model.initial_weights, 6)):
        expected = cnnzoo.state_dict(weights[row])
        assert all((found[name] == expected[name]).all() for name in expected)


def test_the_same_rows_in_plain_files_are_the_same_family(
    root, tmp_path, weights, metrics, write_zoo
):
    write_zoo(tmp_path / "plain" / "mnist", weights, metrics)
    plain = gengap.open_collection("cnnzoo", root=tmp_path / "plain")
    parted = gengap.open_collection("cnnzoo", root=root)
    pd.testing.assert_frame_equal(plain.index(), parted.index())
    np.testing.assert_array_equal(plain.weights(plain.index()), parted.weights(parted.index()))


def test_reading_in_order_decompresses_each_part_once(root, monkeypatch):
    read = []
    decompress = cnnzoo_parts._decompressed.__wrapped__
    counting = cnnzoo_parts.lru_cache(maxsize=2)(
        lambda part, modified: read.append(part.name) or decompress(part, modified)
    )
    monkeypatch.setattr(cnnzoo_parts, "_decompressed", counting)
    zoo = gengap.open_collection("cnnzoo", root=root)
    index = zoo.index()
    assert not read  # an index needs no weights
    for model_id in index["model_id"]:
        zoo.load(model_id)
    assert len(read) == len(COUNTS)


def test_a_missing_part_is_named_and_a_missing_last_one_is_not(root):
    files = part_files(root / "mnist")
    files[2].unlink()
    assert len(gengap.open_collection("cnnzoo", root=root).index()) == 8
    shutil.copy(files[0], root / "mnist" / "part_000004-000006.zip")
    files[1].unlink()
    with pytest.raises(gengap.GengapError, match="no part that begins with network 3"):
        gengap.open_collection("cnnzoo", root=root).index()


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-200]])
def test_a_damaged_part_is_one_clear_sentence(root, damage):
    file = part_files(root / "mnist")[1]
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(gengap.GengapError, match="part_000003-000003.zip .* fetch it again"):
        gengap.open_collection("cnnzoo", root=root).index()


def test_a_part_whose_weights_are_damaged_inside_is_one_clear_sentence(root):
    file = part_files(root / "mnist")[1]
    data = bytearray(file.read_bytes())
    data[20_000:20_100] = bytes(100)
    file.write_bytes(data)
    zoo = gengap.open_collection("cnnzoo", root=root)
    with pytest.raises(gengap.GengapError, match=r"part_000003-000003.zip .* fetch it again"):
        zoo.load("mnist/6")


def test_a_matrix_of_another_width_in_a_part_is_refused(root, metrics):
    contents = contents_of_zoo(np.zeros((2, 100), np.float32), metrics[:2])
    write_part(root / "mnist", range(3, 4), contents)
    with pytest.raises(gengap.GengapError, match=r"holds float32 \(2, 100\), expected float32"):
        gengap.open_collection("cnnzoo", root=root).index()


def test_rows_of_parts_are_taken_as_of_a_matrix(root, weights):
    parts = Parts(part_files(root / "mnist"))
    assert len(parts) == len(weights)
    np.testing.assert_array_equal(parts[9], weights[9])
    np.testing.assert_array_equal(parts[np.array([15, 0, 15])], weights[[15, 0, 15]])
