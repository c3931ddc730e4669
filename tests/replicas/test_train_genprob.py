"""Networks of the GenProb recipe: as published on disk, all epochs kept, the same in any run."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import gengap
from gengap.collections.genprob import network_inputs
from gengap.errors import GengapError
from gengap.formats.images import load_images, write_idx_pair
from gengap.measures.spectra import STATISTICS, network_spectra
from gengap.replicas import genprob as trainer
from gengap.replicas.genprob import FAMILIES, Network, fit, networks_of
from gengap.replicas.training import Images

FAMILY, OTHER = FAMILIES
COUNT = 300
SETTING = Network("SGD", (0, 0, 0, 0, 0), 5e-4, 0.1)


def train(few_images, out, family=FAMILY, networks=3):
    return trainer.train_genprob(family, out, networks=networks, epochs=2, images=few_images)


@pytest.fixture(scope="module")
def few_images(image_root, tmp_path_factory):
    """The first images of each split: 300 are enough to train on."""
    root = tmp_path_factory.mktemp("few")
    for split, count in (("train", COUNT), ("test", 100)):
        images, labels = load_images("fashion_mnist", split, root=image_root)
        write_idx_pair(root / "fashion_mnist", split, images[:count], labels[:count])
    return root


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


def table(out, kind, family=FAMILY):
    return pd.read_parquet(out / family / f"{kind}.parquet")


def test_the_grid_is_the_published_one_but_for_the_widths():
    networks = [network for family in FAMILIES for network in networks_of(family)]
    assert len(networks) == len({network.name for network in networks}) == 60
    assert {(n.optimizer, n.learning_rate) for n in networks} == {
        *(("AdaM", rate) for rate in (2e-3, 4e-3, 6e-3, 8e-3, 1e-2)),
        *(("SGD", rate) for rate in (0.02, 0.04, 0.06, 0.08, 0.1)),
    }
    assert {n.weight_decay for n in networks} == {1e-4, 5e-4, 1e-3}
    assert len({n.widths for n in networks}) == 2


@pytest.mark.filterwarnings("ignore")  # all other families are missing
def test_a_trained_family_reproduces_its_records_on_the_images_beside_it(opened, few_images):
    index = opened.index()
    images, labels = load_images("fashion_mnist", "test", root=few_images)
    test = network_inputs(images, "FashionMNIST"), torch.from_numpy(labels)
    for model in map(opened.load, index["model_id"]):
        assert len(model.sample[0]) == COUNT
        for (x, y), split in ((model.sample, "train"), (test, "test")):
            with torch.no_grad():
                logits = model.network(x)
            accuracy = float((logits.argmax(dim=1) == y).double().mean())
            assert accuracy == pytest.approx(model.record[f"{split}_accuracy"], abs=1e-9)
            loss = float(nn.functional.cross_entropy(logits.double(), y))
            assert loss == pytest.approx(model.record[f"{split}_loss"], rel=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_the_first_networks_keep_all_epochs_the_others_the_last(opened):
    names = [[network.name for network in networks_of(family)] for family in FAMILIES]
    expected = {(FAMILY, name, epoch) for name in names[0][:2] for epoch in (0, 1)}
    expected |= {(FAMILY, names[0][2], 1)} | {(OTHER, names[1][0], epoch) for epoch in (0, 1)}
    found = opened.index()["model_id"].str.split("/", expand=True)
    assert set(found.itertuples(index=False, name=None)) == {
        (family, name, f"epoch_{epoch}") for family, name, epoch in expected
    }


@pytest.mark.filterwarnings("ignore")
def test_the_table_of_epochs_is_the_index_of_all_epochs(trained, opened):
    index = opened.index().reset_index(drop=True)
    epochs = pd.concat([table(trained, "epochs", family) for family in FAMILIES])
    assert len(epochs) == 2 * 3 + 2 * 1 and list(epochs.columns) == list(index.columns)
    kept = epochs.set_index("model_id").loc[index["model_id"]].reset_index()
    pd.testing.assert_frame_equal(kept, index)


@pytest.mark.filterwarnings("ignore")
def test_the_table_of_spectra_is_that_of_the_networks(trained, opened):
    rows = table(trained, "spectra")
    assert list(rows["model_id"].unique()) == list(table(trained, "epochs")["model_id"])
    for model_id in opened.index().query("family == @FAMILY")["model_id"]:
        found = rows[rows["model_id"] == model_id].drop(columns="model_id")
        expected = network_spectra(opened.load(model_id).network)
        assert (found.dtypes[list(STATISTICS)] == "float32").all()
        pd.testing.assert_frame_equal(
            found.reset_index(drop=True), expected, check_dtype=False, rtol=1e-6
        )


def test_families_share_a_folder_that_has_only_what_is_documented(trained):
    assert {path.name for path in trained.iterdir() if path.is_dir()} == {
        *FAMILIES,
        "fashion_mnist",
    }
    for family in FAMILIES:
        files = {path.name for path in (trained / family).rglob("*") if path.is_file()}
        assert files == {"epochs.parquet", "spectra.parquet", "training.json"}


def test_a_resumed_run_trains_what_is_missing_and_gives_the_same_files(
    trained, few_images, tmp_path
):
    # Killed while it joined the second network: its rows are in one table; the third is missing.
    out = shutil.copytree(trained, tmp_path / "out")
    job = trainer.Job(FAMILY, out, 2, "cpu", 42, few_images)
    first, second, third = (network.name for network in networks_of(FAMILY)[:3])
    for kind, joined in (("spectra", [first, second]), ("epochs", [first])):
        rows = table(out, kind)
        of = rows["model_id"].str.split("/").str[1]
        rows[of.isin(joined)].to_parquet(job.table(kind), index=False)
        job.part(kind, second).parent.mkdir(exist_ok=True)
        rows[of == second].to_parquet(job.part(kind, second), index=False)
    [lost] = out.glob(f"{third}_*")
    lost.unlink()
    kept = {file: file.stat().st_mtime_ns for file in out.glob("*.pth.tar")}
    train(few_images, out)
    assert all(file.stat().st_mtime_ns == time for file, time in kept.items())
    files = [file.relative_to(out) for file in out.rglob("*") if file.is_file()]
    assert len(files) == len([file for file in trained.rglob("*") if file.is_file()])
    for file in files:
        assert (out / file).read_bytes() == (trained / file).read_bytes(), file


def test_only_the_first_images_are_trained_on(image_root, tmp_path):
    images, _ = load_images("fashion_mnist", "train", root=image_root)
    assert len(images) > trainer.IMAGES
    job = trainer.Job(FAMILY, tmp_path, 2, "cpu", 42, image_root)
    trainer._write_settings(job)
    kept, kept_labels = load_images("fashion_mnist", "train", root=tmp_path)
    trainer._start_worker(job)
    seen = trainer._WORKER["train"]
    assert np.array_equal(kept, images[: trainer.IMAGES])
    assert torch.equal(seen.inputs, network_inputs(kept, "FashionMNIST"))
    assert np.array_equal(seen.labels, kept_labels) and len(seen.labels) == trainer.IMAGES


def test_a_folder_of_other_settings_is_refused(trained, few_images):
    with pytest.raises(GengapError, match="training.json says .* choose another --out"):
        trainer.train_genprob(FAMILY, trained, networks=1, epochs=3, images=few_images)
    with pytest.raises(GengapError, match="no family 'SAM_FashionMNIST' can be trained"):
        trainer.train_genprob("SAM_FashionMNIST", trained)


def test_missing_images_are_one_sentence_before_any_process_starts(tmp_path):
    with pytest.raises(GengapError, match="The image folder .* does not exist"):
        trainer.train_genprob(FAMILY, tmp_path / "out", images=tmp_path / "nowhere")
    assert not (tmp_path / "out").exists()


def test_settings_tell_what_decides_how_networks_come_out(trained):
    settings = json.loads((trained / FAMILY / "training.json").read_text())
    assert settings["epochs"] == 2 and settings["images"] == trainer.IMAGES
    assert settings["planes"] == list(trainer.PLANES) and settings["seed"] == 42


def test_the_rate_falls_to_half_every_ten_epochs(monkeypatch, noise):
    seen, make = [], trainer.OPTIMIZERS["SGD"]

    def watched(parameters, **options):
        optimizer = make(parameters, **options)
        optimizer.register_step_pre_hook(lambda o, *_: seen.append(dict(o.param_groups[0])))
        return optimizer

    monkeypatch.setitem(trainer.OPTIMIZERS, "SGD", watched)
    monkeypatch.setattr(trainer, "BATCH", 60)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 10))
    assert list(fit(network, noise, SETTING, epochs=21)) == list(range(21))
    expected = np.repeat([0.1, 0.05, 0.025], [20, 20, 2])
    assert [group["lr"] for group in seen] == pytest.approx(list(expected))
    assert {(group["momentum"], group["weight_decay"]) for group in seen} == {(0.9, 5e-4)}


def test_one_step_of_adam_is_of_the_size_of_its_rate(noise, monkeypatch):
    monkeypatch.setattr(trainer, "BATCH", 120)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 10))
    before = network[1].weight.detach().clone()
    list(fit(network, noise, Network("AdaM", (0,) * 5, 1e-4, 0.004), epochs=1))
    moved = (network[1].weight.detach() - before).abs()
    assert float(moved.median()) == pytest.approx(0.004, rel=1e-3)
