"""Damaged files of every format: the reader returns, or raises one GengapError, and soon.

A small valid file of each format is mutated: bits flipped, ends cut, blocks repeated, bytes
inserted, numbers replaced by huge, negative and other ones. Where a checksum would stop all of it
at the door, what it protects is mutated and sealed again with the right one.

GENGAP_FUZZ is how many mutations a format are tried: 10,000 once before a release, 200 in CI.
"""

import gzip
import io
import json
import os
import resource
import sqlite3
import struct
import sys
import tarfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from archives.tf1_checkpoint import MAGIC, block, files_of_checkpoint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from gengap.collections.cnnzoo import SmallCNNZoo, contents_of_zoo
from gengap.collections.demogen import DEMOGEN, read_records
from gengap.collections.folder import Folder
from gengap.collections.genprob import GenProb, checkpoint
from gengap.collections.participants import TASKS, read_participants, task_files
from gengap.collections.pgdl import PGDL, read_shard
from gengap.errors import GengapError
from gengap.evaluation.tasks import read_task
from gengap.folders import data, read_table
from gengap.formats.images import (
    _read_archive,
    _read_batch,
    _read_idx,
    _read_label_list,
    _read_sheet,
)
from gengap.formats.keras import network_from_config, write_weights
from gengap.formats.places import naming
from gengap.formats.predictions import read_model_configs, read_predictions
from gengap.formats.protobuf import as_varint, masked_checksum
from gengap.formats.state_dicts import read_state_dict
from gengap.formats.tf_checkpoint import read_checkpoint
from gengap.formats.tfrecord import write_tfrecord
from gengap.formats.weight_modules import left_out, weights_only_network
from gengap.tables import store

MUTATIONS = int(os.environ.get("GENGAP_FUZZ", 200))
settings.register_profile(
    "fuzzing",
    derandomize=True,
    database=None,
    deadline=None,  # seconds are looked at below, and only many of them: machines are busy
    suppress_health_check=list(HealthCheck),
)
SECONDS = 5  # of the processor, for one file of some kilobytes; other work may be on it
MEGABYTES = 600  # by which the process may grow over all mutations of a format
NUMBERS = (
    0,
    1,
    -1,
    2**7,
    2**15,
    10**6,
    10**8,
    2**31 - 1,
    2**31,
    2**32 - 1,
    10**10,
    2**62,
    2**63 - 1,
)
TEXTS = (
    b"-1",
    b"0",
    b"1e999",
    b"NaN",
    b"99999999999",
    b"1" * 5000,
    b'"',
    b"[" * 3000,
    b"null",
    b"{}",
)


def mutated(content: bytes, changes: list[tuple[str, int, int]]) -> bytes:
    """The content after changes, each of a kind, at a place, with a number."""
    found = bytearray(content)
    for kind, place, number in changes:
        at = place % (len(found) + 1)
        if kind == "flip" and at < len(found):
            found[at] ^= 1 << number % 8
        elif kind == "cut":
            del found[at:]
        elif kind == "remove":
            del found[at : at + number % 64 + 1]
        elif kind == "repeat":
            found[at:at] = found[at : at + number % 256 + 1] * (number % 20 + 1)
        elif kind == "insert":
            found[at:at] = struct.pack("<q", number * 0x9E3779B97F4A7C15 % 2**63)[: number % 8 + 1]
        elif kind == "number":
            value, size = NUMBERS[number % len(NUMBERS)], (1, 2, 4, 8)[number % 4]
            order = "little" if number % 3 else "big"
            found[at : at + size] = (value % 2 ** (8 * size)).to_bytes(size, order)
        elif kind == "varint":
            found[at : at + 1] = b"\xff" * (number % 9 + 1) + b"\x01"
        elif kind == "text":  # in place of the next number in digits
            start = next((i for i in range(at, len(found)) if 48 <= found[i] <= 57), at)
            end = next((i for i in range(start, len(found)) if not 48 <= found[i] <= 57), start)
            found[start:end] = TEXTS[number % len(TEXTS)]
    return bytes(found)


KINDS = ["flip", "cut", "remove", "repeat", "insert", "number", "varint", "text"]
CHANGES = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 2**16), st.integers(0, 2**10)),
    min_size=1,
    max_size=4,
)


