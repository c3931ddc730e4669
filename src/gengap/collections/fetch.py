"""Download the published collections, for the profile `published`."""

import gzip
import lzma
import re
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import requests
from tqdm import tqdm

from gengap import folders
from gengap.collections import cnnzoo, demogen, pgdl
from gengap.errors import GengapError

SMALL_CNN_ZOO = "https://storage.googleapis.com/gresearch/smallcnnzoo-dataset/"
PGDL = "https://storage.googleapis.com/gresearch/pgdl/"
DEMOGEN = "https://storage.googleapis.com/margin_dist_public_files/"
SECONDS_OF_SILENCE = 30  # that a server may be silent


def fetch_cnnzoo(
    datasets: Iterable[str] = cnnzoo.DATASETS,
    folder: Path | None = None,
    *,
    address: str = SMALL_CNN_ZOO,
) -> Path:
    """The Small CNN Zoo as its authors published it; returns the folder to open as root.

    30,000 networks a data set at nine checkpoints: 270,000 rows of 4,970 weights, a table of
    metrics and a layout, in one .tar.xz a data set; 5.4 GB of weights each when unpacked. Licence
    CC BY 4.0. Source: README of dnn_predict_accuracy in google-research/google-research, which
    gives no checksums: only the three expected files are taken out of an archive, and their format
    is checked when they are opened. `folder` defaults to `cnnzoo` in the cache; what is there
    already is kept.

    Raises: GengapError for an unknown data set, a failed download or a damaged archive.
    """
    folder = Path(folder or folders.cache() / "cnnzoo")
    for dataset in _known(datasets, cnnzoo.DATASETS, "data set", "the Small CNN Zoo"):
        if not all((folder / dataset / name).exists() for name in cnnzoo.FILES):
            archive = _download(f"{address}{dataset}.tar.xz", folders.cache() / "archives")
            found = _unpack(archive, partial(_file_of_zoo, folder / dataset))
            if lacking := sorted(set(cnnzoo.FILES) - {file.name for file in found}):
                raise GengapError(
                    f"{archive} lacks {', '.join(lacking)}: this is not an archive of the zoo."
                )
    return folder


def fetch_demogen(
    datasets: Iterable[str] = demogen.DEMOGEN.expected_families,
    folder: Path | None = None,
    *,
    address: str = DEMOGEN,
) -> Path:
    """DEMOGEN's networks as their authors published them; returns the folder to open as root.

    756 trained networks of three families in one archive, demogen_models.tar.gz (15.6 GB), which is
    downloaded whole; an interrupted download goes on where it stopped. Taken out of it are, for the
    families that are asked for, train.json, eval.json and the checkpoint of each network, and
    all_model_spec.json. Source: README of demogen in google-research/google-research, which names
    neither checksum nor licence of the archive: it has a checksum of its own, and every checkpoint
    has some, checked when it is read. `folder` defaults to `demogen` in the cache; what is there
    already is kept.

    Raises: GengapError for an unknown family, a failed download or a damaged archive.
    """
    folder = Path(folder or folders.cache() / "demogen")
    families = _known(datasets, demogen.DEMOGEN.expected_families, "family", "DEMOGEN")
    wanted = [family for family in families if not (folder / family).exists()]
    if not wanted:
        return folder
    archive = _download(f"{address}demogen_models.tar.gz", folders.cache() / "archives")
    _unpack(archive, partial(_file_of_demogen, folder, wanted))
    places = {demogen.SPEC: folder / demogen.SPEC}
    places |= {family: _unfinished(folder / family) for family in wanted}
    if lacking := [name for name, place in places.items() if not place.exists()]:
        raise GengapError(f"{archive} lacks {', '.join(lacking)}: this is not DEMOGEN's archive.")
    for family in wanted:
        places[family].replace(folder / family)
    return folder


def fetch_pgdl(
    datasets: Iterable[str] = pgdl.PGDL.expected_families,
    folder: Path | None = None,
    *,
    address: str = PGDL,
) -> Path:
    """PGDL's tasks as the competition published them; returns the folder to open as root.

    Three zip files, read without being unpacked: public_data.zip (8.8 GB: task1_v4, task2_v1),
    phase_one_data.zip (2.5 GB: task4, task5) and phase_two_data.zip (9.0 GB: task6 to task9); 550
    networks with their initial weights and the tasks' training images. Licence Apache 2.0. Source:
    README of google-research/pgdl, which gives no checksums; the zip files have one for each
    member, checked when it is read. `folder` defaults to `pgdl` in the cache; what is there already
    is kept.

    Raises: GengapError for an unknown task, a failed download or a damaged archive.
    """
    folder = Path(folder or folders.cache() / "pgdl")
    tasks = _known(datasets, pgdl.ARCHIVES, "task", "PGDL")
    for archive in dict.fromkeys(pgdl.ARCHIVES[task] for task in tasks):
        file = _download(f"{address}{archive}", folder)
        if not zipfile.is_zipfile(file):
            raise GengapError(f"{file} is damaged or no zip file: delete it and fetch again.")
    return folder


