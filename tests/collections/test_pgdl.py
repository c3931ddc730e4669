"""PGDL: golden tasks from a folder and from zip files, and made-up tasks with faults."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import gengap
from gengap.collection import COLUMNS
from gengap.collections.pgdl import PGDL, read_shard
from gengap.formats.keras import network_from_config, write_weights
from gengap.formats.tfrecord import write_tfrecord
from gengap.replicas.pgdl import pack as pack_task

MODELS = {"toy_data": 18, "conv_data": 4}
CONFIG = {
    "model_config": [
        {"layer_name": "Conv2D", "filters": 2, "kernel_size": 3, "activation": "relu"},
        {"layer_name": "Flatten"},
        {"layer_name": "Dense", "units": 3},
    ],
    "input_shape": [4, 4, 1],
}
SPEC = {
    "hparams": {"bs": {"possible_values": [8], "current_value": 8}},
    "metrics": {"train_acc": 1.0, "test_acc": 0.75, "train_loss": 0.5, "test_loss": 2},
}


@pytest.fixture
def golden(reference):
    return reference / "golden" / "pgdl"


@pytest.fixture(params=["folder", "zip", "folder of zips", "folder of folders", "zipped tasks"])
def golden_root(request, golden, tmp_path):
    """The golden tasks where they lie, packed, and as the three archives unpack side by side."""
    if request.param == "zipped tasks":
        for part in ("input_data", "reference_data"):
            shutil.copytree(golden / part, tmp_path / part)
        return packed_tasks(tmp_path)
    if request.param == "folder":
        return golden
    if request.param == "zip":
        return pack(golden, tmp_path / "all.zip", "public_data/")
    if request.param == "folder of zips":
        pack(golden, tmp_path / "public_data.zip", "public_data/", "toy_data")
        pack(golden, tmp_path / "phase_one_data.zip", "", "conv_data")
        return tmp_path
    for top, task in (("public_data", "toy_data"), ("phase_one_data", "conv_data")):
        for part in ("input_data", "reference_data"):
            shutil.copytree(golden / part / task, tmp_path / top / part / task)
    return tmp_path


def pack(folder, file, top="", task=""):
    """A zip file of a folder's tasks, their members under `top`."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"__MACOSX/{top}input_data/toy_data/._model_0", b"junk")
        for path in sorted(folder.glob(f"*_data/*{task}*/**/*")):
            if path.is_file():
                archive.write(path, f"{top}{path.relative_to(folder)}")
    return file


def packed_tasks(root):
    """The same root with a zip file in place of the folder of each task's networks."""
    for folder in sorted((root / "input_data").iterdir()):
        pack_task(folder)
        shutil.rmtree(folder)
    return root


def make_task(root, task, models=("0",), *, shards=(0,), spec=SPEC):
    """A task of tiny random networks, in the published layout."""
    folder = root / "input_data" / task
    generator = np.random.default_rng(0)
    for shard in shards:
        inputs = generator.normal(size=(5, 4, 4, 1)).astype(np.float32)
        labels = np.full(5, shard % 3)
        write_tfrecord(folder / "dataset_1" / "train" / f"shard_{shard}.tfrecord", inputs, labels)
    for number in models:
        made = network_from_config(CONFIG)
        for name in ("weights.hdf5", "weights_init.hdf5"):
            write_weights(folder / f"model_{number}" / name, made)
        (folder / f"model_{number}" / "config.json").write_text(json.dumps(CONFIG))
    reference = root / "reference_data" / task
    reference.mkdir(parents=True)
    (reference / "model_configs.json").write_text(json.dumps(dict.fromkeys(models, spec)))
    return root


@pytest.mark.parametrize("task", MODELS)
def test_every_golden_network_gives_keras_logits_and_the_recorded_accuracy(
    task, golden, golden_root
):
    expected = np.load(golden / f"expected_{task}.npz")
    collection = gengap.open_collection("pgdl", golden_root)
    model_ids = collection.select(f"family == '{task}'").index()["model_id"]
    assert list(model_ids) == [f"{task}/model_{number}" for number in range(MODELS[task])]
    inputs = torch.from_numpy(expected["inputs"]).movedim(-1, 1)
    for model in map(collection.load, model_ids):
        with torch.no_grad():
            logits = model.network(inputs).numpy()
        name = model.record["model_id"].rpartition("/")[2]
        np.testing.assert_allclose(logits, expected[f"logits_{name}"], atol=1e-4, rtol=0)
        correct = (model.logits.argmax(dim=1) == model.sample[1]).double().mean()
        assert float(correct) == pytest.approx(model.record["train_accuracy"], abs=1e-12)
        for key, weight in model.network.named_parameters():
            assert model.initial_weights[key].shape == weight.shape
            assert key.endswith("bias") or not torch.equal(model.initial_weights[key], weight)


