"""Networks of the DEMOGEN recipe: as published on disk, and the same in any run."""

import json
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import gengap
from gengap.errors import GengapError
from gengap.formats.images import load_images
from gengap.replicas import demogen as trainer
from gengap.replicas.demogen import RECIPES, Split, fit, initialized, shifted_and_mirrored

FAMILY, OTHER = RECIPES
SETTINGS = {
    "hp_wide_multiplier": 1.0,
    "hp_normalization": "batch",
    "hp_dropout": 0.0,
    "hp_augmentation": False,
    "hp_decay_fac": 0.0,
    "hp_learning_rate": 0.01,
}


def train(image_root, out, family=FAMILY, networks=2):
    return trainer.train_demogen(family, out, networks=networks, epochs=2, images=image_root)


@pytest.fixture(scope="module")
def trained(image_root, tmp_path_factory):
    """Two networks of each family."""
    out = tmp_path_factory.mktemp("trained")
    for family in RECIPES:
        train(image_root, out, family)
    return out


@pytest.fixture
def opened(trained):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # most networks of the grids are missing
        collection = gengap.open_collection("demogen", root=trained)
        collection.index()
    return collection


@pytest.fixture
def train_split(image_root):
    images, labels = load_images("fashion_mnist", "train", root=image_root)
    return Split(torch.from_numpy(trainer.like_cifar(images[:100])), torch.from_numpy(labels[:100]))


def test_the_nin_grid_is_the_published_one():
    grid = RECIPES[FAMILY].grid
    assert len(list(trainer.networks_of(FAMILY, grid))) == 216
    assert (grid["dropout_prob"], grid["decay_fac"]) == ([0.0, 0.2, 0.5], [0.0, 0.001, 0.005])


def test_a_trained_family_reproduces_its_records_on_the_images_beside_it(opened, image_root):
    index = opened.index()
    assert list(index["family"].value_counts()[[FAMILY, OTHER]]) == [2, 2]
    images, labels = load_images("fashion_mnist", "test", root=image_root)
    inputs = trainer.standardized(torch.from_numpy(trainer.like_cifar(images)), torch.device("cpu"))
    for model in map(opened.load, index["model_id"]):
        assert len(model.sample[0]) == trainer.IMAGES
        for x, y, split in ((*model.sample, "train"), (inputs, torch.from_numpy(labels), "test")):
            with torch.no_grad():
                logits = model.network(x)
            accuracy = float((logits.argmax(dim=1) == y).double().mean())
            assert accuracy == pytest.approx(model.record[f"{split}_accuracy"], abs=1e-9)
            loss = float(nn.functional.cross_entropy(logits.double(), y))
            assert loss == pytest.approx(model.record[f"{split}_loss"], rel=1e-5)


def test_both_families_share_one_spec_and_one_set_of_images(trained):
    spec = json.loads((trained / "all_model_spec.json").read_text())
    assert spec == {name: recipe.grid for name, recipe in RECIPES.items()}
    assert {path.name for path in trained.iterdir()} == {
        *RECIPES,
        "all_model_spec.json",
        "fashion_mnist",
    }


def test_a_resumed_run_trains_what_is_missing_and_gives_the_same_networks(
    trained, image_root, tmp_path
):
    first = next(iter(trainer.networks_of(FAMILY, RECIPES[FAMILY].grid)))[0]
    train(image_root, tmp_path, networks=1)
    kept = (tmp_path / FAMILY / first / "train.json").stat().st_mtime_ns
    train(image_root, tmp_path)
    assert (tmp_path / FAMILY / first / "train.json").stat().st_mtime_ns == kept
    for file in (tmp_path / FAMILY).rglob("*.*"):
        if file.is_file():
            assert file.read_bytes() == (trained / file.relative_to(tmp_path)).read_bytes(), file


def test_a_folder_of_other_settings_is_refused(trained, image_root):
    with pytest.raises(GengapError, match="training.json says .* choose another --out"):
        trainer.train_demogen(FAMILY, trained, networks=2, epochs=3, images=image_root)
    with pytest.raises(GengapError, match="no family 'NIN_CIFAR10' can be trained"):
        trainer.train_demogen("NIN_CIFAR10", trained)


