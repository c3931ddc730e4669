"""The zoo's trainer: torch's optimizers and layers as reference, stacking, kills, the format."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from drawn import KILLED, drawn

import gengap
from gengap.collections import cnnzoo as loader
from gengap.collections.cnnzoo import LAYOUT, PARAMETERS
from gengap.replicas import cnnzoo as trainer
from gengap.replicas import cnnzoo_training as training
from gengap.replicas.run import run_of
from gengap.replicas.run import train as train_networks

EPOCHS = 2


@pytest.fixture
def images(image_root):
    return [trainer.read_split("mnist", split, image_root, "cpu") for split in ("train", "test")]


def configurations(rows: list[dict]) -> pd.DataFrame:
    drawn = trainer.draw_configurations("mnist", range(len(rows)), EPOCHS, seed=0)
    for i, row in enumerate(rows):
        for key, value in row.items():
            drawn.loc[i, key] = value
    return drawn


def test_hyper_parameters_span_the_published_ranges():
    drawn = trainer.draw_configurations("mnist", range(2000), 86, seed=1)
    ranges = {
        "learning_rate": (5e-4, 5e-2),
        "l2reg": (1e-8, 1e-2),
        "init_std": (1e-3, 0.5),
        "dropout": (0, 0.7),
    }
    for name, (low, high) in ranges.items():
        assert drawn[name].between(low, high).all()
    assert drawn["dropout"].min() < 0.01 and drawn["dropout"].max() > 0.69
    middle = np.sqrt(5e-4 * 5e-2)  # log-uniform: half lies below the geometric mean
    assert 0.45 < (drawn["learning_rate"] < middle).mean() < 0.55
    shares = drawn["train_fraction"].value_counts(normalize=True)
    assert shares.to_dict() == pytest.approx(
        {0.1: 0.65, 0.25: 0.25, 0.5: 0.07, 1.0: 0.03}, abs=0.04
    )
    assert set(drawn["activation"]) == {"relu", "tanh"}
    assert set(drawn["optimizer"]) == {"adam", "sgd", "rmsprop"}
    assert drawn["w_init"].nunique() == 5


def test_a_longer_zoo_begins_with_the_same_networks():
    long = trainer.draw_configurations("mnist", range(20), 86, seed=1)
    pd.testing.assert_frame_equal(
        trainer.draw_configurations("mnist", range(5), 86, seed=1), long[:5]
    )


def test_checkpoints_of_86_epochs_are_the_published_ones():
    assert trainer.checkpoint_epochs(86) == [0, 1, 2, 3, 20, 40, 60, 80, 86]
    assert trainer.checkpoint_epochs(5) == [0, 1, 2, 3, 5]
    assert trainer.checkpoint_epochs(2) == [0, 1, 2]


@pytest.mark.parametrize(
    "w_init, variance",
    [
        ("he_normal", lambda fan_in, fan_out: 2 / fan_in),
        ("glorot_normal", lambda fan_in, fan_out: 2 / (fan_in + fan_out)),
        ("RandomNormal", lambda fan_in, fan_out: 0.2**2),
        ("TruncatedNormal", lambda fan_in, fan_out: (0.2 * trainer.TRUNCATED_STD) ** 2),
    ],
)
def test_kernels_start_with_the_variance_of_their_initializer(w_init, variance):
    rows = torch.stack(
        [trainer.draw_weights({"w_init": w_init, "init_std": 0.2}, seed=s) for s in range(40)]
    )
    for slot in LAYOUT:
        values = rows[:, slot.start : slot.end]
        if len(slot.shape) == 1:
            assert not values.any()
            continue
        field = np.prod(slot.shape[:-2])
        expected = variance(field * slot.shape[-2], field * slot.shape[-1])
        assert float(values.var()) == pytest.approx(expected, rel=6 / np.sqrt(values.numel()))


def test_orthogonal_kernels_have_orthonormal_columns():
    weights = trainer.draw_weights({"w_init": "orthogonal"}, seed=3)
    for slot in LAYOUT[3::2]:
        matrix = weights[slot.start : slot.end].reshape(-1, slot.shape[-1])
        identity = torch.eye(min(matrix.shape))
        gram = matrix.T @ matrix if len(matrix) >= matrix.shape[1] else matrix @ matrix.T
        torch.testing.assert_close(gram, identity, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "name, reference",
    [
        ("sgd", lambda p: torch.optim.SGD(p, lr=0.01)),
        ("rmsprop", lambda p: torch.optim.RMSprop(p, lr=0.01, alpha=0.9, eps=training.EPSILON)),
        # Keras adds epsilon before the correction of bias: invisible at gradients of this size.
        ("adam", lambda p: torch.optim.Adam(p, lr=0.01, eps=training.EPSILON)),
    ],
)
def test_each_optimizer_of_a_mixed_stack_steps_as_torchs_own(name, reference):
    kinds = ["sgd", "rmsprop", "adam"]
    rows = pd.DataFrame({"optimizer": kinds, "learning_rate": 0.01})
    optimizer = training.StackedOptimizer(rows, "cpu")
    stacked = torch.randn(3, PARAMETERS, generator=torch.Generator().manual_seed(0))
    single = stacked[kinds.index(name)].clone().requires_grad_()
    theirs = reference([single])
    for step in range(5):
        gradient = torch.randn(3, PARAMETERS, generator=torch.Generator().manual_seed(step + 1))
        gradient = gradient.sign() * (gradient.abs() + 0.1)
        optimizer.step(stacked, gradient)
        single.grad = gradient[kinds.index(name)].clone()
        theirs.step()
    torch.testing.assert_close(stacked[kinds.index(name)], single.detach(), rtol=1e-4, atol=2e-6)


def test_stacked_logits_are_those_of_each_network(images):
    weights = torch.randn(3, PARAMETERS, generator=torch.Generator().manual_seed(0)) * 0.2
    inputs = images[1].inputs[:50]
    stacked = training.stacked_logits(weights, inputs, torch.tanh)
    for row, logits in zip(weights, stacked):
        network = loader.small_cnn("tanh").eval()
        network.load_state_dict(loader.state_dict(row.numpy()))
        torch.testing.assert_close(network(inputs).detach(), logits, rtol=1e-4, atol=1e-5)


def test_dropout_keeps_the_mean_and_drops_at_each_networks_rate():
    masks = training.DropoutMasks([0.0, 0.25, 0.7], "cpu", seed=0, epoch=1)((100, 3, 16, 13, 13))
    torch.testing.assert_close(masks[:, 0], torch.ones(100, 16, 13, 13))
    dropped = (masks == 0).float().mean(dim=(0, 2, 3, 4))
    np.testing.assert_allclose(dropped, [0, 0.25, 0.7], atol=0.01)
    np.testing.assert_allclose(masks.mean(dim=(0, 2, 3, 4)), 1, atol=0.02)


def test_l2_decays_kernels_and_leaves_biases():
    rows = pd.DataFrame({"l2reg": [0.5, 0.01]})
    decay = training._kernel_decay(rows, "cpu")
    assert decay[0, 20] == 1.0 and decay[1, 200] == pytest.approx(0.02)
    assert not decay[:, :16].any() and not decay[:, 4800:4810].any()


KINDS = [training.TorchStack, training.CompiledStack]


def train_stack(rows, images, checkpoints, kind):
    start = trainer.draw_stack(rows, seed=0)
    return training.train_stack(rows, start, *images, checkpoints=checkpoints, seed=0, kind=kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_comes_out_the_same_whatever_stack_it_trains_in(images, kind):
    same = {"activation": "relu", "train_fraction": 0.5}
    rows = configurations([same | {"optimizer": o} for o in ("sgd", "adam", "rmsprop")])
    together = train_stack(rows, images, [EPOCHS], kind)[0]
    for i in range(3):
        alone = train_stack(rows.iloc[[i]], images, [EPOCHS], kind)[0]
        np.testing.assert_allclose(
            together["weights"][i], alone["weights"][0], rtol=2**-7, atol=1e-4
        )


def test_torch_and_the_compiled_network_train_alike_without_dropout(images):
    """Rounding apart, and what steps make of it."""
    same = {"activation": "tanh", "train_fraction": 1.0, "dropout": 0.0, "optimizer": "sgd"}
    rows = configurations([same | {"learning_rate": 0.05, "w_init": "he_normal"}])
    torchs, ours = [train_stack(rows, images, [0, 5], kind)[1] for kind in KINDS]
    np.testing.assert_allclose(torchs["weights"], ours["weights"], rtol=2**-7, atol=1e-4)
    assert ours["test_accuracy"] == pytest.approx(torchs["test_accuracy"], abs=0.01)


def test_checkpoints_are_rounded_and_training_goes_on_from_the_weights_as_they_are(images):
    rows = configurations([{"activation": "relu", "train_fraction": 1.0, "optimizer": "sgd"}])
    with_others = train_stack(rows, images, [0, 1, 2], training.CompiledStack)
    alone = train_stack(rows, images, [2], training.CompiledStack)
    assert all(not (c["weights"].view(np.uint32) & 0xFFFF).any() for c in with_others)
    np.testing.assert_array_equal(with_others[-1]["weights"], alone[-1]["weights"])


@pytest.mark.parametrize("kind", KINDS)
def test_training_learns(images, kind):
    row = {"activation": "relu", "train_fraction": 1.0, "optimizer": "adam", "dropout": 0.0}
    rows = configurations([row | {"learning_rate": 0.01, "w_init": "he_normal", "l2reg": 1e-8}])
    first, last = train_stack(rows, images, [0, 8], kind)
    assert first["test_accuracy"] < 0.3 and last["test_accuracy"] > 0.9


def train(image_root, out, *, networks=6, workers=1, **settings):
    settings = {"images": image_root, "epochs": EPOCHS} | settings
    train_networks(run_of("cnnzoo", "mnist", out, **settings), networks=networks, workers=workers)
    return out


def test_a_trained_zoo_reproduces_its_recorded_metrics_through_the_loader(image_root, tmp_path):
    train(image_root, tmp_path, networks=4)
    zoo = gengap.open_collection("cnnzoo", root=tmp_path)
    index = zoo.index()
    assert list(index["epoch"]) == [0, 1, 2] * 4
    train_images, test_images = [
        trainer.read_split("mnist", split, image_root, "cpu") for split in ("train", "test")
    ]
    for model_id in index["model_id"]:
        model = zoo.load(model_id)
        seen = train_images[: round(len(train_images.labels) * model.record["hp_train_fraction"])]
        for split, name in ((seen, "train"), (test_images, "test")):
            with torch.no_grad():
                logits = model.network(split.inputs)
            correct = (logits.argmax(1) == split.labels).double().mean()
            assert float(correct) == model.record[f"{name}_accuracy"]
            loss = torch.nn.functional.cross_entropy(logits, split.labels)
            assert float(loss) == pytest.approx(model.record[f"{name}_loss"], rel=1e-5)


def zoo_below(root):
    return trainer.Zoo("mnist", root, EPOCHS, seed=0)


def leave_network(zoo, number, value=0.0):
    """The file of a finished network, at epochs 0 and 2; `value` is one of its last weights."""
    weights = np.full((2, PARAMETERS), number, np.float32)
    weights[1, 9] = value
    metrics = {name: np.full(2, 0.5) for name in loader.METRICS} | {"step": np.array([0, 2])}
    file = trainer._file(zoo.folder, number)
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, weights=weights, **metrics)


def test_rows_of_a_diverged_network_are_left_out_of_its_part(tmp_path):
    for number, value in enumerate([0.0, np.nan, 0.0]):
        leave_network(zoo_below(tmp_path), number, value)
    zoo_below(tmp_path).keep(range(3))
    index = gengap.open_collection("cnnzoo", root=tmp_path).index()
    assert list(index["run"]) == [f"mnist/{i:06d}" for i in (0, 0, 1, 2, 2)]
    assert list(index["epoch"]) == [0, 2, 0, 0, 2]


def test_a_part_is_written_once_when_its_networks_are_finished_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "PART", 2)
    zoo, wanted = zoo_below(tmp_path), range(5)
    for number in (0, 2, 3):
        leave_network(zoo, number)
    zoo.keep(wanted)
    assert not list(zoo.folder.glob("*.zip"))  # the second part waits for the first
    assert zoo.missing(wanted) == [1, 4]
    leave_network(zoo, 1)
    zoo.keep(wanted)
    names = ["part_000000-000001.zip", "part_000002-000003.zip"]
    assert sorted(file.name for file in zoo.folder.glob("*.zip")) == names
    assert not list((zoo.folder / "networks").iterdir()) and zoo.missing(wanted) == [4]
    first = {file: file.stat().st_mtime_ns for file in zoo.folder.glob("*.zip")}
    leave_network(zoo, 0)  # as a kill between writing the part and removing the file leaves it
    leave_network(zoo, 4)
    zoo.keep(wanted)
    after = {file: file.stat().st_mtime_ns for file in zoo.folder.glob("*.zip")}
    assert first.items() <= after.items()
    assert (zoo.folder / "part_000004-000004.zip").exists()
    assert not list((zoo.folder / "networks").iterdir())
    opened = gengap.open_collection("cnnzoo", root=tmp_path)
    weights = opened.weights(opened.index().iloc[::-1])
    assert list(weights[:, 0]) == [4, 4, 3, 3, 2, 2, 1, 1, 0, 0]


def test_the_same_networks_give_the_same_bytes(tmp_path):
    found = []
    for name in ("one", "two"):
        zoo = zoo_below(tmp_path / name)
        leave_network(zoo, 0)
        zoo.keep(range(1))
        found.append((zoo.folder / "part_000000-000000.zip").read_bytes())
    assert found[0] == found[1]


def index_of(networks: dict[str, int], epochs=trainer.CHECKPOINTS, **changed) -> pd.DataFrame:
    """As of a collection in which every fourth network is at chance."""
    parts = []
    for family, count in networks.items():
        drawn = trainer.draw_configurations(family, range(count), 86, seed=0).add_prefix("hp_")
        drawn = drawn.assign(family=family, run=range(count), test_accuracy=0.5)
        drawn.loc[::4, "test_accuracy"] = 0.109
        parts += [drawn.assign(epoch=epoch) for epoch in epochs]
    return pd.concat(parts, ignore_index=True).assign(**changed)


def test_hallmarks_are_met_by_the_recipe():
    table = trainer.hallmarks(index_of(trainer.WANTED_NETWORKS)).set_index("hallmark")
    assert table["met"].all()
    assert table.loc["mnist: networks", "found"] == "150"
    assert table.loc["fashion_mnist: share at chance", "found"] == "0.250"


def test_at_chance_is_who_guesses_or_gives_one_answer():
    models = pd.DataFrame({"family": ["mnist", "mnist", "cifar10", "cifar10"]})
    models["test_accuracy"] = [0.1135, 0.114, 0.109, 0.1135]
    assert list(trainer.at_chance(models)) == [True, False, True, False]


@pytest.mark.parametrize(
    "changed, failing",
    [
        ({"networks": {"mnist": 150}}, ["fashion_mnist: networks", "cifar10: checkpoints"]),
        ({"epochs": [0, 1, 2, 3, 5]}, ["mnist: checkpoints"]),
        ({"hp_learning_rate": 0.1}, ["sampling ranges"]),
        ({"hp_train_fraction": 0.3}, ["train_fraction and its weights"]),
    ],
)
def test_a_hallmark_that_is_not_met_is_told(changed, failing):
    index = index_of(**({"networks": trainer.WANTED_NETWORKS} | changed))
    table = trainer.hallmarks(index).set_index("hallmark")
    assert not table.loc[failing, "met"].any()


def test_another_zoo_in_the_same_folder_is_refused(image_root, tmp_path):
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "zoo.json").write_text(
        json.dumps({"dataset": "mnist", "epochs": 9, "seed": 42})
    )
    with pytest.raises(gengap.GengapError, match="choose another"):
        train(image_root, tmp_path)


def test_images_that_are_not_there_are_one_sentence_before_anything_is_written(tmp_path):
    with pytest.raises(gengap.GengapError, match="does not exist"):
        train(tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


RUN = """
import sys
from gengap.replicas.run import run_of, train
if __name__ == "__main__":
    images, out = sys.argv[1:]
    train(run_of("cnnzoo", "mnist", out, epochs=2, images=images), networks=6, workers=2)