# Files: what writes the valid ones into a folder, and which is mutated

STATE = {
    "conv1.weight": torch.arange(108.0).reshape(4, 3, 3, 3),
    "bn1.weight": torch.ones(4),
    "bn1.running_mean": torch.zeros(4),
    "bn1.running_var": torch.ones(4),
    "bn1.num_batches_tracked": torch.tensor(3),
    "lstm.weight_ih_l0": torch.randn(8, 3, generator=torch.Generator().manual_seed(0)),
    "fc.weight": torch.arange(12.0).reshape(3, 4),
    "fc.bias": torch.ones(3),
}
CONFIG = {
    "model_config": [
        {"layer_name": "Conv2D", "filters": 2, "kernel_size": 3, "padding": "same", "strides": 2},
        {"layer_name": "BatchNormalization", "axis": 3, "epsilon": 0.001},
        {"layer_name": "ReLU", "max_value": 6.0},
        {"layer_name": "MaxPooling2D", "pool_size": [2, 2], "padding": "same"},
        {"layer_name": "Flatten"},
        {"layer_name": "Dropout", "rate": 0.5},
        {"layer_name": "Dense", "units": 3, "activation": "relu"},
    ],
    "input_shape": [8, 8, 1],
}
SPEC = {
    str(number): {
        "hparams": {"bs": {"possible_values": [8, 16, 24], "current_value": 8 * (1 + number)}},
        "metrics": {"train_acc": 1.0, "test_acc": 0.75, "train_loss": 0.5, "test_loss": 2},
    }
    for number in range(3)
}
NETWORK = "NIN01234_AdaM_lr_0.002_wd_0.0005_FashionMNIST"
STATISTICS = {0: {"train_accuracy": 0.5, "test_accuracy": 0.4, "train_loss": 1.0, "test_loss": 1.5}}
ZOO = contents_of_zoo(
    np.linspace(-1, 1, 3 * 4970, dtype=np.float32).reshape(3, 4970),
    pd.DataFrame(
        {
            **{
                f"config.{n}": ["relu"] * 3 for n in ("activation", "b_init", "optimizer", "w_init")
            },
            **{f"config.{n}": [0.1] * 3 for n in ("dropout", "init_std", "l2reg", "learning_rate")},
            "config.train_fraction": [0.1, 0.5, 1.0],
            "modeldir": list("abc"),
            "step": [0, 1, 86],
            **{
                n: [0.5] * 3 for n in ("test_accuracy", "train_accuracy", "test_loss", "train_loss")
            },
        }
    ),
)


def bytes_of(save, content) -> bytes:
    buffer = io.BytesIO()
    save(content, buffer)
    return buffer.getvalue()


def saved_as_before(state, file):
    torch.save(state, file, _use_new_zipfile_serialization=False)


