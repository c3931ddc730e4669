"""Networks of the GenProb recipe: as published on disk, all epochs kept, the same in any run."""

import json
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import gengap
from gengap.collections import genprob
from gengap.collections.genprob import network_inputs
from gengap.errors import GengapError
from gengap.formats.images import load_images, write_idx_pair
from gengap.measures.spectra import STATISTICS, network_spectra
from gengap.replicas import genprob as trainer
from gengap.replicas.genprob import FAMILIES, NARROW, Family, Network, fit, hallmarks, networks_of
from gengap.replicas.run import run_of
from gengap.replicas.run import train as train_networks
from gengap.replicas.training import Images

FAMILY, OTHER = FAMILIES
COUNT, TESTED = 300, 60
SETTING = Network("SGD", (0, 0, 0, 0, 0), 5e-4, 0.1)


def train(few_images, out, family=FAMILY, networks=3):
    run = run_of("genprob", family, out, epochs=3, images=few_images)
    train_networks(run, networks=networks)
    return out


@pytest.fixture(scope="module")
def few_images(image_root, tmp_path_factory):
    """The first images of each split: 300 are enough to train on."""
    root = tmp_path_factory.mktemp("few")
    for split, count in (("train", COUNT), ("test", 100)):
        images, labels = load_images("fashion_mnist", split, root=image_root)
        write_idx_pair(root / "fashion_mnist", split, images[:count], labels[:count])
    return root


@pytest.fixture(scope="module", autouse=True)
def few_tested(in_this_process):
    """A part of the test images after the second of three epochs; in this process, not a worker."""
    with pytest.MonkeyPatch.context() as patch:
        few = replace(NARROW, tested=TESTED)
        patch.setattr(Family, "RECIPES", {"replica": dict.fromkeys(FAMILIES, few)})
        patch.setattr("gengap.tables.engine.results", in_this_process)
        yield


@pytest.fixture(scope="module")
def trained(few_images, tmp_path_factory):
    """Three networks of one family, one of the other."""
    out = tmp_path_factory.mktemp("trained")
    train(few_images, out)
    train(few_images, out, OTHER, networks=1)
    return out


@pytest.fixture(scope="module")
def opened(trained):
    return gengap.open_collection("genprob", root=trained)


@pytest.fixture
def noise():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 10
    return Images(torch.randn(120, 3, 4, 4, generator=generator), labels)


def test_the_grid_is_the_published_one_but_for_the_widths():
    networks = [network for family in FAMILIES for network in networks_of(family, NARROW)]
    assert len(networks) == len({network.name for network in networks}) == 120
    assert {(n.optimizer, n.learning_rate) for n in networks} == {
        *(("AdaM", rate) for rate in (2e-3, 4e-3, 6e-3, 8e-3, 1e-2)),
        *(("SGD", rate) for rate in (0.02, 0.04, 0.06, 0.08, 0.1)),
    }
    assert {n.weight_decay for n in networks} == {1e-4, 5e-4, 1e-3}
    assert len({n.widths for n in networks}) == 4
    assert NARROW.planes[1] / NARROW.planes[0] == 48 / 40 and NARROW.epochs == 70


def outcome(network, images):
    """Accuracy and mean cross-entropy."""
    with torch.no_grad():
        logits = network(images.inputs)
    accuracy = float((logits.argmax(dim=1) == images.labels).double().mean())
    return accuracy, float(nn.functional.cross_entropy(logits.double(), images.labels))


