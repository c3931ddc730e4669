"""Fetching from a made-up server on loopback: good, damaged, malicious and absent archives."""

import hashlib
import io
import json
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from threading import Event
from types import SimpleNamespace

import numpy as np
import pytest
from archives.servers import Parts, Quiet, Ranges, Trouble, serving
from drawn import drawn

from gengap import GengapError, folders, open_collection
from gengap.collections import downloads
from gengap.collections.cnnzoo import FILES
from gengap.collections.fetch import (
    fetch_cnnzoo,
    fetch_demogen,
    fetch_images,
    fetch_pgdl,
    fetch_pgdl_part,
    fetch_robust_measures,
)
from gengap.formats import images


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Serves a folder as a handler does, and gives its address; the cache is a fresh folder."""
    monkeypatch.setenv("GENGAP_CACHE", str(tmp_path / "cache"))
    (served := tmp_path / "served").mkdir()
    with ExitStack() as running:
        yield lambda handler: (served, running.enter_context(serving(handler, served)))


@pytest.fixture
def server(serve):
    """A folder and the address under which its files are served whole."""
    return serve(Quiet)


@pytest.fixture
def server_of_parts(serve, monkeypatch):
    """A folder, the address under which parts of its files are served, and the handler."""
    monkeypatch.setattr(Parts, "sent", [])
    return *serve(Parts), Parts


@pytest.fixture
def troubled(serve, monkeypatch):
    """A function: a folder and the address of a server that meets these troubles."""

    def serve_with(*troubles):
        monkeypatch.setattr(Trouble, "troubles", [*troubles], raising=False)
        monkeypatch.setattr(Trouble, "released", Event())
        monkeypatch.setattr(downloads, "SECONDS_OF_SILENCE", 0.5)
        return serve(Trouble)

    return serve_with


def pack(archive, names, link=None, content=None, compression="xz"):
    """An archive whose members hold `content`, or else their own names."""
    with tarfile.open(archive, f"w:{compression}") as tar:
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
    places = [path for path in tmp_path.rglob("*") if path.is_file()]
    kept = {path.name for path in places if path.parent.name not in ("locks", "checksums")}
    assert kept == {*FILES, "mnist.tar.xz"}  # the last is the server's
    assert not (tmp_path / "cache" / "archives" / "mnist.tar.xz").exists()
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


def pack_tasks(archive, *tasks):
    """A zip file with the reference data of tasks, as the published ones have it."""
    with zipfile.ZipFile(archive, "w") as members:
        for task in tasks:
            spec = '{"7": {"hparams": {"bs": {"current_value": 8}}, "metrics": {"train_acc": 1}}}'
            members.writestr(f"data/input_data/{task}/model_7/config.json", "{}")
            members.writestr(f"data/reference_data/{task}/model_configs.json", spec)


def test_only_the_archives_of_the_tasks_are_fetched_and_they_are_not_unpacked(server, tmp_path):
    served, address = server
    pack_tasks(served / "public_data.zip", "task1_v4", "task2_v1")
    pack_tasks(served / "phase_two_data.zip", "task6", "task8")
    root = fetch_pgdl(["task2_v1", "task1_v4"], address=address)
    assert root == tmp_path / "cache" / "pgdl"
    assert [path.name for path in root.iterdir()] == ["public_data.zip"]
    fetch_pgdl(["task8"], address=address)
    for path in served.iterdir():
        path.unlink()
    assert fetch_pgdl(["task1_v4", "task6"], address=address) == root  # nothing comes twice
    assert {path.name for path in root.iterdir()} == {"public_data.zip", "phase_two_data.zip"}
    assert list(open_collection("pgdl", root).index()["model_id"]) == [
        f"{task}/model_7" for task in ("task1_v4", "task2_v1", "task6", "task8")
    ]


def test_all_three_archives_are_fetched_without_a_task_into_the_folder_that_is_given(
    server, tmp_path
):
    served, address = server
    for name in ("public_data.zip", "phase_one_data.zip", "phase_two_data.zip"):
        pack_tasks(served / name, "task4")
    root = fetch_pgdl(folder=tmp_path / "here", address=address)
    assert {path.name for path in root.iterdir()} == {path.name for path in served.iterdir()}


def test_what_is_no_zip_file_or_does_not_come_is_one_sentence(server):
    served, address = server
    pack_tasks(served / "phase_one_data.zip", "task4")
    content = (served / "phase_one_data.zip").read_bytes()
    (served / "phase_one_data.zip").write_bytes(content[:-50])
    with pytest.raises(GengapError, match="phase_one_data.zip is damaged .* fetch again"):
        fetch_pgdl(["task4"], address=address)
    with pytest.raises(GengapError, match="public_data.zip could not be downloaded"):
        fetch_pgdl(["task1_v4"], address=address)
    with pytest.raises(GengapError, match="No task 'task3' in PGDL: choose from task1_v4"):
        fetch_pgdl(["task4", "task3"], address=address)


# Room on the disk, archives that are kept, checksums


def test_an_archive_is_kept_when_asked_for_and_what_is_unpacked_is_the_same(server, tmp_path):
    served, address = server
    pack(served / "mnist.tar.xz", FILES)
    root = fetch_cnnzoo(["mnist"], address=address, keep_archive=True)
    assert (tmp_path / "cache" / "archives" / "mnist.tar.xz").exists()
    for file in FILES:
        (root / "mnist" / file).unlink()
    (served / "mnist.tar.xz").unlink()
    assert fetch_cnnzoo(["mnist"], address=address) == root
    assert {file.name for file in (root / "mnist").iterdir()} == set(FILES)


def test_without_room_for_archive_and_content_nothing_is_downloaded(server, tmp_path, monkeypatch):
    served, address = server
    pack(served / "mnist.tar.xz", FILES, content=np.random.default_rng(0).bytes(100_000))
    size = (served / "mnist.tar.xz").stat().st_size
    free = SimpleNamespace(free=2 * size)
    monkeypatch.setattr("shutil.disk_usage", lambda place: free)
    with pytest.raises(GengapError, match=r"needs 0\.00 GB in .* are free: make room"):
        fetch_cnnzoo(["mnist"], address=address)
    assert not [*(tmp_path / "cache" / "archives").iterdir()]
    free.free = int(2.2 * size)
    fetch_cnnzoo(["mnist"], address=address)


def test_an_archive_that_has_changed_since_the_first_time_is_refused(server, tmp_path):
    served, address = server
    pack_tasks(served / "phase_one_data.zip", "task4")
    root = fetch_pgdl(["task4"], address=address)
    record = tmp_path / "cache" / "checksums" / "phase_one_data.zip.sha256"
    sha = hashlib.sha256((served / "phase_one_data.zip").read_bytes()).hexdigest()
    assert record.read_text() == f"{sha} {address}phase_one_data.zip\n"
    with (root / "phase_one_data.zip").open("r+b") as file:
        file.write(b"\0\0")
    with pytest.raises(GengapError, match=f"is not what came first from .*, not {sha}. Delete"):
        fetch_pgdl(["task4"], address=address)
    (root / "phase_one_data.zip").unlink()
    fetch_pgdl(["task4"], address=address)
    pack_tasks(served / "phase_one_data.zip", "task5")
    (root / "phase_one_data.zip").unlink()
    with pytest.raises(GengapError, match="is not what came first"):
        fetch_pgdl(["task4"], address=address)
    record.unlink()
    fetch_pgdl(["task4"], address=address)


def test_the_checksum_of_a_damaged_download_is_not_recorded(server):
    served, address = server
    pack_tasks(served / "phase_one_data.zip", "task4")
    content = (served / "phase_one_data.zip").read_bytes()
    (served / "phase_one_data.zip").write_bytes(content[:-50])
    with pytest.raises(GengapError, match="is damaged"):
        fetch_pgdl(["task4"], address=address)
    (folders.cache() / "pgdl" / "phase_one_data.zip").unlink()
    (served / "phase_one_data.zip").write_bytes(content)
    fetch_pgdl(["task4"], address=address)


# Some networks out of an archive


def pack_models(archive, task, numbers):
    spec = {"hparams": {"bs": {"current_value": 8}}, "metrics": {"train_acc": 1}}
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as members:
        for number in numbers:
            members.writestr(f"public/input_data/{task}/model_{number}/config.json", "{}")
            content = np.random.default_rng(number).bytes(50_000)
            members.writestr(f"public/input_data/{task}/model_{number}/weights.hdf5", content)
        members.writestr(f"public/input_data/{task}/dataset_1/train/shard_0.tfrecord", "images")
        members.writestr(f"public/input_data/{task}/../../evil.py", "evil")
        configs = json.dumps({str(number): spec for number in numbers})
        members.writestr(f"public/reference_data/{task}/model_configs.json", configs)


@pytest.fixture
def ranges(serve, monkeypatch):
    """A folder and the address under which any parts of its files are served."""
    monkeypatch.setattr(Ranges, "bytes_sent", 0)
    return serve(Ranges)


def test_the_first_networks_of_a_task_come_without_the_rest_of_the_archive(ranges, tmp_path):
    served, address = ranges
    pack_models(served / "public_data.zip", "task1_v4", [20, 3, 100, 7])
    root = fetch_pgdl_part(["task1_v4"], models=2, address=address)
    assert root == tmp_path / "cache" / "pgdl-part"
    assert open_collection("pgdl", root).index()["model_id"].tolist() == [
        "task1_v4/model_3",
        "task1_v4/model_7",
    ]
    inside = [file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file()]
    assert sorted(inside) == [
        "input_data/task1_v4/dataset_1/train/shard_0.tfrecord",
        "input_data/task1_v4/model_3/config.json",
        "input_data/task1_v4/model_3/weights.hdf5",
        "input_data/task1_v4/model_7/config.json",
        "input_data/task1_v4/model_7/weights.hdf5",
        "reference_data/task1_v4/model_configs.json",
    ]
    content = np.random.default_rng(7).bytes(50_000)
    assert (root / "input_data/task1_v4/model_7/weights.hdf5").read_bytes() == content
    assert Ranges.bytes_sent < 190_000  # of 200,000 of weights alone
    fetch_pgdl_part(["task1_v4"], models=3, address=address)
    assert len(open_collection("pgdl", root).index()) == 3


def test_parts_that_a_server_does_not_send_are_one_sentence(server):
    served, address = server
    pack_models(served / "public_data.zip", "task1_v4", [1])
    with pytest.raises(GengapError, match="parts of .*public_data.zip could not be read"):
        fetch_pgdl_part(["task1_v4"], models=1, address=address)


@pytest.mark.parametrize("configs", ["[1]", "3", "{}"])
def test_parts_of_an_archive_that_describes_no_models_are_refused(ranges, tmp_path, configs):
    served, address = ranges
    with zipfile.ZipFile(served / "public_data.zip", "w") as members:
        members.writestr("public/reference_data/task1_v4/model_configs.json", configs)
    with pytest.raises(GengapError, match="describes no models; get it again"):
        fetch_pgdl_part(["task1_v4"], models=1, address=address)
    assert not [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]


def test_an_archive_without_the_task_is_one_sentence(ranges):
    served, address = ranges
    pack_models(served / "public_data.zip", "task2_v1", [1])
    with pytest.raises(GengapError, match="holds no task1_v4: this is not an archive of PGDL"):
        fetch_pgdl_part(["task1_v4"], models=1, address=address)


def test_the_table_of_robust_measures_is_one_file(server, tmp_path):
    served, address = server
    (served / "nin.cifar10_svhn.csv").write_text("a,b\n1,2\n")
    root = fetch_robust_measures(address=address)
    assert root == tmp_path / "cache" / "robust-measures"
    assert (root / "nin.cifar10_svhn.csv").read_text() == "a,b\n1,2\n"


def test_images_are_fetched_into_the_cache(server, tmp_path, monkeypatch):
    served, address = server
    content = {name: name.encode() for name in ("train_32x32.mat", "test_32x32.mat")}
    for name, text in content.items():
        (served / name).write_bytes(text)
    known = {
        "address": address,
        "md5": {name: hashlib.md5(text).hexdigest() for name, text in content.items()},
    }
    monkeypatch.setitem(images.KNOWN, "svhn_cropped", images.KNOWN["svhn_cropped"] | known)
    assert fetch_images(["svhn_cropped"]) == tmp_path / "cache" / "images"
    place = tmp_path / "cache" / "images" / "svhn_cropped" / "test_32x32.mat"
    assert place.read_bytes() == b"test_32x32.mat"
    with pytest.raises(GengapError, match="No data set 'imagenet' in the image data sets"):
        fetch_images(["imagenet"])


# Downloads that go on where they stopped


@pytest.fixture
def archive_in_parts(server_of_parts):
    """The bytes of an archive of PGDL, its address, where it comes to lie, and the handler."""
    served, address, handler = server_of_parts
    with zipfile.ZipFile(served / "phase_one_data.zip", "w") as members:
        members.writestr("images", np.random.default_rng(0).bytes(300_000))
    place = served.parent / "cache" / "pgdl" / "phase_one_data.zip"
    return (served / "phase_one_data.zip").read_bytes(), address, place, handler


def test_an_interrupted_download_goes_on_where_it_stopped(archive_in_parts, monkeypatch):
    content, address, place, handler = archive_in_parts
    monkeypatch.setattr(handler, "bytes_at_first", 200_000)
    with pytest.raises(GengapError, match="could not be downloaded .*try again"):
        fetch_pgdl(["task4"], address=address)
    assert not place.exists()
    came = place.with_name(f"{place.name}.part").read_bytes()
    assert len(came) > 100_000 and content.startswith(came)
    fetch_pgdl(["task4"], address=address)
    assert place.read_bytes() == content
    assert handler.sent == [(206, 0), (206, len(came) - 1)]
    assert [file.name for file in place.parent.iterdir()] == [place.name]


def test_a_download_that_was_stopped_at_its_last_byte_is_complete(archive_in_parts):
    content, address, place, handler = archive_in_parts
    place.parent.mkdir(parents=True)
    place.with_name(f"{place.name}.part").write_bytes(content)
    fetch_pgdl(["task4"], address=address)
    assert place.read_bytes() == content
    assert handler.sent == [(206, len(content) - 1)]


def test_what_is_longer_than_the_file_is_thrown_away(archive_in_parts):
    content, address, place, _ = archive_in_parts
    place.parent.mkdir(parents=True)
    place.with_name(f"{place.name}.part").write_bytes(content + b"more")
    with pytest.raises(GengapError, match="try again"):
        fetch_pgdl(["task4"], address=address)
    fetch_pgdl(["task4"], address=address)
    assert place.read_bytes() == content


def test_a_server_that_sends_no_parts_sends_it_all_again(server, tmp_path):
    served, address = server
    pack_tasks(served / "phase_one_data.zip", "task4")
    (tmp_path / "cache" / "pgdl").mkdir(parents=True)
    (tmp_path / "cache" / "pgdl" / "phase_one_data.zip.part").write_bytes(b"something" * 1000)
    root = fetch_pgdl(["task4"], address=address)
    got = (root / "phase_one_data.zip").read_bytes()
    assert got == (served / "phase_one_data.zip").read_bytes()


@pytest.mark.parametrize("trouble", ["stall", "reset", "promise more"])
def test_a_server_that_fails_on_the_way_costs_one_sentence_and_the_next_try_is_whole(
    troubled, tmp_path, trouble
):
    served, address = troubled(trouble)
    with zipfile.ZipFile(served / "phase_one_data.zip", "w") as members:
        members.writestr("images", np.random.default_rng(0).bytes(300_000))
    with pytest.raises(GengapError, match="phase_one_data.zip could not be downloaded .*try again"):
        fetch_pgdl(["task4"], address=address)
    Trouble.released.set()
    place = tmp_path / "cache" / "pgdl" / "phase_one_data.zip"
    assert not place.exists()
    fetch_pgdl(["task4"], address=address)
    assert place.read_bytes() == (served / "phase_one_data.zip").read_bytes()


def test_what_a_server_cut_short_without_saying_so_is_damaged(troubled):
    served, address = troubled("promise less")
    with zipfile.ZipFile(served / "phase_one_data.zip", "w") as members:
        members.writestr("images", np.random.default_rng(0).bytes(300_000))
    with pytest.raises(GengapError, match="phase_one_data.zip is damaged .*delete it"):
        fetch_pgdl(["task4"], address=address)


@pytest.mark.parametrize("name", drawn("two fetches at once", ["cnnzoo", "demogen", "pgdl"]))
@pytest.mark.parametrize("trouble", [None, "promise more"])
def test_of_two_fetches_at_once_one_waits_for_the_other(troubled, tmp_path, name, trouble):
    served, address = troubled(trouble)
    pack(served / "mnist.tar.xz", FILES, content=np.random.default_rng(0).bytes(3_000_000))
    pack_demogen(served, networks(f"NIN_CIFAR10/{NIN}"))
    pack_tasks(served / "phase_one_data.zip", "task4")
    fetch_one = {
        "cnnzoo": partial(fetch_cnnzoo, ["mnist"]),
        "demogen": partial(fetch_demogen, ["NIN_CIFAR10"]),
        "pgdl": partial(fetch_pgdl, ["task4"]),
    }[name]
    with ThreadPoolExecutor(2) as pool:
        fetching = [pool.submit(fetch_one, address=address) for _ in range(2)]
        failed = [str(each.exception()) for each in fetching if each.exception()]
    assert len(failed) == (trouble is not None), failed
    folder = tmp_path / "cache" / name
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert any(path.is_file() for path in before) and not [*folder.rglob("*.part")]
    fetch_one(address="http://127.0.0.1:9/")  # all is there
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


# DEMOGEN

MEMBERS = "demogen_models/home/someone/model_dataset"
NIN, RESNET = "nin_wide_1.0x__dropout_0.0__decay_0.0_1", "resnet_wide_1.0x_batchnorm__decay_0.0_1"
FILES_OF_A_NETWORK = (
    "eval.json",
    "model.ckpt-150000.data-00000-of-00001",
    "model.ckpt-150000.index",
    "train.json",
)


def networks(*folders):
    """Members of an archive: the grids, and networks with what else lies in their folders."""
    names = [f"{folder}/{name}" for folder in folders for name in FILES_OF_A_NETWORK]
    others = ("model.ckpt-150000.meta", "._train.json", "checkpoint", "events.out.tfevents.1")
    names += [f"{folder}/{name}" for folder in folders for name in others]
    return [f"{MEMBERS}/all_model_spec.json", *(f"{MEMBERS}/{name}" for name in names)]


def pack_demogen(served, names, **options):
    pack(served / "demogen_models.tar.gz", names, compression="gz", **options)


def files_under(folder):
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def test_the_networks_of_demogen_are_fetched_and_open_as_a_collection(server, reference, tmp_path):
    served, address = server
    golden = reference / "golden" / "demogen"
    with tarfile.open(served / "demogen_models.tar.gz", "w:gz", compresslevel=1) as archive:
        archive.add(golden, f"./{MEMBERS}")
    root = fetch_demogen(address=address)
    assert root == tmp_path / "cache" / "demogen"
    for file in files_under(golden):
        if file.endswith("expected.npz"):
            assert not (root / file).exists()
        else:
            assert (root / file).read_bytes() == (golden / file).read_bytes()
    collection = open_collection("demogen", root)
    with pytest.warns(UserWarning, match="networks are missing"):
        model_ids = collection.index()["model_id"]
    assert len(model_ids) == 4
    for model_id in model_ids:
        assert collection.load(model_id).network.h1


def test_only_what_a_network_needs_is_taken_out_and_nothing_comes_twice(server):
    served, address = server
    pack_demogen(served, networks(f"NIN_CIFAR10/{NIN}", f"RESNET_CIFAR10/{RESNET}"))
    root = fetch_demogen(["NIN_CIFAR10"], address=address, keep_archive=True)
    nin = [f"NIN_CIFAR10/{NIN}/{name}" for name in FILES_OF_A_NETWORK]
    assert files_under(root) == [*nin, "all_model_spec.json"]
    (served / "demogen_models.tar.gz").unlink()
    assert fetch_demogen(["NIN_CIFAR10", "RESNET_CIFAR10"], address=address) == root
    resnet = [f"RESNET_CIFAR10/{RESNET}/{name}" for name in FILES_OF_A_NETWORK]
    assert files_under(root) == [*nin, *resnet, "all_model_spec.json"]
    assert not (root.parent / "archives" / "demogen_models.tar.gz").exists()
    assert fetch_demogen(["RESNET_CIFAR10", "NIN_CIFAR10"], address=address) == root


def test_no_member_of_demogens_archive_is_written_outside(server, tmp_path):
    served, address = server
    strange = [
        f"../../NIN_CIFAR10/{NIN}/../train.json",
        "/NIN_CIFAR10/../train.json",
        "NIN_CIFAR10/nin_../../train.json",
        f"../NIN_CIFAR10/{NIN}/model.ckpt-150000.data-00000-of-00001/../../eval.json",
        f"SVHN/{NIN}/train.json",
        "train.json",
    ]
    good = networks(f"NIN_CIFAR10/{NIN}")
    link = "NIN_CIFAR10/nin_linked/train.json"
    pack_demogen(served, [*strange, *good], link=link)
    before = set(tmp_path.rglob("*"))
    root = fetch_demogen(["NIN_CIFAR10"], address=address)
    assert sorted(root.rglob("*.json")) == [
        *(root / "NIN_CIFAR10" / NIN / name for name in ("eval.json", "train.json")),
        root / "all_model_spec.json",
    ]
    for path in set(tmp_path.rglob("*")) - before:
        assert path.is_relative_to(tmp_path / "cache")


def test_a_damaged_archive_of_demogen_leaves_whole_files_that_are_kept(server, tmp_path):
    served, address = server
    content = np.random.default_rng(0).bytes(100_000)
    pack_demogen(served, networks(f"NIN_CIFAR10/{NIN}"), content=content)
    packed = (served / "demogen_models.tar.gz").read_bytes()
    (served / "demogen_models.tar.gz").write_bytes(packed[: len(packed) // 3])
    with pytest.raises(GengapError, match="demogen_models.tar.gz is damaged .* fetch again"):
        fetch_demogen(["NIN_CIFAR10"], address=address)
    part = tmp_path / "cache" / "demogen" / "NIN_CIFAR10.part"
    kept = sorted(part.rglob("*.*"))
    assert kept and all(file.read_bytes() == content for file in kept if file.is_file())
    times = {file.name: file.stat().st_mtime_ns for file in kept if file.is_file()}
    (tmp_path / "cache" / "archives" / "demogen_models.tar.gz").unlink()
    (served / "demogen_models.tar.gz").write_bytes(packed)
    folder = fetch_demogen(["NIN_CIFAR10"], address=address) / "NIN_CIFAR10" / NIN
    assert sorted(file.name for file in folder.iterdir()) == list(FILES_OF_A_NETWORK)
    assert all((folder / name).stat().st_mtime_ns == time for name, time in times.items())
    assert not part.exists()


def test_an_archive_that_is_not_demogens_and_an_unknown_family_are_refused(server):
    served, address = server
    pack_demogen(served, networks(f"NIN_CIFAR10/{NIN}")[1:])
    with pytest.raises(GengapError, match="lacks all_model_spec.json, RESNET_CIFAR10"):
        fetch_demogen(["NIN_CIFAR10", "RESNET_CIFAR10"], address=address)
    with pytest.raises(GengapError, match="No family 'nin' in DEMOGEN: choose from NIN_CIFAR10"):
        fetch_demogen(["NIN_CIFAR10", "nin"], address=address)


def test_of_two_fetches_at_once_the_second_downloads_nothing(server_of_parts):
    served, address, handler = server_of_parts
    pack(served / "mnist.tar.xz", FILES, content=np.random.default_rng(0).bytes(300_000))
    fetch = partial(fetch_cnnzoo, ["mnist"], address=address)
    with ThreadPoolExecutor(2) as pool:
        roots = [each.result() for each in [pool.submit(fetch), pool.submit(fetch)]]
    assert roots[0] == roots[1]
    assert handler.sent == [(206, 0)]
