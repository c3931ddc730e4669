import gzip
import hashlib
import io
import json
import os
import re
import struct
import tarfile
import threading
import zlib
from functools import cache, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from gengap import folders
from gengap.errors import GengapError, NotAvailable
from gengap.formats import images
from gengap.formats.images import (
    embedded_images,
    load_images,
    network_inputs,
    per_image_standardization,
)

ARCHIVE = "cifar-10-binary.tar.gz"
REAL = os.environ.get("GENGAP_IMAGES")
BATCHES = [f"data_batch_{i}" for i in range(1, 6)]


@pytest.fixture(autouse=True)
def no_folder_from_outside(monkeypatch, tmp_path):
    monkeypatch.delenv("GENGAP_IMAGES", raising=False)
    monkeypatch.setenv("GENGAP_CACHE", str(tmp_path / "cache"))


def pictures(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def idx(array):
    return struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.tobytes()


def write_mnist(folder, prefix="train", count=7, compress=False):
    folder.mkdir(parents=True, exist_ok=True)
    made = pictures(count, 28, 28), np.arange(count, dtype=np.uint8)
    for kind, array in zip(("images-idx3", "labels-idx1"), made, strict=True):
        path = folder / f"{prefix}-{kind}-ubyte{'.gz' if compress else ''}"
        path.write_bytes(gzip.compress(idx(array)) if compress else idx(array))
    return made


def cifar(count=10, classes=10):
    return pictures(count, 32, 32, 3), np.arange(count) * 7 % classes


def cifar_records(colour, labels, coarse=b""):
    """The binary version's bytes, written plane by plane as its page describes them."""
    content = b""
    for image, label in zip(colour, labels, strict=True):
        planes = (bytes(image[:, :, channel].flatten()) for channel in range(3))
        content += coarse + bytes([label]) + b"".join(planes)
    return content


def write_binary(folder, colour, labels):
    folder.mkdir(parents=True, exist_ok=True)
    for batch, some, their in zip(BATCHES, np.split(colour, 5), np.split(labels, 5), strict=True):
        (folder / f"{batch}.bin").write_bytes(cifar_records(some, their))


def write_sheets(folder, colour, labels):
    folder.mkdir(parents=True, exist_ok=True)
    for batch, some in zip(BATCHES, np.split(colour, 5), strict=True):
        Image.fromarray(some.reshape(-1, 1024, 3)).save(folder / f"{batch}.png")
    (folder / "train_lables.json").write_text(json.dumps(labels.tolist()))


def write_archive(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def archive_members(colour, labels):
    parts = zip(BATCHES, np.split(colour, 5), np.split(labels, 5), strict=True)
    return [(f"cifar-10-batches-bin/{b}.bin", cifar_records(c, n)) for b, c, n in parts]


def assert_same(loaded, expected):
    for array, wanted, dtype in zip(loaded, expected, (np.uint8, np.int64), strict=True):
        assert array.dtype == dtype
        np.testing.assert_array_equal(array, wanted)


def error_of(call, *arguments, kind=GengapError, **options):
    with pytest.raises(kind) as caught:
        call(*arguments, **options)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".")
    return sentence


# Real images: what is known of them from elsewhere

real_images = pytest.mark.skipif(
    not REAL, reason="GENGAP_IMAGES names no folder with the real images"
)


@cache
def real(dataset, split):
    return load_images(dataset, split, root=REAL)


@real_images
@pytest.mark.parametrize(
    ("dataset", "split", "first_labels", "smallest_class", "largest_class"),
    [
        ("mnist", "train", "5041921314", 5421, 6742),
        ("mnist", "test", "7210414959", 892, 1135),
        ("fashion_mnist", "train", "9003027255", 6000, 6000),
        ("fashion_mnist", "test", "9211614657", 1000, 1000),
        ("cifar10", "train", "6994112783", 5000, 5000),
        ("cifar10", "test", "3880661631", 1000, 1000),
    ],
)
def test_the_real_labels_are_in_the_published_order(
    dataset, split, first_labels, smallest_class, largest_class
):
    loaded, labels = real(dataset, split)
    assert "".join(map(str, labels[:10])) == first_labels
    counts = np.bincount(labels)
    assert (counts.min(), counts.max(), counts.sum()) == (
        smallest_class,
        largest_class,
        len(loaded),
    )


@real_images
@pytest.mark.parametrize(
    ("dataset", "mean", "deviation"),
    [
        ("mnist", [0.1307], [0.3081]),
        ("fashion_mnist", [0.2860], [0.3530]),
        ("cifar10", [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
    ],
)
def test_the_real_training_images_have_the_channel_statistics_in_common_use(
    dataset, mean, deviation
):
    loaded, _ = real(dataset, "train")
    values = np.arange(256) / 255
    for channel, pixels in enumerate(loaded.reshape(-1, len(mean)).T):
        share = np.bincount(pixels, minlength=256) / len(pixels)
        found_mean = share @ values
        assert round(found_mean, 4) == mean[channel]
        assert round(np.sqrt(share @ (values - found_mean) ** 2), 4) == deviation[channel]


@real_images
def test_the_first_pixels_of_cifar10_are_in_reading_order_with_channels_last():
    train, test = (real("cifar10", split)[0] for split in ("train", "test"))
    assert train[0, 0, :2].tolist() == [[59, 62, 63], [43, 46, 45]]
    assert test[0, 0, 0].tolist() == [158, 112, 49]


@real_images
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_embedded_images_are_the_first_real_ones(split):
    embedded, labels = embedded_images("fashion_mnist", split)
    all_images, all_labels = real("fashion_mnist", split)
    np.testing.assert_array_equal(embedded, all_images[: len(embedded)])
    np.testing.assert_array_equal(labels, all_labels[: len(labels)])


# The embedded images


def test_a_tenth_of_the_training_images_and_all_test_images_are_embedded():
    for split, count in (("train", 6000), ("test", 10000)):
        embedded, labels = embedded_images("fashion_mnist", split)
        assert embedded.shape == (count, 28, 28) and embedded.dtype == np.uint8
        assert labels.shape == (count,) and set(labels) == set(range(10))


def test_the_embedded_files_are_the_ones_once_cut_from_the_original():
    expected = {
        "train-images-idx3": "6dded81672539b5d148c1a85358069d1808c316dc6f6c0abfd12ba3ced5dd394",
        "train-labels-idx1": "d7c464914ae4b919728c5c99c3cdde5a0259febf1e99ddc6927a15768731d7dc",
        "t10k-images-idx3": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    }
    folder = folders.data() / "replicas" / "images" / "fashion_mnist"
    for name, digest in expected.items():
        content = gzip.decompress((folder / f"{name}-ubyte.gz").read_bytes())
        assert hashlib.sha256(content).hexdigest() == digest


def test_data_sets_that_are_not_embedded_say_where_to_get_them():
    sentence = error_of(embedded_images, "mnist", "train", kind=NotAvailable)
    assert "load_images" in sentence and "GENGAP_IMAGES" in sentence


def test_the_images_of_one_data_set_are_not_taken_for_those_of_another():
    folder = folders.data() / "replicas" / "images" / "fashion_mnist"
    assert "holds fashion_mnist, not mnist" in error_of(load_images, "mnist", "test", root=folder)


# Formats


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("inside", [".", "mnist"])
def test_idx_files_are_read_plain_or_compressed_directly_or_in_a_subfolder(
    tmp_path, compress, inside
):
    expected = write_mnist(tmp_path / inside, "t10k", compress=compress)
    assert_same(load_images("mnist", "test", root=tmp_path), expected)


@pytest.mark.parametrize("folder", [".", "cifar10", "cifar10/cifar-10-batches-bin"])
def test_the_binary_version_of_cifar10_is_read(tmp_path, folder):
    colour, labels = cifar()
    write_binary(tmp_path / folder, colour, labels)
    assert_same(load_images("cifar10", "train", root=tmp_path), (colour, labels))


def test_the_archive_of_cifar10_is_read_whatever_the_order_of_its_members(tmp_path):
    colour, labels = cifar()
    members = archive_members(colour, labels)[::-1]
    write_archive(tmp_path / ARCHIVE, [("../outside.txt", b"not to be unpacked"), *members])
    assert_same(load_images("cifar10", "train", root=tmp_path), (colour, labels))
    assert [path.name for path in tmp_path.iterdir()] == [ARCHIVE]
    assert not (tmp_path.parent / "outside.txt").exists()


def test_the_png_sheets_of_cifar10_hold_the_same_images_in_the_same_order(tmp_path):
    colour, labels = cifar()
    write_sheets(tmp_path, colour, labels)
    assert_same(load_images("cifar10", "train", root=tmp_path), (colour, labels))


@pytest.mark.parametrize("folder", [".", "cifar100", "cifar100/cifar-100-binary", "archive"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_cifar100_has_the_fine_labels_which_come_second(tmp_path, folder, split):
    colour, labels = cifar(count=30, classes=100)
    content = cifar_records(colour, labels, coarse=b"\x07")
    if folder == "archive":
        members = [(f"cifar-100-binary/{split}.bin", content), ("cifar-100-binary/x.txt", b"x")]
        write_archive(tmp_path / "cifar-100-binary.tar.gz", members)
    else:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / f"{split}.bin").write_bytes(content)
    assert labels.max() > 19  # more than there are coarse labels
    assert_same(load_images("cifar100", split, root=tmp_path), (colour, labels))


@pytest.mark.parametrize("split", ["train", "test"])
def test_svhn_has_its_images_first_and_the_digit_zero_as_zero(tmp_path, split):
    made, labels = pictures(12, 32, 32, 3), np.arange(12, dtype=np.uint8) % 10 + 1
    content = {"X": np.moveaxis(made, 0, 3), "y": labels[:, None]}
    savemat(tmp_path / f"{split}_32x32.mat", content, do_compression=True)
    found, digits = load_images("svhn_cropped", split, root=tmp_path)
    np.testing.assert_array_equal(found, made)
    assert digits.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"X": pictures(32, 32, 3, 5)}, "it has no 5 labels y"),
        ({"X": pictures(32, 32, 3, 5), "y": np.ones((4, 1))}, "it has no 5 labels y"),
        ({"X": pictures(32, 16, 3, 5), "y": np.ones((5, 1))}, r"\[32, 16, 3, 5\] uint8, not"),
        ({"X": np.ones((32, 32, 3, 5)), "y": np.ones((5, 1))}, r"5\] double, not"),
        ({"images": pictures(32, 32, 3, 5)}, "not"),
        ({"X": np.zeros((32, 32, 3, 5), np.uint8), "y": np.full((5, 1), 77.5)}, "digits"),
    ],
)
def test_another_matlab_file_is_not_taken_for_svhn(tmp_path, content, reason):
    savemat(tmp_path / "test_32x32.mat", content)
    sentence = error_of(load_images, "svhn_cropped", "test", root=tmp_path)
    assert "test_32x32.mat cannot be read" in sentence
    assert re.search(reason, sentence)


