"""GenProb: the released architecture and naming, and checkpoints made here, with faults."""

import math
import re
import zipfile
from collections import OrderedDict

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import gengap
from gengap import GengapError, NotAvailable
from gengap.collection import COLUMNS, IMAGE_COUNTS
from gengap.collections.genprob import (
    GenProb,
    checkpoint,
    checkpoint_name,
    genprob_network,
    hyper_parameters,
    network_inputs,
    network_name,
    read_statistics,
)
from gengap.formats.containers import Member, write_container
from gengap.formats.images import write_idx_pair
from gengap.measures.folding import folded
from gengap.measures.norms import raw_parameter_norm
from gengap.measures.stages import stage_outputs

PLANES = (3, 4, 4, 5, 5)
NETWORK = "NIN01234_AdaM_lr_0.002_wd_0.0005"
FAMILY = "AdaM_FashionMNIST"


def trained(planes=PLANES, classes=10, seed=0) -> nn.Sequential:
    """A network with random weights, whose batch norms have seen data."""
    generator = torch.Generator().manual_seed(seed)
    network = genprob_network(planes, classes)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) - 0.4)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_var.add_(0.5)
    return network.eval()


def record(epoch: int, scale: float = 1.0) -> dict[str, float]:
    return {
        "train_accuracy": (0.5 + epoch / 100) * scale,
        "test_accuracy": 0.4 * scale,
        "train_loss": 1.5,
        "test_loss": 2.5,
    }


def checkpoint_file(root, network, dataset, epoch):
    return root / checkpoint_name(network, dataset, epoch)


def checkpoints(epochs=(0, 1), *, network=NETWORK, dataset="FashionMNIST", scale=1.0, state=None):
    """Name and bytes of checkpoints of one network, each with the statistics so far."""
    return {
        checkpoint_name(network, dataset, epoch): checkpoint(
            state or trained(seed=epoch).state_dict(),
            {past: record(past, scale) for past in range(epoch + 1)},
        )
        for epoch in epochs
    }


def write(root, epochs=(0, 1), **of):
    """`checkpoints` in files; returns the files."""
    root.mkdir(exist_ok=True)
    files = {root / name: content for name, content in checkpoints(epochs, **of).items()}
    for file, content in files.items():
        file.write_bytes(content)
    return [*files]


def write_table(file, rows):
    file.parent.mkdir(exist_ok=True)
    pd.DataFrame(rows).to_parquet(file, index=False)


def save(file, state, epoch=0, **options):
    """A checkpoint as any trainer may write it."""
    statistics = {
        f"{split}_{kind}_epoch_{epoch}": value
        for split, kind, value in [
            ("train", "acc1", 0.75),
            ("test", "acc1", 0.5),
            ("train", "loss", 1.0),
            ("test", "loss", 2.0),
        ]
    }
    content = {
        "state_dict_network": state,
        "state_dict_optimizer": {"state": {0: torch.ones(3)}},
        "performance_statistics": statistics | options.pop("statistics", {}),
    }
    torch.save(content, file, **options)


@pytest.fixture
def some_file(tmp_path):
    return checkpoint_file(tmp_path, NETWORK, "FashionMNIST", 0)


def weights_of(root) -> dict[str, torch.Tensor]:
    zoo = GenProb(root)
    return zoo.load(zoo.index()["model_id"].iloc[0]).network.state_dict()


def same(found, expected) -> bool:
    return list(found) == list(expected) and all(torch.equal(found[n], expected[n]) for n in found)


def test_measured_parameters_have_the_released_names_and_shapes():
    # source/qc_nin.py: five 3 x 3 convolutions a cell, and one that fits the channels.
    state = genprob_network([40, 48, 48, 40, 40], 100).state_dict()
    kernels = {name: tuple(tensor.shape) for name, tensor in state.items() if tensor.ndim == 4}
    measured = [name for name in kernels if "onv" in name or "down" in name]
    assert len(kernels) == 1 + 3 * 5 + 2 * 3 + 1 and len(measured) == 3 * 5 + 2 * 3
    assert kernels["stem.0.weight"] == (8, 3, 3, 3)
    assert kernels["cell0.RELUConvBN1.1.weight"] == (40, 8, 3, 3)
    assert kernels["cell0.shortcut.1.weight"] == (40, 8, 1, 1)
    assert kernels["cell1.conv_a.1.weight"] == (48, 40, 3, 3)
    assert kernels["cell1.down_sample.1.weight"] == (48, 40, 1, 1)
    assert kernels["cell4.RELUConvBN4.1.weight"] == (40, 40, 3, 3)
    assert "cell2.shortcut.1.weight" not in kernels
    assert state["classifier.weight"].shape == (100, 40) and "last_act.0.running_var" in state


