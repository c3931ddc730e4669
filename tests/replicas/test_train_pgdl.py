"""The trainer of PGDL's tasks: recorded metrics, kills, hallmarks, the published layout."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from drawn import KILLED, drawn
from torch import nn

import gengap
from gengap.replicas import pgdl as trainer
from gengap.replicas.run import run_of
from gengap.replicas.run import train as train_networks
from gengap.replicas.training import Images, evaluate, train_epoch

TASK = "task1_fashion_mnist"


def train(image_root, out, *, networks=2, **settings):
    train_networks(run_of("pgdl", TASK, out, images=image_root, **settings), networks=networks)
    return out


@pytest.fixture(scope="module")
def trained(image_root, tmp_path_factory):
    """Two networks of the VGG-like task, trained on made-up images."""
    return train(image_root, tmp_path_factory.mktemp("pgdl"))


def test_the_start_is_he_uniform_and_rounded_with_zero_biases():
    convolution = {"layer_name": "Conv2D", "filters": 24, "kernel_size": 3, "padding": "same"}
    layers = [convolution, {"layer_name": "Flatten"}, {"layer_name": "Dense", "units": 32}]
    config = {"model_config": layers, "input_shape": [28, 28, 1]}
    network = trainer.initialized(config, seed=1)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fan_in = layer.weight[0].numel()
            assert not layer.bias.any()
            assert float(layer.weight.detach().abs().max()) <= (6 / fan_in) ** 0.5 * (1 + 2**-8)
            assert is_rounded(layer.weight)
    widest = network.dense.weight.detach()  # 600,000 weights: their spread is known to 1 %
    assert float(widest.var()) == pytest.approx(2 / widest.shape[1], rel=0.01)


def is_rounded(tensor):
    return torch.equal(tensor, tensor.bfloat16().float())


@pytest.mark.parametrize("name", ["weight_decay", "wd"])
def test_the_penalty_counts_twice(monkeypatch, name):
    given = []
    monkeypatch.setattr(trainer, "momentum_sgd", lambda _, **options: given.append(options))
    with pytest.raises(TypeError):  # from the schedule, which gets no optimizer
        trainer.fit(nn.Linear(2, 2), None, trainer.TASKS[TASK], {"lr": 0.1, name: 0.25}, epochs=1)
    assert given == [{"rate": 0.1, "weight_decay": 0.5}]


SETTINGS = {"lr": 0.1, "weight_decay": 0.0, "bs": 4}


def fit_with_losses(network, losses, monkeypatch):
    """What `fit` returns, and the weights after each epoch, if evaluations find these losses."""
    images = Images(torch.randn(8, 2), torch.arange(8) % 2)
    weights, found = [], iter(losses)

    def train(network, *arguments):
        train_epoch(network, *arguments)
        weights.append(network[0].weight.detach().clone())

    monkeypatch.setattr(trainer, "train_epoch", train)
    monkeypatch.setattr(trainer, "evaluate", lambda *_: (1.0, next(found)))
    record = trainer.fit(network, images, trainer.TASKS[TASK], SETTINGS, epochs=3)
    assert next(found, None) is None
    return record, weights


def test_training_goes_on_unrounded_until_the_rounded_network_has_the_loss(monkeypatch):
    network = nn.Sequential(nn.Linear(2, 2))
    restored = []
    load = network.load_state_dict
    monkeypatch.setattr(network, "load_state_dict", lambda state: restored.append(load(state)))
    losses = [0.009, 0.02, 0.009, 0.005]  # after epoch 1, and rounded; after epoch 2, and rounded
    record, weights = fit_with_losses(network, losses, monkeypatch)
    assert record == {"train_acc": 1.0, "train_loss": 0.005, "epochs": 2}
    assert len(weights) == 2 and len(restored) == 1
    assert torch.equal(network[0].weight, weights[1].bfloat16().float())


def test_at_the_last_epoch_a_network_that_nearly_fits_is_kept(monkeypatch):
    network = nn.Sequential(nn.Linear(2, 2))
    record, _ = fit_with_losses(network, [1.0, 0.5, 0.03, 0.04], monkeypatch)
    assert record == {"train_acc": 1.0, "train_loss": 0.04, "epochs": 3}
    assert is_rounded(network[0].weight)


def test_a_trained_task_reproduces_its_recorded_metrics_through_the_loader(trained, image_root):
    collection = gengap.open_collection("pgdl", root=trained)
    index = collection.index()
    assert list(index["family"]) == [TASK] * 2
    assert (index["train_accuracy"] > 0.95).all() and (
        index["train_loss"] < trainer.LARGEST_LOSS
    ).all()
    images = trainer.TASKS[TASK].images
    test = images.read("test", image_root)
    for model in map(collection.load, index["model_id"]):
        assert torch.equal(model.sample[0], images.read("train", image_root).inputs)
        assert all(is_rounded(tensor) for tensor in model.network.state_dict().values())
        for split in (Images(*model.sample), test):
            accuracy, loss = evaluate(model.network, split)
            name = "test" if split is test else "train"
            assert accuracy == model.record[f"{name}_accuracy"]
            assert loss == pytest.approx(model.record[f"{name}_loss"], rel=1e-5)


def test_the_initial_weights_are_kept_and_training_moved_them(trained):
    collection = gengap.open_collection("pgdl", root=trained)
    model = collection.load(f"{TASK}/model_0")
    config = json.loads((trained / f"input_data/{TASK}/model_0/config.json").read_text())
    start = trainer.initialized(config, seed=trainer.hash_seed(42, 0))
    for name, parameter in start.named_parameters():
        assert torch.equal(model.initial_weights[name], parameter)
    assert gengap.MEASURES["distance_from_initialization"](model) > 0


def test_other_settings_in_the_same_folder_are_refused(trained, image_root):
    with pytest.raises(gengap.GengapError, match="choose another --out"):
        train(image_root, trained, seed=7)


def test_a_task_is_packed_once_its_whole_grid_is_trained(
    trained, image_root, tmp_path, monkeypatch
):
    folder = tmp_path / "input_data" / TASK
    assert not list((trained / "input_data").glob("*.zip"))  # two networks of the grid
    task = trainer.TASKS[TASK]
    grid = {name: values[: 2 if name == "bs" else 1] for name, values in task.grid.items()}
    monkeypatch.setitem(trainer.TASKS, TASK, replace(task, grid=grid))
    packed = train(image_root, tmp_path) / "input_data" / f"{TASK}.zip"
    with zipfile.ZipFile(packed) as opened:
        opened.extractall(tmp_path / "unpacked")
    shipped = packed.stat()
    train(image_root, tmp_path)
    assert packed.stat().st_mtime_ns == shipped.st_mtime_ns
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert len(files) == 2 * 3 + 2  # of each network, and shards
    for file in files:
        unpacked = tmp_path / "unpacked" / file.relative_to(folder.parent)
        assert unpacked.read_bytes() == file.read_bytes()


def test_packing_again_gives_the_same_bytes_without_what_a_killed_run_left(tmp_path):
    folder, packed = tmp_path / "task", tmp_path / "task.zip"
    found = []
    for names, seconds in ((["b", "a"], 1e9), (["a", "b"], 1.5e9)):
        for name in names:
            (folder / name).mkdir(parents=True)
            (folder / name / "weights.hdf5").write_bytes(name.encode() * 10_000)
            os.utime(folder / name / "weights.hdf5", (seconds, seconds))
        (folder / names[0] / ".9-weights.hdf5").write_bytes(b"half")
        trainer.pack(folder)
        found.append(packed.read_bytes())
        shutil.rmtree(folder)
    assert found[0] == found[1]
    with zipfile.ZipFile(packed) as opened:
        assert opened.namelist() == ["task/a/weights.hdf5", "task/b/weights.hdf5"]
    assert len(found[0]) < 1000  # of 20,000


def test_a_network_that_does_not_fit_its_images_is_kept_with_its_loss():
    noise = Images(torch.rand(50, 2), torch.randint(10, (50,)))
    network = nn.Linear(2, 10)
    record = trainer.fit(network, noise, trainer.TASKS[TASK], SETTINGS, epochs=3)
    accuracy, loss = evaluate(network, noise)
    assert record == {"train_acc": accuracy, "train_loss": loss, "epochs": 3}
    assert loss > trainer.LARGEST_LOSS and is_rounded(network.weight)


def test_an_unknown_task_is_named_with_those_that_there_are(tmp_path):
    with pytest.raises(gengap.GengapError, match="task1_fashion_mnist, task2_fashion_mnist"):
        run_of("pgdl", "task1_v4", tmp_path)


def test_images_that_are_not_there_are_one_sentence_before_anything_is_written(tmp_path):
    with pytest.raises(gengap.GengapError, match="does not exist"):
        train(tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def published_like_index():
    """An index of the whole grids, as networks would be that fit."""
    parts = []
    for number, (name, task) in enumerate(trainer.TASKS.items()):
        rows = pd.DataFrame(task.settings())[[*task.grid]].add_prefix("hp_")
        test = 0.85 - 0.06 * number
        parts.append(
            rows.assign(family=name, train_accuracy=1.0, train_loss=0.009, test_accuracy=test)
        )
    return pd.concat(parts, ignore_index=True)


def test_hallmarks_are_met_by_full_grids_that_fit_and_whose_gaps_spread():
    table = trainer.hallmarks(published_like_index())
    assert list(table.columns) == ["hallmark", "wanted", "found", "met"]
    assert len(table) == 5 * len(trainer.TASKS) + 1 and table["met"].all()
    assert table["found"].iloc[-1] == "0.420"


@pytest.mark.parametrize(
    "column, value, hallmark",
    [
        ("hp_bs", 0, "networks of a full grid"),
        ("train_accuracy", 0.95, "least training accuracy"),
        ("train_loss", [0.1] + [0.009] * 31, "largest training loss"),
        ("train_loss", 0.02, "share that stopped at 0.01"),
        ("test_accuracy", 1.0, "mean gap"),
    ],
)
def test_a_hallmark_that_one_task_misses_is_named_with_the_task(column, value, hallmark):
    index = published_like_index()
    index.loc[index["family"] == TASK, column] = value
    table = trainer.hallmarks(index)
    assert list(table.loc[~table["met"], "hallmark"]) == [f"{TASK}: {hallmark}"]


def test_a_task_that_is_not_there_misses_its_hallmarks():
    index = published_like_index()
    table = trainer.hallmarks(index[index["family"] != TASK])
    missed = table.loc[~table["met"], "hallmark"]
    assert len(missed) == 5 and missed.str.startswith(TASK).all()


RUN = """
import sys
from gengap.replicas.run import run_of, train
if __name__ == "__main__":
    images, out = sys.argv[1:]
    train(run_of("pgdl", "task1_fashion_mnist", out, images=images), networks=3, workers=1)
"""


@pytest.mark.skipif("pgdl" not in drawn(*KILLED), reason="cnnzoo is drawn")
def test_killed_training_loses_no_finished_network(image_root, tmp_path):
    script = tmp_path / "run.py"
    script.write_text(RUN)
    out, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, str(script), str(image_root), str(out)]
    environment = os.environ | {"TQDM_DISABLE": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.time() + 120
    while not (done := sorted(out.glob("training/*/[0-9]*.json"))) and time.time() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 0 < len(done) < 3
    kept = {file: file.stat().st_mtime_ns for file in done}
    subprocess.run(command, env=environment, check=True)
    assert {file: file.stat().st_mtime_ns for file in done} == kept
    train(image_root, whole, networks=3)
    configs = f"reference_data/{TASK}/model_configs.json"
    assert (out / configs).read_bytes() == (whole / configs).read_bytes()
    resumed, fresh = (gengap.open_collection("pgdl", root=root) for root in (out, whole))
    for model_id in fresh.index()["model_id"]:
        weights = fresh.load(model_id).network.state_dict()
        for name, tensor in resumed.load(model_id).network.state_dict().items():
            np.testing.assert_array_equal(tensor, weights[name])