def test_a_damaged_matlab_file_is_one_sentence(tmp_path):
    content = {"X": pictures(32, 32, 3, 5), "y": np.ones((5, 1))}
    savemat(file := tmp_path / "test_32x32.mat", content, do_compression=True)
    whole = file.read_bytes()
    for damaged in (
        whole[:200],
        whole[: len(whole) // 2],
        b"",
        b"x" * 500,
        whole[:140] + whole[150:],
    ):
        file.write_bytes(damaged)
        sentence = error_of(load_images, "svhn_cropped", "test", root=tmp_path)
        assert "test_32x32.mat cannot be read" in sentence


def test_cifar10_in_place_of_cifar100_is_refused(tmp_path):
    (tmp_path / "train.bin").write_bytes(cifar_records(*cifar()))
    assert "no multiple of 3074" in error_of(load_images, "cifar100", "train", root=tmp_path)
    (tmp_path / "train.bin").write_bytes(cifar_records(*cifar(), coarse=b"\0")[:3073] * 3074)
    assert "expected 0 to 99" in error_of(load_images, "cifar100", "train", root=tmp_path)


def test_the_images_can_be_written_to(tmp_path):
    write_mnist(tmp_path)
    write_binary(tmp_path / "cifar10", *cifar())
    for dataset in ("mnist", "cifar10"):
        for array in load_images(dataset, "train", root=tmp_path):
            assert array.flags.writeable


# Which folder


def test_the_environment_variable_names_the_folder_and_the_argument_goes_before_it(
    tmp_path, monkeypatch
):
    expected = write_mnist(tmp_path / "argument", count=5)
    other = write_mnist(tmp_path / "environment", count=9)
    monkeypatch.setenv("GENGAP_IMAGES", str(tmp_path / "environment"))
    assert_same(load_images("mnist", "train"), other)
    assert_same(load_images("mnist", "train", root=tmp_path / "argument"), expected)


def test_a_missing_folder_is_an_error_and_never_passed_over(tmp_path, monkeypatch):
    assert "does not exist" in error_of(load_images, "mnist", "train", root=tmp_path / "none")
    monkeypatch.setenv("GENGAP_IMAGES", str(tmp_path / "none"))
    assert "does not exist" in error_of(load_images, "mnist", "train")


@pytest.mark.parametrize("dataset", images.DATASETS)
def test_a_folder_without_the_files_is_an_error_that_names_one(tmp_path, dataset):
    sentence = error_of(load_images, dataset, "train", root=tmp_path)
    assert str(tmp_path) in sentence
    names = {"cifar10": "data_batch_1.bin", "cifar100": "train.bin"}
    names["svhn_cropped"] = "train_32x32.mat"
    assert names.get(dataset, "train-images-idx3") in sentence
    assert ("tfjs" in sentence) == (dataset == "cifar10")


def test_unknown_names_are_answered_with_the_known_ones():
    assert "fashion_mnist" in error_of(load_images, "svhn", "train")
    assert "test" in error_of(load_images, "mnist", "validation")
    assert "cifar10" in error_of(embedded_images, "svhn", "train")


# Damage: each file is broken in one way, and the sentence names it


def damage_idx(folder, change, name="train-images-idx3-ubyte"):
    path = folder / name
    path.write_bytes(change(path.read_bytes()))
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content[:-1],
        lambda content: content + b"?",
        lambda content: content[:9],
        lambda content: b"",
        lambda content: b"\x1f\x8b" + content[2:],
        lambda content: struct.pack(">I", 0x0801) + content[4:],
        lambda content: content[:8] + struct.pack(">II", 32, 32) + content[16:],
        lambda content: content[:4] + struct.pack(">I", 2**32 - 1) + content[8:],
    ],
    ids=["short", "long", "no header", "empty", "gzip", "labels", "32 x 32", "too many"],
)
def test_a_damaged_idx_file_is_named(tmp_path, change):
    write_mnist(tmp_path)
    path = damage_idx(tmp_path, change)
    sentence = error_of(load_images, "mnist", "train", root=tmp_path)
    assert f"{path} cannot be read" in sentence


