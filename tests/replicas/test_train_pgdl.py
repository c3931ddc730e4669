"""The trainer of PGDL's tasks: architectures, recorded metrics, kills, the published layout."""

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
import pytest
import torch
from torch import nn

import gengap
from gengap.formats.keras import network_from_config
from gengap.replicas import pgdl as trainer

TASK = "vgg_fashion_mnist"


def train(image_root, out, *, networks=2, **settings):
    return trainer.train_pgdl(TASK, out, networks=networks, images=image_root, **settings)


@pytest.fixture(scope="module")
def trained(image_root, tmp_path_factory):
    """Two networks of the VGG-like task, trained on made-up images."""
    return train(image_root, tmp_path_factory.mktemp("pgdl"))


@pytest.mark.parametrize("task", trainer.TASKS)
def test_a_task_is_a_full_grid_of_at_least_32_networks(task):
    settings = trainer.TASKS[task].settings()
    assert len(settings) >= 32
    assert len({tuple(row.items()) for row in settings}) == len(settings)


def test_a_block_of_the_vgg_like_network_has_two_convolutions_and_a_pool():
    layers = trainer.vgg_layers(convwidth=12, dropout_p=0.5, num_conv_blocks=3)
    network = network_from_config({"model_config": layers, "input_shape": [28, 28, 1]})
    kinds = [type(module) for module in network.modules()]
    assert kinds.count(nn.Conv2d) == 6 and kinds.count(nn.MaxPool2d) == 3
    assert kinds.count(nn.Linear) == 2 and kinds.count(nn.Dropout) == 1
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize("depth", [6, 9, 12])
def test_a_nin_has_a_wide_kernel_in_every_third_layer(depth):
    layers = trainer.nin_layers(depth=depth, dropout_p=0.0)
    sizes = [layer["kernel_size"] for layer in layers if layer["layer_name"] == "Conv2D"]
    assert sizes == [3, 1, 1] * (depth // 3) + [1]
    network = network_from_config({"model_config": layers, "input_shape": [28, 28, 1]})
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_the_start_is_he_uniform_with_zero_biases():
    layers = trainer.vgg_layers(convwidth=24, dropout_p=0.0, num_conv_blocks=1)
    config = {"model_config": layers, "input_shape": [28, 28, 1]}
    network = trainer.initialized(config, seed=1)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fan_in = layer.weight[0].numel()
            assert not layer.bias.any()
            assert float(layer.weight.detach().abs().max()) <= (6 / fan_in) ** 0.5
    widest = network.dense[0].weight.detach()  # 150,000 weights: their spread is known to 1 %
    assert float(widest.var()) == pytest.approx(2 / widest.shape[1], rel=0.01)


def test_the_penalty_counts_twice(monkeypatch):
    given = []
    monkeypatch.setattr(trainer, "momentum_sgd", lambda _, **options: given.append(options))
    with pytest.raises(TypeError):  # from the schedule, which gets no optimizer
        trainer.fit(nn.Linear(2, 2), None, {"lr": 0.1, "weight_decay": 0.25}, epochs=1)
    assert given == [{"rate": 0.1, "weight_decay": 0.5}]


def test_a_trained_task_reproduces_its_recorded_metrics_through_the_loader(trained, image_root):
    collection = gengap.open_collection("pgdl", root=trained)
    index = collection.index()
    assert list(index["family"]) == [TASK] * 2
    assert (index["train_accuracy"] > 0.95).all() and (index["train_loss"] < trainer.STOP).all()
    job = trainer.Job(TASK, trained, 9, "cpu", 42, image_root)
    test = trainer._read_images("test", slice(None), job)
    for model in map(collection.load, index["model_id"]):
        assert model.sample[0].shape == (trainer.IMAGES, 1, 28, 28)
        for split in (trainer.Images(*model.sample), test):
            accuracy, loss = trainer.evaluate(model.network, split)
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
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    assert not folder.with_suffix(".zip").exists()  # two networks of thirty-two
    task = trainer.TASKS[TASK]
    grid = {name: values[: 2 if name == "bs" else 1] for name, values in task.grid.items()}
    monkeypatch.setitem(trainer.TASKS, TASK, replace(task, grid=grid))
    packed = train(image_root, tmp_path) / "input_data" / f"{TASK}.zip"
    with zipfile.ZipFile(packed) as opened:
        opened.extractall(tmp_path / "unpacked")
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


def test_a_network_that_does_not_fit_its_images_is_one_sentence(image_root, tmp_path):
    job = trainer.Job(TASK, tmp_path, 1, "cpu", 42, image_root)
    images = trainer._read_images("train", slice(0, 50), job)
    noise = trainer.Images(images.inputs, torch.randint(10, (50,)))
    settings = job.settings_of(0)
    with pytest.raises(gengap.GengapError, match="give more --epochs"):
        trainer.fit(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), noise, settings, epochs=1)


def test_an_unknown_task_is_named_with_those_that_there_are(tmp_path):
    with pytest.raises(gengap.GengapError, match="vgg_fashion_mnist, nin_fashion_mnist"):
        trainer.train_pgdl("task1_v4", tmp_path)


def test_images_that_are_not_there_are_one_sentence_before_anything_is_written(tmp_path):
    with pytest.raises(gengap.GengapError, match="does not exist"):
        train(tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


RUN = """
import sys
from gengap.replicas.pgdl import train_pgdl
if __name__ == "__main__":
    images, out = sys.argv[1:]
    train_pgdl("vgg_fashion_mnist", out, networks=3, workers=1, images=images)
"""


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
