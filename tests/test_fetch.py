"""Fetching from a made-up server on loopback: good, damaged, malicious and absent archives."""

import io
import tarfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pytest

from gengap import GengapError
from gengap.fetch import fetch_cnnzoo
from gengap.loaders.cnnzoo import FILES


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A folder and the address under which it is served; the cache is a fresh folder."""
    monkeypatch.setenv("GENGAP_CACHE", str(tmp_path / "cache"))
    served = tmp_path / "served"
    served.mkdir()
    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=served))
    Thread(target=http.serve_forever, daemon=True).start()
    yield served, f"http://127.0.0.1:{http.server_port}/"
    http.shutdown()
    http.server_close()


def pack(archive, names, link=None, content=None):
    """An archive whose members hold `content`, or else their own names."""
    with tarfile.open(archive, "w:xz") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            held = content or name.encode()
            member.size = len(held)
            tar.addfile(member, io.BytesIO(held))
        if link:
            member = tarfile.TarInfo(link)
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(member)


def test_the_three_files_are_taken_out_whatever_folder_they_lie_in(server, tmp_path):
    served, address = server
    pack(served / "mnist.tar.xz", [f"some/folder/{name}" for name in FILES])
    root = fetch_cnnzoo(["mnist"], address=address)
    assert root == tmp_path / "cache" / "cnnzoo"
    assert (root / "mnist" / "layout.csv").read_text() == "some/folder/layout.csv"
    (served / "mnist.tar.xz").unlink()
    assert fetch_cnnzoo(["mnist"], address=address) == root  # nothing is downloaded twice


def test_no_member_is_written_outside_and_links_are_not_followed(server, tmp_path):
    served, address = server
    names = ["../../weights.npy", "/metrics.csv.gz", "layout.csv", "../../../evil.py"]
    pack(served / "mnist.tar.xz", names, link="weights.npy/../x")
    root = fetch_cnnzoo(["mnist"], address=address)
    written = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {*FILES, "mnist.tar.xz"}
    assert {path.name for path in (root / "mnist").iterdir()} == set(FILES)


def test_an_archive_without_the_weights_is_refused(server):
    served, address = server
    pack(served / "mnist.tar.xz", ["layout.csv", "metrics.csv.gz"])
    with pytest.raises(GengapError, match="lacks weights.npy"):
        fetch_cnnzoo(["mnist"], address=address)


def test_a_damaged_archive_leaves_no_half_written_file(server, tmp_path):
    served, address = server
    content = np.random.default_rng(0).bytes(500_000)
    pack(served / "mnist.tar.xz", FILES, content=content)
    packed = (served / "mnist.tar.xz").read_bytes()
    (served / "mnist.tar.xz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(GengapError, match="is damaged"):
        fetch_cnnzoo(["mnist"], address=address)
    for path in (tmp_path / "cache" / "cnnzoo").rglob("*.*"):
        assert path.name in FILES and path.read_bytes() == content  # whole, or not there
    assert not (tmp_path / "cache" / "cnnzoo" / "mnist" / "layout.csv").exists()


def test_an_address_that_does_not_answer_is_one_sentence(server):
    with pytest.raises(GengapError, match="could not be downloaded"):
        fetch_cnnzoo(["mnist"], address=server[1])


def test_an_unknown_data_set_is_refused_before_anything_is_downloaded():
    with pytest.raises(GengapError, match="choose from mnist, fashion_mnist"):
        fetch_cnnzoo(["svhn"])
