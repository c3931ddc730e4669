"""The embedded replica of the zoo: its size, and forward passes that reproduce its records."""

import os

import numpy as np
import pytest
import torch
from drawn import drawn

import gengap
from gengap.collection import last_epoch
from gengap.collections.cnnzoo import finite_rows
from gengap.formats.images import embedded_images, load_images, network_inputs

FAMILIES = ("mnist", "fashion_mnist", "cifar10")
CHECKED = 12  # models of each test, drawn anew for each release of the replica by its own size


@pytest.fixture(scope="module")
def zoo():
    return gengap.open_collection("cnnzoo")


def few(index):
    """A few models, some of them from checkpoints before the last."""
    return index.sample(min(CHECKED, len(index)), random_state=len(index))


def accuracy(model, pixels, labels):
    """The fraction of images that the network classifies as labelled."""
    inputs, labels = torch.from_numpy(network_inputs(pixels)), torch.from_numpy(labels)
    with torch.no_grad():
        answers = torch.cat([model.network(batch).argmax(1) for batch in inputs.split(1000)])
    return float((answers == labels).double().mean())


def check(model, split, pixels, labels):
    # Recorded with one thread, network by network: another machine's convolution may decide a tie
    # between two logits otherwise. One image in ten thousand is allowed for that.
    recorded = model.record[f"{split}_accuracy"]
    assert abs(accuracy(model, pixels, labels) - recorded) <= 1e-4 + 1e-12, model.record["model_id"]


def test_networks_span_chance_to_good(zoo):
    last = last_epoch(zoo.index())
    for family, best in {"fashion_mnist": 0.8, "mnist": 0.95, "cifar10": 0.4}.items():
        accuracies = last[last["family"] == family]["test_accuracy"]
        assert accuracies.min() <= 0.11 and accuracies.max() >= best


def test_every_weight_of_the_replica_is_finite(zoo):
    assert finite_rows(zoo.weights(zoo.index())).all()


def test_networks_reproduce_their_recorded_test_accuracy_on_the_embedded_images(zoo):
    fashion = zoo.select("family == 'fashion_mnist'")
    for model_id in few(fashion.index())["model_id"]:
        check(fashion.load(model_id), "test", *embedded_images("fashion_mnist", "test"))


def test_networks_trained_on_a_tenth_reproduce_their_recorded_training_accuracy(zoo):
    fashion = zoo.select("family == 'fashion_mnist' and hp_train_fraction == 0.1")
    for model_id in few(fashion.index())["model_id"]:
        check(fashion.load(model_id), "train", *embedded_images("fashion_mnist", "train"))


@pytest.mark.skipif(not os.environ.get("GENGAP_IMAGES"), reason="set GENGAP_IMAGES to check it")
@pytest.mark.parametrize("family", drawn("zoo on all images", FAMILIES))
def test_networks_reproduce_both_recorded_accuracies_on_all_images(zoo, family):
    selected = zoo.select(f"family == '{family}'")
    train, test = load_images(family, "train"), load_images(family, "test")
    for model_id in few(selected.index())["model_id"]:
        model = selected.load(model_id)
        count = round(len(train[1]) * model.record["hp_train_fraction"])
        check(model, "train", train[0][:count], train[1][:count])
        check(model, "test", *test)


def test_the_sample_is_what_every_network_was_trained_on(zoo):
    model_id = zoo.select("family == 'fashion_mnist'").index()["model_id"].iloc[0]
    inputs, labels = zoo.load(model_id).sample
    assert inputs.shape == (6000, 1, 28, 28) and labels.shape == (6000,)
    assert float(inputs.min()) == -1 and float(inputs.max()) == 1
    np.testing.assert_array_equal(labels.numpy(), embedded_images("fashion_mnist", "train")[1])
