"""A folder of networks of one's own: what its CSV file says, and state dicts of every kind."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from torch import nn

import gengap
from gengap import GengapError, NotAvailable
from gengap.collection import last_epoch
from gengap.collections.folder import Folder
from gengap.evaluation.tasks import task_of
from gengap.formats.state_dicts import read_state_dict
from gengap.formats.weight_modules import weights_only_network
from gengap.measures import MEASURES
from gengap.measures.folding import folded, weight_matrices
from gengap.measures.norm_products import log_product_of_spectral_norms
from gengap.measures.norms import layer_norms, raw_parameter_norm


def network(seed: int = 0) -> nn.Module:
    """Convolution, batch norm, and a dense layer, below a block as people name them."""
    torch.manual_seed(seed)
    made = nn.Sequential()
    made.add_module("block", nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)))
    made.add_module("fc", nn.Linear(4, 10))
    with torch.no_grad():
        made.block[1].running_mean.normal_()
        made.block[1].running_var.uniform_(0.5, 2)
    return made


STATE = network().state_dict()
FILES = {
    "plain.pt": lambda file: torch.save(STATE, file),
    "old.pth": lambda file: torch.save(STATE, file, _use_new_zipfile_serialization=False),
    "tensors.safetensors": lambda file: safetensors.torch.save_file(STATE, file),
    "parallel.pt": lambda file: torch.save(nn.DataParallel(network()).state_dict(), file),
    "double.pt": lambda file: torch.save(network().double().state_dict(), file),
    "within.pth.tar": lambda file: torch.save({"epoch": 3, "state_dict": STATE}, file),
    "trained.pt": lambda file: torch.save(
        {"model": STATE, "optimizer": {"state": {0: {"step": torch.ones(1)}}}, "best": 0.9}, file
    ),
    "deeper.pt": lambda file: torch.save({"model": {"model_state_dict": STATE}}, file),
    "described.pt": lambda file: torch.save({"model": {"depth": 2}, "weights": STATE}, file),
}


def describe(root, rows: dict[str, tuple[float, float]], name="networks.csv", **columns):
    """The CSV file: training and test accuracy of each file."""
    table = pd.DataFrame(rows.values(), columns=["train_accuracy", "test_accuracy"])
    table.assign(file=list(rows), **columns).to_csv(root / name, index=False)


@pytest.fixture
def folder(tmp_path):
    """All kinds of files, one in a folder below."""
    (tmp_path / "below").mkdir()
    for name, write in FILES.items():
        write(tmp_path / name)
    torch.save(network(1).state_dict(), tmp_path / "below" / "other.pt")
    rows = dict.fromkeys([*FILES, "below/other.pt"], (0.9, 0.8))
    describe(tmp_path, rows, train_images=500)
    return Folder(tmp_path)


def alone(root, state) -> gengap.Model:
    """The model of a folder that has only this state dict."""
    torch.save(state, root / "a.pt")
    describe(root, {"a.pt": (0.9, 0.8)}, train_images=500)
    return Folder(root).load("a.pt")


@pytest.mark.parametrize("name", FILES)
def test_a_state_dict_keeps_its_names_and_weights_however_it_is_written(folder, name):
    found = folder.load(name).network.state_dict()
    assert sorted(found) == sorted(STATE)
    assert name == "tensors.safetensors" or list(found) == list(STATE)
    assert all(torch.equal(found[key], STATE[key]) for key in STATE)


def test_a_file_below_the_folder_is_read_from_there(folder):
    found = folder.load("below/other.pt").network.state_dict()
    assert torch.equal(found["fc.weight"], network(1).state_dict()["fc.weight"])


def test_measures_of_weights_are_those_of_the_network_itself(tmp_path):
    model = alone(tmp_path, STATE)
    itself = gengap.Model(network().eval(), model.record)
    for measure in (raw_parameter_norm, log_product_of_spectral_norms):
        assert measure(model) == measure(itself)


def test_batch_norm_is_known_by_its_moving_statistics_and_folded(tmp_path):
    model = alone(tmp_path, STATE)
    kernel, dense = weight_matrices(folded(model.network))
    scale = STATE["block.1.weight"] / (STATE["block.1.running_var"] + 1e-5).sqrt()
    assert torch.allclose(kernel, STATE["block.0.weight"].flatten(1) * scale[:, None])
    assert torch.equal(dense, STATE["fc.weight"])


def test_batch_norm_is_folded_alike_whatever_the_format(folder):
    values = {name: log_product_of_spectral_norms(folder.load(name)) for name in FILES}
    assert len(set(values.values())) == 1, values


def test_layers_of_safetensors_are_in_the_order_of_their_numbers(tmp_path):
    state = {f"block.{number}.weight": torch.ones(2, 2) for number in (10, 9, 2)}
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")
    describe(tmp_path, {"a.safetensors": (0.9, 0.8)})
    found = Folder(tmp_path).load("a.safetensors").network.state_dict()
    assert list(found) == ["block.2.weight", "block.9.weight", "block.10.weight"]


def test_every_measure_is_a_number_or_not_available(folder, tmp_path):
    rows = gengap.measure_table(
        folder.select("model_id == 'plain.pt'"), store=tmp_path / "v.sqlite"
    )
    rows = rows.set_index("measure")
    assert set(rows.index) == set(MEASURES)
    assert (rows["value"].notna() | (rows["note"] != "")).all()
    assert rows.loc["raw_parameter_norm", "value"] > 0
    assert "training images" in rows.loc["inverse_margin", "note"]
    assert "initial weights" in rows.loc["distance_from_initialization", "note"]


def test_a_bound_wants_the_number_of_training_images(folder):
    known = log_product_of_spectral_norms(folder.load("plain.pt"))
    describe(folder.root, dict.fromkeys(folder.index()["model_id"], (0.9, 0.8)))
    unknown = Folder(folder.root).load("plain.pt")
    with pytest.raises(gengap.NotAvailable, match="no train_images.*but no training images"):
        log_product_of_spectral_norms(unknown)
    assert known == pytest.approx(
        float(layer_norms(unknown).spectral.log().sum()) - np.log(500) / 2
    )


def test_the_command_line_measures_a_folder(folder, data_folder):
    from typer.testing import CliRunner

    from gengap.cli import app

    arguments = ["measure", "folder", "--root", str(folder.root), "-m", "raw_parameter_norm"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "raw_parameter_norm" in result.stdout and "folder-" in result.stdout
    assert "left out" not in result.stdout


@pytest.mark.parametrize("command", [["measure", "folder", "-m", "raw_parameter_norm"], ["score"]])
def test_what_no_measure_sees_is_told_once_for_each_network(tmp_path, data_folder, command):
    from typer.testing import CliRunner

    from gengap.cli import app

    for place in range(3):
        torch.save(STATE | {"mask": torch.ones(2, 2)} if place else STATE, tmp_path / f"{place}.pt")
    describe(tmp_path, {f"{place}.pt": (0.9, 0.8) for place in range(3)})
    (tmp_path / "own.predict").write_text(json.dumps({f"{place}.pt": 1.0 for place in range(3)}))
    own = [str(tmp_path / "own.predict"), "-c", "folder"] if command == ["score"] else []
    result = CliRunner().invoke(app, [*command, *own, "--root", str(tmp_path)])
    assert result.stdout.count("left out: mask (no weights) of 1.pt, 2.pt\n") == 1, result.output


def test_what_no_measure_sees_is_told_without_reading_a_loaded_file_again(tmp_path, monkeypatch):
    for place in range(3):
        torch.save(STATE | {"mask": torch.ones(2, 2)}, tmp_path / f"{place}.pt")
    (tmp_path / "3.pt").write_bytes(b"nothing of the kind")
    describe(tmp_path, {f"{place}.pt": (0.9, 0.8) for place in range(4)})
    read, files = read_state_dict, []
    monkeypatch.setattr(
        "gengap.collections.folder.read_state_dict",
        lambda file: files.append(file.name) or read(file),
    )
    chosen = Folder(tmp_path).select("model_id != '2.pt'")
    chosen.load("0.pt")
    assert chosen.left_out() == {"mask (no weights)": ["0.pt", "1.pt"]}
    assert files == ["0.pt", "1.pt", "3.pt"]


def test_without_a_root_the_collection_says_to_give_one(data_folder):
    with pytest.raises(GengapError, match="folder has no networks of its own; give root="):
        gengap.open_collection("folder").index()


def test_the_index_is_what_the_csv_file_says(tmp_path):
    for name in ("a.pt", "b.pt"):
        torch.save(STATE, tmp_path / name)
    describe(
        tmp_path,
        {"b.pt": (0.75, 0.5), "a.pt": (1, 0.625)},
        family=["wide", "2"],
        epoch=[3, 4],
        test_loss=[1.5, None],
        dropout=[0.5, 0],
        hp_norm=["None", "batch"],
    )
    index = Folder(tmp_path).index()
    columns = ["hp_dropout", "hp_norm"]
    assert list(index) == [*gengap.collection.COLUMNS, *columns]
    assert list(index["model_id"]) == ["b.pt", "a.pt"] and list(index["family"]) == ["wide", "2"]
    assert list(index["train_accuracy"]) == [0.75, 1] and list(index["epoch"]) == [3, 4]
    assert index["test_loss"][0] == 1.5 and math.isnan(index["test_loss"][1])
    assert index["train_loss"].isna().all()
    assert list(index["hp_dropout"]) == [0.5, 0] and list(index["hp_norm"]) == ["None", "batch"]


def test_without_a_family_all_are_compared(tmp_path):
    torch.save(STATE, tmp_path / "a.pt")
    describe(tmp_path, {"a.pt": (0.9, 0.8)})
    zoo = Folder(tmp_path)
    assert list(zoo.index()["family"]) == ["all"] and zoo.index()["epoch"].isna().all()
    assert zoo.families().to_dict("records") == [{"family": "all", "models": 1, "missing": []}]


def test_the_names_of_families_and_files_stay_as_they_are_written(tmp_path):
    rows = {"1.pt": ("1",), "2.pt": ("01",), "3.pt": ("größe $\\foo$",), "4.pt": ("",)}
    text = "".join(f"{name},0.9,0.8,{family}\n" for name, [family] in rows.items())
    (tmp_path / "a.csv").write_text(f"file,train_accuracy,test_accuracy,Family\n{text}")
    for name in rows:
        torch.save(STATE, tmp_path / name)
    found = Folder(tmp_path).index()
    assert list(found["family"]) == ["1", "01", "größe $\\foo$", "all"]


def test_networks_without_an_accuracy_are_not_scored_and_without_any_nothing_is(
    tmp_path, data_folder
):
    from typer.testing import CliRunner

    from gengap.cli import app

    for place in range(3):
        torch.save(STATE, tmp_path / f"{place}.pt")
    describe(tmp_path, {"0.pt": (0.9, 0.8), "1.pt": (math.nan, 0.8), "2.pt": (0.9, math.nan)})
    (tmp_path / "own.predict").write_text(json.dumps({"0.pt": 1.0}))
    score = ["score", str(tmp_path / "own.predict"), "-c", "folder", "--root", str(tmp_path)]
    result = CliRunner().invoke(app, score)
    assert "2 of the 3 models of folder lack an accuracy, and are not scored" in result.stdout
    assert (
        result.exit_code == 0 and "(1 of 1 networks have a value; 20 are needed)" in result.stdout
    )
    describe(tmp_path, {f"{place}.pt": (0.9, math.nan) for place in range(3)})
    result = CliRunner().invoke(app, score)
    assert result.exit_code == 1 and "has both accuracies" in result.output


@pytest.mark.parametrize("written", ["a.pt", "./a.pt", ".\\a.pt", "below/../a.pt", "{root}/a.pt"])
def test_a_file_is_found_however_its_path_is_written(tmp_path, written):
    torch.save(STATE, tmp_path / "a.pt")
    describe(tmp_path, {written.replace("{root}", str(tmp_path)): (0.9, 0.8)})
    assert list(Folder(tmp_path).index()["model_id"]) == ["a.pt"]


def test_networks_that_stopped_early_are_judged_at_their_own_last_epoch(tmp_path):
    epochs = {
        "wide/epoch=4-step=90.ckpt": 4,
        "wide/epoch=09-step=190.ckpt": 9,
        "narrow/ckpt_3.pt": 3,
        "n9.pt": 9,
        "n7.pt": 7,
    }
    (tmp_path / "wide").mkdir()
    (tmp_path / "narrow").mkdir()
    for name in epochs:
        torch.save(STATE, tmp_path / name)
    describe(tmp_path, dict.fromkeys(epochs, (0.9, 0.8)), epoch=[*epochs.values()], lr=0.1)
    index = Folder(tmp_path).index()
    assert list(last_epoch(index)["model_id"]) == [*epochs][1:]
    assert task_of(last_epoch(index)).models == tuple([*epochs][1:])
    with pytest.raises(GengapError, match="are of 4 epochs"):
        task_of(index)


def test_a_csv_file_of_excel_is_read(tmp_path):
    torch.save(STATE, tmp_path / "a.pt")
    text = "\ufefffile,train_accuracy,test_accuracy\r\na.pt,0.9,0.8\r\n"
    (tmp_path / "networks.csv").write_text(text, encoding="utf-8", newline="")
    assert list(Folder(tmp_path).index()["model_id"]) == ["a.pt"]


def test_a_file_that_the_csv_file_does_not_name_is_left_out_with_a_warning(tmp_path):
    for name in ("a.pt", "b.pt", "c.pt"):
        torch.save(STATE, tmp_path / name)
    describe(tmp_path, {"b.pt": (0.9, 0.8)})
    with pytest.warns(UserWarning, match="does not name 'a.pt' and 1 others"):
        assert list(Folder(tmp_path).index()["model_id"]) == ["b.pt"]


def test_bad_files_are_rows_with_their_reasons_and_the_others_have_values(tmp_path, data_folder):
    torch.save(STATE, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(b"nothing of the kind")
    (tmp_path / "d.safetensors.index.json").write_text("{")
    files = ["a.pt", "b.pt", "c.pt", "d.safetensors.index.json"]
    describe(tmp_path, dict.fromkeys(files, (0.9, 0.8)))
    rows = gengap.measure_table(Folder(tmp_path), "raw_parameter_norm").set_index("model_id")
    assert rows.loc["a.pt", "note"] == "" and rows.loc["a.pt", "value"] > 0
    assert "b.pt cannot be read: it is damaged" in rows.loc["b.pt", "note"]
    assert rows.loc["c.pt", "note"].endswith("c.pt is missing; get it again")
    assert "d.safetensors.index.json cannot be read" in rows.loc[files[-1], "note"]


MISTAKES = {
    "has none where one CSV": {},
    "has a.csv, b.csv where": {"a.csv": "", "b.csv": ""},
    "a.csv: it is empty": {"a.csv": ""},
    "lacks the columns test_accuracy; it has file, train_accuracy": {
        "a.csv": "file,train_accuracy\na.pt,0.9\n"
    },
    "names '../c.pt', which": {
        "a.csv": "file,train_accuracy,test_accuracy\na.pt,1,1\nb.pt,1,1\n../c.pt,1,1\n"
    },
    "train_accuracy 93.5, in percent": {
        "a.csv": "file,train_accuracy,test_accuracy\na.pt,93.5,0.9\n"
    },
    "test_accuracy -0.5 for": {"a.csv": "file,train_accuracy,test_accuracy\na.pt,1,-0.5\n"},
    "not every test_accuracy is a number": {
        "a.csv": "file,train_accuracy,test_accuracy\na.pt,0.9,high\n"
    },
    "two rows for 'a.pt'": {
        "a.csv": "file,train_accuracy,test_accuracy\na.pt,0.9,0.9\na.pt,0.9,0.8\n"
    },
    "a row without a file": {"a.csv": "file,train_accuracy,test_accuracy\n,0.9,0.9\n"},
    "train_accuracy inf; write": {"a.csv": "file,train_accuracy,test_accuracy\na.pt,inf,0.9\n"},
    "has 0 train_images; write a whole number": {
        "a.csv": "file,train_accuracy,test_accuracy,train_images\na.pt,1,0.9,0\n"
    },
    "the columns lr and HP_LR, which are one hyper-parameter": {
        "a.csv": "file,train_accuracy,test_accuracy,lr,HP_LR\na.pt,1,0.9,0,1\n"
    },
    "has the column gap, which gengap makes itself": {
        "a.csv": "file,train_accuracy,test_accuracy,gap\na.pt,1,0.9,0.1\n"
    },
    "names 'below', which is no file of weights": {
        "a.csv": "file,train_accuracy,test_accuracy\na.pt,1,1\nbelow,1,0.9\n"
    },
}


@pytest.mark.parametrize("sentence", MISTAKES)
def test_a_mistake_in_the_csv_file_is_one_sentence(tmp_path, sentence):
    torch.save(STATE, tmp_path / "a.pt")
    (tmp_path / "below").mkdir()
    for name, text in MISTAKES[sentence].items():
        (tmp_path / name).write_text(text)
    with pytest.raises(GengapError, match=sentence):
        Folder(tmp_path).index()


class Code:
    def __reduce__(self):
        return print, ("code runs",)


DAMAGED = {
    "a.pt": lambda file: file.write_bytes(b"nothing of the kind"),
    "b.pt": lambda file: torch.save({"model": Code()}, file),
    "c.safetensors": lambda file: file.write_bytes(b"\xff" * 20),
    "d.pt": lambda file: torch.save({"epoch": 3, "accuracy": 0.5}, file),
    "e.pt": lambda file: torch.save(torch.ones(3), file),
    "f.pt": lambda file: torch.save({"a.stride.weight": torch.ones(2, 2), "": torch.ones(1)}, file),
    "program.pt": lambda file: torch.jit.save(torch.jit.script(network()), file),
    "g.pt": lambda file: torch.save({"." * 3000: torch.ones(2, 2)}, file),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", DAMAGED)
def test_a_state_dict_that_cannot_be_read_is_one_sentence_with_its_name(tmp_path, name, capsys):
    DAMAGED[name](tmp_path / name)
    describe(tmp_path, {name: (0.9, 0.8)})
    with pytest.raises(GengapError, match=name) as caught:
        Folder(tmp_path).load(name)
    assert "\n" not in str(caught.value) and "code runs" not in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_program_of_torchscript_is_not_said_to_be_damaged(tmp_path):
    DAMAGED["program.pt"](tmp_path / "program.pt")
    with pytest.raises(GengapError, match="program of TorchScript; save its state_dict") as caught:
        read_state_dict(tmp_path / "program.pt")
    assert "damaged" not in str(caught.value)


def test_weights_without_a_layer_are_not_available(tmp_path):
    with pytest.raises(NotAvailable, match="neither a convolution nor a dense layer"):
        alone(tmp_path, {"scale.weight": torch.ones(4)})


def test_infinite_weights_are_not_available(tmp_path):
    with pytest.raises(NotAvailable, match="not finite, as in fc.weight"):
        alone(tmp_path, {"fc.weight": torch.full((2, 2), torch.inf)})


def test_projections_are_layers_and_what_is_no_layer_is_a_parameter_or_a_buffer():
    state = {
        "token": torch.ones(1, 4),
        "attention.in_proj_weight": torch.ones(12, 4),
        "attention.index": torch.ones(3, 3, dtype=torch.int64),
        "attention.out.weight": torch.ones(4, 4),
        "attention.out.inner.weight": torch.ones(2, 4, 1, 1),
        "norm.weight": torch.ones(4),
        "norm.running_mean": torch.zeros(4),
        "norm.running_var": torch.ones(4),
    }
    network = weights_only_network(state, "why")
    parameters, buffers = dict(network.named_parameters()), dict(network.named_buffers())
    assert set(parameters) == {
        "network.token",
        "attention.in_proj_weight_query.weight",
        "attention.in_proj_weight_key.weight",
        "attention.in_proj_weight_value.weight",
        "attention.out.weight",
        "attention.out.inner.weight",
        "norm.weight",
        "norm.bias",
    }
    assert torch.equal(buffers["attention.index"], state["attention.index"])
    # The layer before the batch norm has two outputs: it cannot be what is normalized.
    sizes = [tuple(matrix.shape) for matrix in weight_matrices(folded(network))]
    assert sizes == [(4, 4)] * 4 + [(2, 4), (4, 4)]


def test_of_two_batch_norms_in_a_row_only_the_first_is_folded():
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4)]
    network = weights_only_network(nn.Sequential(*layers).state_dict(), "why")
    sizes = [tuple(matrix.shape) for matrix in weight_matrices(folded(network))]
    assert sizes == [(4, 27), (4, 4)]


def test_nothing_can_be_computed_of_inputs():
    model = weights_only_network(STATE, "only weights here")
    for module in (model, model.fc, model.block):
        with pytest.raises(NotAvailable, match="only weights here"):
            module(torch.ones(1, 4))