def test_the_sample_has_the_labels_in_the_order_of_the_shards(golden, golden_root):
    inputs, labels = PGDL(golden_root).load("conv_data/model_0").sample
    expected = np.load(golden / "expected_conv_data.npz")
    np.testing.assert_array_equal(labels, expected["labels"])
    np.testing.assert_array_equal(inputs[:64].movedim(1, -1), expected["inputs"])
    assert inputs.dtype == torch.float32 and labels.dtype == torch.int64
    assert inputs.is_contiguous()


def test_the_index_is_that_of_the_reference_data(golden, golden_root):
    collection = PGDL(golden_root)
    index = collection.index()
    assert list(index.columns[: len(COLUMNS)]) == COLUMNS
    assert dict(index["family"].value_counts()) == MODELS
    assert index[["epoch", "train_loss", "test_loss"]].isna().all(axis=None)
    for task in MODELS:
        specs = json.loads((golden / "reference_data" / task / "model_configs.json").read_text())
        assert collection.model_configs(task) == specs
        rows = index[index["family"] == task]
        names = [f"hp_{name}" for name in specs["0"]["hparams"]]
        assert list(rows[[name for name in rows if name.startswith("hp_")]].dropna(axis=1)) == names
        for (_, row), spec in zip(rows.iterrows(), specs.values(), strict=True):
            assert row["train_accuracy"] == spec["metrics"]["train_acc"]
            assert row["test_accuracy"] == spec["metrics"]["test_acc"]
            for name, hparam in spec["hparams"].items():
                assert row[f"hp_{name}"] == hparam["current_value"]


def test_nothing_is_unpacked(golden, tmp_path):
    root = pack(golden, tmp_path / "all.zip")
    collection = PGDL(root)
    assert len(collection.load("conv_data/model_2").sample[1]) == 560
    assert list(tmp_path.iterdir()) == [root]


def test_a_packed_task_is_there_whole_and_a_folder_comes_before_it(tmp_path):
    folder = packed_tasks(make_task(tmp_path, "mine")) / "input_data"
    (folder / ".9-half.zip").write_bytes(b"what a killed run leaves")
    families = PGDL(tmp_path).families().set_index("family")
    assert families.loc["mine", "models"] == 1 and families.loc["mine", "missing"] == []
    assert len(PGDL(tmp_path).load("mine/model_0").sample[1]) == 5
    assert sorted(path.name for path in folder.iterdir()) == [".9-half.zip", "mine.zip"]
    (folder / "mine" / "model_0").mkdir(parents=True)
    with pytest.raises(gengap.GengapError, match="input_data/mine/model_0/config.json .*missing"):
        PGDL(tmp_path).load("mine/model_0")


def test_tasks_are_in_the_official_order_and_ids_and_shards_in_that_of_numbers(tmp_path):
    make_task(tmp_path, "task4")
    make_task(tmp_path, "mine")
    make_task(tmp_path, "task1_v4", ("10", "9", "100"), shards=range(11))
    collection = PGDL(tmp_path)
    assert list(collection.index()["model_id"]) == [
        *(f"task1_v4/model_{number}" for number in (9, 10, 100)),
        "task4/model_0",
        "mine/model_0",
    ]
    inputs, labels = collection.load("task1_v4/model_9").sample
    assert labels.tolist() == (np.repeat(range(11), 5) % 3).tolist()
    shards = tmp_path / "input_data" / "task1_v4" / "dataset_1" / "train" / "shard_{}.tfrecord"
    in_order = [read_shard(Path(str(shards).format(number)))[0] for number in range(11)]
    assert torch.equal(inputs, torch.cat(in_order)) and len(torch.unique(inputs)) > 11


def test_families_are_the_eight_tasks_and_what_else_is_there(tmp_path):
    make_task(tmp_path, "mine")
    families = PGDL(tmp_path).families().set_index("family")
    tasks = list(PGDL.expected_families)
    assert len(tasks) == 8 and tasks[:3] == ["task1_v4", "task2_v1", "task4"]
    assert list(families.index) == [*tasks, "mine"]
    assert families.loc["mine", "models"] == 1 and families.loc["mine", "missing"] == []
    assert families.loc["task4", "missing"] == [
        tmp_path / "input_data" / "task4",
        tmp_path / "reference_data" / "task4" / "model_configs.json",
    ]
    empty = PGDL(tmp_path / "nowhere").families()
    assert list(empty["family"]) == tasks and not empty["models"].any()


