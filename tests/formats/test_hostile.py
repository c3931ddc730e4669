"""Small files that ask for time, memory or trust: one true sentence, soon, in little memory.

Those of tests/field/hostile, and others of their kinds that are made here.
"""

import gzip
import json
import os
import shutil
import sqlite3
import struct
import time
import tracemalloc
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from archives.tf1_checkpoint import (
    MAGIC,
    block,
    entry,
    number,
    write_checkpoint,
)

from gengap import GengapError
from gengap.collections.cnnzoo import open_matrix
from gengap.collections.demogen import DEMOGEN
from gengap.collections.folder import Folder
from gengap.collections.genprob import GenProb
from gengap.collections.participants import read_participants
from gengap.collections.pgdl import PGDL, read_shard
from gengap.folders import write_atomically
from gengap.formats.images import load_images, network_inputs, per_image_standardization
from gengap.formats.keras import network_from_config, weights_in, write_weights
from gengap.formats.predictions import read_model_configs, read_predictions
from gengap.formats.protobuf import as_varint, delimited, masked_checksum
from gengap.formats.state_dicts import read_state_dict
from gengap.formats.tf_checkpoint import read_checkpoint
from gengap.formats.weight_modules import weights_only_network
from gengap.tables import store

HOSTILE = Path(__file__).parents[1] / "field" / "hostile"
SECONDS = 5  # machines are busy; each takes a tenth of a second
MEGABYTES = 80  # FEW of gengap.formats.places, 64 MiB, and what reads them


def refused(read, *arguments) -> str:
    """The one sentence that a reader raises, in bounded time and memory."""
    tracemalloc.start()
    start = time.perf_counter()
    try:
        with pytest.raises(GengapError) as caught:
            read(*arguments)
        seconds, memory = time.perf_counter() - start, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seconds < SECONDS and memory < MEGABYTES * 2**20, (seconds, memory)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def zip_in_a_collection(collection):
    def read(file):
        collection(file.parent).index()

    return read


# Name of a file -> what reads it and what it says; beside it lie no others.
SENTENCES = {
    "bitflip_in_weight.pt": [(read_state_dict, "the checksum of a/data/0 in it is wrong")],
    "ck_shape1e8.index": [
        (lambda file: read_checkpoint(file.with_suffix("")), "a number stands where bytes are")
    ],
    "empty_1GB.tfrecord": [(read_shard, "too large for its 12 bytes")],
    "shape_varint_1e8.tfrecord": [(read_shard, "a number stands where bytes are expected")],
    "lzma_damaged.zip": [
        (zip_in_a_collection(PGDL), "neither stored nor deflated"),
        (zip_in_a_collection(GenProb), "neither stored nor deflated"),
    ],
    "npz_as_weights.npy": [(open_matrix, "a NumPy matrix is expected")],
}


@pytest.mark.parametrize("name", SENTENCES)
def test_a_hostile_file_from_the_field_is_one_sentence(name, tmp_path):
    file = tmp_path / name
    shutil.copy(HOSTILE / name, file)
    for read, sentence in SENTENCES[name]:
        assert sentence in (told := refused(read, file)) and name in told


def test_a_damaged_store_of_an_earlier_version_has_no_rows_and_is_not_touched(tmp_path):
    file = tmp_path / "sq_1062.sqlite"
    shutil.copy(HOSTILE / file.name, file)
    assert store.rows_in(file, "demo").empty
    with sqlite3.connect(file) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    assert "measured" in tables  # the earlier version's own


def test_every_hostile_file_of_the_field_is_read_here():
    files = {file.name for file in HOSTILE.iterdir()}
    assert files == {*SENTENCES, "sq_1062.sqlite"}


# State dicts


class Call:
    """Pickled as a call of a function."""

    def __init__(self, function, *arguments):
        self.called = function, arguments

    def __reduce__(self):
        return self.called


def sparse_outside():
    indices = torch.tensor([[0, 5000], [0, 7]])
    return torch.sparse_coo_tensor(indices, torch.ones(2), (2, 2), check_invariants=False)


def overlapping():
    numbers = torch.zeros(10**6).half()
    return {f"l{place}.weight": numbers.view(1000, 1000) for place in range(100)}


