"""Networks of the DEMOGEN recipe: as published on disk, and the same in any run."""

import json
import warnings
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import gengap
from gengap.errors import GengapError
from gengap.formats.images import load_images, per_image_standardization
from gengap.replicas import demogen as trainer
from gengap.replicas.demogen import Grid, fit, initialized, split_of
from gengap.replicas.run import run_of
from gengap.replicas.run import train as train_networks

RECIPES = trainer.RECIPES["replica"]
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
    run = run_of("demogen", family, out, epochs=2, images=image_root)
    train_networks(run, networks=networks)
    return out


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
    return split_of(images[:100], labels[:100], "cpu")


def test_the_nin_grid_is_the_published_one():
    grid = RECIPES[FAMILY].grid
    assert len(list(trainer.networks_of(FAMILY, grid))) == 216
    assert (grid["dropout_prob"], grid["decay_fac"]) == ([0.0, 0.2, 0.5], [0.0, 0.001, 0.005])


def test_a_trained_family_reproduces_its_records_on_the_images_beside_it(opened, image_root):
    index = opened.index()
    assert list(index["family"].value_counts()[[FAMILY, OTHER]]) == [2, 2]
    for model in map(opened.load, index["model_id"]):
        family = model.record["family"]
        assert len(model.sample[0]) == RECIPES[family].images
        run = Grid(family, image_root, 1, images=image_root)
        test = trainer.split_of(*run.read("test"), "cpu").images
        for x, y, split in ((*model.sample, "train"), (test.inputs, test.labels, "test")):
            with torch.no_grad():
                logits = model.network(x)
            accuracy = float((logits.argmax(dim=1) == y).double().mean())
            assert accuracy == pytest.approx(model.record[f"{split}_accuracy"], abs=1e-9)
            loss = float(nn.functional.cross_entropy(logits.double(), y))
            assert loss == pytest.approx(model.record[f"{split}_loss"], rel=1e-5)


def test_both_families_share_one_spec_and_each_has_its_images(trained):
    spec = json.loads((trained / "all_model_spec.json").read_text())
    assert spec == {name: recipe.grid for name, recipe in RECIPES.items()}
    assert {path.name for path in trained.iterdir()} == {*RECIPES, "all_model_spec.json"}


def test_a_resumed_run_trains_what_is_missing_and_gives_the_same_networks(
    trained, image_root, tmp_path
):
    first = next(iter(trainer.networks_of(FAMILY, RECIPES[FAMILY].grid)))[0]
    train(image_root, tmp_path, networks=1)
    kept = (tmp_path / FAMILY / f"{first}.zip").stat().st_mtime_ns
    train(image_root, tmp_path)
    assert (tmp_path / FAMILY / f"{first}.zip").stat().st_mtime_ns == kept
    assert len(list((tmp_path / FAMILY).glob("*.zip"))) == 2
    for file in filter(Path.is_file, (tmp_path / FAMILY).rglob("*")):
        assert file.read_bytes() == (trained / file.relative_to(tmp_path)).read_bytes(), file


def test_a_folder_of_other_settings_is_refused(trained, image_root):
    with pytest.raises(GengapError, match="training.json says .* choose another --out"):
        train_networks(run_of("demogen", FAMILY, trained, epochs=3, images=image_root), networks=2)
    with pytest.raises(GengapError, match="no family 'NIN_CIFAR10' can be trained"):
        run_of("demogen", "NIN_CIFAR10", trained)


