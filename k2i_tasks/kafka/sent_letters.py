"""Which records' dead letters a topic holds: read from its beginning to its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from confluent_kafka.admin import AdminClient

from k2i_tasks.kafka.client import admin_settings, with_callbacks
from k2i_tasks.kafka.errors import ErrorLog, kafka_errors, settings_errors
from k2i_tasks.kafka.letters import HEADER
from k2i_tasks.kafka.policy import look_at
from k2i_tasks.kafka.ranges import RangeReader, reading_settings
from k2i_tasks.types import Headers, OffsetRange

Places = tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]


def sent_letters(
    settings: Mapping[str, Any], letter_topic: str, *, topic: str, table: str, seconds: float
) -> Places:
    """Where the records were whose letters `letter_topic` holds. May block for as long as it takes.

    Args:
        settings: of a consumer, as `consumer_settings` makes them.
        letter_topic: where letters are.
        topic, table: letters of others are left out.
        seconds: longest wait for one answer of the broker.

    Returns:
        Partitions and offsets, int32 [n] and int64 [n], in the order of the topic.

    Raises:
        K2IError: the topic cannot be read.
    """
    nothing = np.empty(0, np.int32), np.empty(0, np.int64)
    with settings_errors():
        admin = AdminClient(with_callbacks(admin_settings(settings), ErrorLog().add))
    with kafka_errors(f"Looking for topic {letter_topic}"):
        if letter_topic not in admin.list_topics(timeout=seconds).topics:
            return nothing
    state, _ = look_at(settings, letter_topic, seconds)
    reader = RangeReader(reading_settings(settings, "verify-letters"), letter_topic)
    found: list[tuple[int, int]] = []
    try:
        reader.begin({n: OffsetRange(at.low, at.high) for n, at in state.partitions.items()})
        while reader.busy:
            batch = reader.poll()
            if batch is not None:
                places = (place_of(headers, topic, table) for headers in batch.headers or ())
                found += [place for place in places if place is not None]
    finally:
        reader.close()
    if not found:
        return nothing
    pairs = np.array(found, np.int64)
    return pairs[:, 0].astype(np.int32), pairs[:, 1].copy()


def place_of(headers: Headers | None, topic: str, table: str) -> tuple[int, int] | None:
    """Partition and offset that a letter's headers tell; None if it is of another topic or table.

    The record's own headers come first, and may have such names too: the last of each counts.
    """
    told = dict(headers or ())
    try:
        ours = (told[f"{HEADER}topic"], told[f"{HEADER}table"])
        if ours != (topic.encode(), table.encode()):
            return None
        return int(told[f"{HEADER}partition"] or b""), int(told[f"{HEADER}offset"] or b"")
    except (KeyError, ValueError):
        return None
