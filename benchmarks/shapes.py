"""Topics of messages of any size and number of members, and what their tables must hold.

A message is a flat JSON object: `event_id`, then columns whose kinds come round. Their values are
random by seed, and come again after as many messages as there are bodies, under other ids.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks import topic as topics
from k2i_tasks.kafka.orders import iso_milliseconds

#: Kind -> what is summed up of a column in SQL; equal sums, equal values.
SUMS = {
    "text": "sum(CAST('0x' || md5({0})[1:8] AS BIGINT))",
    "int": "sum({0})",
    "float": "sum(CAST(round({0} * 100) AS BIGINT))",
    "flag": "count(*) FILTER ({0})",
    "time": "sum(epoch_ms({0}))",
}
KINDS = tuple(SUMS)
#: Bounds of what is made beforehand: bodies, their bytes, their values.
BODIES_MAX, BODY_BYTES_MAX, BODY_VALUES_MAX = 20_000, 32 << 20, 1_000_000
#: Of a text, unless its message has to become longer.
TEXT_BYTES = 8
SEED, EPOCH = 7, 1_767_225_600


@dataclass(frozen=True, slots=True)
class Shape:
    """What the messages of a topic look like.

    Args:
        columns: members of each, at least 2: the id, and a text.
        message_bytes: size of a value that the first text fills up to, near enough; 0 for as it
            comes.
    """

    columns: int
    message_bytes: int = 0

    @property
    def names(self) -> dict[str, str]:
        """Column -> kind, without the id."""
        return {f"c{n:03d}": KINDS[(n - 1) % len(KINDS)] for n in range(1, self.columns)}


@dataclass(frozen=True, slots=True)
class Body:
    """A message from after its id on, and what each column adds to its sum."""

    text: bytes
    parts: dict[str, int]


class Bodies:
    """The different bodies of a shape."""

    def __init__(self, shape: Shape) -> None:
        numbers = random.Random(SEED)
        self.shape = shape
        bare = _body(numbers, shape, TEXT_BYTES)
        size = len(bare.text) + len('{"event_id":1234567')
        width = TEXT_BYTES + max(0, shape.message_bytes - size)
        bytes_each = max(size, shape.message_bytes)
        count = min(BODIES_MAX, BODY_BYTES_MAX // bytes_each, BODY_VALUES_MAX // shape.columns)
        self.message_bytes = bytes_each
        self._bodies = [_body(numbers, shape, width) for _ in range(count)]

    def events(self, messages: int) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values of the messages numbered from 0."""
        bodies, count = self._bodies, len(self._bodies)
        for number in range(messages):
            yield b"key-%d" % number, b'{"event_id":%d%b' % (number, bodies[number % count].text)

    def sums(self, messages: int) -> dict[str, int]:
        """What each column must come to over the first `messages`."""
        total = dict.fromkeys(self.shape.names, 0)
        count = len(self._bodies)
        for number, body in enumerate(self._bodies[:messages]):
            often = (messages - number - 1) // count + 1
            for name, part in body.parts.items():
                total[name] += often * part
        return total


def fill(bootstrap: str, bodies: Bodies, messages: int, partitions: int) -> topics.Topic:
    """Makes a topic and fills it. May block for minutes."""
    name = topics.named("shape")
    size = topics.send(bootstrap, name, bodies.events(messages), partitions)
    return topics.Topic(bootstrap, name, messages, size / messages, bodies.sums(messages))


def compared(shape: Shape, topic: topics.Topic, metadata_location: str) -> dict[str, Any]:
    """What DuckDB finds in the table; as `benchmarks.topic.compared`."""
    queries = {name: SUMS[kind].format(name) for name, kind in shape.names.items()}
    source = f"iceberg_scan('{metadata_location}')"
    return topics.summed(source, "event_id", queries, topic.sums, topic.messages)


def _body(numbers: random.Random, shape: Shape, first_text_bytes: int) -> Body:
    width, values, parts = first_text_bytes, {}, {}
    for name, kind in shape.names.items():
        values[name], parts[name] = _value(numbers, kind, width)
        if kind == "text":
            width = TEXT_BYTES
    text = json.dumps(values, separators=(",", ":"))
    return Body(f",{text[1:]}".encode(), parts)


def _value(numbers: random.Random, kind: str, text_bytes: int) -> tuple[Any, int]:
    """A value, and what it adds to its column's sum."""
    if kind == "text":
        text = numbers.randbytes(text_bytes // 2 + 1).hex()[:text_bytes]
        return text, int(hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()[:8], 16)
    if kind == "flag":
        flag = numbers.random() < 0.5
        return flag, int(flag)
    number = numbers.randrange(10**6)
    if kind == "float":
        return number / 100, number
    if kind == "time":
        return iso_milliseconds(EPOCH + number), (EPOCH + number) * 1000
    return number, number