def test_missing_images_are_one_sentence_before_any_process_starts(tmp_path):
    with pytest.raises(GengapError, match="The image folder .* does not exist"):
        trainer.train_demogen(FAMILY, tmp_path / "out", images=tmp_path / "nowhere")
    assert not (tmp_path / "out").exists()


def test_images_are_moved_by_up_to_four_pixels_and_half_of_them_mirrored():
    torch.manual_seed(0)
    image = torch.zeros(32, 32, 3, dtype=torch.uint8)
    image[10, 6] = torch.tensor([1, 2, 3], dtype=torch.uint8)
    changed = shifted_and_mirrored(image.repeat(500, 1, 1, 1))
    assert changed.shape == (500, 32, 32, 3) and changed.dtype == torch.uint8
    assert (changed.sum(dim=(1, 2)) == torch.tensor([1, 2, 3])).all()  # one pixel, its colour kept
    _, rows, columns, _ = torch.nonzero(changed, as_tuple=True)
    assert set(rows.tolist()) == set(range(10 - 4, 10 + 5))
    mirrored = columns > 16
    assert set(columns[~mirrored].tolist()) == set(range(6 - 4, 6 + 5))
    assert set(columns[mirrored].tolist()) == set(range(25 - 4, 25 + 5))
    assert 0.4 < mirrored.double().mean() < 0.6


def test_what_moves_in_from_outside_is_black():
    torch.manual_seed(0)
    changed = shifted_and_mirrored(torch.full((50, 32, 32, 3), 7, dtype=torch.uint8))
    assert set(changed.unique().tolist()) == {0, 7}


@pytest.mark.parametrize("family", RECIPES)
@pytest.mark.parametrize("multiplier", [1.0, 1.5])
def test_networks_are_as_wide_as_the_recipe_says_and_start_as_he_et_al(family, multiplier):
    torch.manual_seed(0)
    network = initialized(family, SETTINGS | {"hp_wide_multiplier": multiplier})
    kernels = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    assert kernels[0].out_channels == RECIPES[family].width * multiplier
    widest = max(kernels, key=lambda layer: layer.weight.numel()).weight
    expected = (2 / widest[0].numel()) ** 0.5
    assert float(widest.detach().std()) == pytest.approx(expected, rel=0.1)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.momentum == trainer.BATCH_NORM_MOMENTUM


def test_dropout_is_the_probability_to_drop():
    rates = [
        [
            layer.p
            for layer in initialized(FAMILY, SETTINGS | {"hp_dropout": p}).modules()
            if isinstance(layer, nn.Dropout)
        ]
        for p in (0.0, 0.2)
    ]
    assert rates == [[0.0] * 3, [0.2] * 3]


def test_the_rate_falls_for_the_last_quarter_and_weights_decay(monkeypatch, train_split):
    seen, make = [], trainer.momentum_sgd

    def watched(network, **options):
        optimizer = make(network, **options)
        optimizer.register_step_pre_hook(lambda o, *_: seen.append(o.param_groups[0]["lr"]))
        seen.append(options)
        return optimizer

    monkeypatch.setattr(trainer, "momentum_sgd", watched)
    network = initialized(FAMILY, SETTINGS)
    steps = fit(network, train_split, SETTINGS | {"hp_decay_fac": 0.005}, epochs=4)
    assert seen[0] == {"rate": 0.01, "weight_decay": 0.005}
    assert steps == 4 * 2 and np.allclose(seen[1:], [0.01] * 6 + [0.001] * 2)


def test_augmented_training_sees_changed_images(monkeypatch, train_split):
    seen = []
    original = trainer.shifted_and_mirrored
    monkeypatch.setattr(
        trainer, "shifted_and_mirrored", lambda images: seen.append(len(images)) or original(images)
    )
    network = initialized(FAMILY, SETTINGS)
    fit(network, train_split, SETTINGS, epochs=1)
    assert seen == []
    fit(network, train_split, SETTINGS | {"hp_augmentation": True}, epochs=1)
    assert seen == [50, 50]
