"""A cluster that is there already, for tests of what is computed on it."""

import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gengap.folders import repository

TESTS = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def workers_find_the_tests(monkeypatch):
    """Modules of tests can be imported in worker processes."""
    monkeypatch.setenv("PYTHONPATH", str(TESTS), prepend=os.pathsep)


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
    page = (repository() / "book" / "clusters.md").read_text()
    block = re.search(r"```\n(.*?)```", page, re.S)[1]
    return [line.replace("8786", str(port)) for line in block.splitlines() if line[:4] == "dask"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
