"""Frames of many payloads at once against one payload at a time."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from k2i_tasks.codecs.frames import PATH_MAX, Frames, Writer
from tests.schema_registry import frame

LIMIT = 200
IDS = st.sampled_from([0, 1, 2, 255, 256, 65_536, 2**31, 2**32 - 1])
PATHS = st.sampled_from([(0,), (1,), (63,), (64,), (0, 0), (3, 1), (200, 70_000, 1)])
FRAMED = st.builds(frame, IDS, st.binary(max_size=20), PATHS)
#: Whole frames, their beginnings, and anything else.
VALUES = st.lists(
    st.one_of(
        st.none(),
        FRAMED,
        FRAMED.flatmap(lambda whole: st.integers(0, len(whole)).map(lambda n: whole[:n])),
        st.binary(max_size=12),
        st.builds(frame, IDS, st.binary(min_size=LIMIT, max_size=LIMIT + 9)),
    ),
    max_size=30,
)


def varint(body: bytes, at: int) -> tuple[int, int] | None:
    raw = 0
    for place, byte in enumerate(body[at : at + 10]):
        raw |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return (raw >> 1 if raw % 2 == 0 else -(raw + 1) // 2), at + place + 1
    return None


def path_of(body: bytes) -> tuple[tuple[int, ...], bytes] | None:
    """The message path as the wire format has it, and what follows."""
    found = varint(body, 0)
    if found is None or not 0 <= found[0] <= PATH_MAX:
        return None
    count, at = found
    path: list[int] = []
    for _ in range(count):
        found = varint(body, at)
        if found is None or not 0 <= found[0] < 2**31:
            return None
        path.append(found[0])
        at = found[1]
    return tuple(path) or (0,), body[at:]


def one(value: bytes | None, *, paths: bool) -> tuple[Writer, bytes] | str | None:
    """What a value is: writer and payload, the code of an error, or nothing."""
    if value is None:
        return None
    if len(value) > LIMIT:
        return "f.too_large"
    if value[:1] not in (b"", b"\0"):
        return "frame.magic"
    if len(value) < 5:
        return "frame.short"
    schema_id = int.from_bytes(value[1:5], "big")
    if not paths:
        return Writer(schema_id), value[5:]
    found = path_of(value[5:])
    return "frame.message_index" if found is None else (Writer(schema_id, found[0]), found[1])


@given(VALUES, st.booleans())
@example([b"", None, b"\0", b"\1\0\0\0\1x", b"\0\0\0\0\1"], False)
@example([b"\0\0\0\0\1", b"\0\0\0\0\1\2", b"\0\0\0\0\1\1x", b"\0\0\0\0\1" + b"\xff" * 30], True)
def test_many_frames_are_read_as_one_by_one(values: list[bytes | None], paths: bool) -> None:
    frames = Frames.of(values, paths=paths, max_message_bytes=LIMIT, prefix="f")
    found: dict[int, object] = {int(n): None for n in frames.tombstones}
    found |= {n: error.code for n, error in frames.errors.items()}
    for group in frames.groups:
        assert group.records.tolist() == sorted(group.records.tolist())
        for n, record in enumerate(group.records.tolist()):
            assert record not in found
            found[record] = (group.writer, group.payloads[n])
    assert found == {n: one(value, paths=paths) for n, value in enumerate(values)}
    writers = [group.writer for group in frames.groups]
    assert len(set(writers)) == len(writers)
    firsts = [int(group.records[0]) for group in frames.groups]
    assert firsts == sorted(firsts)


def test_a_reason_holds_nothing_of_the_payload() -> None:
    values = [b"", b"s3cret", b"\0s3c", b"s" * (LIMIT + 1), b"\0\0\0\0\1\xff"]
    frames = Frames.of(values, paths=True, max_message_bytes=LIMIT, prefix="f")
    assert sorted(frames.errors) == [0, 1, 2, 3, 4]
    assert not any("s3c" in error.what for error in frames.errors.values())
