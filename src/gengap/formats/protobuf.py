"""What TensorFlow's files share: protobuf's wire format, shapes of tensors and masked checksums.

Of the wire format only what small messages without groups need is read.

Format: protobuf's encoding guide, TensorFlow's tensor_shape.proto and crc32c.h.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import google_crc32c

# What a message raises whose fields are not the expected ones, or lack some.
MALFORMED = (ValueError, TypeError, LookupError, OverflowError)
LARGEST = 2**31 - 1  # bytes of a message: protobuf's own limit
MOST_AXES = 32  # of a tensor
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
DIM, UNKNOWN_RANK = 2, 3  # fields of TensorShapeProto; a dimension's size is field 1

Message = bytes | memoryview
# The value is an int or a memoryview: which, the definition of the message says that is read.
Field = tuple[int, Any]


def masked_checksum(data: bytes) -> int:
    """CRC-32C, rotated and shifted so that data that holds checksums can itself be checked."""
    checksum = google_crc32c.value(data)
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def all_of(message: Message, wanted: int) -> list:
    """The values of every field with a number."""
    return [value for number, value in fields_of(message) if number == wanted]


def fields_of(message: Message) -> Iterator[Field]:
    """Number and value of each field: an int for a varint, else the bytes."""
    position, end = 0, len(message)
    while position < end:
        tag, position = varint(message, position)
        wire = tag & 7
        if wire == VARINT:
            value, position = varint(message, position)
            yield tag >> 3, value
            continue
        if wire == BYTES:
            size, position = varint(message, position)
        elif wire in (FIXED32, FIXED64):
            size = 4 if wire == FIXED32 else 8
        else:
            raise ValueError(f"it is no protobuf message: wire type {wire}")
        if position + size > end:
            raise ValueError("it is no protobuf message: a field is longer than its message")
        yield tag >> 3, message[position : position + size]
        position += size


def varints(message: Message) -> list[int]:
    """The numbers of a packed field."""
    position, values = 0, []
    while position < len(message):
        value, position = varint(message, position)
        values.append(value)
    return values


def varint(message: Message, position: int) -> tuple[int, int]:
    """The number that starts at a position, at most ten bytes, and where the next field starts."""
    if position < len(message) and message[position] < 0x80:  # nearly all: spares them the loop
        return message[position], position + 1
    value = 0
    for shift, byte in enumerate(message[position : position + 10]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position + shift + 1
    raise ValueError("it is no protobuf message: a number does not end")


def content_of(value: Any) -> bytes:
    """The bytes of a field; bytes(value) of a number would be as many zeros."""
    if isinstance(value, int):
        raise ValueError("it is no protobuf message: a number stands where bytes are expected")
    return bytes(value)


@lru_cache(maxsize=64)  # a file's records have the same few shapes: halves the time of a record
def tensor_shape(message: bytes) -> tuple[int, ...]:
    """The sizes of a TensorShapeProto."""
    fields = list(fields_of(message))
    if len(fields) > MOST_AXES:
        raise ValueError(f"a tensor has {len(fields)} axes, more than {MOST_AXES}")
    if (UNKNOWN_RANK, 1) in fields:
        raise ValueError("a tensor has no shape")
    return tuple(dict(fields_of(size)).get(1, 0) for number, size in fields if number == DIM)


def delimited(number: int, content: bytes) -> bytes:
    """A field of bytes."""
    return as_varint(number << 3 | BYTES) + as_varint(len(content)) + content


def as_varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
