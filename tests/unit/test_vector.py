"""Fields of many payloads read at once: values, cursors and the rows that are bad."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from k2i_tasks.codecs.payloads import Payloads
from k2i_tasks.codecs.vector import (
    Read,
    Source,
    as_text,
    gather,
    read_bytes,
    read_doubles,
    read_fixed32,
    read_fixed64,
    read_floats,
    read_ranges,
    read_varints,
    spread,
    zigzag,
)


def side_by_side(*values: bytes) -> tuple[Source, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    payloads = Payloads.joined(values)
    return Source(payloads.data, int(payloads.ends[-1])), payloads.starts, payloads.ends


def varint(number: int) -> bytes:
    parts = []
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def bad_rows(read: Read) -> tuple[list[int], list[int]]:
    return read.truncated.tolist(), read.invalid.tolist()


EDGES = sorted(
    {0, 1, 2, 2**64 - 1} | {2**bits + by for bits in range(7, 64, 7) for by in (-1, 0, 1)}
)


@pytest.mark.parametrize("others", [[], [5] * 100], ids=["alone", "mostly one byte"])
def test_a_varint_of_every_size_is_read_beside_the_others(others: list[int]) -> None:
    numbers = EDGES + others
    source, starts, ends = side_by_side(*map(varint, numbers))
    read = read_varints(source, starts, ends)
    assert read.values.tolist() == numbers
    assert read.after.tolist() == ends.tolist()
    assert bad_rows(read) == ([], [])


def test_a_varint_of_zeros_in_the_longest_form_is_read() -> None:
    source, starts, ends = side_by_side(b"\x80" * 9 + b"\x00", b"\x81\x80\x00")
    read = read_varints(source, starts, ends)
    assert read.values.tolist() == [0, 1]
    assert read.after.tolist() == ends.tolist()


@pytest.mark.parametrize("number", EDGES)
def test_a_varint_cut_at_any_byte_is_named_and_takes_nothing_of_its_neighbour(number: int) -> None:
    whole = varint(number)
    cut = [whole[:size] for size in range(len(whole))]
    source, starts, ends = side_by_side(*cut, whole)
    read = read_varints(source, starts, ends)
    assert bad_rows(read) == (list(range(len(cut))), [])
    assert read.values.tolist() == [0] * len(cut) + [number]
    assert read.after.tolist() == ends.tolist()


def test_a_varint_of_more_than_64_bits_or_10_bytes_is_invalid() -> None:
    too_many_bits = b"\xff" * 9 + b"\x02"
    too_many_bytes = b"\x80" * 10 + b"\x00"
    source, starts, ends = side_by_side(too_many_bits, b"\x07", too_many_bytes)
    read = read_varints(source, starts, ends)
    assert bad_rows(read) == ([], [0, 2])
    assert read.values.tolist() == [0, 7, 0]
    assert read.after.tolist() == ends.tolist()


def test_a_varint_that_may_wrap_is_its_lower_64_bits() -> None:
    source, starts, ends = side_by_side(b"\xff" * 9 + b"\x7f", b"\x81" * 10, b"\x05")
    read = read_varints(source, starts, ends, wraps=True)
    assert read.values.tolist() == [2**64 - 1, 0, 5]
    assert bad_rows(read) == ([], [1])


def test_a_varint_of_more_bytes_than_it_may_have_is_invalid() -> None:
    long = [varint(2**28), b"\x80" * 4 + b"\0", varint(2**35), b"\x80" * 5 + b"\0", b"\x05"]
    for others in ([], [b"\x05"] * 20):
        source, starts, ends = side_by_side(*long, *others)
        read = read_varints(source, starts, ends, most_bytes=5)
        assert read.values.tolist()[:5] == [2**28, 0, 0, 0, 5]
        assert read.after.tolist() == ends.tolist()
        assert bad_rows(read) == ([], [2, 3])


def test_zigzag_alternates_between_the_signs() -> None:
    values = np.array([0, 1, 2, 3, 2**64 - 2, 2**64 - 1], np.uint64)
    assert zigzag(values).tolist() == [0, -1, 1, -2, 2**63 - 1, -(2**63)]


@pytest.mark.parametrize(
    ("read", "dtype", "values"),
    [
        (read_bytes, "u1", [0, 255]),
        (read_fixed32, "<u4", [0, 2**32 - 1]),
        (read_fixed64, "<u8", [1, 2**64 - 1]),
        (read_floats, "<f4", [0.5, -2.0]),
        (read_doubles, "<f8", [0.1, -2e300]),
    ],
)
def test_a_fixed_width_value_is_read_or_named_if_it_is_cut(
    read: object, dtype: str, values: list[float]
) -> None:
    assert callable(read)
    wholes = [np.array([value], dtype).tobytes() for value in values]
    source, starts, ends = side_by_side(wholes[0], wholes[0][:-1], wholes[1])
    found = read(source, starts, ends)
    assert found.values.tolist() == [values[0], 0, values[1]]
    assert found.after.tolist() == ends.tolist()
    assert bad_rows(found) == ([1], [])


def test_a_range_beyond_the_end_or_of_negative_length_is_empty() -> None:
    starts, ends = np.array([0, 10, 20, 30]), np.array([10, 20, 30, 40])
    read = read_ranges(starts, ends, np.array([10, 11, -1, 2**63 - 1], np.int64))
    assert read.values.tolist() == [10, 0, 0, 0]
    assert read.after.tolist() == ends.tolist()
    assert bad_rows(read) == ([1, 3], [2])


def test_an_unsigned_length_is_never_negative() -> None:
    lengths = np.array([2**64 - 1, 3], np.uint64)
    read = read_ranges(np.array([0, 10]), np.array([10, 20]), lengths)
    assert bad_rows(read) == ([0], [])
    assert read.after.tolist() == [10, 13]


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [1, 1, 0]], ids=str)
def test_ranges_are_gathered_in_any_order(order: list[int]) -> None:
    source, starts, ends = side_by_side(b"one", b"", "größer".encode())
    found = gather(source, ends[order], (ends - starts)[order])
    assert found.to_pylist() == [[b"one", b"", "größer".encode()][row] for row in order]
    found.validate(full=True)


def test_no_ranges_are_an_empty_column() -> None:
    source = Source(np.empty(0, np.uint8), 0)
    none = np.empty(0, np.int64)
    assert gather(source, none, none).equals(pa.array([], pa.binary()))


@pytest.mark.parametrize("values", [[], [b""], [b"plain", None], ["größer".encode(), b"x"]])
def test_utf8_becomes_text(values: list[bytes | None]) -> None:
    text, bad = as_text(pa.array(values, pa.binary()))
    assert text.to_pylist() == [None if value is None else value.decode() for value in values]
    assert text.type == pa.string()
    assert not len(bad)


def test_what_is_no_utf8_is_named_and_becomes_empty() -> None:
    text, bad = as_text(pa.array([b"a", b"\xff", "é".encode(), b"\xc3"], pa.binary()))
    assert text.to_pylist() == ["a", "", "é", ""]
    assert bad.tolist() == [1, 3]


def test_a_character_is_not_made_of_two_rows() -> None:
    text, bad = as_text(pa.array([b"\xc3", b"\xa9"], pa.binary()))
    assert text.to_pylist() == ["", ""]
    assert bad.tolist() == [0, 1]


@pytest.mark.parametrize(
    "array",
    [
        pa.array([1, 2]),
        pa.array(["a", "b"]),
        pa.array([[1], []]),
        pa.array([{"a": 1}, None], pa.struct({"a": pa.int64()})),
    ],
    ids=lambda array: str(array.type),
)
def test_values_are_spread_over_the_places_that_are_present(array: pa.Array) -> None:
    found = spread(array, np.array([False, True, False, True]))
    first, second = array.to_pylist()
    assert found.to_pylist() == [None, first, None, second]


def test_bytes_that_are_not_followed_by_padding_are_copied_with_it() -> None:
    data = np.full(3, 7, np.uint8)
    source = Source(data, 3)
    assert source.words(np.array([3])).tolist() == [0]
    assert source.data[:3].tolist() == [7, 7, 7]
