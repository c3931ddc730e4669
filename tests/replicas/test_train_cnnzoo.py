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

import gengap
from gengap.collections import cnnzoo as loader
from gengap.collections.cnnzoo import LAYOUT, PARAMETERS
from gengap.replicas import cnnzoo as trainer

EPOCHS = 2


@pytest.fixture
def images(image_root):
    return [trainer._images("mnist", split, image_root, "cpu") for split in ("train", "test")]


def configurations(rows: list[dict]) -> pd.DataFrame:
    drawn = trainer.draw_configurations("mnist", len(rows), EPOCHS, seed=0)
    for i, row in enumerate(rows):
        for key, value in row.items():
            drawn.loc[i, key] = value
    return drawn


def test_hyper_parameters_span_the_published_ranges():
    drawn = trainer.draw_configurations("mnist", 2000, 86, seed=1)
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
    assert set(drawn["train_fraction"]) == {0.1, 0.25, 0.5, 1.0}
    assert set(drawn["activation"]) == {"relu", "tanh"}
    assert set(drawn["optimizer"]) == {"adam", "sgd", "rmsprop"}
    assert drawn["w_init"].nunique() == 5


def test_a_longer_zoo_begins_with_the_same_networks():
    long = trainer.draw_configurations("mnist", 20, 86, seed=1)
    pd.testing.assert_frame_equal(trainer.draw_configurations("mnist", 5, 86, seed=1), long[:5])


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
        ("rmsprop", lambda p: torch.optim.RMSprop(p, lr=0.01, alpha=0.9, eps=trainer.EPSILON)),
        # Keras adds epsilon before the correction of bias: invisible at gradients of this size.
        ("adam", lambda p: torch.optim.Adam(p, lr=0.01, eps=trainer.EPSILON)),
    ],
)
def test_each_optimizer_of_a_mixed_stack_steps_as_torchs_own(name, reference):
    kinds = ["sgd", "rmsprop", "adam"]
    rows = pd.DataFrame({"optimizer": kinds, "learning_rate": 0.01})
    optimizer = trainer.StackedOptimizer(rows, "cpu")
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
    stacked = trainer.stacked_logits(weights, inputs, torch.tanh)
    for row, logits in zip(weights, stacked):
        network = loader.small_cnn("tanh").eval()
        network.load_state_dict(loader.state_dict(row.numpy()))
        torch.testing.assert_close(network(inputs).detach(), logits, rtol=1e-4, atol=1e-5)


def test_dropout_keeps_the_mean_and_drops_at_each_networks_rate():
    masks = trainer.DropoutMasks([0.0, 0.25, 0.7], "cpu", seed=0, epoch=1)((100, 3, 16, 13, 13))
    torch.testing.assert_close(masks[:, 0], torch.ones(100, 16, 13, 13))
    dropped = (masks == 0).float().mean(dim=(0, 2, 3, 4))
    np.testing.assert_allclose(dropped, [0, 0.25, 0.7], atol=0.01)
    np.testing.assert_allclose(masks.mean(dim=(0, 2, 3, 4)), 1, atol=0.02)


def test_l2_decays_kernels_and_leaves_biases():
    rows = pd.DataFrame({"l2reg": [0.5, 0.01]})
    decay = trainer._kernel_decay(rows, "cpu")
    assert decay[0, 20] == 1.0 and decay[1, 200] == pytest.approx(0.02)
    assert not decay[:, :16].any() and not decay[:, 4800:4810].any()


def test_a_network_comes_out_the_same_whatever_stack_it_trains_in(images):
    same = {"activation": "relu", "train_fraction": 0.5}
    rows = configurations([same | {"optimizer": o} for o in ("sgd", "adam", "rmsprop")])
    together = trainer.train_stack(rows, *images, checkpoints=[EPOCHS], seed=0)[0]
    for i in range(3):
        alone = trainer.train_stack(rows.iloc[[i]], *images, checkpoints=[EPOCHS], seed=0)[0]
        np.testing.assert_allclose(together["weights"][i], alone["weights"][0], atol=1e-4)