STATES = {
    "memory of a number": ({"rng": Call(bytearray, 4 * 10**9)}, "holds a builtins.bytearray"),
    "strides of 0": ({"a.weight": torch.zeros(1).expand(10**5, 10**5)}, "far more than the file"),
    "one storage often": (overlapping(), "far more than the file"),
    "a huge sparse tensor": (
        {"a.weight": torch.sparse_coo_tensor([[0], [0]], [1.0], (60_000, 60_000))},
        "far more than the file",
    ),
    "sparse numbers outside": ({"a.weight": sparse_outside()}, "size is inconsistent"),
    "no numbers": ({"a.weight": torch.empty(9**6, 9**6, device="meta")}, "a shape and no numbers"),
    "a deep name": ({"a." * 30_000 + "weight": torch.ones(2, 2)}, "no name of a tensor"),
    "a name of digits": ({"a" + "1" * 6000 + ".weight": torch.ones(2, 2)}, "no name of a tensor"),
    "a name of modules": ({"train.weight": torch.ones(2, 2)}, "no name of a tensor"),
}


@pytest.mark.parametrize("version", [True, False], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("name", STATES)
def test_a_hostile_state_dict_is_one_sentence(name, version, tmp_path):
    state, sentence = STATES[name]
    torch.save(state, tmp_path / "a.pt", _use_new_zipfile_serialization=version)
    assert sentence in refused(read_state_dict, tmp_path / "a.pt")


def test_a_state_dict_that_holds_itself_is_one_sentence(tmp_path):
    state = {}
    state["model"] = state
    torch.save(state, tmp_path / "a.pt")
    assert "a.pt cannot be read" in refused(read_state_dict, tmp_path / "a.pt")


def test_too_many_layers_beside_each_other_are_refused_at_once():
    kinds = ("weight", "running_mean", "running_var")
    state = {f"bn{place}.{kind}": torch.ones(1) for place in range(1500) for kind in kinds}
    state["fc.weight"] = torch.ones(2, 2)
    with pytest.raises(GengapError, match="side by side"):
        weights_only_network(state, "why")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".npy", ".csv", ".predict", ".zip"])
def test_a_pipe_is_refused_and_never_waited_for(suffix, tmp_path):
    file = tmp_path / f"a{suffix}"
    os.mkfifo(file)
    readers = {
        ".npy": open_matrix,
        ".csv": lambda file: Folder(file.parent).index(),
        ".predict": read_predictions,
        ".zip": zip_in_a_collection(GenProb),
    }
    assert "no plain file" in refused(readers.get(suffix, read_state_dict), file)


# Archives


