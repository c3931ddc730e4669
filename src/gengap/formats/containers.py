"""Zip files that hold a collection's files, read as if each member lay in the zip file's place.

Nothing is unpacked to the disk.
"""

import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gengap.folders import write_atomically
from gengap.formats.places import naming, open_zip

SUFFIX = ".zip"


@dataclass(frozen=True)
class Member:
    """A file in a container; it is written, in messages too, as a path below the container."""

    container: Path
    name: str

    def read_bytes(self) -> bytes:
        with open_zip(self.container) as archive:
            return archive.read(self.name)

    def __str__(self) -> str:
        return f"{self.container}/{self.name}"


def files_below(root: Path, endings: tuple[str, ...]) -> Iterator[tuple[str, Path | Member]]:
    """Path below the root and file, of all files and members whose names have such an ending.

    Files whose names begin with a dot, as those do that are still being written, are left out.
    Raises: GengapError that names a container that cannot be read.
    """
    for file in sorted(root.rglob("*")):
        if file.name.startswith("."):
            continue
        if file.name.endswith(endings):
            yield file.relative_to(root).as_posix(), file
        elif file.suffix == SUFFIX:
            folder = file.parent.relative_to(root)
            with naming(file), open_zip(file) as archive:
                names = archive.namelist()
            for name in names:
                if name.endswith(endings):
                    yield (folder / name).as_posix(), Member(file, name)


def write_container(file: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Write a container of members, name and content, deflated; it is whole or not there.

    Equal members make equal bytes: all have the date that ZipInfo has of itself, in 1980.
    """

    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members:
                member = zipfile.ZipInfo(name)
                member.external_attr = 0o644 << 16  # who may read it where it is unpacked
                archive.writestr(member, content, zipfile.ZIP_DEFLATED, 9)

    write_atomically(file, write)
