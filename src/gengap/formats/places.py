"""Files and folders on disk or in a zip file: how they are opened, and errors that name them.

Only plain files are read, and of a packed one no more than MOST times its size. Within `naming`
nothing but a GengapError is raised, whatever is in the file.
"""

import gzip
import json
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from gengap.errors import GengapError, NotAvailable, reason_of

Place = Path | zipfile.Path  # a folder or file, on disk or in a zip file
FEW = 2**26  # bytes that any packed file may have
MOST = 50  # bytes that each byte of a larger packed file may become; of real ones it is below 10
DEEPEST = 64  # folders in the name of a member of a zip file
PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # methods whose memory is bounded as it is read
BLOCK = 2**20  # bytes that are read at once


@contextmanager
def naming(file, advice="get it again", wrong="it is truncated or damaged") -> Iterator[Any]:
    """Names the file, or the zip file and its member, in whatever goes wrong while it is read."""
    try:
        on_disk = getattr(file, "container", file)
        found = isinstance(on_disk, Path) and on_disk.exists()
        if found and not (on_disk.is_file() or on_disk.is_dir()):
            raise GengapError("it is no plain file, but a pipe or a device; give a plain file")
        yield file
    except NotAvailable as missing:
        raise NotAvailable(f"{file.name}: {missing}") from missing
    except GengapError as error:
        raise GengapError(f"{file}: {error}") from error
    except FileNotFoundError as error:
        raise GengapError(f"{file} is missing; {advice}") from error
    except Exception as error:  # damaged bytes raise dozens of kinds
        sentence = type(error) in (ValueError, KeyError) or getattr(error, "errno", None)
        said = "" if sentence else f", {wrong}"
        raise GengapError(f"{file} cannot be read{said} ({reason_of(error)}); {advice}") from error


def unpacked_size(packed: int) -> int:
    """The most bytes that so many packed ones may become."""
    return max(FEW, MOST * packed)


def size_of(file: Place) -> int:
    """Bytes, of a member of a zip file unpacked."""
    if not file.exists():
        raise FileNotFoundError(file)
    return file.stat().st_size if isinstance(file, Path) else file.root.getinfo(file.at).file_size


def read_json(file: Place, advice: str = "get it again") -> Any:
    """What a JSON file holds; GengapError that names it if it is damaged or has a name twice."""
    with naming(file, advice):
        return json.loads(file.read_bytes(), object_pairs_hook=_without_repetition)


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r} stands there twice")
        found[name] = value
    return found


def gunzipped(file: Place) -> bytes:
    """The content of a gzip file, read to its end, where the checksum is."""
    most = unpacked_size(size_of(file))
    with file.open("rb") as packed, gzip.open(packed) as stream:
        return read_up_to(stream, most, f"it unpacks to more than {most} bytes")


def read_up_to(stream: IO[bytes] | gzip.GzipFile, most: int, too_long: str | None = None) -> bytes:
    """At most so many bytes, of which none is allocated that is not there.

    too_long: what ValueError says where there are more; without it the others are left.
    """
    parts, left = [], most
    while left and (part := stream.read(min(left, BLOCK))):
        parts.append(part)
        left -= len(part)
    if too_long and stream.read(1):
        raise ValueError(too_long)
    return b"".join(parts)


@contextmanager
def memory_for(size: int) -> Iterator[None]:
    """Within it, this process gets the memory that a file of so many bytes needs, and no more.

    For libraries that allocate what damaged bytes declare, as HDF5 does; on Linux alone.
    """
    if sys.platform != "linux":
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    pages = int(Path("/proc/self/statm").read_text().split()[5])
    most = pages * resource.getpagesize() + 4 * FEW + 2 * unpacked_size(size)
    limits = [limit for limit in (soft, hard, most) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(limits), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def open_zip(file: Path | IO[bytes]) -> zipfile.ZipFile:
    """A zip file whose members can be read one by one; ValueError where they cannot.

    Each must be stored or deflated, declare no more than `unpacked_size` and have a name of its own
    that leads into the zip file, and together they must not be larger than the file.
    """
    archive = zipfile.ZipFile(file)
    members = archive.infolist()
    if len({member.filename for member in members}) < len(members):
        raise ValueError("it has two members of one name")
    packed, size = archive.start_dir, sum(member.file_size for member in members)
    if sum(member.compress_size for member in members) > packed or size > unpacked_size(packed):
        raise ValueError(f"{packed} bytes cannot hold its members of {size}")
    for member in members:
        what, parts = f"its member {member.filename[:100]!r}", member.filename.split("/")
        if len(parts) > DEEPEST or {"", ".", ".."} & {*parts[:-1]} or "\\" in member.filename:
            raise ValueError(f"{what} has a name that is no path into it")
        if member.compress_type not in PACKED or member.flag_bits & 1:
            raise ValueError(
                f"{what} is neither stored nor deflated, or is encrypted: pack it anew"
            )
        if member.file_size > unpacked_size(member.compress_size):
            raise ValueError(f"{what} has {member.compress_size} bytes and says {member.file_size}")
    return archive