"""


@pytest.mark.skipif("cnnzoo" not in drawn(*KILLED), reason="pgdl is drawn")
def test_killing_the_training_at_random_moments_loses_no_finished_network(image_root, tmp_path):
    script = tmp_path / "run.py"
    script.write_text(RUN)
    out, whole = tmp_path / "killed", tmp_path / "whole"
    environment = os.environ | {"TQDM_DISABLE": "1"}
    command = [sys.executable, str(script), str(image_root), str(out)]
    rng = random.Random(os.environ.get("PYTEST_RANDOM_SEED", 0))
    kept, kills = {}, 0
    while kills < 2 or not kept:
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        before, deadline = len(kept), time.time() + 120
        while process.poll() is None and len(kept) == before and time.time() < deadline:
            time.sleep(rng.uniform(0, 0.1))
            found = {
                f.name: f.stat().st_mtime_ns
                for f in (out / "mnist" / "networks").glob("[0-9]*.npz")
            }
            assert kept.items() <= found.items()  # nothing finished is lost or trained again
            kept = found
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    assert len(kept) < 6  # the kills came before the end
    assert subprocess.run(command, env=environment).returncode == 0
    train(image_root, whole)
    name = "mnist/part_000000-000005.zip"
    assert (out / name).read_bytes() == (whole / name).read_bytes()
    leftovers = [f.name for f in (out / "mnist" / "networks").iterdir() if f.name.startswith(".")]
    assert len(leftovers) <= kills * 2  # temporary names of killed writers, never read
