"""TFRecord files of (inputs, output) pairs, read and written without TensorFlow.

A file is a row of records: length (8 bytes), masked CRC-32C of these (4), data, masked CRC-32C of
the data (4). The data is a `tf.train.Example` whose features `inputs` and `output` each hold one
serialized `TensorProto`: an input and its class index. Of protobuf's wire format only what these
three small messages need is read.

Format: TensorFlow's tfrecord guide, example.proto, feature.proto, tensor.proto, types.proto.
"""

import math
import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import numpy as np

from gengap import folders
from gengap.errors import GengapError

# What a message raises whose fields are not the expected ones, or lack some.
MALFORMED = (ValueError, TypeError, LookupError, OverflowError)
LARGEST = 2**31 - 1  # bytes of a message: protobuf's own limit
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
# TensorProto: dtype -> the type and the field that holds values which are not in tensor_content.
DTYPES = {
    1: ("<f4", 5),
    2: ("<f8", 6),
    3: ("<i4", 7),
    4: ("|u1", 7),
    9: ("<i8", 10),
    19: ("<f2", 13),
}
INPUT, LABEL = 1, 3  # the dtypes written: float32 and int32
DTYPE, SHAPE, CONTENT = 1, 2, 4  # fields of TensorProto
DIM, UNKNOWN_RANK = 2, 3  # fields of TensorShapeProto; a dimension's size is field 1

Field = tuple[int, int | memoryview]