def test_a_gap_without_accuracies_and_values_that_are_lists_make_an_index(tmp_path):
    hparams = {"dense": {"possible_values": [[128, 128], [512]], "current_value": [128, 128]}}
    make_task(tmp_path, "task7", spec={"hparams": hparams, "metrics": {"gen_gap": 0.25}})
    row = PGDL(tmp_path).index().iloc[0]
    assert row[["train_accuracy", "test_accuracy", "train_loss", "test_loss"]].isna().all()
    assert row["hp_dense"] == "[128, 128]"
    assert PGDL(tmp_path).model_configs("task7")["0"]["metrics"] == {"gen_gap": 0.25}


def test_a_model_without_initial_weights_and_a_task_without_images_say_so(tmp_path):
    make_task(tmp_path, "task4", shards=())
    (tmp_path / "input_data" / "task4" / "model_0" / "weights_init.hdf5").unlink()
    model = PGDL(tmp_path).load("task4/model_0")
    assert model.initial_weights is None
    with pytest.raises(gengap.NotAvailable, match="task4 has no training images, .*shard_"):
        assert model.sample


def test_weights_that_are_not_finite_are_not_available(tmp_path):
    make_task(tmp_path, "task4")
    made = network_from_config(CONFIG)
    with torch.no_grad():
        made.conv2d[0].bias[0] = torch.nan
    write_weights(tmp_path / "input_data" / "task4" / "model_0" / "weights.hdf5", made)
    with pytest.raises(gengap.NotAvailable, match="task4/model_0 has weights that are not finite"):
        PGDL(tmp_path).load("task4/model_0")


MODEL = "input_data/task4/model_0"
CONFIGS = "reference_data/task4/model_configs.json"
OTHER = json.dumps(CONFIG | {"input_shape": [9, 9, 1]}).encode()
UNKNOWN = json.dumps({"model_config": [{"layer_name": "LSTM"}], "input_shape": [4]}).encode()
FAULTS = {
    "no configs": (CONFIGS, None, "is missing"),
    "configs cut off": (CONFIGS, b'{"0": {', "cannot be read"),
    "configs of no models": (CONFIGS, b"{}", "describes no models"),
    "configs without metrics": (CONFIGS, b'{"0": {"hparams": {}}}', "metrics"),
    "configs of another kind": (CONFIGS, b'{"0": [1, 2]}', "cannot be read"),
    "configs with a word": (CONFIGS, json.dumps({"0": SPEC}).replace("1.0", '"x"').encode(), "'x'"),
    "configs with null": (
        CONFIGS,
        json.dumps({"0": SPEC}).replace("1.0", "null").encode(),
        "None where a number is expected",
    ),
    "no config": (f"{MODEL}/config.json", None, "is missing"),
    "config cut off": (f"{MODEL}/config.json", b'{"model_config": [', "cannot be read"),
    "unknown layer": (f"{MODEL}/config.json", UNKNOWN, "LSTM.*only these layers are known"),
    "other config": (f"{MODEL}/weights.hdf5", "config", r"'dense' have shapes \[\(8, 3\)"),
    "no weights": (f"{MODEL}/weights.hdf5", None, "missing"),
    "weights cut off": (f"{MODEL}/weights.hdf5", 1000, "no Keras weights can be read"),
    "initial weights cut off": (f"{MODEL}/weights_init.hdf5", 1000, "no Keras weights can be read"),
    "shard cut off": (
        "input_data/task4/dataset_1/train/shard_0.tfrecord",
        150,
        "record 1: .*trunc",
    ),
    "no records": ("input_data/task4/dataset_1/train/shard_0.tfrecord", b"", "no records"),
}