@pytest.mark.parametrize("keep", [5, 200, -4])
def test_a_truncated_gzip_file_is_named(tmp_path, keep):
    write_mnist(tmp_path, compress=True)
    path = damage_idx(tmp_path, lambda content: content[:keep], "train-images-idx3-ubyte.gz")
    assert f"{path} cannot be read" in error_of(load_images, "mnist", "train", root=tmp_path)


def test_a_flipped_byte_in_a_gzip_file_is_noticed(tmp_path):
    write_mnist(tmp_path, compress=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    assert f"{path} cannot be read" in error_of(load_images, "mnist", "train", root=tmp_path)


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    write_mnist(tmp_path, count=7)
    labels = np.zeros(6, dtype=np.uint8)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(labels))
    assert "7 train images but 6" in error_of(load_images, "mnist", "train", root=tmp_path)


def test_labels_beyond_the_ten_classes_are_refused(tmp_path):
    write_mnist(tmp_path, count=11)
    assert "from 0 to 10" in error_of(load_images, "mnist", "train", root=tmp_path)


@pytest.mark.parametrize("content", [b"", b"12345", bytes(3072)])
def test_a_damaged_binary_batch_is_named(tmp_path, content):
    write_binary(tmp_path, *cifar())
    (tmp_path / "data_batch_3.bin").write_bytes(content)
    assert "data_batch_3.bin" in error_of(load_images, "cifar10", "train", root=tmp_path)