def test_stages_have_the_shapes_of_the_paper():
    outputs = stage_outputs(genprob_network([40, 48, 40, 48, 40], 10), torch.zeros(2, 3, 32, 32))
    assert {name: tuple(output.shape[1:]) for name, output in outputs.items()} == {
        "stem": (8, 32, 32),
        "cell0": (40, 32, 32),
        "cell1": (48, 16, 16),
        "cell2": (40, 16, 16),
        "cell3": (48, 8, 8),
        "cell4": (40, 8, 8),
        "last_act": (40, 8, 8),
        "global_pooling": (40,),
        "classifier": (10,),
    }


def test_a_cell_adds_its_nodes_as_released():
    network = trained()
    cell, inputs = network.cell0, torch.randn(2, 8, 6, 6)
    with torch.no_grad():
        part = dict(cell.named_children())
        first = part["RELUConvBN0"](inputs)
        second = part["RELUConvBN1"](inputs) + part["RELUConvBN2"](first)
        expected = part["shortcut"](inputs) + part["RELUConvBN4"](first)
        expected += part["RELUConvBN3"](second)
        assert torch.allclose(cell(inputs), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("planes", [PLANES, (3, 4, 3, 4, 5)])
def test_folding_batch_norm_leaves_the_outputs(planes):
    network, inputs = trained(planes).double(), torch.randn(2, 3, 8, 8).double()
    assert torch.allclose(folded(network)(inputs), network(inputs), rtol=1e-9, atol=1e-9)


def test_another_number_of_widths_is_one_sentence():
    with pytest.raises(GengapError, match="got 3 widths"):
        genprob_network([4, 4, 4], 10)


def test_the_released_code_finds_the_width_code_in_our_names(tmp_path):
    name = network_name((0, 1, 1, 0, 1), "AdamP", learning_rate=2e-3, weight_decay=1e-4)
    file = str(checkpoint_file(tmp_path, name, "CIFAR100", 69))
    assert file.endswith("_CIFAR100_epoch_69.pth.tar")
    assert file.split("_")[-9][-5:] == file.split("NIN")[1][:5] == "01101"


@pytest.mark.parametrize("rate", [0.1, 2e-3, 1e-5])
def test_hyper_parameters_written_into_a_name_are_read_again(rate):
    name = network_name((0, 1, 9, 0, 1), "RMSGD", learning_rate=rate, weight_decay=5e-4)
    found = hyper_parameters(name)
    assert found["hp_optimizer"] == "RMSGD"
    assert found["hp_learning_rate"] == rate and found["hp_weight_decay"] == 5e-4
    assert [found[f"hp_width_{cell}"] for cell in range(5)] == [0, 1, 9, 0, 1]


def test_what_a_name_does_not_tell_is_nan():
    found = hyper_parameters("results_date=2021_NIN12")
    assert all(isinstance(value, float) and math.isnan(value) for value in found.values())
    found = hyper_parameters("sgdp/trial=0_learning_rate=0.06_weight_decay=0.001_NIN11111")
    assert found["hp_optimizer"] == "SGDP" and found["hp_width_4"] == 1
    assert (found["hp_learning_rate"], found["hp_weight_decay"]) == (0.06, 0.001)


@pytest.mark.parametrize("arguments", [((0, 1, 1), "SGD"), ((0, 1, 1, 0, 10), "SGD")])
def test_a_width_code_of_other_than_five_digits_is_refused(arguments):
    with pytest.raises(GengapError, match="width code"):
        network_name(*arguments, learning_rate=0.1, weight_decay=0)


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(GengapError, match="no optimizer 'Adam'"):
        network_name((0,) * 5, "Adam", learning_rate=0.1, weight_decay=0)


def test_every_epoch_is_a_model_with_its_own_weights_and_accuracies(tmp_path):
    write(tmp_path, range(3))
    write(tmp_path / "more", [7], network="NIN00000_SGD_lr_0.02_wd_0.001", dataset="CIFAR10")
    zoo = gengap.open_collection("genprob", tmp_path)
    index = zoo.index().set_index("model_id")
    first = [f"{FAMILY}/{NETWORK}/epoch_{epoch}" for epoch in range(3)]
    other = "SGD_CIFAR10/more/NIN00000_SGD_lr_0.02_wd_0.001/epoch_7"
    assert set(index.index) == {*first, other}
    assert list(index.loc[first, "epoch"]) == [0, 1, 2] and index.loc[other, "epoch"] == 7
    assert list(index.loc[first, "train_accuracy"]) == [0.5, 0.51, 0.52]
    assert index.loc[other, "hp_weight_decay"] == 0.001
    for epoch, model_id in enumerate(first):
        assert same(zoo.load(model_id).network.state_dict(), trained(seed=epoch).state_dict())
    families = zoo.families().set_index("family")
    assert families.loc[FAMILY, "models"] == 3 and not families.loc["SGD_CIFAR10", "missing"]
    assert families.loc["SAM_CIFAR100", "missing"]


def test_the_columns_of_the_index_are_in_order_and_its_weights_are_not_read(tmp_path, monkeypatch):
    write(tmp_path)
    zoo = GenProb(tmp_path)
    monkeypatch.setattr(zoo, "read_network", None)
    columns, known = list(zoo.index()), [*COLUMNS, *IMAGE_COUNTS]
    assert columns[: len(known)] == known
    assert all(name.startswith("hp_") for name in columns[len(known) :])


def test_only_the_last_file_is_opened_where_it_has_all_epochs(tmp_path):
    files = write(tmp_path, range(4))
    for file in files[:-1]:
        file.write_bytes(b"")
    assert len(GenProb(tmp_path).index()) == 4


def test_files_that_know_only_their_own_epoch_are_each_opened(tmp_path):
    for epoch in range(3):
        file = checkpoint_file(tmp_path, NETWORK, "FashionMNIST", epoch)
        file.write_bytes(checkpoint(trained().state_dict(), {epoch: record(epoch)}))
    index = GenProb(tmp_path).index()
    assert list(index["train_accuracy"]) == [0.5, 0.51, 0.52]


def test_the_network_computes_what_it_did_before_it_was_written(tmp_path):
    write(tmp_path, [0])
    network = GenProb(tmp_path).load(f"{FAMILY}/{NETWORK}/epoch_0").network
    inputs = torch.randn(3, 3, 32, 32)
    assert torch.equal(network(inputs), trained(seed=0)(inputs))
    assert not any(module.training for module in network.modules())


def test_the_same_network_gives_the_same_bytes(tmp_path):
    [first], [second] = write(tmp_path / "a", [0]), write(tmp_path / "b", [0])
    assert first.read_bytes() == second.read_bytes()
    assert [file.name for file in first.parent.iterdir()] == [first.name]
    assert read_statistics(first) == {0: record(0)}


def test_percentages_become_fractions(tmp_path):
    write(tmp_path, scale=100.0)
    index = GenProb(tmp_path).index()
    assert list(index["train_accuracy"]) == pytest.approx([0.5, 0.51])
    assert list(index["test_accuracy"]) == pytest.approx([0.4, 0.4])
    assert list(index["test_loss"]) == [2.5, 2.5]


def test_percentages_beside_fractions_are_an_error(tmp_path):
    write(tmp_path)
    write(tmp_path, network=NETWORK.replace("01234", "00000"), scale=100.0)
    with pytest.raises(GengapError, match="NIN00000.* in percent, and NIN01234.* has none"):
        GenProb(tmp_path).index()


def test_files_from_before_pytorch_1_6_are_read(tmp_path, some_file):
    state = trained().state_dict()
    save(some_file, state, _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile(some_file)
    assert same(weights_of(tmp_path), state)


def test_files_from_before_batches_were_counted_are_read(tmp_path, some_file):
    state = trained().state_dict()
    save(some_file, {name: t for name, t in state.items() if "num_batches" not in name})
    assert same(weights_of(tmp_path), state)


def test_names_of_data_parallel_networks_are_read(tmp_path, some_file):
    state = nn.DataParallel(trained()).state_dict()
    assert next(iter(state)).startswith("module.")
    save(some_file, state)
    assert same(weights_of(tmp_path), trained().state_dict())


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_of_a_gpu_are_read_on_a_cpu(tmp_path, some_file, zipped):
    save(some_file, trained().state_dict(), _use_new_zipfile_serialization=zipped)

    def with_cuda(content: bytes) -> bytes:
        """Where pickled tensors lie: the string cpu, its length before it."""
        assert b"X\x03\x00\x00\x00cpu" in content
        return content.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")

    if zipped:
        with zipfile.ZipFile(some_file) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(some_file, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, with_cuda(content) if name.endswith("data.pkl") else content)
    else:
        some_file.write_bytes(with_cuda(some_file.read_bytes()))
    assert same(weights_of(tmp_path), trained().state_dict())


def test_numbers_of_numpy_and_tensors_are_read_as_accuracies(tmp_path, some_file):
    found = {"train_acc1_epoch_0": np.float64(0.625), "test_acc1_epoch_0": torch.tensor(0.25)}
    save(some_file, trained().state_dict(), statistics=found)
    assert read_statistics(some_file)[0]["train_accuracy"] == 0.625
    assert read_statistics(some_file)[0]["test_accuracy"] == 0.25


OTHERS = OrderedDict(
    [
        ("layers.0.conv.weight", torch.ones(4, 3, 3, 3)),
        ("layers.0.norm.weight", torch.ones(4)),
        ("fc.weight", torch.ones(10, 4)),
        ("fc.bias", torch.ones(10)),
    ]
)


def test_another_architecture_has_weights_only(tmp_path, some_file):
    save(some_file, OTHERS)
    write_idx_pair(
        tmp_path / "fashion_mnist", "train", np.zeros((3, 28, 28), np.uint8), np.arange(3)
    )
    zoo = GenProb(tmp_path)
    model = zoo.load(zoo.index()["model_id"].iloc[0])
    found = model.network.state_dict()  # in the order of names
    assert found.keys() == OTHERS.keys() and same({name: found[name] for name in OTHERS}, OTHERS)
    assert raw_parameter_norm(model) == 4 * 27 + 4 + 40 + 10
    # Though there are images, nothing is computed of them, not even by single stages.
    for forward in (model.network, lambda inputs: stage_outputs(model.network, inputs)):
        with pytest.raises(NotAvailable, match="architecture is not known"):
            forward(model.sample[0])


@pytest.mark.parametrize("change", ["wider", "lacking", "more"])
def test_weights_that_almost_fit_are_weights_only(tmp_path, some_file, change):
    state = trained().state_dict()
    if change == "wider":
        state["cell2.RELUConvBN3.1.weight"] = torch.ones(9, 9, 3, 3)
    elif change == "lacking":
        del state["cell2.RELUConvBN3.1.weight"]
    else:
        state["extra.weight"] = torch.ones(2, 2)
    save(some_file, state)
    assert set(weights_of(tmp_path)) == set(state)


def test_weights_that_are_not_finite_are_not_available(tmp_path, some_file):
    state = trained().state_dict()
    state["classifier.bias"][3] = torch.nan
    save(some_file, state)
    with pytest.raises(NotAvailable, match="not finite"):
        weights_of(tmp_path)


def test_the_sample_is_the_images_beside_the_networks_standardized(tmp_path):
    write(tmp_path, [0])
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    write_idx_pair(tmp_path / "fashion_mnist", "train", images, np.arange(5))
    inputs, labels = GenProb(tmp_path).load(f"{FAMILY}/{NETWORK}/epoch_0").sample
    assert inputs.dtype == torch.float32 and inputs.shape == (5, 3, 16, 16)
    assert labels.tolist() == [0, 1, 2, 3, 4]
    raw = np.zeros((5, 3, 32, 32))
    raw[:, :, 2:30, 2:30] = images[:, None]
    halved = raw.reshape(5, 3, 16, 2, 16, 2).mean(axis=(3, 5))
    np.testing.assert_allclose(inputs, (halved - 72.9) / 90.0, rtol=1e-5, atol=1e-6)


def test_each_channel_of_cifar_has_its_own_mean_and_deviation():
    images = np.full((1, 32, 32, 3), (126, 123, 113), np.uint8)
    found = network_inputs(images, "CIFAR10")[0, :, 5, 7]
    np.testing.assert_allclose(found, [0.7 / 63.0, 0.0, -0.9 / 66.7], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("dataset", ["CIFAR10", "SVHN"])
def test_images_that_are_not_at_hand_are_not_available(tmp_path, monkeypatch, dataset):
    monkeypatch.setenv("GENGAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GENGAP_IMAGES", raising=False)
    write(tmp_path, [0], dataset=dataset)
    zoo = GenProb(tmp_path)
    model = zoo.load(zoo.index()["model_id"].iloc[0])
    assert raw_parameter_norm(model) > 0
    with pytest.raises(NotAvailable, match="has no training images"):
        _ = model.sample


def test_a_root_without_checkpoints_is_one_sentence(tmp_path):
    (tmp_path / "model_CIFAR10.pth.tar").write_bytes(b"")
    (tmp_path / f".1-{NETWORK}_CIFAR10_epoch_1.pth.tar").write_bytes(b"")
    with pytest.raises(GengapError, match="is empty"):
        GenProb(tmp_path).index()


class Hostile:
    def __reduce__(self):
        return print, ("code runs",)


def faults():
    state = trained().state_dict()
    yield "cannot be read", lambda file: file.write_bytes(b"")
    yield "cannot be read", lambda file: file.write_bytes(b"no checkpoint at all")
    yield (
        "cannot be read",
        lambda file: (save(file, state), file.write_bytes(file.read_bytes()[:-9])),
    )
    yield (
        "no tensor, number or text",
        lambda file: torch.save({"state_dict_network": Hostile()}, file),
    )
    yield "performance_statistics", lambda file: torch.save({"state_dict_network": state}, file)
    yield "cannot be read", lambda file: torch.save([1, 2], file)
    yield "cannot be read", lambda file: save(file, state, statistics={"test_loss_epoch_0": "low"})
    yield "of epoch 0", lambda file: save(file, state, epoch=1)


@pytest.mark.parametrize(("sentence", "make"), list(faults()))
def test_a_damaged_or_hostile_file_is_one_sentence_with_its_name(some_file, capsys, sentence, make):
    make(some_file)
    with pytest.raises(GengapError, match=sentence) as caught:
        GenProb(some_file.parent).index()
    assert some_file.name in str(caught.value) and "\n" not in str(caught.value)
    assert "code runs" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "state", ["no dictionary", {}, {"a": 1}, {"w": torch.ones(1).expand(10**12)}]
)
def test_weights_that_are_none_are_one_sentence(tmp_path, some_file, state):
    save(some_file, state)
    with pytest.raises(GengapError, match=re.escape(some_file.name)):
        weights_of(tmp_path)


def test_kept_spectra_are_those_of_the_networks_of_the_index(tmp_path):
    write(tmp_path, (0, 1))
    other = f"{FAMILY}/NIN00000_AdaM_lr_0.01_wd_0.0005/epoch_0"
    ids = [f"{FAMILY}/{NETWORK}/epoch_{epoch}" for epoch in range(3)]
    kept = pd.DataFrame({"model_id": [*ids, other], "rank": range(4)})
    write_table(tmp_path / FAMILY / "spectra.parquet", kept)
    [found] = GenProb(tmp_path).kept_spectra()
    pd.testing.assert_frame_equal(found, kept.iloc[:3])


def test_kept_records_are_those_of_all_epochs_in_the_last_file(tmp_path):
    write(tmp_path, [2])
    zoo = GenProb(tmp_path)
    kept = zoo.kept_epochs()
    assert list(kept["epoch"]) == [0, 1, 2] and list(kept.columns) == list(zoo.index().columns)
    assert list(kept["train_accuracy"]) == [0.5, 0.51, 0.52]
    pd.testing.assert_frame_equal(kept.iloc[[2]].reset_index(drop=True), zoo.index())


def test_a_selection_has_the_kept_tables_of_its_networks_alone(tmp_path):
    write(tmp_path, [0])
    write(tmp_path, [0], network=NETWORK.replace("01234", "00000"))
    assert list(GenProb(tmp_path).select("hp_width_4 == 4").kept_epochs()["model_id"]) == [
        f"{FAMILY}/{NETWORK}/epoch_0"
    ]


def test_published_networks_have_no_kept_spectra(tmp_path):
    write(tmp_path)
    assert list(GenProb(tmp_path).kept_spectra()) == []


def test_a_damaged_kept_table_is_one_sentence_with_its_name(tmp_path):
    write(tmp_path)
    (tmp_path / FAMILY).mkdir()
    (tmp_path / FAMILY / "spectra.parquet").write_bytes(b"no parquet")
    with pytest.raises(GengapError, match="spectra.parquet cannot be read.*get it again"):
        list(GenProb(tmp_path).kept_spectra())


@pytest.fixture
def container(tmp_path):
    """A network after two epochs in a zip file, with a table of what training kept."""
    rows, file = {"model_id": [f"{FAMILY}/{NETWORK}/epoch_0"], "rank": [3]}, tmp_path / "t.parquet"
    write_table(file, rows)
    members = checkpoints() | {f"{NETWORK}_spectra.parquet": file.read_bytes()}
    packed = tmp_path / "packed"
    packed.mkdir()
    write_container(packed / "one.zip", members.items())
    return packed / "one.zip"


def test_a_network_in_a_zip_file_is_read_as_one_beside_it(container, tmp_path):
    write(tmp_path / "plain")
    packed, plain = GenProb(container.parent), GenProb(tmp_path / "plain")
    pd.testing.assert_frame_equal(packed.index(), plain.index())
    for model_id in plain.index()["model_id"]:
        found, expected = (zoo.load(model_id).network.state_dict() for zoo in (packed, plain))
        assert same(found, expected)
    assert [list(table["rank"]) for table in packed.kept_spectra()] == [[3]]
    assert packed.family_files(FAMILY) == (container,)
    records = [zoo.index().to_dict("records")[0] for zoo in (packed, plain)]
    [member], [file] = packed.weight_files(records[0]), plain.weight_files(records[1])
    assert member.read_bytes() == file.read_bytes()
    assert [file.name for file in container.parent.iterdir()] == ["one.zip"]


def test_a_zip_file_in_a_folder_gives_its_networks_the_name_of_the_folder(container, tmp_path):
    model_id = GenProb(tmp_path).index()["model_id"].iloc[0]
    assert model_id == f"{FAMILY}/packed/{NETWORK}/epoch_0"


def test_a_damaged_zip_file_is_one_sentence_with_its_name(container):
    container.write_bytes(container.read_bytes()[:-30])
    with pytest.raises(GengapError, match="one.zip cannot be read, it is truncated or damaged"):
        GenProb(container.parent).index()


def test_a_damaged_member_is_one_sentence_with_its_name(tmp_path):
    name = checkpoint_name(NETWORK, "FashionMNIST", 0)
    write_container(tmp_path / "one.zip", [(name, b"no checkpoint at all")])
    with pytest.raises(GengapError, match=re.escape(f"one.zip/{name} cannot be read")):
        GenProb(tmp_path).index()


def test_equal_members_make_equal_bytes_and_a_smaller_file(tmp_path):
    members = {"a": bytes(10_000), "b": b"text"}
    for name in ("one.zip", "two.zip"):
        write_container(tmp_path / name, members.items())
    content = (tmp_path / "one.zip").read_bytes()
    assert content == (tmp_path / "two.zip").read_bytes() and len(content) < 1000
    assert Member(tmp_path / "one.zip", "b").read_bytes() == b"text"


def test_a_network_with_images_has_measures_of_weights_and_of_outputs(tmp_path):
    write(tmp_path, [0])
    images = np.random.default_rng(0).integers(0, 256, (40, 28, 28), dtype=np.uint8)
    write_idx_pair(tmp_path / "fashion_mnist", "train", images, np.arange(40) % 10)
    zoo = GenProb(tmp_path)
    names = ["path_norm", "inverse_margin", "log_product_of_spectral_norms"]
    rows = gengap.measure_table(zoo, names, store=tmp_path / "values.sqlite")
    assert rows["value"].notna().all() and (rows["note"] == "").all()