@pytest.mark.filterwarnings("ignore")  # all other families are missing
def test_a_trained_family_reproduces_its_records_on_the_images_beside_it(opened, few_images):
    images, labels = load_images("fashion_mnist", "test", root=few_images)
    test = Images(network_inputs(images, "FashionMNIST"), torch.from_numpy(labels))
    for model in map(opened.load, opened.index()["model_id"]):
        assert len(model.sample[0]) == COUNT
        tested = test[:TESTED] if model.record["epoch"] == 1 else test
        for split, seen in (("train", Images(*model.sample)), ("test", tested)):
            accuracy, loss = outcome(model.network, seen)
            assert accuracy == pytest.approx(model.record[f"{split}_accuracy"], abs=1e-9)
            assert loss == pytest.approx(model.record[f"{split}_loss"], rel=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_kept_weights_have_8_bits_of_mantissa(opened):
    for model in map(opened.load, opened.index()["model_id"]):
        for tensor in model.network.state_dict().values():
            assert torch.equal(tensor, tensor.bfloat16().to(tensor.dtype))


@pytest.mark.filterwarnings("ignore")
def test_the_first_networks_keep_all_epochs_the_others_the_last(opened):
    names = [[network.name for network in networks_of(family, NARROW)] for family in FAMILIES]
    expected = {(FAMILY, name, epoch) for name in names[0][:2] for epoch in (0, 1, 2)}
    expected |= {(FAMILY, names[0][2], 2)} | {(OTHER, names[1][0], epoch) for epoch in (0, 1, 2)}
    found = opened.index()["model_id"].str.split("/", expand=True)
    assert set(found.itertuples(index=False, name=None)) == {
        (family, name, f"epoch_{epoch}") for family, name, epoch in expected
    }


@pytest.mark.filterwarnings("ignore")
def test_the_records_of_all_epochs_of_all_networks_are_kept(opened):
    index, epochs = opened.index(), opened.kept_epochs()
    assert len(epochs) == 3 * 3 + 3 * 1 and list(epochs.columns) == list(index.columns)
    kept = epochs.set_index("model_id").loc[index["model_id"]].reset_index()
    pd.testing.assert_frame_equal(kept, index)


@pytest.mark.filterwarnings("ignore")
def test_the_kept_spectra_are_those_of_the_networks_at_all_epochs(opened):
    rows = pd.concat(opened.kept_spectra())
    assert set(rows["model_id"]) == set(opened.kept_epochs()["model_id"])
    keys = ["layer", "unfolding", "low_rank"]
    for model_id in opened.index()["model_id"]:
        found = rows[rows["model_id"] == model_id].drop(columns="model_id")
        expected = network_spectra(opened.load(model_id).network)
        assert (found.dtypes[list(STATISTICS)] == "float32").all()
        pd.testing.assert_frame_equal(
            found.set_index(keys).sort_index(),
            expected.set_index(keys).sort_index(),
            check_dtype=False,
            rtol=1e-6,
        )


def test_the_index_tells_of_how_many_images_an_accuracy_is(trained):
    index = gengap.open_collection("genprob", trained).index()
    tested = index[index["family"] == FAMILY].groupby("epoch")["test_images"].first()
    assert tested.to_dict() == {0: 10_000, 1: TESTED, 2: 10_000}


def test_families_share_a_folder_that_has_only_what_is_documented(trained):
    networks = [*networks_of(FAMILY, NARROW)[:3], networks_of(OTHER, NARROW)[0]]
    assert {path.name for path in trained.iterdir()} == {
        *FAMILIES,
        "fashion_mnist",
        *(f"{network.name}_FashionMNIST.zip" for network in networks),
    }
    for family in FAMILIES:
        assert [path.name for path in (trained / family).iterdir()] == ["training.json"]


def test_a_resumed_run_trains_what_is_missing_alone_and_gives_the_same_files(
    trained, few_images, tmp_path
):
    out = shutil.copytree(trained, tmp_path / "out")
    lost = out / f"{networks_of(FAMILY, NARROW)[1].name}_FashionMNIST.zip"
    lost.unlink()
    kept = {file: file.stat().st_mtime_ns for file in out.glob("*.zip")}
    train(few_images, out)
    assert len(kept) == 3 and all(file.stat().st_mtime_ns == time for file, time in kept.items())
    for file in (file.relative_to(out) for file in out.rglob("*") if file.is_file()):
        assert (out / file).read_bytes() == (trained / file).read_bytes(), file


def test_the_checkpoints_of_a_container_are_in_the_published_format(trained):
    name = networks_of(FAMILY, NARROW)[2].name
    with zipfile.ZipFile(trained / f"{name}_FashionMNIST.zip") as archive:
        [member] = [n for n in archive.namelist() if n.endswith(".pth.tar")]
        with archive.open(member) as file:
            content = torch.load(file, weights_only=True)
    assert member == f"{name}_FashionMNIST_epoch_2.pth.tar"
    assert set(content) == {"state_dict_network", "performance_statistics"}
    assert {tensor.dtype for tensor in content["state_dict_network"].values()} == {
        torch.float32,
        torch.int64,
    }


def test_training_goes_on_from_weights_that_are_not_rounded(noise, monkeypatch):
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 10))
    list(fit(network, noise, SETTING, NARROW, epochs=1))
    assert not torch.equal(network[1].weight, network[1].weight.bfloat16().float())


def test_only_the_first_images_are_trained_on(image_root, tmp_path):
    images, _ = load_images("fashion_mnist", "train", root=image_root)
    assert len(images) > NARROW.images
    run = Family(FAMILY, tmp_path, 3, images=image_root)
    run.prepare()
    kept, kept_labels = load_images("fashion_mnist", "train", root=tmp_path)
    seen = run.hold()["train"]
    assert np.array_equal(kept, images[: NARROW.images])
    assert torch.equal(seen.inputs, network_inputs(kept, "FashionMNIST"))
    assert np.array_equal(seen.labels, kept_labels) and len(seen.labels) == NARROW.images


