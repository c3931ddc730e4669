"""What the page for contributors shows works as it stands."""

import re
import sys
from types import ModuleType
from xml.etree import ElementTree

import nbformat
import pandas as pd
import pytest
import torch
from torch import nn

import gengap
from gengap import folders
from gengap.book import chapters
from gengap.collection import COLLECTIONS, COLUMNS
from gengap.measures import MEASURES

TEXT = (folders.repository() / "book" / "contributing.md").read_text()
MEASURE, COLLECTION, REGISTERED, CHAPTER = re.findall(r"```python\n(.*?)```", TEXT, re.S)
SOURCES = folders.repository() / "src" / "gengap"
[PROFILES] = re.findall(r"```yaml\n(.*?)```", TEXT, re.S)


ROOMS = sorted(file.parent.name for file in SOURCES.glob("*/__init__.py"))
GROUND = ["collection.py", "errors.py", "folders.py", "model.py"]


def test_the_picture_and_the_page_show_every_room():
    picture = ElementTree.parse(folders.repository() / "book" / "_static" / "house.svg")
    drawn = {"".join(text.itertext()) for text in picture.iter("{http://www.w3.org/2000/svg}text")}
    assert {f"{room}/" for room in ROOMS} | {*GROUND} <= drawn
    [told] = re.findall(r":alt: (.*)", TEXT)
    assert all(name in told for name in [*ROOMS, *GROUND])
    assert all(re.search(rf"^`{room}/`\n: \w", TEXT, re.M) for room in ROOMS)


def test_each_file_of_the_walk_is_there():
    [walk] = re.findall(r"## What a newcomer touches\n(.*?)\n\n## ", TEXT, re.S)
    named = re.findall(r"`((?:src|tests|notebooks|book)/[\w./]+|_toc\.yml)`", walk)
    assert len(named) >= 7
    assert all((folders.repository() / name).exists() for name in named)
    assert all((SOURCES / name).is_file() for name in ("measures/__init__.py", "collection.py"))


def executed(code, name="example"):
    """The module that a code block makes."""
    module = ModuleType(name)
    exec(compile(code, "contributing.md", "exec"), module.__dict__)
    return module


@pytest.fixture
def registry(monkeypatch):
    """A copy of the registry of measures, which the test may fill."""
    copied = dict(MEASURES)
    for module in ("gengap.measures", "gengap.tables.values"):
        monkeypatch.setattr(f"{module}.MEASURES", copied)
    return copied


def test_the_measure_is_computed_where_there_are_images(registry, tiny):
    confidence = executed(MEASURE).confidence
    assert registry["confidence"] is confidence
    table = gengap.measure_table(tiny, "confidence").set_index("model_id")
    for model in map(tiny.load, tiny.select("family == 'left'").index()["model_id"]):
        logits = model.network(model.sample[0]).detach()
        largest = torch.softmax(logits, dim=1).max(dim=1).values
        expected = pytest.approx(float(largest.mean()), rel=1e-6)
        assert table["value"][model.record["model_id"]] == expected
        assert confidence(model, temperature=1e9) == pytest.approx(1 / 3, rel=1e-6)
    without = table[table["family"] == "right"]
    assert without["value"].isna().all()
    assert set(without["note"]) == {"the family right has no images here"}


def test_the_collection_is_opened_by_its_name_and_measured(data_folder, monkeypatch, tmp_path):
    module = executed(COLLECTION, "gengap.collections.linear")
    monkeypatch.setitem(sys.modules, "gengap.collections.linear", module)
    registered = dict(COLLECTIONS)
    monkeypatch.setattr("gengap.collection.COLLECTIONS", registered)
    exec(REGISTERED, {"COLLECTIONS": registered})
    root = tmp_path / "networks"
    (root / "digits").mkdir(parents=True)
    layers = {f"digits/{place}.pt": nn.Linear(4, 3) for place in range(2)}
    for model_id, layer in layers.items():
        state = {f"logits.{name}": tensor for name, tensor in layer.state_dict().items()}
        torch.save(state, root / model_id)
    rows = [(model_id, "digits", 1, 0.9, 0.8, 0.1, 0.2, 0.01) for model_id in layers]
    described = pd.DataFrame(rows, columns=[*COLUMNS, "hp_learning_rate"])
    described.to_csv(root / "digits" / "index.csv", index=False)

    linear = gengap.open_collection("linear", root=root)
    table = gengap.measure_table(linear, ["raw_parameter_norm", "inverse_margin"])
    norms = table[table["measure"] == "raw_parameter_norm"].set_index("model_id")["value"]
    for model_id, layer in layers.items():
        expected = sum(float(part.detach().square().sum()) for part in layer.parameters())
        assert norms[model_id] == pytest.approx(expected, rel=1e-6)
    margins = table[table["measure"] == "inverse_margin"]
    assert set(margins["note"]) == {"linear has weights, but no training inputs"}


def test_the_chapter_is_executed_with_the_profile_that_is_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "profiles.yml").write_text(PROFILES)
    executed(CHAPTER)
    monkeypatch.setattr(chapters, "repository", lambda: tmp_path)
    assert [*chapters.profiles()] == ["replica", "published"]
    [written] = chapters.run_chapters()
    assert written == tmp_path / "book" / "chapters" / "10-batches.ipynb"
    [shown] = nbformat.read(written, as_version=4).cells[3].outputs
    index = gengap.open_collection("pgdl").index()
    assert all(f"<th>{batch}</th>" in shown.data["text/html"] for batch in index["hp_bs"].unique())
    chapters._check_parameters(
        tmp_path / "notebooks" / "10-batches.ipynb", chapters.profiles()["published"]["10-batches"]
    )


def test_each_command_that_is_shown_exists():
    from gengap.cli import app

    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    shown = set(re.findall(r"gengap ([a-z-]+) ", TEXT))
    assert shown and shown <= known
    assert (folders.repository() / "tests" / "benchmarks" / "pgdl_measures.py").is_file()
    assert set(re.findall(r"gengap run (0\d-[a-z-]+)", TEXT)) <= set(chapters.chapter_names())
