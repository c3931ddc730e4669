"""TFRecords: TensorFlow's own files, the standard's check value, hand-made and damaged messages."""

import io
import struct

import google_crc32c
import numpy as np
import pytest

from gengap import GengapError
from gengap.formats import tfrecord
from gengap.formats.protobuf import masked_checksum
from gengap.formats.tfrecord import (
    read_example,
    read_records,
    read_tensor,
    read_tfrecord,
    write_tfrecord,
)


@pytest.fixture
def golden(reference):
    return reference / "golden" / "pgdl"


def shards(golden, task):
    return sorted((golden / "input_data" / task / "dataset_1" / "train").glob("shard_*"))


@pytest.fixture
def written(tmp_path):
    """Three records and what they hold."""
    inputs = np.random.default_rng(0).normal(size=(3, 4, 5, 2)).astype(np.float32)
    labels = np.array([2, 0, 300])
    write_tfrecord(tmp_path / "shard_0.tfrecord", inputs, labels)
    return (tmp_path / "shard_0.tfrecord").read_bytes(), inputs, labels


def read(content):
    return read_tfrecord(io.BytesIO(content))


def test_the_files_of_the_convolutional_task_hold_the_inputs_that_tensorflow_reads(golden):
    expected = np.load(golden / "expected_conv_data.npz")
    parts = [read(path.read_bytes()) for path in shards(golden, "conv_data")]
    inputs, labels = (np.concatenate(part) for part in zip(*parts))
    assert inputs.dtype == np.float32 and labels.dtype == np.int64
    np.testing.assert_array_equal(inputs[:64], expected["inputs"])
    np.testing.assert_array_equal(labels, expected["labels"])


def test_the_files_of_the_official_sample_task_hold_the_inputs_that_tensorflow_reads(golden):
    expected = np.load(golden / "expected_toy_data.npz")
    parts = [read(path.read_bytes()) for path in shards(golden, "toy_data")]
    inputs, labels = (np.concatenate(part) for part in zip(*parts))
    # The shards were read in the order in which a file system listed them.
    found, known = np.lexsort(inputs.T), np.lexsort(expected["inputs"].T)
    np.testing.assert_array_equal(inputs[found], expected["inputs"][known])
    np.testing.assert_array_equal(labels[found], expected["labels"][known])


@pytest.mark.parametrize("task", ["toy_data", "conv_data"])
def test_what_is_written_is_byte_for_byte_what_tensorflow_wrote(golden, task, tmp_path):
    original = shards(golden, task)[0].read_bytes()
    write_tfrecord(tmp_path / "ours", *read(original))
    ours = (tmp_path / "ours").read_bytes()
    assert len(ours) == len(original)
    pairs = zip(read_records(io.BytesIO(ours)), read_records(io.BytesIO(original)), strict=True)
    for our_record, record in pairs:  # a map has no order: compare its entries
        assert read_example(our_record) == read_example(record)
        in_our_order = record.tobytes().index(b"inputs") < record.tobytes().index(b"output")
        assert not in_our_order or our_record == record


def test_the_checksum_is_the_standards_masked():
    assert google_crc32c.value(b"123456789") == 0xE3069283  # RFC 3720's check value
    rotated = (0xE3069283 >> 15 | 0xE3069283 << 17) & 0xFFFFFFFF
    assert masked_checksum(b"123456789") == (rotated + 0xA282EAD8) % 2**32


def test_what_is_written_is_read_again(written):
    content, inputs, labels = written
    again, labels_again = read(content)
    np.testing.assert_array_equal(again, inputs)
    np.testing.assert_array_equal(labels_again, labels)


def delimited(number, content):
    return bytes([number << 3 | 2, len(content)]) + content


def tensor(dtype, shape, rest):
    sizes = b"".join(delimited(2, bytes([8, size])) for size in shape)
    return memoryview(bytes([8, dtype]) + delimited(2, sizes) + rest)


PACKED = {
    "float32": (1, delimited(5, struct.pack("<3f", 1, -2, 0.5)), [1, -2, 0.5]),
    "float64": (2, delimited(6, struct.pack("<3d", 1, -2, 0.1)), [1, -2, 0.1]),
    "int32": (
        3,
        delimited(7, b"\x01" + b"\xfe" + b"\xff" * 8 + b"\x01" + b"\xac\x02"),
        [1, -2, 300],
    ),
    "uint8": (4, delimited(7, b"\x01\xff\x01\x00"), [1, 255, 0]),
    "int64": (9, delimited(10, b"\x01" + b"\xff" * 9 + b"\x01" + b"\x00"), [1, -1, 0]),
    "float16": (19, delimited(13, b"\x80\x78\x80\x80\x03\x00"), [1, -2, 0]),
}