def test_a_missing_batch_is_named(tmp_path):
    write_binary(tmp_path, *cifar())
    (tmp_path / "data_batch_5.bin").unlink()
    sentence = error_of(load_images, "cifar10", "train", root=tmp_path)
    assert "data_batch_5.bin is missing" in sentence


def test_an_archive_that_lacks_a_batch_says_which(tmp_path):
    write_archive(tmp_path / ARCHIVE, archive_members(*cifar())[:4])
    assert "lacks" in error_of(load_images, "cifar10", "train", root=tmp_path)


def test_a_link_in_an_archive_is_not_followed(tmp_path):
    path = tmp_path / ARCHIVE
    with tarfile.open(path, "w:gz") as archive:
        link = tarfile.TarInfo("cifar-10-batches-bin/test_batch.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
    assert "not a plain file" in error_of(load_images, "cifar10", "test", root=tmp_path)


@pytest.mark.parametrize("keep", [10, 0.5, 0.95])
def test_a_truncated_archive_is_named(tmp_path, keep):
    path = tmp_path / ARCHIVE
    write_archive(path, archive_members(*cifar()))
    content = path.read_bytes()
    path.write_bytes(content[: int(keep if keep > 1 else keep * len(content))])
    assert f"{path} cannot be read" in error_of(load_images, "cifar10", "train", root=tmp_path)


def picture_file(array, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        picture_file(pictures(2, 1024, 3))[:-2000],
        picture_file(pictures(4, 512, 3)),
        picture_file(pictures(6, 1024)),
        picture_file(pictures(2, 1024, 3), "BMP"),
    ],
    ids=["empty", "truncated", "narrow", "grey", "not a PNG"],
)
def test_a_damaged_sheet_is_named(tmp_path, content):
    write_sheets(tmp_path, *cifar())
    (tmp_path / "data_batch_2.png").write_bytes(content)
    assert "data_batch_2.png cannot be read" in error_of(
        load_images, "cifar10", "train", root=tmp_path
    )