def zipped(file, *names, content=b"", method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(file, "w", method) as archive:
        for name in names:
            archive.writestr(name, content)
    return file


NETWORK = "NIN01234_SGD_lr_0.1_CIFAR10_epoch_0.pth.tar"


@pytest.mark.parametrize(
    "names, size, sentence",
    [
        ([NETWORK], 10**8, "cannot hold its members"),
        (["input_data\\task4\\x"], 0, "no path into it"),  # as some programs of Windows wrote them
        (["../..//x"], 0, "no path into it"),  # Python once looped on it for ever
        (["a/" * 30_000 + "x"], 0, "no path into it"),  # a gigabyte of names of folders
    ],
)
@pytest.mark.parametrize("collection", [PGDL, GenProb])
def test_a_hostile_zip_file_is_one_sentence(collection, names, size, sentence, tmp_path):
    zipped(tmp_path / "a.zip", *names, content=bytes(size))
    assert sentence in refused(zip_in_a_collection(collection), tmp_path / "a.zip")


def test_a_member_that_stands_twice_is_refused(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"):
        zipped(tmp_path / "a.zip", NETWORK, NETWORK)
    assert "two members" in refused(zip_in_a_collection(GenProb), tmp_path / "a.zip")


def test_an_archive_of_images_that_unpacks_to_far_more_is_refused(tmp_path):
    with gzip.open(tmp_path / "cifar-10-binary.tar.gz", "wb", 1) as file:
        for _ in range(100):
            file.write(bytes(2**20))
    sentence = refused(lambda: load_images("cifar10", "train", root=tmp_path))
    assert "unpacks to more than" in sentence


def test_a_flipped_bit_in_an_archive_of_images_is_seen(tmp_path):
    from formats.test_images import archive_members, cifar, write_archive

    file = tmp_path / "cifar-10-binary.tar.gz"
    write_archive(file, archive_members(*cifar()))
    content = bytearray(file.read_bytes())
    content[-6] ^= 1  # of the checksum, at the end: as if a pixel had changed
    file.write_bytes(content)
    with pytest.raises(GengapError, match="CRC check failed"):
        load_images("cifar10", "train", root=tmp_path)


# HDF5 and its configuration

CONFIG = {"model_config": [{"layer_name": "Dense", "units": 3}], "input_shape": [4]}
KERNEL = "dense/dense/kernel:0"


def linked(opened, other):
    opened[KERNEL] = h5py.ExternalLink(str(other), KERNEL)


def linked_twice(opened, other):
    opened["x"] = h5py.ExternalLink(str(other), "/")
    opened[KERNEL] = h5py.SoftLink(f"/x/{KERNEL}")


def stored_elsewhere(opened, other):
    opened.create_dataset(KERNEL, (4, 3), "f4", external=[(str(other), 0, 48)])


def virtual(opened, other):
    layout = h5py.VirtualLayout((4, 3), "f4")
    layout[:] = h5py.VirtualSource(str(other), KERNEL, shape=(4, 3))
    opened.create_virtual_dataset(KERNEL, layout)


def never_written(opened, _):
    opened.create_dataset(KERNEL, (4, 3), "f4", chunks=(4, 3))


@pytest.mark.parametrize(
    "change, sentence",
    [
        (linked, "a link to elsewhere"),
        (linked_twice, "a link to elsewhere"),
        (stored_elsewhere, "not in the file"),
        (virtual, "not in the file"),
        (never_written, "not in the file"),
    ],
)
def test_weights_in_hdf5_come_from_no_other_file(change, sentence, tmp_path):
    network = network_from_config(CONFIG)
    for name in ("a.hdf5", "other.hdf5"):
        write_weights(tmp_path / name, network)
    with h5py.File(tmp_path / "a.hdf5", "r+") as opened:
        del opened[KERNEL]
        change(opened, tmp_path / "other.hdf5")
    assert sentence in refused(weights_in, tmp_path / "a.hdf5", network)


@pytest.mark.parametrize(
    "layers, shape",
    [
        ([{"layer_name": "Flatten"}, {"layer_name": "Dense", "units": 10}], [30_000, 30_000, 3]),
        ([{"layer_name": "Dense", "units": 10**12}], [4]),
        ([{"layer_name": "Dense", "units": 10**30}], [4]),
        ([{"layer_name": "Dense", "units": -5}], [4]),
        ([{"layer_name": "MaxPooling2D", "pool_size": 10**9, "padding": "same"}], [8, 8, 1]),
        ([{"layer_name": "Conv2D", "filters": 1, "kernel_size": 3, "padding": 5}], [8, 8, 1]),
        ([{"layer_name": ["Dense"]}], [4]),
        ([{"layer_name": "ReLU"}] * 100_000, [4]),
    ],
)
def test_a_configuration_asks_for_no_more_than_a_network(layers, shape):
    refused(network_from_config, {"model_config": layers, "input_shape": shape})


def test_a_large_input_alone_takes_no_memory():
    layers = [{"layer_name": "GlobalAveragePooling2D"}, {"layer_name": "Dense", "units": 2}]
    network = network_from_config({"model_config": layers, "input_shape": [30_000, 30_000, 3]})
    assert network.dense.in_features == 3


# Checkpoints, records and matrices


def table_of(blocks, handles=None):
    """An index of these blocks, or of these places in them."""
    content, places = b"", []
    for made in blocks:
        places.append(as_varint(len(content)) + as_varint(len(made) - 5))
        content += made
    places = handles(places) if handles else places
    meta, index = block([]), block([(b"%08d" % at, place) for at, place in enumerate(places)])
    footer = as_varint(len(content)) + as_varint(len(meta) - 5)
    footer += as_varint(len(content) + len(meta)) + as_varint(len(index) - 5)
    return content + meta + index + footer.ljust(40, b"\0") + MAGIC


def long_keys():
    """A key of 100,000 bytes, and 30,000 that share them."""
    content = as_varint(0) + as_varint(100_000) + as_varint(0) + b"k" * 100_000
    for place in range(30_000):
        content += as_varint(100_000) + as_varint(3) + as_varint(0) + place.to_bytes(3, "big")
    content += struct.pack("<2I", 0, 1) + b"\0"
    return content + struct.pack("<I", masked_checksum(content))


def test_names_that_share_a_long_beginning_do_not_fill_the_memory(tmp_path):
    (tmp_path / "m.index").write_bytes(table_of([long_keys()]))
    assert "longer than it can hold" in refused(read_checkpoint, tmp_path / "m")


def test_a_block_that_is_listed_often_is_read_once(tmp_path):
    made = block([(b"", number(1, 1)), (b"a", b"x" * 4000)])
    (tmp_path / "m.index").write_bytes(table_of([made], lambda places: places * 20_000))
    assert "lists a block twice" in refused(read_checkpoint, tmp_path / "m")


def with_shape(shape, size=0):
    sizes = b"".join(delimited(2, number(1, length)) for length in shape)
    return number(1, 1) + delimited(2, sizes) + number(5, size)


@pytest.mark.parametrize("shape", [[2**62] * 50_000, [0, 2**63], [2**40, 2**40]])
def test_a_shape_is_no_order_for_memory(shape, tmp_path):
    one = np.ones((2, 2), np.float32)
    write_checkpoint(tmp_path / "m", {"a": one}, changed={"b": with_shape(shape)})
    refused(read_checkpoint, tmp_path / "m")


def test_variables_that_lie_upon_each_other_are_refused(tmp_path):
    one = np.ones(10**5, np.float32)
    same = {f"b{place:05}": entry(one, 0) for place in range(500)}
    write_checkpoint(tmp_path / "m", {"a": one}, changed=same)
    assert "lie upon each other" in refused(read_checkpoint, tmp_path / "m")


def test_a_record_is_not_allocated_before_it_is_there(tmp_path):
    length = struct.pack("<Q", 2**30)
    file = tmp_path / "a.tfrecord"
    file.write_bytes(length + struct.pack("<I", masked_checksum(length)) + b"abc")
    assert "truncated" in refused(read_shard, file)


@pytest.mark.parametrize(
    "shape", ["(10**10, 4970)", "(10000000000, 4970)", "(-1, 4970)", "(" * 999]
)
def test_a_matrix_is_as_large_as_its_file(shape, tmp_path):
    header = f"{{'descr':'<f4','fortran_order':False,'shape':{shape}}}\n".encode()
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    (tmp_path / "a.npy").write_bytes(content)
    assert "a.npy cannot be read" in refused(open_matrix, tmp_path / "a.npy")


# Text


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("[" * 100_000, "RecursionError"),
        ('{"a":' * 100_000, "RecursionError"),
        ('{"model_1": ' + "9" * 10_000 + "}", "4300 digits"),
        (json.dumps({f"m{n}": n for n in range(60_000)})[:-1] + ', "m5": 1}', "'m5' stands there"),
    ],
)
def test_hostile_json_is_one_sentence(text, sentence, tmp_path):
    (tmp_path / "a.json").write_text(text)
    for read in (read_predictions, read_model_configs):
        assert sentence in refused(read, tmp_path / "a.json")