def _known(names: Iterable[str], known: Iterable[str], kind: str, where: str) -> list[str]:
    """The names; GengapError if one is not known."""
    names = list(names)
    for name in names:
        if name not in known:
            raise GengapError(f"No {kind} {name!r} in {where}: choose from {', '.join(known)}.")
    return names


def _download(address: str, folder: Path) -> Path:
    """The file, downloaded unless it is there; what has come of it is kept for the next time."""
    file = folder / address.rpartition("/")[2]
    if file.exists():
        return file
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = _unfinished(file)
    try:
        _go_on_downloading(address, unfinished)
    except (OSError, ValueError) as error:
        raise GengapError(
            f"{address} could not be downloaded ({error}): try again, or download it by hand into"
            f" {folder}."
        ) from error
    finally:
        if unfinished.exists() and not unfinished.stat().st_size:
            unfinished.unlink()
    unfinished.replace(file)
    return file


def _go_on_downloading(address: str, file: Path) -> None:
    """Get the bytes that a file lacks, or all of them where the server sends no parts."""
    file.touch()
    start = max(0, file.stat().st_size - 1)  # the last byte again: an empty part cannot be asked
    request = {"headers": {"Range": f"bytes={start}-", "Accept-Encoding": "identity"}}
    request |= {"stream": True, "timeout": SECONDS_OF_SILENCE}
    with requests.get(address, **request) as response, open(file, "r+b") as out:
        if response.status_code == 416:  # what was kept is longer than the file
            out.truncate(0)
        response.raise_for_status()
        out.seek(start if response.status_code == 206 else 0)
        out.truncate()
        expected = out.tell() + int(response.headers.get("Content-Length", 0))
        with tqdm(total=expected, initial=out.tell(), unit="B", unit_scale=True) as progress:
            for part in response.iter_content(2**16):
                progress.update(out.write(part))
        if out.tell() < expected:
            raise OSError(f"the connection ended after {out.tell()} of {expected} bytes")


def _unfinished(place: Path) -> Path:
    return place.with_name(f"{place.name}.part")


def _unpack(archive: Path, place_of: Callable[[PurePosixPath], Path | None]) -> set[Path]:
    """Take the files out of the archive for which there is a place, and no others.

    Each is written whole or not at all; what is there already stays. Returns their places.
    """
    found, written = set(), set()
    try:
        with tarfile.open(archive) as members:
            for member in members:
                place = place_of(PurePosixPath(member.name))
                if place and member.isfile():
                    if not place.exists():
                        content = members.extractfile(member)
                        folders.write_atomically(place, partial(_copy, content))
                        written.add(place)
                    found.add(place)
            while members.fileobj.read(2**20):  # to its end, where the checksum is
                pass
    except (EOFError, tarfile.TarError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
        for place in written:
            place.unlink()
        raise GengapError(f"{archive} is damaged ({error}): delete it and fetch again.") from error
    except OSError as error:
        raise GengapError(
            f"{archive} could not be unpacked ({error}): fetch again when that is mended; what is"
            " unpacked is kept."
        ) from error
    return found


def _file_of_zoo(folder: Path, member: PurePosixPath) -> Path | None:
    return folder / member.name if member.name in cnnzoo.FILES else None


def _file_of_demogen(folder: Path, families: list[str], member: PurePosixPath) -> Path | None:
    """Where a member belongs, whatever folders DEMOGEN's tree lies in; its own names are kept."""
    if member.name == demogen.SPEC:
        return folder / demogen.SPEC
    family, network = ["", "", *member.parts][-3:-1]
    checkpoint = rf"{re.escape(demogen.CHECKPOINT)}\.(index|data-\d+-of-\d+)"
    wanted = member.name in demogen.RECORDS.values() or re.fullmatch(checkpoint, member.name)
    if family in families and re.fullmatch(r"(nin|resnet)_[\w.]+", network) and wanted:
        return _unfinished(folder / family) / network / member.name
    return None


def _copy(content: BinaryIO, path: Path) -> None:
    with open(path, "wb") as file:
        shutil.copyfileobj(content, file)
