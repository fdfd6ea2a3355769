"""The gaps that an operator accepted, as the write-ahead log tells them. Takes no lock."""

from __future__ import annotations

import logging
from pathlib import Path

from k2i_tasks.errors import K2IError
from k2i_tasks.journal import ranges_from_json, replay
from k2i_tasks.types import OffsetRange
from k2i_tasks.wal.disk import disk_errors
from k2i_tasks.wal.folder import list_folder
from k2i_tasks.wal.replay import read_segment

log = logging.getLogger(__name__)


def accepted_gaps(folder: Path, table_uuid: str, topic: str) -> dict[int, list[OffsetRange]]:
    """Accepted gaps by partition; none where the log is not here, is another table's or damaged.

    Args:
        folder: the log's folder; a running process may be writing to it.
        table_uuid: the table that the log must belong to.
        topic: whose gaps.
    """
    found: dict[int, list[OffsetRange]] = {}
    try:
        if not folder.is_dir():
            return found
        listing = list_folder(folder)
        if not listing.segments:
            return found
        # The newest segment begins with a checkpoint, which has all that is kept of older ones.
        number, path = max(listing.segments.items())
        with disk_errors(f"read {path}"):
            data = path.read_bytes()
        state = replay(read_segment(data, number)[1])
    except K2IError as error:
        log.warning("%s Accepted gaps are not known.", error)
        return found
    if state.table_uuid != table_uuid:
        return found
    for body in state.gaps:
        for tp, span in ranges_from_json(body["ranges"]).items():
            if tp.topic == topic:
                found.setdefault(tp.partition, []).append(span)
    return found
