"""What trainers share, against closed forms."""

import json
import math

import pytest
import torch
from torch import nn

from gengap.replicas.run import write_json
from gengap.replicas.training import (
    Images,
    evaluate,
    momentum_sgd,
    round_weights,
    shifted_and_mirrored,
    shuffled_batches,
    train_epoch,
)


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
    images = Images(
        torch.tensor([[2.0, 0.0], [0.0, 2.0]]).repeat(1001, 1), torch.zeros(2002).long()
    )
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


def numbered(count):
    """Images whose only pixel is their label."""
    labels = torch.arange(count)
    return Images(labels.float()[:, None], labels)


def test_an_epoch_has_every_image_once_with_its_label():
    batches = list(shuffled_batches(numbered(10), 4, augment=lambda inputs: inputs + 100))
    assert [len(batch.labels) for batch in batches] == [4, 4, 2]
    labels = torch.cat([batch.labels for batch in batches])
    assert sorted(labels.tolist()) == list(range(10))
    assert torch.equal(torch.cat([batch.inputs for batch in batches])[:, 0], labels + 100.0)


def test_an_epoch_of_full_batches_is_plain_gradient_descent():
    network = nn.Linear(2, 2).eval()
    images = Images(torch.eye(2), torch.tensor([0, 1]))
    weight = network.weight.detach().clone().requires_grad_()
    bias = network.bias.detach().clone()
    loss = nn.functional.cross_entropy(images.inputs @ weight.T + bias, images.labels)
    (gradient,) = torch.autograd.grad(loss, weight)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    assert train_epoch(network, iter([images]), optimizer) == 1
    torch.testing.assert_close(network.weight.detach(), weight.detach() - 0.5 * gradient)
    assert network.training


def test_an_image_is_moved_and_mirrored_whole_and_framed_by_zeros():
    torch.manual_seed(0)
    image = torch.arange(1.0, 19).view(1, 2, 3, 3)
    moved = shifted_and_mirrored(image.expand(500, -1, -1, -1), shift=1)
    framed = nn.functional.pad(image[0], (1, 1, 1, 1))
    windows = [framed[:, y : y + 3, x : x + 3] for y in range(3) for x in range(3)]
    mirrored = [
        nn.functional.pad(image[0].flip(2), (1, 1, 1, 1))[:, y : y + 3, x : x + 3]
        for y in range(3)
        for x in range(3)
    ]
    counts = [int((moved == w).flatten(1).all(1).sum()) for w in windows + mirrored]
    assert sum(counts) == 500 and min(counts) > 10


def test_moved_images_have_their_channels_first_in_memory():
    assert shifted_and_mirrored(torch.zeros(5, 3, 8, 8), shift=2).is_contiguous()


def test_rounded_weights_are_float32_of_eight_bits_and_the_nearest():
    network = nn.Sequential(nn.Linear(50, 50), nn.BatchNorm1d(50))
    before = network[0].weight.detach().clone()
    round_weights(network)
    after = network[0].weight.detach()
    assert after.dtype == torch.float32 and network[1].num_batches_tracked.dtype == torch.int64
    assert not (after.view(torch.int32) & 0xFFFF).any()
    assert float(((after - before) / before).abs().max()) <= 2**-8
