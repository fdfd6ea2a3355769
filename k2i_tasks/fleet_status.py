"""Many tables shown as one run. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from k2i_tasks.status import (
    AgeSummary,
    ComponentHealth,
    ErrorNote,
    Health,
    Refusal,
    RunState,
    Status,
)
from k2i_tasks.types import TopicPartition

ERRORS_KEPT = 20
_WORSE = (Health.UNKNOWN, Health.HEALTHY, Health.DEGRADED, Health.UNHEALTHY)
_OVER = (RunState.FAILED, RunState.STOPPED)
Value = TypeVar("Value")


def combined(own: Status, tables: Sequence[Status], *, draining: bool) -> Status:
    """One status of all tables: sums, unions, the worst health.

    A table that has failed makes its components degraded, not unhealthy, as long as another one is
    well: whoever restarts unhealthy processes would stop that one too.

    Args:
        own: of the process: its start, its bound, and what is wrong beside the tables.
        tables: one for each, in the order of their topics.
        draining: whether the end was asked for.
    """
    some = [one for one in tables if one.state not in _OVER]
    return replace(
        own,
        state=_state(own.state, tables, draining=draining),
        topic=_named([one.topic for one in tables], "topics"),
        table=_named([one.table for one in tables], "tables"),
        epoch=max((one.epoch for one in tables), default=0),
        records_consumed=sum(one.records_consumed for one in tables),
        records_per_second=sum(one.records_per_second for one in tables),
        rows_committed=sum(one.rows_committed for one in tables),
        snapshots_committed=sum(one.snapshots_committed for one in tables),
        dead_letters=sum(one.dead_letters for one in tables),
        flushes=sum(one.flushes for one in tables),
        # Where several share a topic, as the one that is furthest behind.
        positions=_union((one.positions for one in tables), min),
        committed=_union((one.committed for one in tables), min),
        lag=_union((one.lag for one in tables), max),
        buffer_rows=sum(one.buffer_rows for one in tables),
        buffer_bytes=sum(one.buffer_bytes for one in tables),
        kept_rows=sum(one.kept_rows for one in tables),
        kept_bytes=sum(one.kept_bytes for one in tables),
        queryable=_ages([one.queryable for one in tables]),
        committed_age=_ages([one.committed_age for one in tables]),
        batches_in_flight=sum(one.batches_in_flight for one in tables),
        paused=any(one.paused for one in tables),
        pauses=sum(one.pauses for one in tables),
        wal_bytes=sum(one.wal_bytes for one in tables),
        first_record_at=_least(one.first_record_at for one in tables),
        newest_committed_timestamp_ms=_least(one.newest_committed_timestamp_ms for one in tables),
        last_commit=max(
            (one.last_commit for one in tables if one.last_commit is not None),
            key=lambda commit: commit.newest_timestamp_ms,
            default=None,
        ),
        last_errors=_errors(own, tables),
        components=_components(own, tables, all_failed=bool(tables) and not some),
        tables=tuple(tables),
        refusals=_refusals(tables),
    )


def _state(own: RunState, tables: Sequence[Status], *, draining: bool) -> RunState:
    states = {one.state for one in tables}
    if own in _OVER or not tables:
        return own
    if draining:
        return RunState.DRAINING
    if states <= {RunState.FAILED}:
        return RunState.FAILED
    for state in (RunState.RUNNING, RunState.PAUSED, RunState.STARTING):
        if state in states:
            return state
    return own


def _named(names: Sequence[str], what: str) -> str:
    distinct = list(dict.fromkeys(names))
    return distinct[0] if len(distinct) == 1 else f"{len(distinct)} {what}"


def _union(
    maps: Iterable[Mapping[TopicPartition, int]], chosen: Callable[[int, int], int]
) -> dict[TopicPartition, int]:
    found: dict[TopicPartition, int] = {}
    for each in maps:
        found.update({tp: chosen(found.get(tp, value), value) for tp, value in each.items()})
    return found


def _least(values: Iterable[Value | None]) -> Value | None:
    found = [value for value in values if value is not None]
    return min(found) if found else None  # type: ignore[type-var]  # numbers


def _ages(found: Sequence[AgeSummary | None]) -> AgeSummary | None:
    """Of all tables: the worst of each figure."""
    known = [one for one in found if one is not None]
    if not known:
        return None
    return AgeSummary(
        sum(one.records for one in known),
        max(one.p50_seconds for one in known),
        max(one.p99_seconds for one in known),
        max(one.max_seconds for one in known),
    )


def _refusals(tables: Sequence[Status]) -> tuple[Refusal, ...]:
    """Dead letters by kind; place and reason are the last one's of all tables."""
    found: dict[tuple[str, str], Refusal] = {}
    for one in (refusal for table in tables for refusal in table.refusals):
        kind = (one.stage, one.code)
        known = found.get(kind, one)
        last = max(known, one, key=lambda each: each.last_at)
        found[kind] = replace(
            last,
            letters=one.letters + (known.letters if kind in found else 0),
            first_at=min(known.first_at, one.first_at),
        )
    return tuple(sorted(found.values(), key=lambda one: -one.letters))


def _errors(own: Status, tables: Sequence[Status]) -> tuple[ErrorNote, ...]:
    notes = list(own.last_errors)
    for one in tables:
        notes += [replace(note, message=f"{one.topic}: {note.message}") for note in one.last_errors]
    return tuple(sorted(notes, key=lambda note: note.at)[-ERRORS_KEPT:])


def _components(
    own: Status, tables: Sequence[Status], *, all_failed: bool
) -> dict[str, ComponentHealth]:
    found: dict[str, ComponentHealth] = {}
    named = [("", own), *((f"{one.topic}: ", one) for one in tables)]
    for prefix, one in named:
        for name, part in one.components.items():
            health = part.status
            if health is Health.UNHEALTHY and prefix and not all_failed:
                health = Health.DEGRADED
            known = found.get(name)
            if known is None or _WORSE.index(health) > _WORSE.index(known.status):
                message = f"{prefix}{part.message}" if part.message else ""
                found[name] = ComponentHealth(health, message)
    return found
