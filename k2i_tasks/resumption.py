"""The file by which an operator has a run go on that stands still.

It is in the folder of the run's write-ahead log: who may write there may do worse. It names the
record that the run stands before, so that an order that comes late is not taken for another one.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from k2i_tasks.errors import Component, ServiceError

log = logging.getLogger(__name__)

FILE_NAME = "resume.json"
#: Words of `k2i schema resume --as`.
POLICIES = ("dead-letter", "variant-column")
_BYTES_MAX = 65_536


@dataclass(frozen=True, slots=True)
class Order:
    """Go on from this record.

    Args:
        topic, partition, offset: of the record that the run stands before.
        policy: of the field in conflict from now on, one of `POLICIES`; None to try again.
    """

    topic: str
    partition: int
    offset: int
    policy: str | None = None


def send_order(folder: Path, order: Order) -> None:
    """Puts the order where the run of this log folder looks for it; replaces an earlier one.

    Raises:
        ServiceError: the folder is not there, or cannot be written.
    """
    body = {
        "topic": order.topic,
        "partition": order.partition,
        "offset": order.offset,
        "as": order.policy,
    }
    fresh = folder / f"{FILE_NAME}.{os.getpid()}.tmp"
    try:
        fresh.write_text(json.dumps(body), encoding="utf-8")
        fresh.replace(folder / FILE_NAME)
    except OSError as error:
        raise ServiceError(
            f"The order to go on cannot be written to {folder}: {error.strerror}.",
            component=Component.WAL,
            remedy="Run it where the ingest runs, as its user, with its configuration.",
        ) from error


def take_order(folder: Path) -> Order | None:
    """The order that waits in this log folder, which is removed; None when there is none.

    What is no order is removed too, and logged.
    """
    path = folder / FILE_NAME
    try:
        with path.open("rb") as file:
            body = file.read(_BYTES_MAX + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("%s cannot be read: %s", path, error.strerror)
        return None
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        # It would be found again and again.
        log.warning("%s is not obeyed, since it cannot be removed: %s", path, error.strerror)
        return None
    order = _order(body)
    if order is None:
        log.warning("%s was no order to go on, and is removed", path)
    return order


def _order(body: bytes) -> Order | None:
    try:
        found: Any = json.loads(body) if len(body) <= _BYTES_MAX else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, Mapping):
        return None
    topic, partition, offset = (found.get(key) for key in ("topic", "partition", "offset"))
    policy = found.get("as")
    if not isinstance(topic, str) or policy not in (None, *POLICIES):
        return None
    if type(partition) is not int or type(offset) is not int:
        return None
    return Order(topic, partition, offset, policy)
