"""Downloads of published archives: resumed, one at a time, checked, and with room on the disk."""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
from filelock import FileLock
from tqdm import tqdm

from gengap import folders
from gengap.errors import GengapError

SECONDS_OF_SILENCE = 30  # that a server may be silent


@contextmanager
def archive_of(address: str, folder: Path, *, unpacked: float = 0) -> Iterator[Path]:
    """The file at an address, downloaded into a folder unless it is there; for who is `alone`.

    unpacked: how much room what is taken out of it needs, in sizes of the archive. What has come of
    an interrupted download is kept for the next time. The SHA-256 of the file is recorded in the
    cache when its user has found nothing wrong with it, and a later download from the same address
    must have the same.

    Raises:
        GengapError: if it cannot be downloaded, there is no room for it, or it is another file than
            the first time.
    """
    file = folder / address.rpartition("/")[2]
    record = folders.cache() / "checksums" / f"{file.name}.sha256"
    if not file.exists():
        _download(address, file, unpacked)
    if record.exists():
        _check_against(record, file, address)
        yield file
    else:
        yield file
        text = f"{_sha256(file)} {address}\n"
        folders.write_atomically(record, lambda place: place.write_text(text))


def _check_against(record: Path, file: Path, address: str) -> None:
    first, origin = record.read_text().split()
    if origin == address and (checksum := _sha256(file)) != first:
        raise GengapError(
            f"{file} is not what came first from {address}: its SHA-256 is {checksum}, not"
            f" {first}. Delete it and fetch again; if the authors have changed their archive,"
            f" delete {record} too."
        )


def alone(archive: str) -> FileLock:
    """While it is held, no other process or thread fetches the archive: they wait."""
    (locks := folders.cache() / "locks").mkdir(parents=True, exist_ok=True)
    return FileLock(locks / archive)


def unfinished(place: Path) -> Path:
    """Where a file or folder lies until it is whole."""
    return place.with_name(f"{place.name}.part")


def _download(address: str, file: Path, unpacked: float) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = unfinished(file)
    try:
        _go_on_downloading(address, part, unpacked)
    except (OSError, ValueError) as error:
        raise GengapError(
            f"{address} could not be downloaded ({error}): try again, or download it by hand into"
            f" {file.parent}."
        ) from error
    finally:
        if part.exists() and not part.stat().st_size:
            part.unlink()
    part.replace(file)


def _go_on_downloading(address: str, file: Path, unpacked: float) -> None:
    """Get the bytes that a file lacks, or all of them where the server sends no parts."""
    file.touch()
    start = max(0, file.stat().st_size - 1)  # the last byte again: an empty part cannot be asked
    headers = {"Range": f"bytes={start}-", "Accept-Encoding": "identity"}
    asked = requests.get(address, headers=headers, stream=True, timeout=SECONDS_OF_SILENCE)
    with asked as response, open(file, "r+b") as out:
        if response.status_code == 416:  # what was kept is longer than the file
            out.truncate(0)
        response.raise_for_status()
        out.seek(start if response.status_code == 206 else 0)
        out.truncate()
        expected = out.tell() + int(response.headers.get("Content-Length", 0))
        _check_room(address, file, expected - out.tell() + unpacked * expected)
        with tqdm(total=expected, initial=out.tell(), unit="B", unit_scale=True) as progress:
            for part in response.iter_content(2**16):
                progress.update(out.write(part))
        if out.tell() < expected:
            raise OSError(f"the connection ended after {out.tell()} of {expected} bytes")


def _check_room(address: str, file: Path, needed: float) -> None:
    if needed > (free := shutil.disk_usage(file.parent).free):
        raise GengapError(
            f"{address} needs {needed / 1e9:,.2f} GB in {file.parent}, for what is still to come"
            f" and what is taken out of it, and {free / 1e9:,.2f} GB are free: make room, or name"
            " another folder (GENGAP_CACHE, --folder)."
        )


def _sha256(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
