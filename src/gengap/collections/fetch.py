"""Download the published collections, for the profile `published`."""

import gzip
import json
import lzma
import re
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

import requests
from remotezip import RemoteZip, RemoteZipError
from tqdm import tqdm

from gengap import folders
from gengap.collections import cnnzoo, demogen, pgdl, robust_measures
from gengap.collections.downloads import alone, archive_of, unfinished
from gengap.errors import GengapError
from gengap.formats.images import DATASETS, SPLITS, cached_folder

SMALL_CNN_ZOO = "https://storage.googleapis.com/gresearch/smallcnnzoo-dataset/"
PGDL = "https://storage.googleapis.com/gresearch/pgdl/"
DEMOGEN = "https://storage.googleapis.com/margin_dist_public_files/"
ROBUST = "https://raw.githubusercontent.com/nitarshan/robust-generalization-measures/master/data/"
TASKS = pgdl.PGDL.expected_families
UNPACKED = 1.1  # of an archive of weights, which hardly shrink: room for what is taken out of it


def fetch_cnnzoo(
    datasets: Iterable[str] = cnnzoo.DATASETS,
    folder: Path | None = None,
    *,
    keep_archive: bool = False,
    address: str = SMALL_CNN_ZOO,
) -> Path:
    """The Small CNN Zoo as its authors published it; returns the folder to open as root.

    30,000 networks a data set at nine checkpoints: 270,000 rows of 4,970 weights, a table of
    metrics and a layout, in one .tar.xz a data set; 5.4 GB of weights each when unpacked. Licence
    CC BY 4.0. Source: README of dnn_predict_accuracy in google-research/google-research, which
    gives no checksums: only the three expected files are taken out of an archive, and their format
    is checked when they are opened. `folder` defaults to `cnnzoo` in the cache; what is there
    already is kept. The archive is deleted when it is unpacked, unless `keep_archive`.

    Raises: GengapError for an unknown data set, a failed download or a damaged archive.
    """
    folder = Path(folder or folders.cache() / "cnnzoo")
    for dataset in _known(datasets, cnnzoo.DATASETS, "data set", "the Small CNN Zoo"):
        places = [folder / dataset / name for name in cnnzoo.FILES]
        with alone(f"{dataset}.tar.xz"):
            if all(place.exists() for place in places):
                continue
            with _unpacking(f"{address}{dataset}.tar.xz", keep_archive) as archive:
                found = _unpack(archive, partial(_file_of_zoo, folder / dataset))
                if lacking := sorted({*places} - found):
                    raise GengapError(
                        f"{archive} lacks {', '.join(place.name for place in lacking)}: this is"
                        " not an archive of the zoo."
                    )
    return folder


def fetch_demogen(
    datasets: Iterable[str] = demogen.DEMOGEN.expected_families,
    folder: Path | None = None,
    *,
    keep_archive: bool = False,
    address: str = DEMOGEN,
) -> Path:
    """DEMOGEN's networks as their authors published them; returns the folder to open as root.

    756 trained networks of three families in one archive, demogen_models.tar.gz (15.6 GB), which is
    downloaded whole; an interrupted download goes on where it stopped. Taken out of it are, for the
    families that are asked for, train.json, eval.json and the checkpoint of each network, and
    all_model_spec.json. Source: README of demogen in google-research/google-research, which names
    neither checksum nor licence of the archive: it has a checksum of its own, and every checkpoint
    has some, checked when it is read. `folder` defaults to `demogen` in the cache; what is there
    already is kept. The archive is deleted when it is unpacked, unless `keep_archive`: keep it to
    take more families out of it later.

    Raises: GengapError for an unknown family, a failed download or a damaged archive.
    """
    folder = Path(folder or folders.cache() / "demogen")
    families = _known(datasets, demogen.DEMOGEN.expected_families, "family", "DEMOGEN")
    with alone("demogen_models.tar.gz"):
        wanted = [family for family in families if not (folder / family).exists()]
        if not wanted:
            return folder
        with _unpacking(f"{address}demogen_models.tar.gz", keep_archive) as archive:
            _unpack(archive, partial(_file_of_demogen, folder, wanted))
            places = {demogen.SPEC: folder / demogen.SPEC}
            places |= {family: unfinished(folder / family) for family in wanted}
            if lacking := [name for name, place in places.items() if not place.exists()]:
                raise GengapError(f"{archive} is not DEMOGEN's: it lacks {', '.join(lacking)}.")
            for family in wanted:
                places[family].replace(folder / family)
    return folder