def read_tfrecord(file: BinaryIO) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (N, ...) as stored and labels (N,) int64 of one file, in its order.

    Raises: GengapError that names the record where one is truncated, damaged, lacks a feature, or
    differs in shape from the first; and for a file without records.
    """
    inputs, labels = [], []
    try:
        for record in read_records(file):
            features = read_example(record)
            values = read_tensor(_feature(features, "inputs"))
            label = _class_index(read_tensor(_feature(features, "output")))
            if inputs and (values.shape, values.dtype) != (inputs[0].shape, inputs[0].dtype):
                raise ValueError(
                    f"its input is {values.dtype} {values.shape}, that of record 0"
                    f" {inputs[0].dtype} {inputs[0].shape}"
                )
            inputs.append(values)
            labels.append(label)
    except MALFORMED as error:
        raise GengapError(f"record {len(labels)}: {error}; get the file again") from error
    if not labels:
        raise GengapError("there are no records; get the file again")
    return np.stack(inputs), np.array(labels, np.int64)


def write_tfrecord(file: Path, inputs: np.ndarray, labels: np.ndarray) -> None:
    """Write inputs (N, ...), as float32, and labels (N,), as int32; all of the file, or nothing."""
    if len(inputs) != len(labels):
        raise GengapError(f"{len(inputs)} inputs and {len(labels)} labels: expected as many")
    with_types = zip(np.asarray(inputs, "<f4"), np.asarray(labels, "<i4"))
    records = (
        _record(_example({"inputs": _tensor(INPUT, pixels), "output": _tensor(LABEL, label)}))
        for pixels, label in with_types
    )

    def write(path: Path) -> None:
        with open(path, "wb") as out:
            out.writelines(records)

    folders.write_atomically(file, write)


def read_records(file: BinaryIO) -> Iterator[memoryview]:
    """The data of each record; ValueError where a file ends too early or a checksum is wrong."""
    while head := file.read(12):
        if len(head) < 12:
            raise ValueError("the file is truncated in the length")
        length, checksum = struct.unpack("<QI", head)
        if _masked_checksum(head[:8]) != checksum:
            raise ValueError("the checksum of the length is wrong: the file is damaged")
        if length > LARGEST:
            raise ValueError(f"{length} bytes are more than a message can have")
        record, checksum = file.read(length), file.read(4)
        if len(record) + len(checksum) < length + 4:
            raise ValueError(f"{length + 4} bytes were expected, but the file is truncated")
        if _masked_checksum(record) != int.from_bytes(checksum, "little"):
            raise ValueError("the checksum of the data is wrong: the file is damaged")
        yield memoryview(record)


def read_example(message: memoryview) -> dict[str, memoryview]:
    """The features of a tf.train.Example that hold one byte string each: name -> bytes."""
    features = {}
    for part in _all(message, 1):  # Example.features
        for entry in _all(part, 1):  # Features.feature, a map
            pair = dict(_fields(entry))
            values = [v for bytes_list in _all(pair.get(2, b""), 1) for v in _all(bytes_list, 1)]
            if len(values) == 1:
                features[bytes(pair.get(1, b"")).decode()] = values[0]
    return features


def read_tensor(message: memoryview) -> np.ndarray:
    """The array of a serialized TensorProto, read-only where it shares the message's memory.

    Values that are not in tensor_content may be fewer than the shape asks for: as in TensorFlow,
    the last is repeated, and without any all are 0.
    """
    fields = list(_fields(message))
    header = dict(fields)
    if header.get(DTYPE) not in DTYPES:
        raise ValueError(f"a tensor has TensorFlow's data type {header.get(DTYPE)}, not a number's")
    dtype, values_field = DTYPES[header[DTYPE]]
    shape = _shape(bytes(header.get(SHAPE, b"")))
    count = math.prod(shape)
    if count * np.dtype(dtype).itemsize > LARGEST:
        raise ValueError(f"a tensor of shape {shape} is too large")
    if len(header.get(CONTENT, b"")):
        found = np.frombuffer(header[CONTENT], dtype)
    else:
        found = _values([value for number, value in fields if number == values_field], dtype)
        found = np.pad(found, (0, max(0, count - len(found))), "edge" if len(found) else "constant")
    if len(found) != count:
        raise ValueError(f"a tensor of shape {shape} holds {len(found)} values")
    return found.reshape(shape)


@lru_cache(maxsize=64)  # a file's records have the same few shapes: halves the time of a record
def _shape(message: bytes) -> tuple[int, ...]:
    fields = list(_fields(message))
    if (UNKNOWN_RANK, 1) in fields:
        raise ValueError("a tensor has no shape")
    return tuple(dict(_fields(size)).get(1, 0) for number, size in fields if number == DIM)


def _values(parts: list[int | memoryview], dtype: str) -> np.ndarray:
    """The values of a repeated field, packed or one by one."""
    if dtype in ("<f4", "<f8"):
        return np.frombuffer(b"".join(parts), dtype)
    numbers = []
    for part in parts:
        numbers += [part] if isinstance(part, int) else _varints(part)
    if dtype == "<f2":  # half_val has the bits of each number
        return np.array(numbers, np.uint16).view(dtype)
    return (
        np.array(numbers, np.uint64).astype(np.int64).astype(dtype)
    )  # negatives: two's complement


def _feature(features: dict[str, memoryview], name: str) -> memoryview:
    if name not in features:
        known = ", ".join(sorted(features)) or "none"
        raise ValueError(f"it lacks the feature {name!r} with one byte string (it has: {known})")
    return features[name]


def _class_index(label: np.ndarray) -> int:
    if label.size != 1 or label.dtype.kind not in "iu" or label.item() < 0:
        raise ValueError(f"its output is {label.dtype} {label.shape}, not one class index from 0")
    return label.item()


def _masked_checksum(data: bytes) -> int:
    checksum = google_crc32c.value(data)
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _all(message: memoryview, wanted: int) -> list:
    return [value for number, value in _fields(message) if number == wanted]


def _fields(message: memoryview) -> Iterator[Field]:
    """Number and value of each field: an int for a varint, else the bytes."""
    position, end = 0, len(message)
    while position < end:
        tag, position = _varint(message, position)
        wire = tag & 7
        if wire == VARINT:
            value, position = _varint(message, position)
            yield tag >> 3, value
            continue
        if wire == BYTES:
            size, position = _varint(message, position)
        elif wire in (FIXED32, FIXED64):
            size = 4 if wire == FIXED32 else 8
        else:
            raise ValueError(f"it is no protobuf message: wire type {wire}")
        if position + size > end:
            raise ValueError("it is no protobuf message: a field is longer than its message")
        yield tag >> 3, message[position : position + size]
        position += size


def _varints(message: memoryview) -> list[int]:
    position, values = 0, []
    while position < len(message):
        value, position = _varint(message, position)
        values.append(value)
    return values


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """The number that starts at a position, at most ten bytes, and where the next field starts."""
    if position < len(message) and message[position] < 0x80:  # nearly all: spares them the loop
        return message[position], position + 1
    value = 0
    for shift, byte in enumerate(message[position : position + 10]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position + shift + 1
    raise ValueError("it is no protobuf message: a number does not end")


def _tensor(dtype: int, array: np.ndarray) -> bytes:
    shape = b"".join(_delimited(DIM, b"\x08" + _as_varint(size)) for size in array.shape)
    head = _as_varint(DTYPE << 3 | VARINT) + _as_varint(dtype)
    return head + _delimited(SHAPE, shape) + _delimited(CONTENT, array.tobytes())


def _example(features: dict[str, bytes]) -> bytes:
    entries = [
        _delimited(1, name.encode()) + _delimited(2, _delimited(1, _delimited(1, value)))
        for name, value in features.items()
    ]
    return _delimited(1, b"".join(_delimited(1, entry) for entry in entries))


def _record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    checksums = [struct.pack("<I", _masked_checksum(part)) for part in (length, data)]
    return length + checksums[0] + data + checksums[1]


def _delimited(number: int, content: bytes) -> bytes:
    return _as_varint(number << 3 | BYTES) + _as_varint(len(content)) + content


def _as_varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
