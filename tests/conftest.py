"""What tests of several modules share."""

import os
from pathlib import Path

import pytest

from gengap import folders


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of golden values (GENGAP_REFERENCE, else ../shared beside the checkout)."""
    found = Path(os.environ.get("GENGAP_REFERENCE") or folders.repository().parent / "shared")
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
    import gengap
    from gengap.collection import COLLECTIONS, default_root

    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.setitem(COLLECTIONS, "tiny", "tiny_collection:TinyCollection")
    default_root("tiny").mkdir(parents=True)
    return gengap.open_collection("tiny")