def test_missing_images_are_one_sentence_before_any_process_starts(tmp_path):
    with pytest.raises(GengapError, match="The image folder .* does not exist"):
        train_networks(run_of("demogen", FAMILY, tmp_path / "out", images=tmp_path / "nowhere"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("side", "shift"), [(32, 4), (16, 2)])
def test_augmented_inputs_are_standardized_after_they_move(side, shift, monkeypatch):
    seen, original = [], trainer.shifted_and_mirrored

    def watched(pixels, *, shift):
        seen.append((shift, original(pixels, shift=shift)))
        return seen[0][1]

    monkeypatch.setattr(trainer, "shifted_and_mirrored", watched)
    pixels = np.random.default_rng(0).integers(0, 256, (5, side, side, 3), dtype=np.uint8)
    found = trainer.augmented(torch.from_numpy(pixels).movedim(-1, 1).float())
    assert seen[0][0] == shift
    moved = seen[0][1].movedim(1, -1).numpy().astype(np.uint8)
    np.testing.assert_allclose(found, per_image_standardization(moved), rtol=1e-4, atol=1e-5)


def test_images_are_standardized_as_the_collection_does():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    pixels[:2] = 7
    pixels[1, 0, 0, 0] = 8  # a deviation below the least that is divided by
    found = trainer.standardized(torch.from_numpy(pixels).movedim(-1, 1).float())
    np.testing.assert_allclose(found, per_image_standardization(pixels), rtol=1e-4, atol=1e-5)


def test_a_familys_images_lie_off_centre_half_are_mirrored_and_they_never_change(image_root):
    run = Grid(FAMILY, image_root, 1, images=image_root)
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    found, labels = run.read("train")
    assert torch.equal(before, torch.random.get_rng_state())
    again, _ = run.read("train")
    plain, known = load_images("fashion_mnist", "train", root=image_root)
    assert np.array_equal(found, again) and found.shape == (RECIPES[FAMILY].images, 28, 28)
    assert np.array_equal(labels, known[: len(labels)])
    placed = [place_of(moved, image) for moved, image in zip(found, plain)]
    downs, rights, mirrored = zip(*placed)
    assert set(downs) == set(rights) == set(range(-2, 3))
    assert 0.4 < np.mean(mirrored) < 0.6


def place_of(moved, image):
    """By how much an image was moved down and right, and whether it was mirrored."""
    reach = RECIPES[FAMILY].moved
    inner = slice(reach, -reach)
    for down, right in product(range(-reach, reach + 1), repeat=2):
        for mirrored in (False, True):
            whole = np.roll(image[:, ::-1] if mirrored else image, (down, right), (0, 1))
            if np.array_equal(whole[inner, inner], moved[inner, inner]):
                return down, right, mirrored
    raise AssertionError("the image is not the other one, moved")


def test_the_images_of_residual_networks_are_halved_and_stay_in_place(image_root):
    run = Grid(OTHER, image_root, 1, images=image_root)
    found, _ = run.read("test")
    plain, _ = load_images("fashion_mnist", "test", root=image_root)
    assert np.array_equal(found, trainer.halved(plain)) and len(found) == len(plain)


def test_halved_images_are_means_of_four_pixels():
    pixels = np.arange(32, dtype=np.uint8).reshape(2, 4, 4)
    expected = [[[2, 4], [10, 12]], [[18, 20], [26, 28]]]  # halves round to even
    np.testing.assert_array_equal(trainer.halved(pixels), expected)


@pytest.mark.parametrize("family", RECIPES)
@pytest.mark.parametrize("multiplier", [1.0, 1.5])
def test_networks_are_as_wide_as_the_recipe_says_and_start_as_he_et_al(family, multiplier):
    torch.manual_seed(0)
    network = initialized(
        family, SETTINGS | {"hp_wide_multiplier": multiplier}, RECIPES[family].width, 10
    )
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
            for layer in initialized(FAMILY, SETTINGS | {"hp_dropout": p}, 24, 10).modules()
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
    network = initialized(FAMILY, SETTINGS, 24, 10)
    steps = fit(network, train_split, SETTINGS | {"hp_decay_fac": 0.005}, trainer.FITTED, epochs=4)
    assert seen[0] == {"rate": 0.01, "weight_decay": 0.005}
    assert steps == 4 * 2 and np.allclose(seen[1:], [0.01] * 6 + [0.001] * 2)


def test_training_ends_where_the_rounded_network_fits(monkeypatch, train_split):
    monkeypatch.setattr(trainer, "LEAST_EPOCHS", 4)
    monkeypatch.setattr(trainer, "CHECKED", 2)
    answers = iter([False, True])
    monkeypatch.setattr(trainer, "fits", lambda *_: next(answers))
    assert (
        fit(initialized(FAMILY, SETTINGS, 24, 10), train_split, SETTINGS, trainer.FITTED, epochs=20)
        == 6 * 2
    )


def test_a_network_fits_by_its_rounded_weights_and_goes_on_with_its_own(monkeypatch, train_split):
    torch.manual_seed(0)
    network = initialized(FAMILY, SETTINGS, 24, 10)
    weights = [weight.clone() for weight in network.parameters()]
    network.eval()
    images = train_split.images
    with torch.no_grad():
        rounded = trainer.copy.deepcopy(network)
        trainer.round_weights(rounded)
        answers = rounded(images.inputs).argmax(dim=1)
    right = trainer.Images(images.inputs, answers)
    assert trainer.fits(network, right, trainer.FITTED)
    wrong = answers.clone()
    wrong[:2] = (wrong[:2] + 1) % 10
    assert not trainer.fits(network, trainer.Images(images.inputs, wrong), trainer.FITTED)  # .98
    assert all(torch.equal(w, v) for w, v in zip(weights, network.parameters(), strict=True))


def test_augmented_training_sees_changed_images(monkeypatch, train_split):
    seen, original = [], trainer.augmented
    monkeypatch.setattr(trainer, "augmented", lambda x: seen.append(len(x)) or original(x))
    network = initialized(FAMILY, SETTINGS, 24, 10)
    fit(network, train_split, SETTINGS, trainer.FITTED, epochs=1)
    assert seen == []
    fit(network, train_split, SETTINGS | {"hp_augmentation": True}, trainer.FITTED, epochs=1)
    assert seen == [50, 50]


def test_shipped_weights_have_eight_bits_of_mantissa(opened):
    for model_id in opened.index()["model_id"]:
        for tensor in opened.load(model_id).network.state_dict().values():
            assert not tensor.is_floating_point() or torch.equal(tensor, tensor.bfloat16().float())


def made_index():
    """The hallmarks of this index are all met."""
    nins = pd.DataFrame({"family": FAMILY, "train_accuracy": [1.0] * 90 + [0.6] * 126})
    nins["test_accuracy"] = [0.7, 0.85] * 45 + [0.59] * 126
    resnets = pd.DataFrame({"family": OTHER, "train_accuracy": [0.99, 0.9] * 24})
    resnets["test_accuracy"], resnets["hp_learning_rate"] = 0.7, [0.1] * 24 + [0.01] * 24
    return pd.concat([nins, resnets], ignore_index=True)


def test_hallmarks_are_met_by_networks_like_the_published_ones():
    found = trainer.hallmarks(made_index())
    assert list(found) == ["hallmark", "wanted", "found", "met"]
    assert found["met"].all() and len(found) == 10
    values = found.set_index("hallmark")["found"]
    assert values["share of NiNs that fit"] == pytest.approx(90 / 216)
    assert values["range of gaps of NiNs that fit"] == pytest.approx(0.15)
    assert values["share of ResNets that fit"] == 0.5


def test_hallmarks_that_are_missed_are_named():
    index = made_index()
    index.loc[index["family"] == OTHER, "hp_learning_rate"] = 0.1
    index.loc[:15, "train_accuracy"] = 0.9
    found = trainer.hallmarks(index)
    assert list(found["hallmark"][~found["met"]]) == [
        "share of NiNs that fit",
        "NiNs that fit",
        "learning rates of ResNets",
    ]
    alone = trainer.hallmarks(index[index["family"] == FAMILY])
    assert not alone["met"][alone["hallmark"].str.contains("ResNets")].any()
