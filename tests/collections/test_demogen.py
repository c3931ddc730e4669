"""DEMOGEN: the released code's own values, the archive's names, and made-up trees with faults."""

import json
import shutil
import warnings
import zipfile
from itertools import product

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import nn

import gengap
from gengap import GengapError, NotAvailable
from gengap.collections import demogen
from gengap.collections.demogen import (
    CHECKPOINT,
    DEMOGEN,
    SAFETENSORS,
    SPEC,
    container_of,
    networks_of,
    packed_weights,
    read_weights,
    tensorflow_names,
)
from gengap.collections.demogen_networks import GroupNorm, PadSame, nin, resnet32
from gengap.formats.images import per_image_standardization, write_idx_pair
from gengap.formats.tf_checkpoint import read_checkpoint
from gengap.measures.folding import folded
from gengap.measures.margins import margin_distribution, total_variation
from gengap.measures.stages import stage_outputs

BATCH_NORM = "NIN_CIFAR10/nin_wide_1.0x_bn_dropout_0.2_aug_decay_0.001_1"
PLAIN = "NIN_CIFAR10/nin_wide_1.0x__dropout_0.0__decay_0.0_2"
RESNET = "RESNET_CIFAR10/resnet_wide_1.0x_batchnorm__decay_0.0_1"
GROUP_NORM = "RESNET_CIFAR100/resnet_wide_1.0x_groupnorm_aug_decay_0.02_lr_0.1_3"
GOLDEN = (BATCH_NORM, PLAIN, RESNET, GROUP_NORM)
CLOSE = {"rtol": 1e-3, "atol": 1e-4}
pytestmark = pytest.mark.filterwarnings("ignore:.*left out of the index")

# A made-up family of four, and its grid as the archive has it.
TINY = {
    "wide_multiplier": [1.0],
    "batchnorm": [True, False],
    "dropout_prob": [0.5],
    "augmentation": [False],
    "decay_fac": [0.001],
    "copy": [1, 2],
}


@pytest.fixture
def golden(reference):
    return reference / "golden" / "demogen"


@pytest.fixture
def opened(golden):
    return gengap.open_collection("demogen", golden)


def expected(golden, model_id):
    """The golden values, and the inputs and labels that they belong to."""
    values = np.load(golden / model_id / "expected.npz")
    inputs = torch.from_numpy(per_image_standardization(values["images"]))
    return values, inputs, torch.from_numpy(values["labels"])


def write_weights(folder, network, architecture):
    (folder / SAFETENSORS).write_bytes(packed_weights(network, architecture))


def packed(folder):
    """A network's folder becomes a container in its place."""
    with zipfile.ZipFile(container_of(folder), "w", zipfile.ZIP_DEFLATED) as container:
        for file in sorted(folder.iterdir()):
            container.write(file, f"{folder.name}/{file.name}")
    shutil.rmtree(folder)
    return container_of(folder)


def make_network(root, family, name, network, *, accuracy=0.75):
    """A network's folder, as in the archive but for the format of its weights."""
    folder = root / family / name
    folder.mkdir(parents=True)
    write_weights(folder, network, family.partition("_")[0].lower())
    for file, loss in (("train.json", 0.5), ("eval.json", 2.0)):
        record = {"loss": 9.0, "CrossEntropy": loss, "global_step": 150000, "Accuracy": accuracy}
        (folder / file).write_text(json.dumps(record))
    return folder


def make_tree(root, family="NIN_CIFAR10", grid=TINY):
    """A tree of random networks of width 4, below two folders, as in the archive."""
    home = root / "home" / "model_dataset"
    torch.manual_seed(0)
    for name, columns in networks_of(family, grid):
        made = nin(4, columns["hp_normalization"] == "batch", 0.5, 10)
        make_network(home, family, name, made)
    (home / SPEC).write_text(json.dumps({family: grid}))
    return home


# The released code's own values