def fetch_pgdl(
    datasets: Iterable[str] = TASKS, folder: Path | None = None, *, address: str = PGDL
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
        with alone(archive), archive_of(f"{address}{archive}", folder) as file:
            if not zipfile.is_zipfile(file):
                raise GengapError(f"{file} is damaged or no zip file: delete it and fetch again.")
    return folder


def fetch_pgdl_part(
    datasets: Iterable[str] = TASKS, folder: Path | None = None, *, models: int, address: str = PGDL
) -> Path:
    """The first networks of PGDL's tasks, and their images, out of the archives on the server.

    models: how many of each task, by ascending id. Only these members of the zip files are
    transferred, where the server sends parts of files; each is checked by its CRC. Of
    model_configs.json the rest is left out. `folder` defaults to `pgdl-part` in the cache; what is
    there already is kept. Format and source: see `fetch_pgdl`.

    Raises: GengapError for an unknown task, or a server that does not send such parts.
    """
    folder = Path(folder or folders.cache() / "pgdl-part")
    for task in _known(datasets, pgdl.ARCHIVES, "task", "PGDL"):
        source = f"{address}{pgdl.ARCHIVES[task]}"
        try:
            with RemoteZip(source) as archive:
                _take_part(archive, task, models, folder)
        except (OSError, RemoteZipError, zipfile.BadZipFile, requests.RequestException) as error:
            raise GengapError(
                f"parts of {source} could not be read ({error}): try again, or fetch the whole"
                " archive, without --models."
            ) from error
    return folder


def fetch_robust_measures(folder: Path | None = None, *, address: str = ROBUST) -> Path:
    """The table of Dziugaite et al. 2020; returns the folder to open as root.

    One CSV file with measures and gaps of 10,000 networks. `folder` defaults to `robust-measures`
    in the cache. Source: nitarshan/robust-generalization-measures, Apache 2.0.

    Raises: GengapError for a failed download.
    """
    folder = Path(folder or folders.cache() / "robust-measures")
    file = robust_measures.FILE
    with alone(file), archive_of(f"{address}{file}", folder):
        return folder


def fetch_images(datasets: Iterable[str] = DATASETS) -> Path:
    """Image data sets, into the cache; returns its folder.

    Raises: GengapError for an unknown data set or a failed download.
    """
    for dataset in _known(datasets, DATASETS, "data set", "the image data sets"):
        for split in SPLITS:
            cached_folder(dataset, split)
    return folders.cache() / "images"


def _known(names: Iterable[str], known: Iterable[str], kind: str, where: str) -> list[str]:
    """The names; GengapError if one is not known."""
    names = list(names)
    for name in names:
        if name not in known:
            raise GengapError(f"No {kind} {name!r} in {where}: choose from {', '.join(known)}.")
    return names


@contextmanager
def _unpacking(address: str, keep: bool) -> Iterator[Path]:
    """An archive in the cache, deleted in the end unless it is to be kept."""
    with archive_of(address, folders.cache() / "archives", unpacked=UNPACKED) as archive:
        yield archive
    if not keep:
        archive.unlink(missing_ok=True)


def _take_part(archive: zipfile.ZipFile, task: str, models: int, folder: Path) -> None:
    """Write the first models of a task, its images, and their part of model_configs.json."""
    inside = re.compile(rf"(?:.*/)?((?:input|reference)_data/{re.escape(task)}/[^.].*)")
    found = ((inside.fullmatch(member.filename), member) for member in archive.infolist())
    members = {match[1]: member for match, member in found if match and not member.is_dir()}
    configs = f"reference_data/{task}/model_configs.json"
    if configs not in members:
        raise GengapError(f"{archive.filename} holds no {task}: this is not an archive of PGDL.")
    take = partial(_take_member, archive)
    take(members[configs], whole := unfinished(folder / configs))
    try:
        specs = pgdl.read_configs(whole)
    finally:
        whole.unlink()
    chosen = pgdl.in_order(specs)[:models]
    parts = ("dataset_1", *(f"model_{number}" for number in chosen))
    wanted = [name for name in members if name.split("/")[2] in parts and ".." not in name]
    for name in tqdm(wanted, desc=task, unit="file"):
        if not (folder / name).exists():
            take(members[name], folder / name)
    text = json.dumps({number: specs[number] for number in chosen})
    folders.write_atomically(folder / configs, lambda place: place.write_text(text))


def _take_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, place: Path) -> None:
    with archive.open(member) as content:
        _write(place, content)


def _unpack(archive: Path, place_of: Callable[[PurePosixPath], Path | None]) -> set[Path]:
    """Take the files out of the archive for which there is a place, and no others.

    Each is written whole or not at all; what is there already stays. Returns their places.
    """
    found, written = set(), set()
    try:
        with tarfile.open(archive) as members:
            for member in members:
                place = place_of(PurePosixPath(member.name))
                if place and member.isfile() and (content := members.extractfile(member)):
                    if not place.exists():
                        _write(place, content)
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
        return unfinished(folder / family) / network / member.name
    return None


def _write(place: Path, content: IO[bytes]) -> None:
    def copy(path: Path) -> None:
        with open(path, "wb") as file:
            shutil.copyfileobj(content, file)

    folders.write_atomically(place, copy)
