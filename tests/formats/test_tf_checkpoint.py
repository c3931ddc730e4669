"""TensorFlow's own checkpoints, and tables made by hand with every fault."""

import struct

import numpy as np
import pytest
from archives.tf1_checkpoint import block, entry, number, table, write_checkpoint

from gengap import GengapError
from gengap.formats.protobuf import as_varint, delimited, masked_checksum
from gengap.formats.tf_checkpoint import read_checkpoint

STRING = 7
VALUES = {
    "net/conv2d/kernel": np.arange(6, dtype=np.float32).reshape(1, 2, 3) / 7,
    "net/conv2d/bias": np.array([0.1, -0.2]),
    "net/conv2d_1/kernel": np.array([[-1], [2**31 - 1]], np.int32),
    "global_step": np.array(150000, np.int64),
}


def write(folder, values=VALUES, changed=(), **options):
    return write_checkpoint(folder / "m.ckpt", values, changed, **options)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array, strict=True)


def error_of(prefix, names=None):
    with pytest.raises(GengapError) as caught:
        read_checkpoint(prefix, names)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_byte_that_tensorflow_wrote_is_read_and_fits_its_checksum(reference):
    found = sorted((reference / "golden" / "demogen").glob("*/*/*.index"))
    assert len(found) == 4
    for index in found:
        variables = read_checkpoint(index.with_suffix(""))
        assert {array.dtype.name for array in variables.values()} == {"float32"}
        data = index.with_suffix(".data-00000-of-00001")
        assert sum(array.nbytes for array in variables.values()) == data.stat().st_size


def test_what_the_tests_write_of_tensorflow_s_variables_has_the_same_data_and_values(
    reference, tmp_path
):
    for index in (reference / "golden" / "demogen").glob("*/*/*.index"):
        variables = read_checkpoint(index.with_suffix(""))
        prefix = write(tmp_path, variables)
        assert_same(read_checkpoint(prefix), variables)
        data = "data-00000-of-00001"
        theirs = index.with_suffix(f".{data}").read_bytes()
        assert (tmp_path / f"m.ckpt.{data}").read_bytes() == theirs


def test_the_entries_that_the_tests_write_are_those_of_tensorflow(reference):
    folder = reference / "golden" / "demogen" / "NIN_CIFAR10"
    index = folder / "nin_wide_1.0x__dropout_0.0__decay_0.0_2" / "model.ckpt-150000.index"
    written, offset = index.read_bytes(), 0
    for array in read_checkpoint(index.with_suffix("")).values():
        made = entry(array, offset).replace(number(3, 0), b"", 1)  # TensorFlow leaves out zeros
        assert (made if offset else made.replace(number(4, 0), b"", 1)) in written
        offset += array.nbytes
    assert block([]) in written  # that of metadata


@pytest.mark.parametrize("per_block", [1, 2, 100])
def test_variables_come_in_every_type_and_shape_from_one_block_or_many(tmp_path, per_block):
    assert_same(read_checkpoint(write(tmp_path, per_block=per_block)), VALUES)


def test_only_what_is_asked_for_is_read(tmp_path):
    name = "net/conv2d/bias"
    strange = entry(VALUES[name], 0, dtype=STRING, checksum=0)
    prefix = write(tmp_path, changed={"net/momentum": strange, "net/slices": strange + b"\x3a\0"})
    assert_same(read_checkpoint(prefix, [name]), {name: VALUES[name]})
    assert "net/momentum has TensorFlow's data type 7" in error_of(prefix)
    assert "net/slices is stored in slices" in error_of(prefix, ["net/slices"])


def test_variables_lie_in_the_data_file_that_the_index_names(tmp_path):
    parts = [np.arange(3, dtype=np.float32), np.ones(2)]
    entries = {f"part_{k}": entry(part, 5 * k, shard=k) for k, part in enumerate(parts)}
    (tmp_path / "m.ckpt.index").write_bytes(table(entries, header=number(1, 2)))
    for k, part in enumerate(parts):
        (tmp_path / f"m.ckpt.data-0000{k}-of-00002").write_bytes(b"other"[: 5 * k] + part.tobytes())
    assert_same(read_checkpoint(tmp_path / "m.ckpt"), dict(zip(["part_0", "part_1"], parts)))


