"""The tasks of the PGDL replica: architectures, grids, images, augmentation."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from gengap.formats.images import load_images
from gengap.formats.keras import network_from_config
from gengap.replicas import pgdl_tasks as tasks

# Hyper-parameters of the competition's tasks, by number.
PUBLISHED = {
    1: "convwidth dropout_p num_conv_blocks num_dense_layers weight_decay bs dense_width",
    2: "depth dropout_p weight_decay bs",
    4: "nparams depth wd reverse lr bs",
    5: "nparams depth wd reverse lr bs",
    6: "weight_decay bs conv depth dropout_p lr",
    7: "depth dropout_p weight_decay bs dense",
    8: "convwidth dropout_p num_conv_blocks lr bs",
    9: "conv depth dropout_p weight_decay bs",
}


def test_each_published_task_has_one_here_with_its_hyper_parameters():
    names = {f"task{number}_fashion_mnist": set(text.split()) for number, text in PUBLISHED.items()}
    assert {name: set(task.grid) for name, task in tasks.TASKS.items()} == names


@pytest.mark.parametrize("task", tasks.TASKS.values(), ids=tasks.TASKS)
def test_a_task_is_a_full_grid_of_at_least_24_networks_and_32_if_binary(task):
    rows = {tuple(row.items()) for row in task.settings()}
    counts = [len(values) for values in task.grid.values()]
    assert len(rows) == len(task.settings()) == np.prod(counts)
    assert len(rows) >= (24 if max(counts) > 2 else 32)


@pytest.mark.parametrize("task", tasks.TASKS.values(), ids=tasks.TASKS)
def test_each_network_of_a_task_maps_its_images_to_its_classes(task):
    kinds = set()
    for settings in task.settings():
        config = task.config(settings)
        text = str(config)
        if text not in kinds:
            height, width, channels = config["input_shape"]
            logits = network_from_config(config)(torch.zeros(2, channels, height, width))
            assert logits.shape == (2, len(task.images.classes))
        kinds.add(text)
    assert len(kinds) > 1


def modules_of(layers, channels=3):
    network = network_from_config({"model_config": layers, "input_shape": [14, 14, channels]})
    return [type(module) for module in network.modules()]


def test_a_block_of_the_vgg_like_network_has_two_convolutions_and_a_pool():
    options = {"convwidth": 12, "dropout_p": 0.5, "num_conv_blocks": 3, "dense_width": 8}
    kinds = modules_of(tasks.vgg_layers(10, num_dense_layers=2, **options))
    assert kinds.count(nn.Conv2d) == 6 and kinds.count(nn.MaxPool2d) == 3
    assert kinds.count(nn.Linear) == 3 and kinds.count(nn.Dropout) == 1


@pytest.mark.parametrize("depth", [6, 9, 12])
def test_a_nin_has_a_wide_kernel_in_every_third_layer(depth):
    layers = tasks.nin_layers(10, conv=8, depth=depth, dropout_p=0.0)
    sizes = [layer["kernel_size"] for layer in layers if layer["layer_name"] == "Conv2D"]
    assert sizes == [3, 1, 1] * (depth // 3) + [1]
    assert modules_of(layers).count(nn.BatchNorm2d) == depth


def test_dense_layers_of_a_nin_follow_its_flattened_convolutions():
    layers = tasks.nin_layers(5, conv=8, depth=6, dropout_p=0.25, dense="16-12")
    names = [layer["layer_name"] for layer in layers]
    flatten = names.index("Flatten")
    assert names[flatten + 1 :] == ["Dense", "Dense", "Dropout", "Dense"]
    assert [layer["units"] for layer in layers if "units" in layer] == [16, 12, 5]


@pytest.mark.parametrize(
    "nparams, depth, ramp",
    [
        (1_009_000, 4, [10, 27, 70, 186, 494]),
        (1_009_000, 6, [10, 18, 33, 61, 112, 204, 372]),
        (2_505_000, 6, [10, 20, 40, 80, 160, 319, 638]),
    ],
)
def test_the_channels_of_a_fully_convolutional_network_are_the_published_ones(nparams, depth, ramp):
    found = tasks.ramp_of_channels(nparams, depth, 3, 10)
    assert found == pytest.approx(ramp, abs=2)


@pytest.mark.parametrize("nparams", [8000, 16_000])
@pytest.mark.parametrize("reverse", [False, True])
def test_reversing_turns_the_ramp_behind_the_first_layer(nparams, reverse):
    options = {"channels": 3, "nparams": nparams, "depth": 4, "reverse": reverse}
    layers = tasks.fully_convolutional_layers(10, batch_norm=False, **options)
    filters = [layer["filters"] for layer in layers if layer["layer_name"] == "Conv2D"]
    assert filters[0] == filters[-1] == 10 and len(filters) == 6
    ramp = filters[1:-1]
    assert ramp == sorted(ramp, reverse=reverse) and len(set(ramp)) > 1
    weights = sum(9 * a * b for a, b in itertools.pairwise([3, *filters]))
    assert weights == pytest.approx(nparams, rel=0.06)


def test_half_of_a_batch_is_augmented_and_half_is_as_it_was():
    torch.manual_seed(0)
    inputs = torch.rand(40, 3, 14, 14) + 1
    outputs = tasks.half_augmented(inputs)
    unchanged = (outputs == inputs).flatten(1).all(1)
    assert unchanged[20:].all() and not unchanged[:20].any()
    assert outputs.shape == inputs.shape


def test_an_erased_image_lacks_one_square_at_a_place_of_its_own():
    torch.manual_seed(0)
    erased = tasks.erased(torch.ones(200, 2, 5, 5), side=3)
    holes = {tuple(image.flatten().tolist()) for image in erased}
    wanted = set()
    for top, left in itertools.product(range(3), repeat=2):
        image = torch.ones(2, 5, 5)
        image[:, top : top + 3, left : left + 3] = 0
        wanted.add(tuple(image.flatten().tolist()))
    assert holes == wanted


def test_plain_images_are_averages_of_pixels_with_true_labels(image_root):
    images = tasks.ImageSet(first=5, count=20, side=14).read("train", image_root)
    pixels, labels = load_images("fashion_mnist", "train", root=image_root)
    means = pixels[5:25].reshape(20, 14, 2, 14, 2).mean(axis=(2, 4))
    found = images.inputs[:, 0].numpy()
    np.testing.assert_allclose(found, means / 127.5 - 1, atol=1 / 255 + 1e-6)
    levels = (found + 1) * 127.5
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-4)
    assert images.labels.tolist() == labels[5:25].tolist()


def test_images_of_some_classes_are_counted_from_zero(image_root):
    chosen = tasks.ImageSet(first=9, count=30, side=7, classes=(2, 5, 6)).read("train", image_root)
    _, labels = load_images("fashion_mnist", "train", root=image_root)
    kept = [label for label in labels[9:] if label in (2, 5, 6)][:30]
    assert chosen.labels.tolist() == [(2, 5, 6).index(label) for label in kept]
    test = tasks.ImageSet(first=9, count=1, side=7, classes=(2, 5)).read("test", image_root)
    _, labels = load_images("fashion_mnist", "test", root=image_root)
    assert len(test.labels) == np.isin(labels, (2, 5)).sum()


def test_colours_and_noise_are_the_same_each_time_and_other_in_each_image(image_root):
    images = tasks.ImageSet(first=0, count=50, side=14, channels=3, tint=0.3, noise=0.05)
    first, again = (images.read("train", image_root).inputs for _ in range(2))
    assert torch.equal(first, again)
    assert first.shape == (50, 3, 14, 14) and first.min() >= -1 and first.max() <= 1
    balance = first.mean(dim=(2, 3))
    assert float((balance[:, 0] - balance[:, 1]).std()) > 0.05
    plain = tasks.ImageSet(first=0, count=50, side=14).read("train", image_root).inputs
    alike = [np.corrcoef(a.mean(0).flatten(), b.flatten())[0, 1] for a, b in zip(first, plain)]
    assert min(alike) > 0.8  # what is shown stays
