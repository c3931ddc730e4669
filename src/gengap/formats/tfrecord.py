"""TFRecord files of (inputs, output) pairs, read and written without TensorFlow.

A file is a row of records: length (8 bytes), masked CRC-32C of these (4), data, masked CRC-32C of
the data (4). The data is a `tf.train.Example` whose features `inputs` and `output` each hold one
serialized `TensorProto`: an input and its class index.

Format: TensorFlow's tfrecord guide, example.proto, feature.proto, tensor.proto, types.proto.
"""

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from gengap import folders
from gengap.errors import GengapError
from gengap.formats.places import read_up_to, unpacked_size
from gengap.formats.protobuf import (
    DIM,
    LARGEST,
    MALFORMED,
    VARINT,
    all_of,
    as_varint,
    content_of,
    delimited,
    fields_of,
    masked_checksum,
    tensor_shape,
    varints,
)

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


def read_tfrecord(file: IO[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (N, ...) as stored and labels (N,) int64 of one file, in its order.

    Raises: GengapError that names the record where one is truncated, damaged, lacks a feature, or
    differs in shape from the first; and for a file without records.
    """
    inputs: list[np.ndarray] = []
    labels: list[int] = []
    held = stored = 0  # bytes
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
            held, stored = held + values.nbytes, stored + len(record)
            if held > unpacked_size(stored):
                raise ValueError(f"{stored} bytes cannot hold the {held} that are declared")
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


def read_records(file: IO[bytes]) -> Iterator[memoryview]:
    """The data of each record; ValueError where a file ends too early or a checksum is wrong."""
    while head := file.read(12):
        if len(head) < 12:
            raise ValueError("the file is truncated in the length")
        length, checksum = struct.unpack("<QI", head)
        if masked_checksum(head[:8]) != checksum:
            raise ValueError("the checksum of the length is wrong: the file is damaged")
        if length > LARGEST:
            raise ValueError(f"{length} bytes are more than a message can have")
        record, checksum = read_up_to(file, length), file.read(4)
        if len(record) + len(checksum) < length + 4:
            raise ValueError(f"{length + 4} bytes were expected, but the file is truncated")
        if masked_checksum(record) != int.from_bytes(checksum, "little"):
            raise ValueError("the checksum of the data is wrong: the file is damaged")
        yield memoryview(record)


def read_example(message: memoryview) -> dict[str, memoryview]:
    """The features of a tf.train.Example that hold one byte string each: name -> bytes."""
    features = {}
    for part in all_of(message, 1):  # Example.features
        for entry in all_of(part, 1):  # Features.feature, a map
            pair = dict(fields_of(entry))
            lists = all_of(pair.get(2, b""), 1)
            values = [value for each in lists for value in all_of(each, 1)]
            if len(values) == 1:
                features[content_of(pair.get(1, b"")).decode()] = values[0]
    return features


def read_tensor(message: memoryview) -> np.ndarray:
    """The array of a serialized TensorProto, read-only where it shares the message's memory.

    Values that are not in tensor_content may be fewer than the shape asks for: as in TensorFlow,
    the last is repeated, and without any all are 0.
    """
    fields = list(fields_of(message))
    header = dict(fields)
    if header.get(DTYPE) not in DTYPES:
        raise ValueError(f"a tensor has TensorFlow's data type {header.get(DTYPE)}, not a number's")
    dtype, values_field = DTYPES[header[DTYPE]]
    shape = tensor_shape(content_of(header.get(SHAPE, b"")))
    count = math.prod(shape)
    if count * np.dtype(dtype).itemsize > unpacked_size(len(message)):
        raise ValueError(f"a tensor of shape {shape} is too large for its {len(message)} bytes")
    if len(header.get(CONTENT, b"")):
        found = np.frombuffer(header[CONTENT], dtype)
    else:
        found = _values([value for number, value in fields if number == values_field], dtype)
        found = np.pad(found, (0, max(0, count - len(found))), "edge" if len(found) else "constant")
    if len(found) != count:
        raise ValueError(f"a tensor of shape {shape} holds {len(found)} values")
    return found.reshape(shape)


def _values(parts: list, dtype: str) -> np.ndarray:
    """The values of a repeated field, packed (bytes) or one by one (int, or bytes of floats)."""
    if dtype in ("<f4", "<f8"):
        return np.frombuffer(b"".join(parts), dtype)
    numbers = [n for part in parts for n in ([part] if isinstance(part, int) else varints(part))]
    if dtype == "<f2":  # half_val has the bits of each number
        return np.array(numbers, np.uint16).view(dtype)
    whole = np.array(numbers, np.uint64).astype(np.int64)  # negatives: two's complement
    if (whole.astype(dtype) != whole).any():
        raise ValueError(f"a number is none of {np.dtype(dtype)}")
    return whole.astype(dtype)


def _feature(features: dict[str, memoryview], name: str) -> memoryview:
    if name not in features:
        known = ", ".join(sorted(features)) or "none"
        raise ValueError(f"it lacks the feature {name!r} with one byte string (it has: {known})")
    return features[name]


def _class_index(label: np.ndarray) -> int:
    if label.size != 1 or label.dtype.kind not in "iu" or label.item() < 0:
        raise ValueError(f"its output is {label.dtype} {label.shape}, not one class index from 0")
    return label.item()


def _tensor(dtype: int, array: np.ndarray) -> bytes:
    shape = b"".join(delimited(DIM, b"\x08" + as_varint(size)) for size in array.shape)
    head = as_varint(DTYPE << 3 | VARINT) + as_varint(dtype)
    return head + delimited(SHAPE, shape) + delimited(CONTENT, array.tobytes())


def _example(features: dict[str, bytes]) -> bytes:
    entries = [
        delimited(1, name.encode()) + delimited(2, delimited(1, delimited(1, value)))
        for name, value in features.items()
    ]
    return delimited(1, b"".join(delimited(1, entry) for entry in entries))


def _record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    checksums = [struct.pack("<I", masked_checksum(part)) for part in (length, data)]
    return length + checksums[0] + data + checksums[1]
