"""Checkpoints of TensorFlow 1, format V2, read without TensorFlow.

`<prefix>.index` is a sorted table in LevelDB's layout: blocks of prefix-compressed keys, each with
a masked CRC-32C, an index block that says where they lie, and a footer. Under the empty key it
holds a `BundleHeaderProto`, under the name of each variable a `BundleEntryProto`: type, shape, and
where in `<prefix>.data-0000k-of-0000n` its bytes are, with their masked CRC-32C.

Format: TensorFlow's tensor_bundle.proto, tensor_bundle.h and lib/io/table_format.txt.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gengap.formats.places import naming, read_up_to, unpacked_size
from gengap.formats.protobuf import content_of, fields_of, masked_checksum, tensor_shape, varint

MAGIC = 0xDB4775248B80FB57
FOOTER = 48  # bytes: two block handles, padded to 40, then the magic number
TRAILER = 5  # bytes after a block: its compression, then the checksum of block and compression
PLAIN, SNAPPY = 0, 1
DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8"}  # TensorFlow's types.proto
ADVICE = "get the checkpoint again"
# Fields of BundleHeaderProto and of BundleEntryProto.
NUM_SHARDS, ENDIANNESS = 1, 2
DTYPE, SHAPE, SHARD, OFFSET, SIZE, CHECKSUM, SLICES = 1, 2, 3, 4, 5, 6, 7


def read_checkpoint(
    prefix: str | Path, names: Iterable[str] | None = None
) -> dict[str, np.ndarray]:
    """The variables of these names, or all, as stored: float32, float64, int32 or int64.

    prefix: the path without `.index`. Of the data files only the bytes of these variables are read;
    others, such as an optimizer's, may be of any type.

    Raises: GengapError that names the file, and the variable where it is about one: a missing,
    truncated or damaged file, a compressed or big-endian one, a variable that is not there.
    """
    index = Path(f"{prefix}.index")
    with naming(index, ADVICE):
        entries, shards = _read_index(index.read_bytes())
        wanted = list(entries if names is None else names)
        if lacking := [name for name in wanted if name not in entries]:
            raise ValueError(f"it has no variable {', '.join(lacking)}")
        places = {name: _place(name, entries[name]) for name in wanted}
        numbers = sorted({place.shard for place in places.values()})
        files = {number: Path(f"{prefix}.data-{number:05}-of-{shards:05}") for number in numbers}
    # Before reading: damaged sizes must not ask for more memory than the files could fill.
    for number, file in files.items():
        with naming(file, ADVICE):
            size, here = file.stat().st_size, [n for n in places if places[n].shard == number]
            for name in here:
                if places[name].offset + places[name].size > size:
                    raise ValueError(f"it is truncated in variable {name}")
            if sum(places[name].size for name in here) > size:
                raise ValueError("its variables lie upon each other")
    return {name: _read_variable(files[place.shard], name, place) for name, place in places.items()}


@dataclass(frozen=True)
class Place:
    """Where a variable lies."""

    dtype: np.dtype
    shape: tuple[int, ...]
    shard: int
    offset: int  # bytes from the start of the shard
    checksum: int

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def _read_index(content: bytes) -> tuple[dict[str, memoryview], int]:
    """Each variable's BundleEntryProto by name, and the number of data files."""
    table, last, held = {}, None, 0
    for key, entry in _table(memoryview(content)):
        held += len(key)
        if (last is not None and key <= last) or held > unpacked_size(len(content)):
            raise ValueError("its names are not in order, or longer than it can hold")
        table[key], last = entry, key
    header = dict(fields_of(table.pop(b"", memoryview(b""))))
    if header.get(ENDIANNESS, 0):
        raise ValueError("its numbers are big-endian; only little-endian ones are read")
    return {name.decode(): entry for name, entry in table.items()}, header.get(NUM_SHARDS, 0)


def _table(content: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Keys and values of a whole table."""
    footer = content[-FOOTER:]
    if len(footer) < FOOTER or int.from_bytes(footer[-8:], "little") != MAGIC:
        raise ValueError("it does not end with the magic number of a checkpoint's index")
    _, position = _handle(footer, 0)  # that of a block of metadata, which is empty
    place, _ = _handle(footer, position)
    end = 0
    for _, value in _pairs(_block(content, place)):
        (start, size), _ = _handle(value, 0)
        if start < end:
            raise ValueError("it lists a block twice")
        end = start + size
        yield from _pairs(_block(content, (start, size)))


def _handle(message: memoryview, position: int) -> tuple[tuple[int, int], int]:
    """Offset and size of a block, and the position after them."""
    offset, position = varint(message, position)
    size, position = varint(message, position)
    return (offset, size), position


def _block(content: memoryview, place: tuple[int, int]) -> memoryview:
    """The entries of one block, without the list of restarts that follows them."""
    offset, size = place
    block, checksum = content[offset : offset + size + 1], content[offset + size + 1 :][:4]
    if len(block) + len(checksum) < size + TRAILER:
        raise ValueError("it is truncated in a block")
    if masked_checksum(bytes(block)) != int.from_bytes(checksum, "little"):
        raise ValueError("the checksum of a block is wrong")
    if block[size] != PLAIN:
        method = "with Snappy" if block[size] == SNAPPY else f"by method {block[size]}"
        raise ValueError(f"it is compressed {method}; only uncompressed ones are read")
    restarts = int.from_bytes(block[max(0, size - 4) : size], "little")
    if 4 * (restarts + 1) > size:
        raise ValueError(f"a block of {size} bytes cannot have {restarts} restarts")
    return block[: size - 4 * (restarts + 1)]


def _pairs(entries: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Keys and values; a key shares its first bytes with the one before it."""
    key, position = b"", 0
    while position < len(entries):
        shared, position = varint(entries, position)
        added, position = varint(entries, position)
        size, position = varint(entries, position)
        end = position + added + size
        if shared > len(key) or end > len(entries):
            raise ValueError("an entry is longer than its block")
        key = key[:shared] + bytes(entries[position : position + added])
        yield key, entries[position + added : end]
        position = end


def _place(name: str, entry: memoryview) -> Place:
    fields = dict(fields_of(entry))
    if SLICES in fields:
        raise ValueError(f"variable {name} is stored in slices; only whole ones are read")
    if fields.get(DTYPE) not in DTYPES:
        raise ValueError(
            f"variable {name} has TensorFlow's data type {fields.get(DTYPE)}; only float32,"
            " float64, int32 and int64 are read"
        )
    shape = tensor_shape(content_of(fields.get(SHAPE, b"")))
    dtype = np.dtype(DTYPES[fields[DTYPE]])
    checksum = int.from_bytes(fields.get(CHECKSUM, b""), "little")
    place = Place(dtype, shape, fields.get(SHARD, 0), fields.get(OFFSET, 0), checksum)
    if place.size != fields.get(SIZE, 0):
        raise ValueError(f"variable {name} of shape {shape} has {fields.get(SIZE, 0)} bytes")
    return place


def _read_variable(file: Path, name: str, place: Place) -> np.ndarray:
    with naming(file, ADVICE), open(file, "rb") as shard:
        shard.seek(place.offset)
        content = read_up_to(shard, place.size)
        if masked_checksum(content) != place.checksum:
            raise ValueError(f"the checksum of variable {name} is wrong")
        return np.frombuffer(content, place.dtype).reshape(place.shape)
