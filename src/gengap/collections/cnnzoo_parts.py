"""Parts: a family of the Small CNN Zoo in deflated containers, some tens of networks each.

`part_000050-000099.zip` holds `weights.npy`, `metrics.csv.gz` and `layout.csv` of the networks 50
to 99, each file as it would be of a zoo that has no others. A family's rows are those of its parts
in order. Nothing is unpacked to the disk; in memory are two parts at most.
"""

import math
import re
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import cast

import numpy as np

from gengap.errors import GengapError
from gengap.formats.places import naming, open_zip

NAME = re.compile(r"part_(\d+)-(\d+)\.zip")
WEIGHTS = "weights.npy"
ADVICE = f"a zip file with {WEIGHTS} is expected, fetch it again."


def part_name(networks: range) -> str:
    return f"part_{networks[0]:06d}-{networks[-1]:06d}.zip"


def networks_in(part: Path) -> range:
    """The numbers of a part's networks, which its name tells."""
    first, last = map(int, cast(re.Match, NAME.fullmatch(part.name)).groups())
    return range(first, last + 1)


def part_files(folder: Path) -> list[Path]:
    """The parts of a family in order; GengapError where one between them is missing."""
    found = [file for file in folder.glob("part_*.zip") if NAME.fullmatch(file.name)]
    files = sorted(found, key=lambda file: networks_in(file).start)
    wanted = 0
    for file in files:
        if networks_in(file).start != wanted:
            raise GengapError(
                f"{folder} has {file.name}, but no part that begins with network {wanted}: get all"
                " parts again."
            )
        wanted = networks_in(file).stop
    return files


class Parts:
    """The weights of consecutive parts as one matrix, of which rows can be taken."""

    def __init__(self, files: list[Path]):
        self.files = files
        shapes = [header_in(file)[0] for file in files]
        self.ends = np.cumsum([rows for rows, _ in shapes])
        self.width = shapes[0][1] if shapes else 0

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, rows: int | np.ndarray) -> np.ndarray:
        """A row, or an array of rows in the order asked for; each part is read once."""
        wanted = np.atleast_1d(rows)
        places = np.searchsorted(self.ends, wanted, side="right")
        result = np.empty((len(wanted), self.width), np.float32)
        for place in np.unique(places):
            first = self.ends[place - 1] if place else 0
            here = places == place
            result[here] = weights_in(self.files[place])[wanted[here] - first]
        return result[0] if np.ndim(rows) == 0 else result


def header_in(part: Path) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of a part's matrix, of which only the header is read."""
    with naming(part, ADVICE), open_zip(part) as container, container.open(WEIGHTS) as stream:
        np.lib.format.read_magic(stream)
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        size = math.prod(shape) * dtype.itemsize + stream.tell()
        if size != container.getinfo(WEIGHTS).file_size or min(shape, default=0) < 0:
            raise ValueError(f"its matrix {shape} is not as large as its file")
        return shape, dtype


def weights_in(part: Path) -> np.ndarray:
    """The weight matrix of one part, read-only; the last two that were asked for are kept."""
    header_in(part)
    with naming(part, ADVICE):
        return _decompressed(part, part.stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _decompressed(part: Path, modified: int) -> np.ndarray:
    with zipfile.ZipFile(part) as container, container.open(WEIGHTS) as stream:
        matrix = np.lib.format.read_array(stream, allow_pickle=False)
        stream.read(1)  # its end, where the checksum is compared
    matrix.flags.writeable = False
    return matrix
