"""What trainers share, against closed forms."""

import json
import math

import pytest
import torch
from torch import nn

from gengap.replicas.training import Images, evaluate, momentum_sgd, write_json


def test_weight_decay_is_on_kernels_and_never_on_biases_and_scales():
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    optimizer = momentum_sgd(network, rate=0.1, weight_decay=0.5)
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert [decay[id(p)] for p in network.parameters()] == [0.5, 0, 0, 0]
    assert {g["lr"] for g in optimizer.param_groups} == {0.1}


def test_a_step_with_weight_decay_alone_shrinks_a_kernel_by_rate_times_decay():
    network = nn.Linear(1, 1)
    start = network.weight.item()
    (0 * network(torch.zeros(1, 1))).sum().backward()
    momentum_sgd(network, rate=0.1, weight_decay=0.5).step()
    assert network.weight.item() == pytest.approx(start * (1 - 0.1 * 0.5), rel=1e-6)


def test_accuracy_and_loss_are_those_of_all_images_without_dropout():
    network = nn.Sequential(nn.Dropout(0.9), nn.Identity()).train()
    images = Images(torch.tensor([[2.0, 0.0], [0.0, 2.0]]).repeat(1001, 1), torch.zeros(2002).long())
    accuracy, loss = evaluate(network, images)
    assert accuracy == 0.5
    # Half of the images have the cross-entropy log(1 + e^-2), half log(1 + e^2).
    expected = (math.log1p(math.exp(-2)) + math.log1p(math.exp(2))) / 2
    assert loss == pytest.approx(expected, rel=1e-7)


def test_a_record_that_cannot_be_written_leaves_the_old_one(tmp_path):
    write_json(tmp_path / "record.json", {"Accuracy": 0.5})
    with pytest.raises(TypeError):
        write_json(tmp_path / "record.json", {"Accuracy": object()})
    assert json.loads((tmp_path / "record.json").read_text()) == {"Accuracy": 0.5}
    assert [file.name for file in tmp_path.iterdir()] == ["record.json"]