def zipped(members: dict[str, bytes], method=zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def keras_weights() -> bytes:
    file = Path(os.environ.get("TMPDIR", "/tmp")) / f"fuzzed-{os.getpid()}.hdf5"
    write_weights(file, network_from_config(CONFIG))
    content = file.read_bytes()
    file.unlink()
    return content


def records() -> bytes:
    file = Path(os.environ.get("TMPDIR", "/tmp")) / f"fuzzed-{os.getpid()}.tfrecord"
    write_tfrecord(file, np.ones((3, 8, 8, 1)), np.arange(3))
    content = file.read_bytes()
    file.unlink()
    return content


def sealed_record(content: bytes) -> bytes:
    """One record with this content and the right checksums."""
    length = struct.pack("<Q", len(content))
    sums = [struct.pack("<I", masked_checksum(part)) for part in (length, content)]
    return length + sums[0] + content + sums[1]


def first_record(content: bytes) -> bytes:
    return content[12 : 12 + struct.unpack("<Q", content[:8])[0]]


ENDS = struct.pack("<2I", 0, 1) + b"\0"  # of a block's entries: restarts, no compression


def sealed_index(content: bytes) -> bytes:
    """A table whose data block has these entries, with the right checksums."""
    whole = content + ENDS
    made = whole + struct.pack("<I", masked_checksum(whole))
    meta = block([])
    handles = [b"", as_varint(len(made)), as_varint(len(made) + len(meta))]
    index = block([(b"z", as_varint(0) + as_varint(len(made) - 5))])
    footer = handles[1] + as_varint(len(meta) - 5) + handles[2] + as_varint(len(index) - 5)
    return made + meta + index + footer.ljust(40, b"\0") + MAGIC


def tar_of_cifar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("readme.txt", "test_batch.bin"):
            content = b"\1" + bytes(3072) if name.endswith("bin") else b"hello"
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def idx(axes: int) -> bytes:
    shape = (2, 28, 28) if axes else (2,)
    return struct.pack(f">{2 + axes}I", 0x0801 + axes, *shape) + bytes(int(np.prod(shape)))


def png() -> bytes:
    return bytes_of(lambda image, file: image.save(file, "PNG"), Image.new("RGB", (1024, 2)))


def parquet() -> bytes:
    rows = pd.DataFrame({"model_id": ["a", "b"], "value": [1.0, 2.0], "note": ["", "x"]})
    return rows.to_parquet()


def sqlite() -> bytes:
    file = Path(os.environ.get("TMPDIR", "/tmp")) / f"fuzzed-{os.getpid()}.sqlite"
    row = dict.fromkeys(store.STORED, "x") | {"collection": "tiny", "value": 1.0, "seconds": 0.1}
    list(store.keep(file, [row | {"model_id": str(number)} for number in range(20)]))
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    content = file.read_bytes()
    file.unlink()
    return content


def of_state(file: Path) -> None:
    state = read_state_dict(file)
    with naming(file):
        weights_only_network(state, "only weights")
        left_out(state)


def all_of(collection) -> None:
    collection.load(collection.index()["model_id"].iloc[-1])


def from_store(file: Path) -> None:
    store.rows_in(file, "tiny")
    for left in ("-wal", "-shm"):
        file.with_name(file.name + left).unlink(missing_ok=True)


@dataclass(frozen=True)
class Format:
    """A valid file, what reads it, and what lies beside it."""

    name: str  # of the file, in a folder
    content: bytes  # what is mutated
    read: Callable[[Path], object]  # of the file's path
    seal: Callable[[bytes], bytes] = bytes  # makes the file of the mutated content
    beside: dict[str, bytes] = field(default_factory=dict)


def checkpoint_format(changed: str) -> Format:
    variables = {"a/kernel": np.ones((3, 3, 1, 2), np.float32), "b/bias": np.ones(2, np.float32)}
    files = {f"m.ckpt{end}": c for end, c in files_of_checkpoint(variables, per_block=9).items()}
    file = f"m.ckpt{changed}"
    return Format(
        file, files.pop(file), lambda at: read_checkpoint(at.parent / "m.ckpt"), beside=files
    )


def sealed_checkpoint_format() -> Format:
    whole = checkpoint_format(".index")
    entries = whole.content[: whole.content.index(ENDS)]
    return Format(whole.name, entries, whole.read, sealed_index, whole.beside)


def pgdl_format(changed: str) -> Format:
    task, model = "input_data/task4", "input_data/task4/model_0"
    files = {
        f"{model}/config.json": json.dumps(CONFIG).encode(),
        f"{model}/weights.hdf5": KERAS,
        f"{task}/dataset_1/train/shard_0.tfrecord": RECORDS,
        "reference_data/task4/model_configs.json": json.dumps({"0": SPEC["0"]}).encode(),
    }
    content = files.pop(changed)

    def read(file: Path) -> None:
        collection = PGDL(file.parents[changed.count("/")])
        for model_id in collection.index()["model_id"]:
            assert len(collection.load(model_id).sample[1])

    return Format(changed, content, read, beside=files)


def zoo_format(changed: str, content: bytes, seal=bytes) -> Format:
    beside = {f"mnist/{name}": c for name, c in ZOO.items() if name != changed}
    return Format(
        f"mnist/{changed}", content, lambda at: all_of(SmallCNNZoo(at.parents[1])), seal, beside
    )


def published_participants() -> dict[str, bytes]:
    folder = data() / "published" / "pgdl_participants"
    files = [file for task in TASKS for file in task_files(folder, task)]
    return {file.name: file.read_bytes() for file in files}


def participants_format(place: int) -> Format:
    beside = published_participants()
    name = [*beside][place]
    return Format(name, beside.pop(name), lambda at: read_participants(at.parent), beside=beside)


RECORDED = b'{"Accuracy": 0.5, "CrossEntropy": 1.25}'


def spec_format() -> Format:
    grid = {
        "wide_multiplier": [1.0],
        "batchnorm": [True],
        "dropout_prob": [0.0],
        "augmentation": [True],
        "decay_fac": [0.0],
        "copy": [1],
    }
    content = json.dumps({"NIN_CIFAR10": grid}).encode()
    folder = "NIN_CIFAR10/nin_wide_1.0x_bn_dropout_0.0_aug_decay_0.0_1"
    beside = {f"{folder}/{name}.json": RECORDED for name in ("train", "eval")}
    beside |= {f"{folder}/model.safetensors": b""}
    read = lambda at: DEMOGEN(at.parent).index()  # noqa: E731
    return Format("all_model_spec.json", content, read, beside=beside)


def records_format() -> Format:
    beside = {"net/eval.json": RECORDED}
    return Format("net/train.json", RECORDED, lambda at: read_records(at.parent), beside=beside)


KERAS, RECORDS, SHARDED = keras_weights(), records(), "model-00001-of-00001.safetensors"
SAFE = safetensors.torch.save(STATE)
INDEX = json.dumps({"weight_map": dict.fromkeys(STATE, SHARDED)}).encode()
TORCH, LEGACY = bytes_of(torch.save, STATE), bytes_of(saved_as_before, STATE)
EPOCH = f"{NETWORK}_epoch_0.pth.tar"
GENPROB = checkpoint(STATE, STATISTICS)
TABLE = (
    b"file,train_accuracy,test_accuracy,epoch,family,lr,aug\n"
    b"a.pt,0.9,0.75,3,one,0.1,true\nb.pt,1.0,0.5,,two,1e-3,false\n"
)
PART = zipped(ZOO)
PREDICTIONS = json.dumps({f"model_{number}": number / 7 for number in range(9)}).encode()


def members(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def sealed_member(whole: bytes, ending: str, method=zipfile.ZIP_STORED):
    """The content of a member of a zip file, and what packs it again among the others."""
    parts = members(whole)
    name = next(name for name in parts if name.endswith(ending))
    return parts[name], lambda content: zipped(parts | {name: content}, method)


def reading_images(read, *arguments, **options):
    return lambda file: read(file, *arguments, **options)


def packed(content: bytes) -> bytes:
    return gzip.compress(content, 1, mtime=0)


FORMATS = {
    "checkpoint of TensorFlow, index": checkpoint_format(".index"),
    "checkpoint of TensorFlow, index, sealed": sealed_checkpoint_format(),
    "checkpoint of TensorFlow, data": checkpoint_format(".data-00000-of-00001"),
    "TFRecord": Format("a.tfrecord", RECORDS, read_shard),
    "TFRecord, sealed": Format("a.tfrecord", first_record(RECORDS), read_shard, sealed_record),
    "PGDL, weights in HDF5": pgdl_format("input_data/task4/model_0/weights.hdf5"),
    "PGDL, config.json": pgdl_format("input_data/task4/model_0/config.json"),
    "PGDL, model_configs.json": pgdl_format("reference_data/task4/model_configs.json"),
    "PyTorch": Format("a.pt", TORCH, of_state),
    "PyTorch, sealed": Format(
        "a.pt", *sealed_member(TORCH, "data.pkl")[:1], of_state, sealed_member(TORCH, "data.pkl")[1]
    ),
    "PyTorch before 1.6": Format("a.pth", LEGACY, of_state),
    "safetensors": Format("a.safetensors", SAFE, of_state),
    "index of shards": Format("m.safetensors.index.json", INDEX, of_state, beside={SHARDED: SAFE}),
    "zoo, weights.npy": zoo_format("weights.npy", ZOO["weights.npy"]),
    "zoo, metrics.csv.gz": zoo_format("metrics.csv.gz", ZOO["metrics.csv.gz"]),
    "zoo, metrics.csv.gz, sealed": zoo_format(
        "metrics.csv.gz", gzip.decompress(ZOO["metrics.csv.gz"]), packed
    ),
    "zoo, layout.csv": zoo_format("layout.csv", ZOO["layout.csv"]),
    "zoo, a part": Format(
        "mnist/part_000000-000002.zip", PART, lambda at: all_of(SmallCNNZoo(at.parents[1]))
    ),
    "zoo, a part, sealed": Format(
        "mnist/part_000000-000002.zip",
        sealed_member(PART, "npy")[0],
        lambda at: all_of(SmallCNNZoo(at.parents[1])),
        sealed_member(PART, "npy", zipfile.ZIP_DEFLATED)[1],
    ),
    "a folder's CSV": Format(
        "a.csv", TABLE, lambda at: Folder(at.parent).index(), beside={"a.pt": TORCH, "b.pt": TORCH}
    ),
    "predictions": Format("a.predict", PREDICTIONS, read_predictions),
    "official task": Format(
        "a.json", json.dumps(SPEC).encode(), lambda at: read_task(read_model_configs(at))
    ),
    "images, IDX": Format("a-idx3", idx(2), reading_images(_read_idx, axes=2)),
    "images, IDX packed": Format(
        "a-idx3.gz", packed(idx(2)), lambda at: _read_idx(at.with_suffix(""), axes=2)
    ),
    "images, labels packed and sealed": Format(
        "a-idx1.gz", idx(0), lambda at: _read_idx(at.with_suffix(""), axes=0), packed
    ),
    "images, CIFAR batch": Format(
        "a.bin", b"\1" + bytes(3072), reading_images(_read_batch, "cifar10")
    ),
    "images, CIFAR archive": Format(
        "a.tar.gz", packed(tar_of_cifar()), reading_images(_read_archive, "cifar10", ["test_batch"])
    ),
    "images, CIFAR archive, sealed": Format(
        "a.tar.gz", tar_of_cifar(), reading_images(_read_archive, "cifar10", ["test_batch"]), packed
    ),
    "images, sheet": Format("a.png", png(), _read_sheet),
    "images, list of labels": Format("a.json", b"[1, 2, 3, 4, 5, 6, 7]", _read_label_list),
    "GenProb, checkpoint": Format(EPOCH, GENPROB, lambda at: all_of(GenProb(at.parent))),
    "GenProb, checkpoint, sealed": Format(
        EPOCH,
        sealed_member(GENPROB, "data.pkl")[0],
        lambda at: all_of(GenProb(at.parent)),
        sealed_member(GENPROB, "data.pkl")[1],
    ),
    "GenProb, zip file": Format(
        "a.zip", zipped({EPOCH: GENPROB}), lambda at: all_of(GenProb(at.parent))
    ),
    "participants, configs": participants_format(1),
    "participants, values": participants_format(0),
    "DEMOGEN, all_model_spec.json": spec_format(),
    "DEMOGEN, train.json": records_format(),
    "a table in Parquet": Format("a.parquet", parquet(), read_table),
    "a store in SQLite": Format("a.sqlite", sqlite(), from_store),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_valid_file_of_each_format_is_read(name, tmp_path):
    file = written(FORMATS[name], tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        FORMATS[name].read(file)


def written(form: Format, folder: Path) -> Path:
    for name, content in {**form.beside, form.name: form.seal(form.content)}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder / form.name


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_file_is_read_or_is_one_sentence(name, tmp_path_factory):
    form = FORMATS[name]
    file = written(form, tmp_path_factory.mktemp("fuzzed"))
    before, tried = most_memory(), Counter()

    @settings(
        settings.get_profile("fuzzing"), max_examples=MUTATIONS // (3 if is_slow(name) else 1)
    )
    @given(CHANGES)
    def try_one(changes):
        file.write_bytes(form.seal(mutated(form.content, changes)))
        start = time.process_time()
        try:
            form.read(file)
            tried["read"] += 1
        except GengapError as error:
            tried["refused"] += 1
            sentence = str(error)
            assert "\n" not in sentence and len(sentence) < 20_000 and sentence.encode()
        assert time.process_time() - start < SECONDS

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try_one()
    assert most_memory() - before < MEGABYTES
    print(f"{name}: {tried.total()} tried, {tried['refused']} refused")
    assert tried["refused"] > tried.total() / 10


def is_slow(name: str) -> bool:
    """Whether a whole collection is opened, in tens of milliseconds: a third as often."""
    return name.startswith(("PGDL, w", "zoo", "participants", "a folder's CSV", "a store"))


def most_memory() -> float:
    """The most memory that this process has had, in megabytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)