@pytest.mark.parametrize("model_id", GOLDEN)
def test_logits_and_activations_are_those_of_the_released_code(opened, golden, model_id):
    values, inputs, _ = expected(golden, model_id)
    with torch.no_grad():
        outputs = stage_outputs(opened.load(model_id).network, inputs)
    assert list(outputs) == ["h1", "h2", "h3", "logits"]
    np.testing.assert_allclose(outputs["logits"], values["logits"], rtol=1e-4, atol=1e-4)
    for stage in ("h1", "h3"):
        found = outputs[stage][:2]
        if model_id.startswith("NIN"):
            found = found.movedim(1, -1)  # stored with the channels last
        np.testing.assert_allclose(found, values[f"act_{stage}"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model_id", GOLDEN)
def test_margins_are_those_of_the_released_code(opened, golden, model_id):
    """Up to what rounding decides: the side of a ReLU's kink on which a hidden unit falls.

    Processors round differently. Inputs that differ in their last digit show which margins that
    moves, and how far; all others have to be the released code's, and are most.
    """
    values, inputs, labels = expected(golden, model_id)
    network, last_digit = opened.load(model_id).network, 1e-6
    noise = torch.randn(8, *inputs.shape, generator=torch.Generator().manual_seed(0))
    copies = [inputs, *inputs * (1 + last_digit * noise)]
    found = [margin_distribution(network, copy, labels) for copy in copies]
    assert list(found[0]) == list(values["layers"])
    for stage, margins in zip(values["layers"], values["margins"], strict=True):
        rounded = np.stack([margins_of[stage] for margins_of in found])
        nearest = np.clip(margins, rounded.min(axis=0), rounded.max(axis=0))
        np.testing.assert_allclose(nearest, margins, **CLOSE, err_msg=stage)
        assert np.isclose(rounded, margins, **CLOSE).all(axis=0).mean() >= 0.7, stage


@pytest.mark.parametrize("model_id", GOLDEN)
def test_total_variations_are_those_of_the_released_code(opened, golden, model_id):
    values, inputs, _ = expected(golden, model_id)
    found = total_variation(opened.load(model_id).network, inputs)
    assert list(found) == list(values["layers"])
    np.testing.assert_allclose([*found.values()], values["total_variation_sqrt_sum_var"], rtol=1e-5)


@pytest.mark.parametrize("model_id", GOLDEN)
def test_the_recorded_accuracy_comes_out_again(opened, golden, model_id):
    _, inputs, labels = expected(golden, model_id)
    model = opened.load(model_id)
    with torch.no_grad():
        correct = model.network(inputs).argmax(dim=1) == labels
    assert correct.double().mean() == pytest.approx(model.record["train_accuracy"], abs=1e-9)
    assert model.initial_weights is None


@pytest.mark.parametrize("model_id", GOLDEN)
def test_all_variables_of_the_network_are_used(opened, golden, model_id):
    network = opened.load(model_id).network
    names = tensorflow_names(network, model_id.partition("_")[0].lower())
    assert sorted(names.values()) == sorted(read_checkpoint(golden / model_id / CHECKPOINT))
    unread = set(network.state_dict()) - set(names)
    assert all(name.endswith("num_batches_tracked") for name in unread)


@pytest.mark.parametrize("model_id", GOLDEN)
def test_safetensors_and_four_axes_of_group_norm_are_read_like_the_checkpoint(
    opened, golden, model_id, tmp_path
):
    folder = tmp_path / model_id
    folder.mkdir(parents=True)
    for name in ("train.json", "eval.json"):
        shutil.copy(golden / model_id / name, folder)
    shutil.copy(golden / SPEC, tmp_path)
    variables = read_checkpoint(golden / model_id / CHECKPOINT)
    for name in filter(lambda name: "group_norm" in name, variables):
        variables[name] = variables[name].reshape(1, -1, 1, 1)
    save_file({**variables, "global_step": np.array([1])}, folder / SAFETENSORS)
    again = gengap.open_collection("demogen", tmp_path).load(model_id).network.state_dict()
    for name, tensor in opened.load(model_id).network.state_dict().items():
        assert torch.equal(tensor, again[name]), name


# The index


def test_the_index_reads_names_and_records_and_touches_no_weights(golden, monkeypatch):
    monkeypatch.setattr(demogen, "read_variables", None)
    collection = gengap.open_collection("demogen", golden)
    index = collection.index().set_index("model_id")
    assert list(index.index) == list(GOLDEN)
    hyper_parameters = index.filter(like="hp_").rename(columns=lambda name: name[3:])
    assert hyper_parameters.loc[BATCH_NORM].to_dict() == {
        "wide_multiplier": 1.0,
        "normalization": "batch",
        "dropout": 0.2,
        "augmentation": True,
        "decay_fac": 0.001,
        "learning_rate": 0.01,
        "copy": 1,
    }
    assert hyper_parameters.loc[GROUP_NORM].to_dict() == {
        "wide_multiplier": 1.0,
        "normalization": "group",
        "dropout": 0.0,
        "augmentation": True,
        "decay_fac": 0.02,
        "learning_rate": 0.1,
        "copy": 3,
    }
    assert list(hyper_parameters["normalization"]) == ["batch", "none", "batch", "group"]
    assert (index["train_loss"] == 0.9).all()  # the cross-entropy, not the loss with decay
    assert index.loc[RESNET, "train_accuracy"] == 0.15625
    assert index.loc[RESNET, "test_accuracy"] == 0.10625
    assert index["epoch"].isna().all()
    assert list(collection.families()["models"]) == [2, 1, 1]


def test_the_published_grids_have_756_names_which_the_archive_is_known_to_use(golden):
    grids = json.loads((golden / SPEC).read_text())
    names = {family: [name for name, _ in networks_of(family, grids[family])] for family in grids}
    assert {family: len(set(found)) for family, found in names.items()} == {
        "NIN_CIFAR10": 216,
        "RESNET_CIFAR10": 216,
        "RESNET_CIFAR100": 324,
    }
    assert "nin_wide_1.0x__dropout_0.0__decay_0.0_1" in names["NIN_CIFAR10"]
    assert "resnet_wide_4.0x_batchnorm__decay_0.0_lr_0.001_1" in names["RESNET_CIFAR10"]
    assert "resnet_wide_1.0x_batchnorm__decay_0.0_1" in names["RESNET_CIFAR100"]


def test_whole_numbers_in_the_grid_name_the_same_folders():
    whole = {**TINY, "wide_multiplier": [1], "decay_fac": [0]}
    names = [name for name, _ in networks_of("NIN_CIFAR10", whole)]
    assert names[0] == "nin_wide_1.0x_bn_dropout_0.5__decay_0.0_1"


@pytest.mark.parametrize("below", [".", "home", "home/model_dataset"])
def test_the_tree_is_found_wherever_it_starts(tmp_path, below):
    make_tree(tmp_path)
    collection = gengap.open_collection("demogen", tmp_path / below)
    assert len(collection.index()) == 4
    counts = collection.families().set_index("family")["models"].to_dict()
    assert counts == {"NIN_CIFAR10": 4, "RESNET_CIFAR10": 0, "RESNET_CIFAR100": 0}


def test_a_family_beyond_the_published_ones_is_one_too(tmp_path):
    make_tree(tmp_path, "NIN_FASHION_MNIST")
    collection = gengap.open_collection("demogen", tmp_path)
    assert list(collection.index()["family"].unique()) == ["NIN_FASHION_MNIST"]
    assert "NIN_FASHION_MNIST" in list(collection.families()["family"])


@pytest.mark.parametrize("lost", ["train.json", "eval.json", SAFETENSORS, "."])
def test_incomplete_networks_are_left_out_and_counted(tmp_path, lost):
    home = make_tree(tmp_path)
    first = home / "NIN_CIFAR10" / "nin_wide_1.0x_bn_dropout_0.5__decay_0.001_1"
    shutil.rmtree(first) if lost == "." else (first / lost).unlink()
    (home / "NIN_CIFAR10" / "something else").mkdir()
    with pytest.warns(UserWarning, match="NIN_CIFAR10: 1 of 4 networks are missing or incomplete"):
        index = gengap.open_collection("demogen", tmp_path).index()
    assert len(index) == 3 and first.name not in "".join(index["model_id"])


def test_a_family_that_is_not_there_at_all_is_told_among_the_families_without_a_warning(tmp_path):
    home = make_tree(tmp_path)
    (home / SPEC).write_text(json.dumps({"NIN_CIFAR10": TINY, "NIN_SVHN": TINY}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        collection = gengap.open_collection("demogen", tmp_path)
        assert list(collection.index()["family"].unique()) == ["NIN_CIFAR10"]
    missing = collection.families().set_index("family")["missing"]
    assert missing["NIN_SVHN"] == [home / "NIN_SVHN"] and missing["NIN_CIFAR10"] == []


def test_a_checkpoint_without_its_data_file_is_incomplete(golden, tmp_path):
    (tmp_path / PLAIN).mkdir(parents=True)
    shutil.copy(golden / SPEC, tmp_path)
    for name in ("train.json", "eval.json", f"{CHECKPOINT}.index"):
        shutil.copy(golden / PLAIN / name, tmp_path / PLAIN)
    with pytest.raises(GengapError, match="is empty"):
        DEMOGEN(tmp_path).index()
    shutil.copy(golden / PLAIN / f"{CHECKPOINT}.data-00000-of-00001", tmp_path / PLAIN)
    assert list(DEMOGEN(tmp_path).index()["model_id"]) == [PLAIN]


def test_a_folder_without_the_grids_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(GengapError, match=f"has no {SPEC}.*give the unpacked archive"):
        gengap.open_collection("demogen", tmp_path).index()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "cannot be read"),
        ("[1]", "cannot be read"),
        ('{"NIN_CIFAR10": {"copy": [1]}}', "lacks 'wide_multiplier'"),
        ('{"NIN_CIFAR10": {"copy": 1}}', "cannot be read"),
        (json.dumps({"VGG_CIFAR10": TINY}), "VGG_CIFAR10 is none of nin or resnet"),
    ],
)
def test_damaged_grids_are_refused_in_one_sentence(tmp_path, content, reason):
    (make_tree(tmp_path) / SPEC).write_text(content)
    with pytest.raises(GengapError, match=f"{SPEC}.*{reason}"):
        DEMOGEN(tmp_path).index()


@pytest.mark.parametrize("content", ["", "[]", '{"Accuracy": 0.5}', '{"Accuracy": "high"}'])
def test_a_damaged_record_is_named(tmp_path, content):
    home = make_tree(tmp_path)
    file = home / "NIN_CIFAR10" / "nin_wide_1.0x__dropout_0.5__decay_0.001_2" / "eval.json"
    file.write_text(content)
    with pytest.raises(GengapError, match=f"{file} cannot be read"):
        DEMOGEN(tmp_path).index()


# Containers


@pytest.mark.parametrize("value", [True, "0.5"])
def test_an_accuracy_that_is_no_number_is_named(tmp_path, value):
    folder = make_tree(tmp_path) / "NIN_CIFAR10" / "nin_wide_1.0x_bn_dropout_0.5__decay_0.001_1"
    (folder / "eval.json").write_text(json.dumps({"Accuracy": value, "CrossEntropy": 1.0}))
    with pytest.raises(GengapError, match=f"eval.json .*its Accuracy is {value!r}, not a number"):
        DEMOGEN(tmp_path).index()


def test_a_checkpoint_in_a_container_is_not_taken_for_complete(golden, tmp_path):
    shutil.copytree(golden / PLAIN, tmp_path / "network")
    assert demogen.is_complete(tmp_path / "network")
    packed(tmp_path / "network")
    assert not demogen.is_complete(tmp_path / "network")


def test_networks_in_containers_are_read_like_those_in_folders(tmp_path):
    home = make_tree(tmp_path)
    plain = gengap.open_collection("demogen", tmp_path)
    folders = [home / model_id for model_id in plain.index()["model_id"]]
    networks = [plain.load(model_id).network for model_id in plain.index()["model_id"]]
    for folder in folders[1:]:  # one stays beside them as a folder
        packed(folder)
    again = gengap.open_collection("demogen", tmp_path)
    assert again.index().equals(plain.index())
    for record in again.index().to_dict("records"):
        [place] = again.weight_files(record)
        assert {"train.json", "eval.json"} < {file.name for file in place.iterdir()}
    for model_id, network in zip(again.index()["model_id"], networks, strict=True):
        found = again.load(model_id).network.state_dict()
        assert all(torch.equal(found[name], t) for name, t in network.state_dict().items())
    assert sum(file.suffix == ".zip" for file in (home / "NIN_CIFAR10").iterdir()) == 3


@pytest.mark.parametrize("lost", ["train.json", "eval.json", SAFETENSORS])
def test_a_container_that_lacks_a_file_is_left_out(tmp_path, lost):
    folder = make_tree(tmp_path) / "NIN_CIFAR10" / "nin_wide_1.0x_bn_dropout_0.5__decay_0.001_1"
    (folder / lost).unlink()
    packed(folder)
    with pytest.warns(UserWarning, match="NIN_CIFAR10: 1 of 4 networks are missing or incomplete"):
        assert len(DEMOGEN(tmp_path).index()) == 3


def test_a_damaged_container_is_named(tmp_path):
    folder = make_tree(tmp_path) / "NIN_CIFAR10" / "nin_wide_1.0x_bn_dropout_0.5__decay_0.001_1"
    container = packed(folder)
    content = container.read_bytes()
    container.write_bytes(content[:-30])
    with pytest.raises(GengapError, match=f"{container.name} cannot be read"):
        DEMOGEN(tmp_path).index()
    middle = content.index(SAFETENSORS.encode()) + 1000  # of its deflated weights
    container.write_bytes(content[:middle] + bytes(100) + content[middle + 100 :])
    with pytest.raises(GengapError, match=f"{container.name}.*{SAFETENSORS} cannot be read"):
        DEMOGEN(tmp_path).load(f"NIN_CIFAR10/{folder.name}")


# Networks and weights


@pytest.mark.parametrize("size", [1, 4, 5, 7, 32])
def test_padding_is_tensorflows_at_even_and_odd_sizes(size):
    """Outputs (H + 1) // 2, and the odd pixel of padding below and to the right."""
    inputs = torch.arange(size * size, dtype=torch.float32).view(1, 1, size, size)
    for tap in product(range(3), repeat=2):
        kernel = torch.zeros(1, 1, 3, 3)
        kernel[0, 0][tap] = 1
        found = nn.functional.conv2d(PadSame()(inputs), kernel, stride=2)[0, 0]
        count = (size + 1) // 2
        before = max((count - 1) * 2 + 3 - size, 0) // 2
        for out in product(range(count), repeat=2):
            row, column = (2 * o + t - before for o, t in zip(out, tap))
            inside = 0 <= row < size and 0 <= column < size
            assert found[out] == (inputs[0, 0, row, column] if inside else 0)


def test_group_norm_is_pytorchs():
    torch.manual_seed(0)
    ours = GroupNorm(64)
    nn.init.normal_(ours.weight)
    nn.init.normal_(ours.bias)
    theirs = nn.GroupNorm(32, 64, eps=1e-6)
    theirs.load_state_dict(ours.state_dict())
    inputs = torch.randn(5, 64, 3, 4)
    torch.testing.assert_close(ours(inputs), theirs(inputs), rtol=1e-4, atol=1e-5)
    assert GroupNorm(16).num_groups == 16


MADE = {
    "nin": lambda: nin(6, False, 0.2, 7),
    "nin with batch norm": lambda: nin(6, True, 0.2, 7),
    "resnet with batch norm": lambda: resnet32(4, "batch", 7),
    "resnet with group norm": lambda: resnet32(4, "group", 7),
}


@pytest.mark.parametrize("name", MADE)
def test_what_is_written_is_read_again(name, tmp_path):
    torch.manual_seed(0)
    made, again = MADE[name]().eval(), MADE[name]().eval()
    architecture = name.partition(" ")[0]
    write_weights(tmp_path, made, architecture)
    read_weights(tmp_path, again, architecture)
    inputs = torch.randn(3, 3, 32, 32)
    assert torch.equal(made(inputs), again(inputs))
    assert demogen.read_sizes(tmp_path, architecture) == (4 if "resnet" in name else 6, 7)


@pytest.mark.parametrize("name", MADE)
def test_networks_of_any_width_train(name):
    torch.manual_seed(0)
    made = MADE[name]().train()
    made(torch.randn(4, 3, 32, 32)).square().sum().backward()
    for parameter in made.parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all()
    rates = {module.p for module in made.modules() if isinstance(module, nn.Dropout)}
    assert rates == ({0.2} if name.startswith("nin") else set())


def test_narrower_networks_load_by_the_sizes_of_their_weights(tmp_path):
    make_tree(tmp_path)
    collection = gengap.open_collection("demogen", tmp_path)
    for model_id, normalization in collection.index()[["model_id", "hp_normalization"]].values:
        network = collection.load(model_id).network
        assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
        assert network.h2[2:][1].in_channels == 4 and not network.training
        norms = sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
        assert norms == (9 if normalization == "batch" else 0)


def faulty(folder, change):
    """Write a network's variables again, after a change."""
    write_weights(folder, nin(4, True, 0.5, 10), "nin")
    variables = load_file(folder / SAFETENSORS)
    change(variables)
    save_file(variables, folder / SAFETENSORS)


FAULTS = {
    "missing": (lambda v: v.pop("nin/conv2d_3/bias"), "has no variable nin/conv2d_3/bias"),
    "no kernel": (lambda v: v.pop("nin/conv2d/kernel"), "has no variable nin/conv2d/kernel"),
    "shape": (
        lambda v: v.update({"nin/conv2d_3/kernel": np.zeros((3, 3, 4, 5), np.float32)}),
        r"variable nin/conv2d_3/kernel has the shape \(3, 3, 4, 5\), expected \(3, 3, 4, 4\)",
    ),
    "type": (
        lambda v: v.update({"nin/conv2d_3/kernel": np.ones((3, 3, 4, 4), np.int8)}),
        "variable nin/conv2d_3/kernel has .* type int8, expected a float",
    ),
    "axes": (
        lambda v: v.update({"nin/conv2d/kernel": np.zeros(4, np.float32)}),
        r"variable nin/conv2d/kernel has the shape \(4,\), expected 4 axes",
    ),
    "four axes": (
        lambda v: v.update({"nin/conv2d_1/bias": np.zeros((1, 4, 1, 1), np.float32)}),
        r"variable nin/conv2d_1/bias has the shape \(1, 4, 1, 1\), expected \(4,\)",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_missing_variables_and_wrong_shapes_are_named(tmp_path, fault):
    change, reason = FAULTS[fault]
    folder = make_tree(tmp_path) / "NIN_CIFAR10" / "nin_wide_1.0x_bn_dropout_0.5__decay_0.001_1"
    faulty(folder, change)
    with pytest.raises(GengapError, match=f"{SAFETENSORS}:? .*{reason}"):
        DEMOGEN(tmp_path).load(f"NIN_CIFAR10/{folder.name}")


def test_a_damaged_safetensors_file_is_named(tmp_path):
    folder = make_tree(tmp_path) / "NIN_CIFAR10" / "nin_wide_1.0x_bn_dropout_0.5__decay_0.001_1"
    content = (folder / SAFETENSORS).read_bytes()
    for damaged in (b"", content[:-1], b"\xff" * 100):
        (folder / SAFETENSORS).write_bytes(damaged)
        with pytest.raises(GengapError, match=f"{SAFETENSORS} cannot be read"):
            DEMOGEN(tmp_path).load(f"NIN_CIFAR10/{folder.name}")


def test_the_shape_of_a_variable_of_a_checkpoint_is_named(golden):
    narrower = resnet32(8, "group", 100)
    reason = r"variable resnet/conv2d/kernel has the shape \(3, 3, 3, 16\), expected \(3, 3, 3, 8\)"
    with pytest.raises(GengapError, match=f"{CHECKPOINT}: {reason}"):
        read_weights(golden / GROUP_NORM, narrower, "resnet")


def test_weights_that_are_not_finite_are_not_available(tmp_path):
    folder = make_tree(tmp_path) / "NIN_CIFAR10" / "nin_wide_1.0x_bn_dropout_0.5__decay_0.001_1"
    faulty(folder, lambda v: v["nin/conv2d_3/bias"].__setitem__(0, np.nan))
    with pytest.raises(NotAvailable, match=f"{folder.name} has weights that are not finite"):
        DEMOGEN(tmp_path).load(f"NIN_CIFAR10/{folder.name}")


def test_an_unknown_normalization_is_refused():
    with pytest.raises(GengapError, match="no normalization 'layer' in ResNet-32.*batch, group"):
        resnet32(4, "layer", 10)


# The sample


def cifar(folder, dataset):
    """Five training images a file of CIFAR's binary version."""
    generator = np.random.default_rng(0)
    files = ["train"] if dataset == "cifar100" else [f"data_batch_{i}" for i in range(1, 6)]
    records = generator.integers(0, 256, (len(files), 5, 3074), dtype=np.uint8)[
        :, :, dataset == "cifar10" :
    ]
    records[:, :, :-3072] %= 10
    folder.mkdir()
    for name, content in zip(files, records, strict=True):
        (folder / f"{name}.bin").write_bytes(content.tobytes())
    return records.reshape(-1, records.shape[2])


@pytest.mark.parametrize("family", ["NIN_CIFAR10", "RESNET_CIFAR100"])
def test_the_sample_is_the_standardized_training_set(tmp_path, monkeypatch, family):
    monkeypatch.setenv("GENGAP_IMAGES", str(tmp_path / "images"))
    (tmp_path / "images").mkdir()
    dataset = family.partition("_")[2].lower()
    records = cifar(tmp_path / "images" / dataset, dataset)
    home = tmp_path / "tree"
    if family.startswith("NIN"):
        make_tree(home)
    else:
        grid = {k: v[:1] for k, v in TINY.items()}
        (name, _), *_ = networks_of(family, grid)
        make_network(home, family, name, resnet32(4, "batch", 100))
        (home / SPEC).write_text(json.dumps({family: grid}))
    collection = gengap.open_collection("demogen", home)
    inputs, labels = collection.load(collection.index()["model_id"][0]).sample
    assert inputs.shape == (len(records), 3, 32, 32) and inputs.dtype == torch.float32
    np.testing.assert_array_equal(labels, records[:, -3073])
    pixels = records[:, -3072:].astype(np.float64)
    by_hand = (pixels - pixels.mean(1, keepdims=True)) / pixels.std(1, keepdims=True)
    np.testing.assert_allclose(inputs.flatten(1), by_hand, rtol=1e-5, atol=1e-5)


def test_without_images_the_sample_is_not_available(tmp_path, monkeypatch):
    make_tree(tmp_path)
    monkeypatch.delenv("GENGAP_IMAGES", raising=False)
    monkeypatch.setenv("GENGAP_CACHE", str(tmp_path / "cache"))
    collection = gengap.open_collection("demogen", tmp_path)
    with pytest.raises(NotAvailable, match="NIN_CIFAR10 has no training images: .*GENGAP_IMAGES"):
        assert collection.load(collection.index()["model_id"][0]).sample


@pytest.mark.parametrize("place", [".", "NIN_FASHION_MNIST"])
@pytest.mark.parametrize(("side", "framed"), [(28, 32), (14, 16)])
def test_images_beside_the_networks_are_their_sample_whatever_their_size(
    tmp_path, place, side, framed
):
    home = make_tree(tmp_path, "NIN_FASHION_MNIST")
    images = np.random.default_rng(0).integers(0, 256, (3, side, side), dtype=np.uint8)
    write_idx_pair(home / place / "fashion_mnist", "train", images, np.array([3, 1, 2]))
    collection = gengap.open_collection("demogen", tmp_path)
    inputs, labels = collection.load(collection.index()["model_id"][0]).sample
    assert inputs.shape == (3, 3, framed, framed) and labels.tolist() == [3, 1, 2]
    frame = (framed - side) // 2
    inner = inputs[:, :, frame:-frame, frame:-frame].flatten(1)
    grey = torch.from_numpy(images).flatten(1).repeat(1, 3).double()
    assert np.corrcoef(inner[0], grey[0])[0, 1] == pytest.approx(1)


@pytest.mark.parametrize("made", [nin(8, True, 0.0, 10), resnet32(4, "batch", 10)])
def test_folding_batch_norms_into_layers_changes_no_logit(made):
    network = made.double().eval()
    torch.manual_seed(0)
    for tensor in network.state_dict().values():
        if tensor.ndim == 1:  # biases, scales and moving statistics, the variances above 0
            tensor.copy_(torch.rand_like(tensor) + 0.5)
    inputs = torch.randn(4, 3, 32, 32).double()
    assert torch.allclose(folded(network)(inputs), network(inputs), rtol=1e-9, atol=1e-9)