@pytest.mark.parametrize("zipped", ["nothing", "task", "all"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_sentence_that_names_the_file(fault, zipped, tmp_path):
    member, content, reason = FAULTS[fault]
    root = make_task(tmp_path / "pgdl", "task4")
    file = root / member
    if content is None:
        file.unlink()
    elif content == "config":
        (root / MODEL / "config.json").write_bytes(OTHER)
    elif isinstance(content, int):
        file.write_bytes(file.read_bytes()[:content])
    else:
        file.write_bytes(content)
    if zipped == "task":
        packed_tasks(root)
        member = member.replace("input_data/", "input_data/task4.zip/")
    if zipped == "all":
        root = pack(root, tmp_path / "pgdl.zip", "top/")
        member = f"pgdl.zip/top/{member}"
    with pytest.raises(gengap.GengapError, match=f"{member}.*{reason}") as caught:
        assert PGDL(root).load("task4/model_0").sample
    assert not isinstance(caught.value, gengap.NotAvailable)
    assert "\n" not in str(caught.value)


def test_a_zip_file_that_is_cut_off_is_named(tmp_path):
    root = make_task(tmp_path / "pgdl", "task4")
    content = pack(root, tmp_path / "whole.zip").read_bytes()
    (tmp_path / "zips").mkdir()
    (tmp_path / "zips" / "phase_one_data.zip").write_bytes(content[: len(content) // 2])
    (tmp_path / "pgdl" / "input_data" / "task5.zip").write_bytes(content[: len(content) // 2])
    for given in (tmp_path / "zips", tmp_path / "zips" / "phase_one_data.zip"):
        with pytest.raises(gengap.GengapError, match="phase_one_data.zip cannot be read.*zip"):
            gengap.open_collection("pgdl", given).index()
    with pytest.raises(gengap.GengapError, match="input_data/task5.zip cannot be read.*zip"):
        gengap.open_collection("pgdl", root).index()


def test_a_damaged_member_of_a_zip_file_is_named(tmp_path):
    root = pack(make_task(tmp_path / "pgdl", "task4"), tmp_path / "pgdl.zip")
    with zipfile.ZipFile(root) as archive:
        info = archive.getinfo(f"{MODEL}/weights.hdf5")
    damaged = bytearray(root.read_bytes())
    middle = info.header_offset + 100 + info.compress_size // 2
    damaged[middle : middle + 20] = bytes(20)
    root.write_bytes(damaged)
    assert len(PGDL(root).index()) == 1
    with pytest.raises(gengap.GengapError, match=f"pgdl.zip/{MODEL}/weights.hdf5 cannot be read"):
        PGDL(root).load("task4/model_0")


def test_shards_of_different_shapes_and_an_unknown_task_are_refused(tmp_path):
    make_task(tmp_path, "task4")
    other = tmp_path / "input_data" / "task4" / "dataset_1" / "train" / "shard_1.tfrecord"
    write_tfrecord(other, np.zeros((2, 5, 5, 1)), np.zeros(2))
    collection = PGDL(tmp_path)
    with pytest.raises(gengap.GengapError, match="inputs of different shapes"):
        assert collection.load("task4/model_0").sample
    with pytest.raises(gengap.GengapError, match="has no task 'task3'; it has task4"):
        collection.model_configs("task3")


@pytest.mark.parametrize("name", ["shard_00.tfrecord", "shard_1.tfrecord.gz"])
def test_a_shard_that_would_be_left_out_without_a_word_is_refused(tmp_path, name):
    make_task(tmp_path, "task4")
    train = tmp_path / "input_data" / "task4" / "dataset_1" / "train"
    shutil.copy(train / "shard_0.tfrecord", train / name)
    model = PGDL(tmp_path).load("task4/model_0")
    with pytest.raises(gengap.GengapError, match=r"train has shard_\* beside one shard_N"):
        assert model.sample


@pytest.mark.parametrize(
    ("size", "label", "reason"),
    [
        (4, 3, "the label 3 is none of the networks' 3 classes"),
        (5, 0, "the networks do not take its images"),
    ],
)
def test_images_that_do_not_fit_the_networks_are_refused(tmp_path, size, label, reason):
    make_task(tmp_path, "task4")
    train = tmp_path / "input_data" / "task4" / "dataset_1" / "train"
    inputs = np.ones((2, size, 4, 1), np.float32)
    write_tfrecord(train / "shard_0.tfrecord", inputs, np.full(2, label))
    with pytest.raises(gengap.GengapError, match=f"train cannot be read.*{reason}"):
        assert PGDL(tmp_path).load("task4/model_0").sample


def test_shards_or_images_that_are_missing_are_said(tmp_path):
    counted = SPEC | {"metrics": SPEC["metrics"] | {"train_images": 15}}
    make_task(tmp_path, "task4", shards=(0, 1, 2), spec=counted)
    assert len(PGDL(tmp_path).load("task4/model_0").sample[1]) == 15
    shards = tmp_path / "input_data" / "task4" / "dataset_1" / "train"
    (shards / "shard_2.tfrecord").unlink()
    with pytest.raises(gengap.GengapError, match="10 images in 2 shards, but 15 images"):
        _ = PGDL(tmp_path).load("task4/model_0").sample
    (shards / "shard_0.tfrecord").unlink()
    with pytest.raises(gengap.GengapError, match="5 images in 1 shards, but shard_0 should"):
        _ = PGDL(tmp_path).load("task4/model_0").sample