def test_a_grid_of_too_many_networks_is_refused(tmp_path):
    names = ("wide_multiplier", "batchnorm", "normalization", "dropout_prob", "augmentation")
    grid = dict.fromkeys((*names, "decay_fac", "learning_rate", "copy"), list(range(300)))
    (tmp_path / "all_model_spec.json").write_text(json.dumps({"NIN_CIFAR10": grid}))
    assert "a grid of 6.561e+19 networks" in refused(DEMOGEN(tmp_path).index)


HEADER = "file,train_accuracy,test_accuracy"


@pytest.mark.parametrize(
    "text, sentence",
    [
        (HEADER + "".join(f",c{n}" for n in range(10**5)) + "\n", "more than 1000 columns"),
        (HEADER + "\na.pt,True,False\n", "not every train_accuracy is a number"),
        (HEADER + "\n" + "a.pt,1,1\n" * 5_000, "two rows for 'a.pt'"),
        (HEADER + "\na.pt,inf,1\n", "fractions"),
    ],
)
def test_a_hostile_table_is_one_sentence(text, sentence, tmp_path):
    torch.save({"fc.weight": torch.ones(2, 2)}, tmp_path / "a.pt")
    (tmp_path / "networks.csv").write_text(text)
    assert sentence in refused(Folder(tmp_path).index)


# Truth


def test_tensors_are_images_too():
    grey = torch.zeros(2, 28, 28, dtype=torch.uint8)
    assert network_inputs(grey).shape == (2, 1, 28, 28)
    colour = torch.zeros(2, 32, 32, 3, dtype=torch.uint8)
    assert per_image_standardization(colour).shape == (2, 3, 32, 32)


def test_participants_with_a_model_twice_are_refused(tmp_path):
    from gengap.collections.participants import TASKS, task_files
    from gengap.folders import data

    for task in TASKS:
        for file in task_files(data() / "published" / "pgdl_participants", task):
            shutil.copy(file, tmp_path / file.name)
    file = task_files(tmp_path, TASKS[0])[0]
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines, lines[-1]]))
    assert "a model twice" in refused(read_participants, tmp_path)


def test_what_is_no_plain_file_is_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(GengapError, match="is not replaced"):
        write_atomically(tmp_path / "a.csv", lambda file: file.write_text("a"))