@pytest.mark.parametrize("name", PACKED)
def test_values_outside_the_content_are_read_in_every_type(name):
    dtype, values, expected = PACKED[name]
    found = read_tensor(tensor(dtype, (3,), values))
    assert found.dtype == name
    np.testing.assert_array_equal(found, np.array(expected, name))


@pytest.mark.parametrize("name", PACKED)
def test_content_is_read_in_every_type(name):
    array = np.arange(6, dtype=name).reshape(2, 3)
    found = read_tensor(tensor(PACKED[name][0], (2, 3), delimited(4, array.tobytes())))
    assert found.dtype == name
    np.testing.assert_array_equal(found, array)


def test_too_few_values_are_filled_with_the_last_and_none_with_zero_as_tensorflow_does():
    two = delimited(5, struct.pack("<2f", 3, 7))
    np.testing.assert_array_equal(read_tensor(tensor(1, (2, 2), two)), [[3, 7], [7, 7]])
    np.testing.assert_array_equal(read_tensor(tensor(1, (2,), b"")), [0, 0])
    np.testing.assert_array_equal(read_tensor(tensor(3, (2,), bytes([7 << 3, 5]))), [5, 5])
    unpacked = b"".join(bytes([5 << 3 | 5]) + struct.pack("<f", x) for x in (1, 2))
    np.testing.assert_array_equal(read_tensor(tensor(1, (2,), unpacked)), [1, 2])


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (tensor(7, (1,), b""), "data type 7"),
        (memoryview(b""), "data type None"),
        (tensor(1, (3,), delimited(4, b"1234")), "holds 1 values"),
        (tensor(1, (1,), delimited(4, b"123")), "multiple of"),
        (tensor(1, (1,), delimited(5, b"1" * 8)), "holds 2 values"),
        (tensor(1, (127,) * 9, b""), "too large"),
        (memoryview(b"\x08\x01\x12\x02\x18\x01"), "has no shape"),
        (memoryview(b"\x08\x01\x12\x7f"), "longer than its message"),
        (memoryview(b"\x08\xff\xff"), "does not end"),
        (memoryview(b"\x0b"), "wire type 3"),
    ],
)
def test_a_message_that_is_no_tensor_of_numbers_is_refused(message, reason):
    with pytest.raises(ValueError, match=reason):
        read_tensor(message)


def test_a_flipped_bit_anywhere_is_noticed_and_the_record_named(written):
    content = written[0]
    size = len(content) // 3
    generator = np.random.default_rng(1)
    for position in [0, 8, 12, size - 1, size, *generator.integers(len(content), size=50)]:
        damaged = bytearray(content)
        damaged[position] ^= 1 << generator.integers(8)
        number = position // size
        with pytest.raises(GengapError, match=f"^record {number}: .* damaged"):
            read(bytes(damaged))


def test_a_file_cut_off_anywhere_is_noticed(written):
    content = written[0]
    size = len(content) // 3
    for length in range(1, len(content)):
        if length % size:
            with pytest.raises(GengapError, match=f"record {length // size}: .*truncated"):
                read(content[:length])
    with pytest.raises(GengapError, match="there are no records"):
        read(b"")


def records(*examples):
    return b"".join(map(tfrecord._record, examples))


PIXELS, LABEL = tensor(1, (2,), b"").tobytes(), tensor(3, (), b"\x38\x04").tobytes()
GOOD = tfrecord._example({"inputs": PIXELS, "output": LABEL})


@pytest.mark.parametrize(
    ("example", "reason"),
    [
        (tfrecord._example({"inputs": PIXELS}), r"lacks the feature 'output' .*has: inputs"),
        (b"", r"lacks the feature 'inputs' .*has: none"),
        (tfrecord._example({"inputs": PIXELS, "output": PIXELS}), "float32 .*not one class index"),
        (
            tfrecord._example({"inputs": tensor(1, (3,), b"").tobytes(), "output": LABEL}),
            r"float32 \(3,\), that of record 0 float32 \(2,\)",
        ),
        (b"\x0a\x05abc", "longer than its message"),
    ],
)
def test_a_record_that_is_no_pair_of_input_and_class_is_named(example, reason):
    assert read(records(GOOD, GOOD))[1].tolist() == [4, 4]
    with pytest.raises(GengapError, match=f"^record 1: .*{reason}"):
        read(records(GOOD, example))


def test_any_message_under_a_right_checksum_is_read_or_refused_in_one_sentence():
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(2000):
        message = bytearray(GOOD)
        message[generator.integers(len(message))] = generator.integers(256)
        try:
            read(records(bytes(message)))
        except GengapError:
            refused += 1
    assert refused > 1000


def test_inputs_and_labels_of_different_numbers_are_not_written(tmp_path):
    with pytest.raises(GengapError, match="3 inputs and 2 labels"):
        write_tfrecord(tmp_path / "shard", np.zeros((3, 2)), np.zeros(2))
    assert not list(tmp_path.iterdir())
