"""Confluent's frame around a payload: which writer's schema, and where the payload begins.

A frame is a zero byte, the schema's id as 4 bytes (big endian), and the payload. Protobuf has the
path to the message type in between: the number of indexes, then the indexes, as zigzag varints; one
zero byte stands for the path [0].

Source: "Wire format" in the Schema Registry documentation of Confluent Platform.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from k2i_tasks.codecs.payloads import Payloads
from k2i_tasks.errors import DecodeError
from k2i_tasks.types import RawBatch

#: Bytes before the payload, or before the path of a message type.
HEAD_BYTES = 5
#: The first of them.
MAGIC = b"\0"
#: Message types that are nested deeper than this have no schema that compiles.
PATH_MAX = 64

Indices = npt.NDArray[np.int64]
#: Index of a message type in its file, then of one nested in it, and so on; () where there is none.
MessagePath = tuple[int, ...]
_FIRST: MessagePath = (0,)


@dataclass(frozen=True, slots=True, order=True)
class Writer:
    """What wrote a payload.

    Args:
        schema_id: the registry's id of its schema.
        path: the message type in it; () where the format has none.
    """

    schema_id: int
    path: MessagePath = ()


@dataclass(frozen=True, slots=True)
class Group:
    """Payloads of one writer.

    Args:
        writer: whose.
        records: their record indices, rising.
        payloads: the payloads, without frames, in the same order.
    """

    writer: Writer
    records: Indices
    payloads: Payloads


@dataclass(frozen=True, slots=True)
class Frames:
    """The values of one batch, by writer.

    Args:
        groups: one for each writer, in the order of their first records.
        tombstones: indices of the records without a value, rising.
        errors: record index -> why its value is no frame.
    """

    groups: tuple[Group, ...]
    tombstones: Indices
    errors: dict[int, DecodeError]

    @classmethod
    def of(
        cls, values: Sequence[bytes | None], *, paths: bool, max_message_bytes: int, prefix: str
    ) -> Frames:
        """Takes the frames off. Does not block.

        Args:
            values: of n records; None is a tombstone.
            paths: whether a message path stands before each payload.
            max_message_bytes: a longer value is refused.
            prefix: of the code for that, the name of the format.
        """
        present, texts = np.ones(len(values), bool), values
        if None in values:
            present = np.fromiter((value is not None for value in values), bool, len(values))
            texts = [value for value in values if value is not None]
        records = np.flatnonzero(present).astype(np.int64)
        whole = Payloads.joined(cast(Sequence[bytes], texts))
        sizes = whole.ends - whole.starts
        errors: dict[int, DecodeError] = {}
        bad = sizes > max_message_bytes
        for place in np.flatnonzero(bad).tolist():
            what = f"The payload has {sizes[place]} bytes, the limit is {max_message_bytes}."
            errors[int(records[place])] = DecodeError(f"{prefix}.too_large", what)
        # The joined bytes have no end: the last payload may be shorter than its frame.
        first = _bytes_at(whole, 0)
        magic = ~bad & (sizes > 0) & (first != 0)
        for place in np.flatnonzero(magic).tolist():
            what = f"The payload begins with byte {first[place]:#04x}, and a frame with 0x00."
            errors[int(records[place])] = DecodeError("frame.magic", what)
        short = ~bad & ~magic & (sizes < HEAD_BYTES)
        for place in np.flatnonzero(short).tolist():
            what = f"The payload has {sizes[place]} bytes, and a frame alone has {HEAD_BYTES}."
            errors[int(records[place])] = DecodeError("frame.short", what)
        framed = np.flatnonzero(~(bad | magic | short)).astype(np.int64)
        groups = _grouped(whole.take(framed), records[framed], errors, paths=paths)
        return cls(groups, np.flatnonzero(~present).astype(np.int64), errors)


def schema_id_of(value: bytes | None) -> int | None:
    """The schema's id in a value's frame; None where that is not whole."""
    if value is None or len(value) < HEAD_BYTES or value[0] != 0:
        return None
    return int.from_bytes(value[1:HEAD_BYTES])


class Framing:
    """Takes the frames off batches; the last one's are kept, since two steps ask for them.

    Args:
        prefix, paths, max_message_bytes: as for `Frames.of`.
    """

    def __init__(self, prefix: str, *, paths: bool, max_message_bytes: int) -> None:
        self._prefix = prefix
        self._paths = paths
        self._max_message_bytes = max_message_bytes
        self._last: tuple[RawBatch, Frames] | None = None

    def of(self, raw: RawBatch) -> Frames:
        """The frames of its values. Does not block."""
        if self._last is None or self._last[0] is not raw:
            frames = Frames.of(
                raw.values,
                paths=self._paths,
                max_message_bytes=self._max_message_bytes,
                prefix=self._prefix,
            )
            self._last = raw, frames
        return self._last[1]


def _bytes_at(payloads: Payloads, position: int) -> npt.NDArray[np.uint8]:
    """One byte of each payload, 0 behind its end."""
    at = payloads.starts + position
    inside = at < payloads.ends
    found = np.zeros(len(payloads), np.uint8)
    found[inside] = payloads.data[at[inside]]
    return found


def _grouped(
    framed: Payloads, records: Indices, errors: dict[int, DecodeError], *, paths: bool
) -> tuple[Group, ...]:
    """Groups of whole frames; adds to `errors` those whose path cannot be read."""
    if not len(framed):
        return ()
    ids = np.zeros(len(framed), np.int64)
    for position in range(1, HEAD_BYTES):
        ids = ids << 8 | framed.data[framed.starts + position]
    starts = framed.starts + HEAD_BYTES
    if not paths:
        return _by_key(ids, [()], ids * 0, Payloads(framed.data, starts, framed.ends), records)
    known: list[MessagePath] = [_FIRST]
    which, after = _read_paths(Payloads(framed.data, starts, framed.ends), known)
    for place in np.flatnonzero(which < 0).tolist():
        what = "The path to the message type, which follows the schema's id, is cut or too long."
        errors[int(records[place])] = DecodeError("frame.message_index", what)
    sound = which >= 0
    bodies = Payloads(framed.data, after[sound], framed.ends[sound])
    return _by_key(ids[sound], known, which[sound], bodies, records[sound])


def _by_key(
    ids: Indices, paths: list[MessagePath], which: Indices, payloads: Payloads, records: Indices
) -> tuple[Group, ...]:
    keys = ids * len(paths) + which
    found, first, inverse, counts = np.unique(
        keys, return_index=True, return_inverse=True, return_counts=True
    )
    if len(found) == 1:
        writer = Writer(int(ids[0]), paths[int(which[0])])
        return (Group(writer, records, payloads),)
    by_group = np.argsort(inverse, kind="stable").astype(np.int64)
    rows = np.split(by_group, np.cumsum(counts)[:-1])
    return tuple(
        Group(
            Writer(int(ids[first[n]]), paths[int(which[first[n]])]),
            records[rows[n]],
            payloads.take(rows[n]),
        )
        for n in np.argsort(first).tolist()
    )


def _read_paths(bodies: Payloads, known: list[MessagePath]) -> tuple[Indices, Indices]:
    """The path in front of each body.

    Args:
        bodies: n payloads, each a path and a message.
        known: paths; those that are found are added.

    Returns:
        The place of each path in `known`, -1 for one that cannot be read; and where it ends.
    """
    which = np.full(len(bodies), -1, np.int64)
    after = bodies.starts.copy()
    one, two = _bytes_at(bodies, 0), _bytes_at(bodies, 1)
    sizes = bodies.ends - bodies.starts
    first = (sizes >= 1) & (one == 0)
    which[first] = 0
    after[first] += 1
    # One index of one byte: a type at the top of the file.
    top = (sizes >= 2) & (one == 2) & (two < 0x80) & (two & 1 == 0)
    places = {path: place for place, path in enumerate(known)}
    for byte in np.unique(two[top]).tolist():
        which[top & (two == byte)] = _place((byte >> 1,), places, known)
    after[top] += 2
    for n in np.flatnonzero(~(first | top)).tolist():
        read = _read_path(bodies.data[bodies.starts[n] : bodies.ends[n]])
        if read is not None:
            path, length = read
            which[n] = _place(path, places, known)
            after[n] += length
    return which, after


def _place(path: MessagePath, places: dict[MessagePath, int], known: list[MessagePath]) -> int:
    if path not in places:
        places[path] = len(known)
        known.append(path)
    return places[path]


def _read_path(body: npt.NDArray[np.uint8]) -> tuple[MessagePath, int] | None:
    """A path and its bytes; None when it is cut, negative, or too long."""
    numbers: list[int] = []
    wanted, at = 1, 0
    head = body[: 10 * (PATH_MAX + 1)].tobytes()
    while len(numbers) < wanted:
        raw = shift = 0
        while True:
            if at >= len(head) or shift > 63:
                return None
            byte = head[at]
            at += 1
            raw |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        number = (raw >> 1) ^ -(raw & 1)
        if not 0 <= number < 2**31:
            return None
        numbers.append(number)
        if len(numbers) == 1:
            if number > PATH_MAX:
                return None
            wanted = number + 1
    return tuple(numbers[1:]) or _FIRST, at