@pytest.mark.parametrize(("height", "reason"), [(2**16, "(1024, 65536) pixels"), (2**20, "bomb")])
def test_a_sheet_that_promises_too_many_pixels_is_refused_before_it_is_decoded(
    tmp_path, height, reason
):
    write_sheets(tmp_path, *cifar())
    content = bytearray(picture_file(pictures(1, 1024, 3)))
    content[20:24] = struct.pack(">I", height)  # in PNG's header chunk
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (tmp_path / "data_batch_1.png").write_bytes(content)
    limit = Image.MAX_IMAGE_PIXELS
    sentence = error_of(load_images, "cifar10", "train", root=tmp_path)
    assert "data_batch_1.png cannot be read" in sentence and reason in sentence
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("text", ["", "[1, 2", '{"labels": 1}', "[1.5, 2.5]", "[[1], [2, 3]]"])
def test_a_damaged_list_of_labels_is_named(tmp_path, text):
    write_sheets(tmp_path, *cifar())
    (tmp_path / "train_lables.json").write_text(text)
    assert "train_lables.json cannot be read" in error_of(
        load_images, "cifar10", "train", root=tmp_path
    )


# Downloads, from a server on this machine


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A folder whose files are served as the official source of every data set."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(QuietHandler, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        address = f"http://127.0.0.1:{running.server_port}/"
        for dataset in images.DATASETS:
            monkeypatch.setitem(images.KNOWN[dataset], "address", address)
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield folder
        running.shutdown()


def announce(monkeypatch, dataset, folder):
    """Makes the checksums of what is served the official ones."""
    digests = {p.name: hashlib.md5(p.read_bytes()).hexdigest() for p in folder.iterdir()}
    monkeypatch.setitem(images.KNOWN[dataset], "md5", digests)


def test_a_download_is_checked_and_fetched_only_once(server, monkeypatch):
    expected = write_mnist(server, compress=True)
    announce(monkeypatch, "mnist", server)
    assert_same(load_images("mnist", "train"), expected)
    for path in server.iterdir():
        path.unlink()
    assert_same(load_images("mnist", "train"), expected)
    assert_same(load_images("mnist", "train", download=False), expected)


def test_the_archive_of_cifar10_is_downloaded(server, monkeypatch):
    expected = cifar()
    write_archive(server / ARCHIVE, archive_members(*expected))
    announce(monkeypatch, "cifar10", server)
    assert_same(load_images("cifar10", "train"), expected)


def test_a_wrong_checksum_is_told_and_nothing_is_kept(server):
    write_mnist(server, compress=True)
    sentence = error_of(load_images, "mnist", "train")
    assert "has not the checksum md5:f68b3c2dcbeaaa9fbdd348bbdeb94873" in sentence
    assert not list((folders.cache() / "images" / "mnist").iterdir())


def test_a_damaged_file_in_the_cache_is_fetched_again(server, monkeypatch):
    expected = write_mnist(server, compress=True)
    announce(monkeypatch, "mnist", server)
    load_images("mnist", "train")
    cached = folders.cache() / "images" / "mnist" / "train-images-idx3-ubyte.gz"
    cached.write_bytes(b"damaged")
    assert_same(load_images("mnist", "train"), expected)


