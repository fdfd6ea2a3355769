"""Records that the table has no place for: they pass, are waited before, or end the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from k2i_tasks.codecs.conflicts import Policy
from k2i_tasks.errors import SchemaConflictError
from k2i_tasks.resumption import FILE_NAME, take_order
from k2i_tasks.serving.health import health_report, not_ready_because
from k2i_tasks.status import Health, RunState
from k2i_tasks.types import RawBatch
from tests.unit.codec_batches import batch_of
from tests.unit.standstill_rig import Rig


def numbers(*values: Any, start: int = 0) -> RawBatch:
    return batch_of([json.dumps({"n": value}).encode() for value in values], start)


def test_the_run_stands_before_the_first_conflict_and_loses_nothing(tmp_path: Path) -> None:
    batches = numbers(1, 2, "x", 4), numbers(5, start=4)
    rig = Rig(tmp_path, Policy.PAUSE, *batches)
    assert rig.taken() == ([1, 2], [])
    polls = rig.source.polls
    assert rig.taken() == ([], [])
    assert rig.source.paused
    assert rig.source.polls - polls >= 4, "the client must be kept alive"
    assert list(rig.progress.positions.values()) == [2]
    assert (rig.progress.records_consumed, rig.progress.dead_letters) == (2, 0)
    status = rig.progress.status()
    assert status.state is RunState.PAUSED
    assert status.components["schema"].status is Health.DEGRADED
    reason = not_ready_because(status)
    for words in ("partition 0", "offset 2 of t", "Field n", "int64", "string"):
        assert words in reason
    stand = health_report(status)["standstill"]
    assert (stand["cause"], stand["offset"], stand["field"]) == ("conflict", 2, "n")


@pytest.mark.parametrize("code", ["json.syntax", "json.encoding"])
def test_a_bad_record_is_no_conflict(tmp_path: Path, code: str) -> None:
    bad = {"json.syntax": b'{"n":}', "json.encoding": b'{"n":"\xff"}'}[code]
    rig = Rig(tmp_path, Policy.PAUSE, batch_of([bad, b'{"n":1}']))
    assert rig.taken() == ([1], [code])


def test_a_table_that_was_changed_meanwhile_takes_the_record(tmp_path: Path) -> None:
    rig = Rig(tmp_path, Policy.PAUSE, numbers(1, "x", "y"))
    assert rig.taken() == ([1], [])
    rig.order()
    assert rig.taken() == ([], []), "the table is as it was"
    assert rig.progress.standstill is not None
    rig.table = [("n", pa.string())]
    rig.order()
    assert rig.taken() == (["x", "y"], [])
    assert rig.progress.standstill is None
    assert not rig.source.paused


def test_an_order_as_dead_letter_holds_for_that_field_alone(tmp_path: Path) -> None:
    others = batch_of([b'{"n":"y"}', b'{"n":9}', b'{"":1}'], 2)
    rig = Rig(tmp_path, Policy.PAUSE, numbers(1, "x"), others)
    assert rig.taken() == ([1], [])
    rig.order("dead-letter")
    assert rig.taken() == ([9], ["json.type_mismatch"] * 2)
    stand = rig.progress.standstill
    assert stand is not None
    assert (stand.offset, stand.field_path) == (4, "")


def test_what_is_buffered_is_committed_before_the_run_goes_on(tmp_path: Path) -> None:
    rig = Rig(tmp_path, Policy.PAUSE, numbers(1, "x"))
    assert rig.taken() == ([1], [])
    rig.order("dead-letter")
    assert [rig.poll(empty=False) for _ in range(3)] == [[], [], []]
    assert rig.taken() == ([], ["json.type_mismatch"])


def test_an_order_for_another_record_is_not_obeyed_and_not_kept(tmp_path: Path) -> None:
    rig = Rig(tmp_path, Policy.PAUSE, numbers(1, "x"))
    rig.taken()
    rig.order("dead-letter", offset=7)
    assert rig.taken() == ([], [])
    assert not (tmp_path / FILE_NAME).exists()


def test_a_catalog_that_is_away_leaves_the_run_where_it_stands(tmp_path: Path) -> None:
    rig = Rig(tmp_path, Policy.PAUSE, numbers("x"))
    rig.taken()
    rig.away = True
    rig.order("dead-letter")
    assert rig.taken() == ([], [])
    assert rig.progress.standstill is not None
    rig.away = False
    rig.order()
    assert rig.taken() == ([], ["json.type_mismatch"])


@pytest.mark.parametrize("body", [b"", b"null", b"[1]", b'{"topic":"t"}', b"\xff", b"[" * 70_000])
def test_what_is_no_order_is_removed(tmp_path: Path, body: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(body)
    assert take_order(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_the_policy_fail_gives_what_came_before_and_ends_the_run(tmp_path: Path) -> None:
    rig = Rig(tmp_path, Policy.FAIL, numbers(1, 2, "x"))
    assert rig.taken(1) == ([1, 2], [])
    with pytest.raises(SchemaConflictError, match=r"offset 2 of t: Field n: .*string"):
        rig.poll()
    assert list(rig.progress.positions.values()) == [2]


def test_a_flood_of_dead_letters_stops_the_run_and_the_letters_before_are_kept(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path, Policy.DEAD_LETTER, numbers(*"abcd", 5, *"efg"), per_minute=3)
    assert rig.taken() == ([], ["json.type_mismatch"] * 3)
    stand = rig.progress.standstill
    assert stand is not None
    assert (stand.cause.value, stand.offset) == ("dead-letters", 3)
    assert "3 dead letters within a minute" in not_ready_because(rig.progress.status())
    rig.order()
    assert rig.taken() == ([5], ["json.type_mismatch"] * 3)
    assert rig.progress.standstill.offset == 7  # type: ignore[union-attr]


def test_letters_of_an_earlier_minute_do_not_count(tmp_path: Path) -> None:
    rig = Rig(tmp_path, Policy.DEAD_LETTER, numbers(*"ab"), per_minute=2)
    assert rig.taken() == ([], ["json.type_mismatch"] * 2)
    rig.clock.now += 60.0
    rig.source.batches = [numbers(*"cd", start=2)]
    assert rig.taken() == ([], ["json.type_mismatch"] * 2)
    assert rig.progress.standstill is None


def test_the_group_may_take_what_the_run_stands_before(tmp_path: Path) -> None:
    rig = Rig(tmp_path, Policy.PAUSE, numbers("x"))
    rig.taken()
    rig.intake.forget()
    assert rig.progress.standstill is None
    rig.source.paused = False
    rig.source.batches = [numbers(3, start=1)]
    assert rig.taken() == ([3], [])
