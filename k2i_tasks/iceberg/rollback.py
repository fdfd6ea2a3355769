"""A table that was rolled back behind our newest commit: told, or gone on from as configured."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Literal

from k2i_tasks.errors import Component, IntegrityError
from k2i_tasks.iceberg.state import Recorded, SinkState
from k2i_tasks.types import Offsets

log = logging.getLogger(__name__)


def start_state(name: str, found: Recorded, choice: Literal["halt", "replay", "keep"]) -> SinkState:
    """The state that a run goes on from; empty when no commit of ours is in the table.

    Args:
        name: of the table.
        found: what it records.
        choice: as `iceberg.on_rollback`.

    Raises:
        IntegrityError: it was rolled back, and the choice is to halt.
    """
    if not found.rolled_back:
        return found.newest or SinkState()
    if choice == "halt":
        raise rolled_back(name, found)
    assert found.summary is not None
    assert found.in_property is not None
    base = found.summary if choice == "replay" else found.in_property
    log.warning("table %s was rolled back; on_rollback = %s", name, choice)
    # The epoch and sequence of the property, so that the claim becomes the newest record.
    newest = found.in_property
    return replace(base, epoch=newest.epoch, owner=newest.owner, seq=newest.seq)


def rolled_back(name: str, found: Recorded) -> IntegrityError:
    """The error for a head that is older than the newest commit of ours."""
    assert found.summary is not None
    assert found.in_property is not None
    return IntegrityError(
        f"Table {name} was rolled back: its head records {_shown(found.summary.offsets)} "
        f"(commit {found.summary.seq}), its property {_shown(found.in_property.offsets)} "
        f"(commit {found.in_property.seq}).",
        component=Component.ICEBERG,
        remedy="Set iceberg.on_rollback to 'replay' (ingest again from the head's offsets) or "
        "'keep' (go on from the property's), then restart.",
    )


def _shown(offsets: Offsets, most: int = 8) -> str:
    parts = [f"{tp}={offset}" for tp, offset in sorted(offsets.items())[:most]]
    return "next offsets " + (" ".join(parts) or "none")
