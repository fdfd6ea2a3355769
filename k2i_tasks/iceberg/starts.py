"""Where a sink began to read a topic: told once, by the claim that first knows of the topic.

    k2i.<sink>.start = {"orders": {"0": 17, "1": 0}}

A table property beside the state. It is what tells rows that are missing at the very beginning from
rows that were never asked for. Partitions that it does not list were added later: read from 0.
"""

from __future__ import annotations

import json

from pyiceberg.table.metadata import TableMetadata

from k2i_tasks.errors import Component, IntegrityError
from k2i_tasks.iceberg.state import SinkState
from k2i_tasks.types import Offsets


def start_key(sink: str) -> str:
    """Name of the table property of `sink`."""
    return f"k2i.{sink}.start"


def first_starts(
    metadata: TableMetadata, sink: str, state: SinkState, offsets: Offsets
) -> dict[str, str]:
    """The property that a claim writes; nothing for topics that the table knows already.

    Nothing for those that an older version claimed either: where it began is not known.

    Args:
        metadata: the table as just loaded.
        sink: name of the sink.
        state: what the table records before the claim.
        offsets: next offsets that the claim records.
    """
    known = starts(metadata, sink)
    claimed = {tp.topic for tp in state.offsets}
    fresh: dict[str, dict[str, int]] = {}
    for tp, offset in sorted(offsets.items()):
        if tp.topic not in claimed and tp.topic not in known:
            fresh.setdefault(tp.topic, {})[str(tp.partition)] = offset
    if not fresh:
        return {}
    return {start_key(sink): json.dumps({**known, **fresh}, separators=(",", ":"))}


def starts(metadata: TableMetadata, sink: str) -> dict[str, dict[str, int]]:
    """First offset ever to be read, by topic and partition number as text.

    Raises:
        IntegrityError: the property cannot be read.
    """
    key = start_key(sink)
    try:
        topics = json.loads(metadata.properties.get(key, "{}"))
        return {
            topic: {str(int(number)): int(offset) for number, offset in partitions.items()}
            for topic, partitions in topics.items()
        }
    except (ValueError, TypeError, AttributeError) as error:
        raise IntegrityError(
            f"Table property {key} cannot be read: {error}.",
            component=Component.ICEBERG,
            remedy="Restore it from an older metadata file, or remove it: then it is not known "
            "where reading began.",
        ) from error
