"""Writes checkpoints of TensorFlow 1, format V2, as its tensor_bundle does; for tests alone.

Format: TensorFlow's tensor_bundle.proto and lib/io/table_format.txt. The tests of the reader
compare what is written here with files that TensorFlow wrote.
"""

import struct
from itertools import islice
from pathlib import Path

from gengap.formats.protobuf import as_varint, delimited, masked_checksum

CODES = {"float32": 1, "float64": 2, "int32": 3, "int64": 9}
PER_BLOCK = 2  # pairs
MAGIC = bytes.fromhex("57fb808b247547db")


def number(field, value):
    return as_varint(field << 3) + as_varint(value)


def entry(array, offset, *, shard=0, checksum=None, dtype=None, size=None, extra=b""):
    """A BundleEntryProto."""
    shape = b"".join(delimited(2, number(1, length)) for length in array.shape)
    content = number(1, dtype or CODES[array.dtype.name]) + delimited(2, shape)
    content += number(3, shard) + number(4, offset)
    content += number(5, array.nbytes if size is None else size)
    if checksum is None:
        checksum = masked_checksum(array.tobytes())
    return content + as_varint(6 << 3 | 5) + struct.pack("<I", checksum) + extra


def block(pairs, compression=0):
    """A block whose keys share what they can, with one restart, and its trailer."""
    content, last = b"", b""
    for key, value in pairs:
        shared = 0
        while shared < min(len(key), len(last)) and key[shared] == last[shared]:
            shared += 1
        lengths = (shared, len(key) - shared, len(value))
        content += b"".join(map(as_varint, lengths)) + key[shared:] + value
        last = key
    content += struct.pack("<2I", 0, 1) + bytes([compression])
    return content + struct.pack("<I", masked_checksum(content))


def table(values, *, header=None, compression=0, per_block=PER_BLOCK):
    """An index file: some pairs a block, an empty block of metadata, the index block, a footer."""
    header = number(1, 1) if header is None else header
    pairs = iter(sorted({b"": header, **{k.encode(): v for k, v in values.items()}}.items()))
    content, handles = b"", []

    def put(made):
        nonlocal content
        handle = as_varint(len(content)) + as_varint(len(made) - 5)
        content += made
        return handle

    while some := list(islice(pairs, per_block)):
        handles.append((some[-1][0], put(block(some, compression))))
    footer = put(block([])) + put(block(handles))
    return content + footer.ljust(40, b"\0") + MAGIC


def files_of_checkpoint(values, changed=(), **options):
    """Suffix -> content of a checkpoint of one data file; `changed` replaces entries of its index.

    values: by name, in the order in which they lie in the data file; TensorFlow's is that of names.
    """
    entries, data, offset = {}, [], 0
    for name, array in values.items():
        entries[name] = entry(array, offset)
        data.append(array.tobytes())
        offset += array.nbytes
    index = table({**entries, **dict(changed)}, **options)
    return {".index": index, ".data-00000-of-00001": b"".join(data)}


def write_checkpoint(prefix: Path, values, changed=(), **options) -> Path:
    """Write `files_of_checkpoint` beside one another; returns the prefix."""
    for suffix, content in files_of_checkpoint(values, changed, **options).items():
        prefix.with_name(prefix.name + suffix).write_bytes(content)
    return prefix
