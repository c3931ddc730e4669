"""The contract that each collection keeps, checked on those that are embedded."""

import pytest
import torch
from torch import nn

from gengap.collection import COLUMNS, FRACTIONS, IMAGE_COUNTS, open_collection

# Models whose sample is all that they were trained on: their recorded accuracy must come out again.
TRAINED_ON_THE_SAMPLE = {
    "cnnzoo": "family == 'fashion_mnist' and hp_train_fraction == 0.1",
    "pgdl": "family != ''",  # every task
    "demogen": "family != ''",
    "genprob": "family != ''",
    "tiny": "family == 'left'",
}
CHECKED = 10


@pytest.fixture
def some_models(every_collection):
    """Two models of each family: the least and the most accurate."""
    ordered = every_collection.index().sort_values("train_accuracy")
    ends = ordered.groupby("family")["model_id"].agg(["first", "last"])
    return [every_collection.load(model_id) for model_id in ends.to_numpy().ravel()]


def test_the_index_has_unique_ids_and_fractions(every_collection):
    index = every_collection.index()
    assert list(index.columns[: len(COLUMNS)]) == COLUMNS
    assert index["model_id"].is_unique and len(index) > 0
    assert index[FRACTIONS].stack().between(0, 1).all()
    assert (index[["train_loss", "test_loss"]].stack() >= 0).all()
    assert [name for name in index if name.startswith("hp_")]


def test_a_network_has_named_stages_and_is_in_eval_mode(some_models):
    for model in some_models:
        assert isinstance(model.network, nn.Sequential)
        assert not any(name.isdigit() for name, _ in model.network.named_children())
        assert not any(module.training for module in model.network.modules())
        assert {parameter.dtype for parameter in model.network.parameters()} == {torch.float32}


def test_initial_weights_fit_the_network(some_models):
    for model in some_models:
        if model.initial_weights is not None:
            for name, parameter in model.network.named_parameters():
                assert model.initial_weights[name].shape == parameter.shape


def test_the_forward_pass_reproduces_the_recorded_training_accuracy(every_collection):
    chosen = every_collection.select(TRAINED_ON_THE_SAMPLE[every_collection.name])
    model_ids = chosen.index()["model_id"].sample(min(CHECKED, len(chosen.index())), random_state=0)
    assert len(model_ids)
    for model in map(chosen.load, model_ids):
        inputs, labels = model.sample
        assert inputs.dtype == torch.float32 and labels.dtype == torch.int64
        correct = int((model.logits.argmax(dim=1) == labels).sum())
        # One image may fall otherwise where two logits tie to float32's last digit.
        assert abs(correct - model.record["train_accuracy"] * len(labels)) <= 1.001


def test_a_model_loaded_twice_is_the_same(every_collection):
    model_id = every_collection.index()["model_id"].iloc[-1]
    again = open_collection(every_collection.name).load(model_id).network.state_dict()
    for name, tensor in every_collection.load(model_id).network.state_dict().items():
        assert torch.equal(tensor, again[name])


def test_each_model_names_the_files_that_it_is_read_from(every_collection):
    if every_collection.name == "tiny":
        pytest.skip("it has no files")
    records = every_collection.index().to_dict("records")
    files = [every_collection.weight_files(record) for record in records]
    assert all(file.is_file() or file.is_dir() for places in files for file in places)
    if every_collection.name != "cnnzoo":  # where models share a matrix
        assert len({*map(str, files)}) == len(records)


def test_the_index_says_of_how_many_images_an_accuracy_is_a_fraction(every_collection):
    index = every_collection.index()
    for count in set(IMAGE_COUNTS) & set(index):
        hits = index[count] * index[count.replace("images", "accuracy")]
        assert ((hits - hits.round()).abs().dropna() < 0.02).all()  # recorded in float32


def test_the_index_is_read_without_touching_weights(every_collection, monkeypatch):
    fresh = open_collection(every_collection.name)
    monkeypatch.setattr(fresh, "read_network", None)
    monkeypatch.setattr(fresh, "read_sample", None)
    assert fresh.index().equals(every_collection.index())