def test_a_folder_of_other_settings_is_refused(trained, few_images):
    with pytest.raises(GengapError, match="training.json says .* choose another --out"):
        train_networks(run_of("genprob", FAMILY, trained, epochs=2, images=few_images), networks=1)
    with pytest.raises(GengapError, match="no family 'SAM_FashionMNIST' can be trained"):
        run_of("genprob", "SAM_FashionMNIST", trained)


def test_missing_images_are_one_sentence_before_any_process_starts(tmp_path):
    with pytest.raises(GengapError, match="The image folder .* does not exist"):
        train_networks(run_of("genprob", FAMILY, tmp_path / "out", images=tmp_path / "nowhere"))
    assert not (tmp_path / "out").exists()


def test_settings_tell_what_decides_how_networks_come_out(trained):
    settings = json.loads((trained / FAMILY / "training.json").read_text())
    assert settings["epochs"] == 3 and settings["images"] == NARROW.images
    assert settings["planes"] == list(NARROW.planes) and settings["seed"] == 42
    assert settings["shift"] == NARROW.shift and settings["tested"] == TESTED


def test_the_rate_falls_to_half_every_ten_epochs(monkeypatch, noise):
    seen, make = [], trainer.OPTIMIZERS["SGD"]

    def watched(parameters, **options):
        optimizer = make(parameters, **options)
        optimizer.register_step_pre_hook(lambda o, *_: seen.append(dict(o.param_groups[0])))
        return optimizer

    monkeypatch.setitem(trainer.OPTIMIZERS, "SGD", watched)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 10))
    assert list(fit(network, noise, SETTING, replace(NARROW, batch=60), epochs=21)) == list(
        range(21)
    )
    expected = np.repeat([0.1, 0.05, 0.025], [20, 20, 2])
    assert [group["lr"] for group in seen] == pytest.approx(list(expected))
    assert {(group["momentum"], group["weight_decay"]) for group in seen} == {(0.9, 5e-4)}


def test_one_step_of_adam_is_of_the_size_of_its_rate(noise):
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 10))
    before = network[1].weight.detach().clone()
    list(
        fit(
            network,
            noise,
            Network("AdaM", (0,) * 5, 1e-4, 0.004),
            replace(NARROW, batch=120),
            epochs=1,
        )
    )
    moved = (network[1].weight.detach() - before).abs()
    assert float(moved.median()) == pytest.approx(0.004, rel=1e-3)


def test_each_batch_is_shifted_and_flipped(noise, monkeypatch):
    seen = []
    monkeypatch.setattr(
        trainer, "shifted_and_mirrored", lambda x, *, shift: seen.append((len(x), shift)) or x
    )
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 10))
    list(fit(network, noise, SETTING, replace(NARROW, batch=50), epochs=1))
    assert seen == [(50, 2), (50, 2), (20, 2)]


def finished(family: str, slope: float) -> pd.DataFrame:
    """An index of the whole grid after the last epoch, gaps growing with accuracy by `slope`."""
    networks = networks_of(family, NARROW)
    noise = np.random.default_rng(0).normal(0, 0.001, len(networks))
    test = np.linspace(0.6, 0.75, len(networks))
    index = pd.DataFrame({"test_accuracy": test, "family": family, "epoch": 69})
    index["train_accuracy"] = 0.08 + test + slope * (test - 0.7) + noise
    return index.join(pd.DataFrame([genprob.hyper_parameters(n.name) for n in networks]))


def test_the_hallmarks_of_a_family_that_is_not_fitted_are_met():
    found = hallmarks(pd.concat([finished(family, 0.3) for family in FAMILIES]))
    assert list(found.columns) == ["hallmark", "wanted", "found", "met"]
    assert found["met"].all() and found["hallmark"].is_unique and len(found) == 10
    assert set(found.loc[found["hallmark"].str.contains("networks$"), "found"]) == {"60"}


def test_a_family_whose_gaps_fall_with_accuracy_fails_its_hallmark_alone():
    found = hallmarks(pd.concat([finished(FAMILY, -0.3), finished(OTHER, 0.3)]))
    [failed] = found.loc[~found["met"], "hallmark"]
    assert failed == f"{FAMILY}: rank correlation of test accuracy and gap"


def test_only_networks_after_the_last_epoch_count():
    index = finished(FAMILY, 0.3)
    earlier = index.assign(epoch=3, train_accuracy=0.99)
    pd.testing.assert_frame_equal(hallmarks(pd.concat([earlier, index])), hallmarks(index))


def test_a_fitted_family_and_a_short_one_fail():
    found = hallmarks(finished(FAMILY, 0).assign(train_accuracy=0.95, epoch=40))
    unmet = found.loc[~found["met"]].set_index("hallmark")["found"]
    assert unmet[f"{FAMILY}: least training accuracy"] == "0.950"
    assert unmet[f"{FAMILY}: epochs"] == "41" and unmet[f"{OTHER}: networks"] == "0"
