"""A row is of an index row, of files' content and of code with all that it calls."""

import importlib
import pickle
import sys
import zipfile

import pandas as pd
import pytest

import gengap
from gengap.collection import Collection
from gengap.evaluation import scores
from gengap.evaluation.judgement import judged
from gengap.studies.pgdl import official_scores
from gengap.tables import identity
from gengap.tables.identity import record_hashes, source_hash, weight_hashes

# A package of three files: a measure, what it calls, and what that calls.
FILES = {
    "measures": (
        "from package_of_test import helpers\nfrom package_of_test.helpers import direct\n"
        "def measure(model):\n"
        "    return helpers.scaled(model) + direct(model) + helpers.cuts(model)\n"
    ),
    "helpers": (
        "from dataclasses import dataclass\nfrom functools import cache, partial\n"
        "from package_of_test import deep\nSCALE = 2.0\n"
        "@dataclass(frozen=True)\nclass Score:\n    of: object\n    least: float\n"
        "SCORES = {'a': Score(deep.scored, 0.5)}\n"
        "UNUSED = 1\nTABLE = {'a': deep.chosen}\nSIZES = {'a': 8, 'b': 32}\nPAIR = (3, 4)\n"
        "PLACES = {'a': 11, 'b': 22, 'c': 33}\n"
        "CUTS = {name: partial(deep.cut, at=at) for name, at in PLACES.items()}\n"
        "def scaled(model):\n    return SCALE * TABLE['a'](model) * deep.Deep().twice(model)\n"
        "def unused():\n    return 0\n"
        "@cache\ndef direct(model):\n    from gengap.folders import cache\n    return model\n"
        "def cuts(model):\n    return CUTS, SIZES, PAIR, SCORES\n"
        "def unrelated(model):\n    return 1\n"
    ),
    "deep": (
        "class Base:\n    def once(self, x):\n        return x\n"
        "class Deep(Base):\n    def twice(self, x):\n        return 2 * x\n"
        "def chosen(model):\n    return 3\n"
        "def cut(model, at):\n    return at\n"
        "def scored(model):\n    return 5\n"
    ),
}

