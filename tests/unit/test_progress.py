"""What a run shows of itself, written by several threads."""

from __future__ import annotations

import sys
import threading

import pytest

from k2i_tasks.clock import SystemClock
from k2i_tasks.errors import (
    CommitConflictError,
    CommitStateUnknownError,
    Component,
    FencedError,
    IntegrityError,
    SchemaConflictError,
    ServiceError,
    TransientError,
    health_component_of,
)
from k2i_tasks.progress import Progress
from k2i_tasks.status import Health, RunState
from k2i_tasks.tracking.report import refusals_markdown
from k2i_tasks.types import DeadLetter

ICEBERG = Component.ICEBERG


def progress() -> Progress:
    found = Progress("t", "db.t", 1000, SystemClock())
    found.state = RunState.RUNNING
    return found


def test_errors_of_several_threads_are_all_taken() -> None:
    shown, failed = progress(), []
    interval = sys.getswitchinterval()

    def note() -> None:
        try:
            for number in range(2_000):
                shown.note("kafka", f"error {number % 30}")
                shown.status()
        except RuntimeError as error:
            failed.append(error)

    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=note) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not failed


@pytest.mark.parametrize(
    ("error", "component"),
    [
        (TransientError("away", component=ICEBERG), "catalog"),
        (ServiceError("refused", component=ICEBERG), "catalog"),
        (CommitStateUnknownError("no answer"), "catalog"),
        (CommitConflictError("the head moved"), "iceberg"),
        (FencedError("owned by another"), "iceberg"),
        (IntegrityError("rolled back", component=ICEBERG), "iceberg"),
        (SchemaConflictError("another type"), "schema"),
        (TransientError("away", component=Component.KAFKA), "kafka"),
        (ServiceError("disk full", component=Component.WAL), "txlog"),
    ],
)
def test_the_component_that_an_error_speaks_of_is_shown_degraded_and_no_other(
    error: Exception, component: str
) -> None:
    shown = progress()
    shown.note(health_component_of(error), str(error))
    parts = shown.status().components
    assert parts[component].status is Health.DEGRADED
    assert parts[component].message == str(error)
    assert {n for n, part in parts.items() if part.status is not Health.HEALTHY} == {component}


def test_what_is_given_up_is_not_counted_as_consumed() -> None:
    shown = progress()
    shown.consumed(100, ())
    shown.let_go(40)
    assert shown.status().records_consumed == 60


def refused(offset: int, code: str, reason: str = "no JSON") -> DeadLetter:
    return DeadLetter("t", 0, offset, -1, None, b"secret", None, "decode", code, reason)


def test_dead_letters_are_counted_by_kind_with_the_place_of_the_last_and_no_value() -> None:
    shown = progress()
    shown.consumed(10, [refused(1, "json.syntax"), refused(2, "json.empty")])
    shown.consumed(10, [refused(5, "json.syntax", "another reason")])
    syntax, empty = shown.status().refusals
    assert (syntax.code, syntax.letters, syntax.place) == ("json.syntax", 2, "t/0/5")
    assert (syntax.reason, empty.letters) == ("another reason", 1)
    assert syntax.first_at <= syntax.last_at
    text = refusals_markdown(shown.status())
    assert "3 of 20 records" in text
    assert "| json.syntax | decode | 2 |" in text
    assert "secret" not in text
    shown.forget_records()
    assert shown.status().refusals == ()
