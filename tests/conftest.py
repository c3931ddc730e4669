"""What tests of several modules share."""

import os
from pathlib import Path

import pytest

import gengap
from gengap import folders
from gengap.collection import COLLECTIONS, default_root


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of golden values (GENGAP_REFERENCE, else ../shared beside the checkout)."""
    beside = folders.repository().parent / "shared"
    found = Path(os.environ.get("GENGAP_REFERENCE") or beside)
    if not (found / "golden").is_dir():
        pytest.skip(f"no golden values under {found}; set GENGAP_REFERENCE")
    return found


@pytest.fixture
def data_folder(tmp_path, monkeypatch) -> Path:
    """An empty data folder that the test may write; the checkout's own stays untouched."""
    monkeypatch.setenv("GENGAP_DATA", str(tmp_path))
    return tmp_path


@pytest.fixture
def tiny(data_folder, monkeypatch):
    """The collection of tests/tiny_collection.py, registered as `tiny`, at its default root."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.setitem(COLLECTIONS, "tiny", "tiny_collection:TinyCollection")
    default_root("tiny").mkdir(parents=True)
    return gengap.open_collection("tiny")


@pytest.fixture
def offline(monkeypatch):
    """No connection leaves the test: images that are not at hand are then not available."""

    def refuse(*_):
        raise OSError("tests do not use the network")

    monkeypatch.setattr("socket.socket.connect", refuse)


@pytest.fixture(params=[*COLLECTIONS, "tiny"])
def every_collection(request, offline):
    """Each embedded collection in turn, and the tiny one."""
    if request.param == "tiny":
        return request.getfixturevalue("tiny")
    if not default_root(request.param).is_dir():
        pytest.skip(f"the replica of {request.param} is not embedded in {folders.data()}")
    return gengap.open_collection(request.param)
