"""What tests of several modules share."""

import os
import re
import shlex
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import gengap
from gengap import folders
from gengap.collection import COLLECTIONS, default_root

TESTS = Path(__file__).parent

opened = cache(gengap.open_collection)  # the index is read once for all tests of a process


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
    monkeypatch.syspath_prepend(TESTS)
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
    return opened(request.param)


@pytest.fixture(scope="session")
def scheduler(tmp_path_factory):
    """The address of two worker processes on loopback, started as the page on clusters says."""
    folder = tmp_path_factory.mktemp("cluster")
    port = free_port()
    path = os.pathsep.join([str(TESTS), *sys.path])
    started = []
    with (folder / "log").open("w") as log:
        for command in shown_commands(port):
            arguments = [sys.executable, "-m", *shlex.split(command)]
            surroundings = {"env": {**os.environ, "PYTHONPATH": path}, "cwd": folder}
            started.append(subprocess.Popen(arguments, **surroundings, stdout=log, stderr=log))
        yield f"tcp://127.0.0.1:{port}"
    for process in reversed(started):
        process.terminate()
        process.wait(60)


def shown_commands(port: int) -> list[str]:
    """The first commands of Dask that the page shows, a scheduler's and two workers'."""
    page = (folders.repository() / "book" / "clusters.md").read_text()
    block = re.search(r"```\n(.*?)```", page, re.S)[1]
    return [line.replace("8786", str(port)) for line in block.splitlines() if line[:4] == "dask"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