def test_a_missing_variable_is_named(tmp_path):
    sentence = error_of(write(tmp_path), ["net/dense/bias", "global_step"])
    assert "m.ckpt.index" in sentence and "no variable net/dense/bias" in sentence


def test_a_missing_file_is_named(tmp_path):
    assert "m.ckpt.index is missing" in error_of(tmp_path / "m.ckpt")
    prefix = write(tmp_path)
    (tmp_path / "m.ckpt.data-00000-of-00001").unlink()
    assert "m.ckpt.data-00000-of-00001 is missing" in error_of(prefix)


@pytest.mark.parametrize("kept", [0, 20, 47, 300])
def test_what_does_not_end_like_an_index_is_none(tmp_path, kept):
    prefix = write(tmp_path)
    index = tmp_path / "m.ckpt.index"
    index.write_bytes(index.read_bytes()[:kept])
    assert "m.ckpt.index cannot be read (it does not end with the magic" in error_of(prefix)


def test_no_changed_byte_of_an_index_goes_unnoticed(tmp_path):
    prefix = write(tmp_path)
    index = tmp_path / "m.ckpt.index"
    good = index.read_bytes()
    metadata = good.index(block([]))  # nobody reads the empty block
    padding = range(good.rindex(b"\0" * 20), len(good) - 8)
    for position in range(len(good)):
        if position in padding or 0 <= position - metadata < len(block([])):
            continue
        index.write_bytes(good[:position] + bytes([good[position] ^ 8]) + good[position + 1 :])
        try:
            found = read_checkpoint(prefix)
        except GengapError as error:
            assert "m.ckpt.index cannot be read" in str(error)
        else:  # in the handle of the empty block
            assert position >= len(good) - 48
            assert_same(found, VALUES)


def test_a_damaged_or_truncated_variable_is_named_and_the_others_are_read(tmp_path):
    prefix = write(tmp_path)
    data = tmp_path / "m.ckpt.data-00000-of-00001"
    good = data.read_bytes()
    data.write_bytes(bytes([good[0] ^ 1]) + good[1:-1])
    sentence = error_of(prefix, ["net/conv2d/kernel"])
    assert (
        f"{data} cannot be read (the checksum of variable net/conv2d/kernel is wrong)" in sentence
    )
    assert "it is truncated in variable global_step" in error_of(prefix, ["global_step"])
    name = "net/conv2d/bias"
    assert_same(read_checkpoint(prefix, [name]), {name: VALUES[name]})


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"compression": 1}, "compressed with Snappy; only uncompressed ones"),
        ({"compression": 4}, "compressed by method 4"),
        ({"header": number(1, 1) + number(2, 1)}, "big-endian"),
        ({"header": b"\x0b"}, "no protobuf message"),
        ({"changed": {"global_step": b"\x08"}}, "a number does not end"),
        (
            {"changed": {"global_step": entry(np.ones(2), 0, size=8)}},
            r"global_step of shape \(2,\) has 8 bytes",
        ),
    ],
)
def test_what_is_not_read_is_refused_in_one_sentence(tmp_path, options, reason):
    with pytest.raises(GengapError, match=f"m.ckpt.index cannot be read .*{reason}"):
        read_checkpoint(write(tmp_path, **options))


def test_an_entry_that_is_longer_than_its_block_is_refused(tmp_path):
    prefix = write(tmp_path)
    for content in (b"\x00\x7f\x00key", b"\x05\x01\x00k", b"\x00\x01\x7fk"):
        made = content + struct.pack("<2I", 0, 1) + b"\0"
        made += struct.pack("<I", masked_checksum(made))
        footer = (as_varint(0) * 2 + as_varint(0) + as_varint(len(made) - 5)).ljust(40, b"\0")
        (tmp_path / "m.ckpt.index").write_bytes(made + footer + bytes.fromhex("57fb808b247547db"))
        assert "an entry is longer than its block" in error_of(prefix)


def test_a_size_beyond_the_file_is_refused_before_it_is_read(tmp_path):
    huge = np.empty((0, 2**40), np.float32)
    shape = delimited(2, number(1, 2**40))
    made = number(1, 1) + delimited(2, shape) + number(5, 2**42)
    prefix = write(tmp_path, changed={"huge": made, "none": entry(huge, 0)})
    assert "it is truncated in variable huge" in error_of(prefix, ["huge"])
    assert read_checkpoint(prefix, ["none"])["none"].shape == huge.shape
