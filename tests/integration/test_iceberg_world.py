"""What others do to the table while we write it, or while we are away: nothing lost or doubled."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.exceptions import CommitFailedException, ValidationException
from pyiceberg.table import Table
from pyiceberg.types import StringType

from k2i_tasks.failpoints import VARIABLE
from tests.integration.test_end_to_end import expected, landed, unique, wait_for_snapshot
from tests.program import Process, Program
from tests.support import Position, assert_exactly_once, create_topic, produce_events

pytestmark = pytest.mark.integration

#: How a running ingest is left alone to meet what was done to its table, in events.
MORE = 400


@pytest.fixture
def program(kafka_bootstrap: str, tmp_path: Path) -> Program:
    topic = unique("world")
    create_topic(kafka_bootstrap, topic)
    return Program(tmp_path, kafka_bootstrap, topic)


class Feed:
    """The events of one topic so far."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self.written: dict[Position, dict[str, Any]] = {}

    def more(self, count: int = MORE) -> None:
        bootstrap, topic = self._program.bootstrap, self._program.topic
        self.written |= produce_events(bootstrap, topic, count, first=len(self.written))

    def all_in(self, program: Program) -> None:
        assert_exactly_once(own(landed(program)), expected(self.written))


def own(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of ours, not those that somebody else put into the table."""
    return [row for row in rows if row["_kafka_topic"] is not None]


def table_of(program: Program) -> Table:
    table = program.load_table()
    assert table is not None
    return table


def insistently(change: Callable[[], object]) -> None:
    """A commit as other programs make them: again, on a fresh table, if ours came first.

    PyIceberg tells that in two ways: by the catalog's answer, and by its own look before a retry.
    """
    deadline = time.monotonic() + 60
    while True:
        try:
            change()
            return
        except (CommitFailedException, ValidationException):
            if time.monotonic() > deadline:
                raise


@contextmanager
def running(program: Program) -> Iterator[Process]:
    """The program, from its first commit with rows on; killed if it is left running."""
    process = program.start()
    try:
        wait_for_snapshot(program, process)
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate(timeout=30)


def drained(process: Process, program: Program, feed: Feed) -> None:
    """Waits until all of the topic is committed, then ends the run, which must succeed."""
    deadline = time.monotonic() + 60
    while rows_of(program) < len(feed.written) and process.poll() is None:
        assert time.monotonic() < deadline, f"{rows_of(program)} of {len(feed.written)} rows"
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output


def rows_of(program: Program) -> int:
    """Rows of ours in the table, counted by PyIceberg."""
    scan = table_of(program).scan(selected_fields=("_kafka_topic",))
    return sum(name is not None for name in scan.to_arrow().column(0).to_pylist())


def failed(process: Process) -> str:
    """The output of a run that must end by itself with exit code 3."""
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 3, output
    assert "Traceback" not in output
    return output


def complete(program: Program, feed: Feed) -> None:
    """A run from here to the end of the topic, and the comparison."""
    feed.more(100)
    with running_again(program) as process:
        drained(process, program, feed)
    feed.all_in(program)


@contextmanager
def running_again(program: Program) -> Iterator[Process]:
    process = program.start()
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate(timeout=30)


# While it runs.


def append_foreign(program: Program) -> None:
    table = table_of(program)
    table.append(pa.table({"order_id": pa.array([-1, -2], pa.int64())}))


def compact(program: Program) -> None:
    """Every row rewritten by another program, which knows nothing of our summary."""
    table = table_of(program)
    table.overwrite(table.scan().to_arrow())


def add_column(program: Program) -> None:
    table = table_of(program)
    with table.update_schema() as update:
        update.add_column(f"reviewed_by_{len(table.schema().fields)}", StringType())


def set_property(program: Program) -> None:
    with table_of(program).transaction() as transaction:
        transaction.set_properties({"comment": "for all to see"})


def remove_state(program: Program) -> None:
    if "k2i.main.state" not in table_of(program).properties:
        return  # no commit of ours since the last time
    with table_of(program).transaction() as transaction:
        transaction.remove_properties("k2i.main.state")


def expire(program: Program) -> None:
    table = table_of(program)
    kept = table.metadata.current_snapshot_id
    gone = [one.snapshot_id for one in table.metadata.snapshots if one.snapshot_id != kept]
    table.maintenance.expire_snapshots().by_ids(gone).commit()


@pytest.mark.parametrize(
    "change", [append_foreign, compact, add_column, set_property, remove_state, expire]
)
def test_a_change_by_others_during_a_run_does_no_harm(
    program: Program, change: Callable[[Program], None]
) -> None:
    feed = Feed(program)
    feed.more()
    with running(program) as process:
        for _ in range(3):
            insistently(lambda: change(program))
            feed.more()
        drained(process, program, feed)
    feed.all_in(program)
    complete(program, feed)


# While it is away.


def test_all_snapshots_of_ours_may_expire_while_it_is_away(program: Program) -> None:
    feed = Feed(program)
    feed.more()
    with running(program) as process:
        drained(process, program, feed)
    compact(program)
    expire(program)
    (left,) = table_of(program).metadata.snapshots
    assert left.summary is not None
    assert not any(key.startswith("k2i.") for key in left.summary.additional_properties)
    complete(program, feed)


def test_a_property_removed_while_it_is_away_is_found_in_the_snapshots(program: Program) -> None:
    feed = Feed(program)
    feed.more()
    with running(program) as process:
        drained(process, program, feed)
    remove_state(program)
    complete(program, feed)
    assert "k2i.main.state" in table_of(program).properties


def rollback(program: Program) -> int:
    """Takes back the newest commit of ours that has rows; how many rows were left."""
    table = table_of(program)
    ours = [
        one
        for one in table.metadata.snapshots
        if one.summary is not None and one.summary.additional_properties.get("added-records")
    ]
    parent = ours[-1].parent_snapshot_id
    assert parent is not None
    table.manage_snapshots().rollback_to_snapshot(parent).commit()
    return rows_of(program)


@pytest.mark.parametrize("choice", ["replay", "keep"])
def test_a_rollback_halts_until_somebody_has_chosen(program: Program, choice: str) -> None:
    feed = Feed(program)
    feed.more()
    with running(program) as process:
        drained(process, program, feed)
    before = set(feed.written)
    left = rollback(program)
    assert left < len(before)
    code, output = program.run()
    assert code == 3, output
    assert "rolled back" in output
    assert "iceberg.on_rollback" in output
    program.environ = {"K2I_ICEBERG_ON_ROLLBACK": choice}
    feed.more(100)
    wanted = len(feed.written) if choice == "replay" else left + 100
    process = program.start()
    deadline = time.monotonic() + 60
    while rows_of(program) < wanted and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    program.environ = {}
    if choice == "replay":
        feed.all_in(program)
        complete(program, feed)
        return
    rows = own(landed(program))
    places = {(row["_kafka_partition"], row["_kafka_offset"]) for row in rows}
    assert len(rows) == len(places) == wanted
    assert set(feed.written) - before <= places


def test_a_rollback_during_a_run_halts_it(program: Program) -> None:
    feed = Feed(program)
    feed.more()
    with running(program) as process:
        insistently(lambda: rollback(program))
        feed.more()
        assert "rolled back" in failed(process)


def test_a_table_made_again_is_not_filled_in_silence(program: Program) -> None:
    feed = Feed(program)
    feed.more()
    with running(program) as process:
        table = table_of(program)
        name, schema = table.name(), table.schema()
        catalog = table.catalog
        catalog.drop_table(name)
        catalog.create_table(name, schema)
        feed.more()
        assert "dropped and created again" in failed(process)
    code, output = program.run()
    assert code == 3, output
    assert "dropped and created again" in output
    (program.folder / "wal").rename(program.folder / "wal-before")
    complete(program, feed)


def test_a_dropped_table_ends_the_run_and_is_not_made_again_in_silence(program: Program) -> None:
    feed = Feed(program)
    feed.more()
    with running(program) as process:
        table = table_of(program)
        table.catalog.drop_table(table.name())
        feed.more()
        assert "does not exist" in failed(process)
    code, output = program.run()
    assert code == 3, output
    assert "no longer exists" in output


def test_a_new_partition_spec_stops_a_run_and_a_restart_writes_with_it(program: Program) -> None:
    feed = Feed(program)
    feed.more()
    with running(program) as process:
        with table_of(program).update_spec() as update:
            update.add_identity("express")
        # The flush thread notices with the next change of columns only, the commit at once.
        feed.more()
        assert "partition spec" in failed(process)
    complete(program, feed)
    files = table_of(program).inspect.data_files().column("spec_id").to_pylist()
    assert set(files) == {0, 1}


def test_staged_files_that_somebody_deleted_are_read_from_kafka_again(program: Program) -> None:
    feed = Feed(program)
    feed.more()
    code, output = program.run(environ={VARIABLE: "flush.staged:1"})
    assert code == -signal.SIGKILL, output
    staged = list((program.folder / "warehouse").rglob("*.parquet"))
    assert staged
    for path in staged:
        path.unlink()
    complete(program, feed)