def test_training_learns(images):
    row = {"activation": "relu", "train_fraction": 1.0, "optimizer": "adam", "dropout": 0.0}
    rows = configurations([row | {"learning_rate": 0.01, "w_init": "he_normal", "l2reg": 1e-8}])
    first, last = trainer.train_stack(rows, *images, checkpoints=[0, 8], seed=0)
    assert first["test_accuracy"] < 0.3 and last["test_accuracy"] > 0.9


def train(image_root, out, *, networks=6, **settings):
    settings = {"workers": 1, "images": image_root} | settings
    return trainer.train_zoo("mnist", out, networks=networks, epochs=EPOCHS, **settings)


def test_a_trained_zoo_reproduces_its_recorded_metrics_through_the_loader(image_root, tmp_path):
    train(image_root, tmp_path / "mnist", networks=4, all_checkpoints=2)
    zoo = gengap.open_collection("cnnzoo", root=tmp_path)
    index = zoo.index()
    assert list(index["epoch"]) == [0, 1, 2, 0, 1, 2, 2, 2]
    train_images, test_images = [
        trainer._images("mnist", split, image_root, "cpu") for split in ("train", "test")
    ]
    for model_id in index["model_id"]:
        model = zoo.load(model_id)
        seen = train_images.first(model.record["hp_train_fraction"])
        for split, name in ((seen, "train"), (test_images, "test")):
            with torch.no_grad():
                logits = model.network(split.inputs)
            correct = (logits.argmax(1) == split.labels).double().mean()
            assert float(correct) == model.record[f"{name}_accuracy"]
            loss = torch.nn.functional.cross_entropy(logits, split.labels)
            assert float(loss) == pytest.approx(model.record[f"{name}_loss"], rel=1e-5)


def test_a_diverged_network_is_left_out_of_the_published_files(image_root, tmp_path):
    train(image_root, tmp_path / "mnist", networks=3, all_checkpoints=0)
    file = tmp_path / "mnist" / "networks" / "000001.npz"
    with np.load(file) as saved:
        rows = dict(saved)
    rows["weights"][0, 9] = np.nan
    np.savez(file, **rows)
    train(image_root, tmp_path / "mnist", networks=3, all_checkpoints=0)
    index = gengap.open_collection("cnnzoo", root=tmp_path).index()
    assert list(index["run"]) == ["mnist/000000", "mnist/000002"]


def test_another_zoo_in_the_same_folder_is_refused(image_root, tmp_path):
    (tmp_path / "zoo.json").write_text(json.dumps({"dataset": "mnist", "epochs": 9, "seed": 42}))
    with pytest.raises(gengap.GengapError, match="choose another"):
        train(image_root, tmp_path)


def test_images_that_are_not_there_are_one_sentence_before_anything_is_written(tmp_path):
    with pytest.raises(gengap.GengapError, match="does not exist"):
        train(tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


RUN = """
import sys
from gengap.replicas.cnnzoo import train_zoo
if __name__ == "__main__":
    images, out = sys.argv[1:]
    train_zoo("mnist", out, networks=6, epochs=2, workers=2, images=images)
"""


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
            found = {f.name: f.stat().st_mtime_ns for f in (out / "networks").glob("[0-9]*.npz")}
            assert kept.items() <= found.items()  # nothing finished is lost or trained again
            kept = found
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    assert len(kept) < 6  # the kills came before the end
    assert subprocess.run(command, env=environment).returncode == 0
    train(image_root, whole)
    for name in ("weights.npy", "metrics.csv.gz", "layout.csv"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    leftovers = [f.name for f in (out / "networks").iterdir() if f.name.startswith(".")]
    assert len(leftovers) <= kills * 2  # temporary names of killed writers, never read