CHANGES = {
    "a helper two calls away": ("deep", "return 2 * x", "return 3 * x", True),
    "the base of a class that is used": ("deep", "        return x", "        return -x", True),
    "a function in a table": ("deep", "return 3\n", "return 4\n", True),
    "a constant": ("helpers", "SCALE = 2.0", "SCALE = 2.5", True),
    "a number in a constant's dictionary": ("helpers", "'b': 32", "'b': 16", True),
    "the order of a constant pair": ("helpers", "(3, 4)", "(4, 3)", True),
    "an argument of the last of several partials": ("helpers", "'c': 33", "'c': 44", True),
    "arguments of partials that change places": ("helpers", "11, 'b': 22", "22, 'b': 11", True),
    "a helper that remembers its results": ("helpers", "return model\n", "return -model\n", True),
    "a function in a dataclass of a table": ("deep", "return 5\n", "return 6\n", True),
    "a number in a dataclass of a table": ("helpers", "0.5", "0.25", True),
    "an unrelated function": ("helpers", "    return 1", "    return 2", False),
    "an unrelated constant": ("helpers", "UNUSED = 1", "UNUSED = 2", False),
    "a comment": ("deep", "return 3\n", "return 3  # so\n", False),
    "a docstring": ("deep", "once(self, x):", "once(self, x):\n        'Told.'", False),
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Writes the package, with changed files, and returns its measure."""
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "package_of_test"
    folder.mkdir()
    (folder / "__init__.py").touch()

    def written(**changed: str):
        for name in [name for name in sys.modules if name.startswith("package_of_test")]:
            monkeypatch.delitem(sys.modules, name)
        for name, text in (FILES | changed).items():
            (folder / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        return importlib.import_module("package_of_test.measures").measure

    return written


@pytest.mark.parametrize("what", CHANGES)
def test_code_is_another_when_what_it_calls_is_and_only_then(package, what):
    name, old, new, counts = CHANGES[what]
    before = source_hash(package())
    assert before == source_hash(package()) != ""
    after = source_hash(package(**{name: FILES[name].replace(old, new)}))
    assert (after != before) == counts


def test_code_that_moves_to_another_module_is_the_same(package):
    before = source_hash(package())
    moved = "    return 3\n"
    helpers = FILES["helpers"].replace("deep.chosen", "chosen")
    helpers = helpers.replace("SCALE =", f"def chosen(model):\n{moved}SCALE =")
    assert source_hash(package(helpers=helpers)) == before


def test_code_in_another_folder_is_the_same(package, tmp_path):
    places = FILES["measures"].replace("direct(model)", "direct(model) + len(__file__)")
    assert "__file__" in places
    before = source_hash(package(measures=places))
    moved = package(measures=places)
    moved.__globals__["__file__"] = str(tmp_path / "elsewhere" / "measures.py")
    assert source_hash(moved) == before


def test_a_list_that_a_measure_fills_is_no_constant():
    calls = []

    def counting(model):
        calls.append(model)
        return len(calls)

    before = source_hash(counting)
    counting(1)
    assert source_hash(counting) == before


@pytest.mark.parametrize("judge", [judged, official_scores])
def test_a_judgement_is_of_the_code_of_every_score(judge, monkeypatch):
    before = source_hash(judge)
    monkeypatch.setattr(scores, "information", lambda tables: tables)  # two calls below a score
    assert source_hash(judge) != before


def test_every_measure_of_the_project_has_code_that_is_known():
    hashes = {name: source_hash(function) for name, function in gengap.MEASURES.items()}
    assert all(len(text) == 16 for text in hashes.values())
    assert len(set(hashes.values())) == len(hashes)


class Files(Collection):
    """Models `family/name`: a file each in the folder of the family, or all in one matrix."""

    name = "files"

    def read_index(self):
        ids = ["a/one.pt", "a/two", "b/three", "b/four"]
        rows = [(i, i[0], 1, 0.5, 0.5, 0.1, 0.1) for i in ids]
        return pd.DataFrame(rows, columns=gengap.collection.COLUMNS)

    def family_files(self, family):
        return (self.root / family,) if family == "a" else (self.root / "b.npy",)


@pytest.fixture
def files(tmp_path):
    (tmp_path / "a" / "two" / "inner").mkdir(parents=True)
    for name in ("a/one.pt", "a/two/config", "a/two/inner/weights", "b.npy"):
        (tmp_path / name).write_text(name)
    return Files(tmp_path)


def changed(files, name: str, text: str) -> list[str]:
    """The models whose weights are others after a file was written."""
    before = weight_hashes(files)
    (files.root / name).write_text(text)
    after = weight_hashes(files)
    return list(before.index[before != after])


def test_weights_are_the_content_of_a_models_own_files_or_of_its_familys(files):
    assert changed(files, "a/one.pt", "a/one.pt") == []  # written anew, the same
    assert changed(files, "a/one.pt", "other") == ["a/one.pt"]
    assert changed(files, "a/two/inner/weights", "other") == ["a/two"]
    assert changed(files, "a/two/another", "one more") == ["a/two"]
    assert changed(files, "b.npy", "other") == ["b/three", "b/four"]


def test_a_file_is_read_once_until_it_is_written(files, monkeypatch):
    identity._hash_of_version.cache_clear()
    weight_hashes(files)
    weight_hashes(Files(files.root))
    assert identity._hash_of_version.cache_info().misses == 4
    (files.root / "b.npy").write_text("another")
    weight_hashes(files)
    assert identity._hash_of_version.cache_info().misses == 5


def test_files_in_a_zip_are_known_by_their_checksums(tmp_path):
    def hashed(content: str) -> str:
        with zipfile.ZipFile(tmp_path / "files.zip", "w") as archive:
            archive.writestr("model/weights", content)
        return identity._hash_of_files((zipfile.Path(tmp_path / "files.zip", "model/"),))

    assert hashed("one") == hashed("one") != hashed("two")


def test_a_family_that_comes_beside_another_makes_none_of_its_values_stale():
    left = pd.DataFrame({"model_id": ["a", "b"], "family": "left", "hp_bs": [8.0, 16.0]})
    right = pd.DataFrame({"model_id": ["c"], "family": "right", "hp_depth": [3.0], "hp_bs": [1.0]})
    alone = record_hashes(left)
    both = record_hashes(pd.concat([right, left], ignore_index=True))
    assert both[["a", "b"]].equals(alone) and both.is_unique


def test_a_collection_reads_its_files_again_in_another_process(tiny):
    copy = pickle.loads(pickle.dumps(tiny.select("family == 'left'")))
    assert type(copy) is type(tiny) and copy.root == tiny.root
    assert copy.index().equals(tiny.index())
