"""What the README shows works as it stands."""

import csv
import re
import shlex
import warnings

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from gengap import folders
from gengap.cli import app
from gengap.measures import MEASURES
from gengap.submission.measure_file import measures_in

TEXT = (folders.repository() / "README.md").read_text()
EXAMPLES = [code for code in re.findall(r"```python\n(.*?)```", TEXT, re.S) if "open_coll" in code]


@pytest.mark.parametrize("code", EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_runs(code, offline, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    for accuracy, recorded in re.findall(r"accuracy (\S+), recorded (\S+)", printed):
        assert float(accuracy) == pytest.approx(float(recorded), abs=1.5e-3)
    assert ("recorded" in code) == ("recorded" in printed)
    assert ("savefig" in code) == bool(list(tmp_path.glob("*.png")))


@pytest.fixture
def my_networks(tmp_path, data_folder, monkeypatch):
    """The folder that the README describes, with the CSV file that it shows."""
    [text] = re.findall(r"```\n(file,.*?)```", TEXT, re.S)
    folder = tmp_path / "my_networks"
    folder.mkdir()
    (folder / "networks.csv").write_text(text)
    for row in csv.DictReader(text.splitlines()):
        width = int(row["width"])
        layers = nn.Conv2d(3, width, 3), nn.ReLU(), nn.Flatten(), nn.Linear(width, 10)
        save = save_file if row["file"].endswith(".safetensors") else torch.save
        save(nn.Sequential(*layers).state_dict(), folder / row["file"])
    monkeypatch.chdir(tmp_path)


def test_a_folder_of_networks_is_measured_by_the_commands_that_are_shown(my_networks):
    commands = re.findall(r"^gengap (.* folder .*--root my_networks.*)$", TEXT, re.M)
    assert [command.split()[0] for command in commands] == ["measure", "details"]
    for command in commands:
        told = CliRunner().invoke(app, shlex.split(command))
        assert told.exit_code == 0, told.output
        if command.startswith("measure"):
            assert re.search(r"all +raw_parameter_norm +3 ", told.output)
    layers = pd.read_csv("layers.csv")
    assert set(layers["model_id"]) == {"narrow.pt", "wide.pt", "slow.safetensors"}


def test_the_measure_that_is_shown_is_one(tmp_path, monkeypatch):
    registry = dict(MEASURES)
    for module in ("gengap.measures", "gengap.submission.measure_file"):
        monkeypatch.setattr(f"{module}.MEASURES", registry)
    [text] = re.findall(r"```python\n(# largest_weight.py.*?)```", TEXT, re.S)
    file = tmp_path / "largest_weight.py"
    file.write_text(text)
    assert [*measures_in(file)] == ["largest_weight"]