def test_a_source_without_the_file_is_told_with_what_to_do(server):
    sentence = error_of(load_images, "fashion_mnist", "train")
    assert "127.0.0.1" in sentence and "HTTPError" in sentence and "GENGAP_IMAGES" in sentence


def test_without_a_connection_the_sentence_says_what_to_do(monkeypatch):
    monkeypatch.setitem(images.KNOWN["mnist"], "address", "http://127.0.0.1:9/")
    sentence = error_of(load_images, "mnist", "train")
    assert "ConnectionError" in sentence and "GENGAP_IMAGES" in sentence


def test_an_empty_cache_is_told_when_downloading_is_off():
    sentence = error_of(load_images, "cifar10", "train", download=False)
    assert "downloading is off" in sentence and "GENGAP_IMAGES" in sentence


# Inputs of the networks


def test_network_inputs_are_grey_in_minus_one_to_one():
    inputs = network_inputs(np.array([[[0, 255], [51, 204]]], dtype=np.uint8))
    assert inputs.shape == (1, 1, 2, 2) and inputs.dtype == np.float32
    np.testing.assert_allclose(inputs[0, 0], [[-1, 1], [-0.6, 0.6]], atol=1e-7)


def test_the_grey_of_a_colour_is_the_plain_mean_of_its_channels():
    colour = pictures(5, 4, 3, 3)
    expected = colour.astype(np.float64).mean(axis=3) / 127.5 - 1
    np.testing.assert_allclose(network_inputs(colour)[:, 0], expected, atol=2e-7)


def test_a_grey_picture_in_colour_gives_the_same_inputs():
    grey = pictures(5, 4, 3)
    np.testing.assert_array_equal(network_inputs(np.stack([grey] * 3, 3)), network_inputs(grey))


def test_network_inputs_leave_the_images_untouched():
    grey = pictures(5, 4, 3)
    before = grey.copy()
    network_inputs(grey)
    np.testing.assert_array_equal(grey, before)


@pytest.mark.parametrize(
    "wrong", [np.zeros((2, 4, 4)), np.zeros((2, 4, 4, 4), np.uint8), np.zeros((4, 4), np.uint8)]
)
def test_network_inputs_say_which_arrays_they_expect(wrong):
    sentence = error_of(network_inputs, wrong)
    assert str(wrong.dtype) in sentence and str(wrong.shape) in sentence


# Inputs standardized image by image


def test_standardized_images_are_those_of_tensorflow(reference):
    for file in sorted((reference / "golden" / "demogen").glob("*/*/expected.npz")):
        golden = np.load(file)
        found = per_image_standardization(golden["images"])
        assert found.dtype == np.float32 and found.shape == (64, 3, 32, 32)
        expected = golden["standardized"].transpose(0, 3, 1, 2)
        np.testing.assert_allclose(found[:4], expected, rtol=1e-6, atol=1e-6)


def test_a_standardized_image_has_mean_0_and_deviation_1():
    colour = pictures(5, 6, 4, 3) // np.arange(1, 6, dtype=np.uint8)[:, None, None, None]
    inputs = per_image_standardization(colour).astype(np.float64)
    np.testing.assert_allclose(inputs.mean(axis=(1, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(inputs.std(axis=(1, 2, 3)), 1, atol=1e-6)


def test_the_deviation_of_a_standardized_image_has_a_floor():
    images = np.full((2, 32, 32, 3), 255, np.uint8)
    images[1, 0, 0, 0] = 254  # population deviation about 1/3072**0.5: just below the floor
    inputs = per_image_standardization(images)
    assert (inputs[0] == 0).all()
    np.testing.assert_allclose(inputs[1, 0, 0, 0], (1 / 3072 - 1) * 3072**0.5, rtol=1e-5)


def test_standardized_images_leave_the_images_untouched():
    colour = pictures(5, 4, 3, 3)
    before = colour.copy()
    per_image_standardization(colour)
    np.testing.assert_array_equal(colour, before)


@pytest.mark.parametrize("wrong", [np.zeros((2, 4, 4, 3)), np.zeros((2, 4, 4), np.uint8)])
def test_standardization_says_which_arrays_it_expects(wrong):
    sentence = error_of(per_image_standardization, wrong)
    assert str(wrong.dtype) in sentence and str(wrong.shape) in sentence
