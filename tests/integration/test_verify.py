"""A clean table is proven equal to its topic; each kind of damage is found and named."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import ResourceType  # type: ignore[attr-defined]
from pyiceberg.table import Table

from k2i_tasks.config import load_config
from k2i_tasks.errors import IntegrityError
from k2i_tasks.iceberg.starts import start_key
from k2i_tasks.verification.report import Kind, Verdict, VerifyReport
from k2i_tasks.verification.subject import VerifyOptions
from k2i_tasks.wiring_table import verify_table
from tests.integration.test_kafka_world import alter, log_of
from tests.kafka_world import Stream, Transactions, World
from tests.program import Program, finished
from tests.running import PATIENCE_SECONDS, running
from tests.support import CatalogAt, create_topic, event, produce, produce_events

pytestmark = pytest.mark.integration

COUNT = 1200
FULL = VerifyOptions(values="full")


def verified(program: Program, options: VerifyOptions = FULL) -> VerifyReport:
    config = load_config(program.config, environ=program.environ, overrides={})
    return verify_table(config, options)


def places(report: VerifyReport, kind: Kind) -> list[tuple[int, int, int, str]]:
    return [(f.partition, f.first, f.end, f.column) for f in report.findings if f.kind is kind]


@pytest.fixture
def program(kafka_bootstrap: str, rest_catalog: CatalogAt, tmp_path: Path) -> Program:
    """A program whose topic is in its table: events, and three records that are dead letters."""
    topic = f"verify-{uuid.uuid4().hex[:8]}"
    create_topic(kafka_bootstrap, topic)
    produce_events(kafka_bootstrap, topic, COUNT)
    produce(kafka_bootstrap, topic, [b"{", b"]", b"\xff"], partition_of=lambda _n: 2)
    program = Program(tmp_path, kafka_bootstrap, topic, rest_catalog)
    code, output = program.run("--max-messages", str(COUNT + 3))
    assert code == 0, output
    return program


def table_of(program: Program) -> Table:
    table = program.load_table()
    assert table is not None
    return table


def at(partition: int, offset: int) -> str:
    return f"_kafka_partition = {partition} and _kafka_offset = {offset}"


def changed(
    table: Table, partition: int, offset: int, change: Callable[[dict[str, Any]], None]
) -> None:
    """Replaces one row by another, as an engine would."""
    rows = table.scan(row_filter=at(partition, offset)).to_arrow()
    (row,) = rows.to_pylist()
    change(row)
    table.overwrite(pa.Table.from_pylist([row], rows.schema), at(partition, offset))


# Proven.


def test_a_table_is_proven_while_ingestion_goes_on(kafka_bootstrap: str, tmp_path: Path) -> None:
    world = World(tmp_path, kafka_bootstrap)
    world.more(500)
    with running(world.program) as run, Stream(world):
        run.until_committed(500)
        first = verified(world.program)
        run.until_committed(first.totals["rows"] + 100)
        second = verified(world.program)
        assert run.process.poll() is None
    for report in (first, second):
        assert report.verdict is Verdict.PROVEN, report
        assert report.totals["compared"] == report.totals["rows"] >= 500
        assert sum(p.next for p in report.partitions) == report.totals["rows"]
    assert second.totals["rows"] > first.totals["rows"]


def test_rows_and_dead_letters_are_counted_and_compared(program: Program) -> None:
    report = verified(program)
    assert report.verdict is Verdict.PROVEN, report
    assert report.totals["rows"] == COUNT
    assert report.totals["dead_letters"] == 3
    assert report.totals["compared"] == COUNT + 3
    assert not report.findings
    assert not report.notes
    assert [p.start for p in report.partitions] == [0, 0, 0, 0]


def test_a_sample_has_both_ends_and_is_the_same_for_the_same_seed(program: Program) -> None:
    options = VerifyOptions(sample_rows=100, seed=5)
    first, second = verified(program, options), verified(program, options)
    assert 80 <= first.totals["compared"] == second.totals["compared"] <= 100
    changed(table_of(program), 3, COUNT // 4 - 1, lambda row: row.update(customer="X"))
    assert verified(program, options).verdict is Verdict.DIFFERS


def test_control_records_and_aborted_transactions_are_explained(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    world = World(tmp_path, kafka_bootstrap)
    writer = Transactions(world, "writer")
    for turn in range(6):
        writer.send(0, 5)
        writer.send(1, 3)
        (writer.abort if turn % 2 else writer.commit)()
    with running(world.program) as run:
        # With a marker behind each transaction, which the broker writes a moment after it is told.
        run.until_at({0: 6 * (5 + 1), 1: 6 * (3 + 1)})
        run.drain()
    report = verified(world.program)
    assert report.verdict is Verdict.PROVEN, report
    assert report.totals["rows"] == 24
    assert report.totals["explained"] == 24 + 12
    table_of(world.program).delete(at(0, 12))
    assert places(verified(world.program), Kind.LOST) == [(0, 12, 13, "")]


def test_what_compaction_took_is_explained_and_a_row_that_is_left_of_it_is_no_difference(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    config = {
        "cleanup.policy": "compact",
        "segment.ms": "1000",
        "min.cleanable.dirty.ratio": "0.001",
    }
    world = World(tmp_path, kafka_bootstrap, partitions=1, config=config)
    alter(world, ResourceType.BROKER, "1", "log.cleaner.backoff.ms", "100")
    producer = Producer({"bootstrap.servers": kafka_bootstrap})

    def write(first_turn: int) -> None:
        for turn in range(first_turn, first_turn + 4):
            # A new segment by the records' time; all but the last one are compacted.
            at_ms = 1_700_000_000_000 + turn * 10_000
            for key in range(50):
                value = b"%d" % key, world.number()
                producer.produce(world.topic, value[1], value[0], partition=0, timestamp=at_ms)
            assert producer.flush(60) == 0

    write(0)
    code, output = world.program.run("--max-messages", "50")
    assert code == 0, output
    before = verified(world.program).totals["rows"]
    write(4)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(log_of(world, 0)) > 100:
        assert time.monotonic() < deadline, "the log was not compacted"
        time.sleep(0.1)
    with running(world.program) as run:
        run.until_at(world.ends())
        run.drain()
    report = verified(world.program)
    assert report.verdict is Verdict.PROVEN, report
    assert report.totals["explained"] > 0
    assert report.totals["vanished"] > 0
    assert report.totals["rows"] > before
    kept = max(log_of(world, 0))
    table_of(world.program).delete(at(0, kept))
    assert places(verified(world.program), Kind.LOST) == [(0, kept, kept + 1, "")]


def test_what_retention_took_is_no_difference_but_a_hole_there_stays_open(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    world = World(tmp_path, kafka_bootstrap)
    world.more(200)
    code, output = world.program.run("--max-messages", "200")
    assert code == 0, output
    world.delete_before({0: 50})
    report = verified(world.program)
    assert report.verdict is Verdict.PROVEN, report
    assert report.totals["compared"] == 150
    assert any("partition 0 before 50" in note for note in report.notes)
    table_of(world.program).delete(at(0, 20))
    report = verified(world.program)
    assert report.verdict is Verdict.INCOMPLETE, report
    assert places(report, Kind.UNEXPLAINED) == [(0, 20, 21, "")]


def test_a_gap_that_was_accepted_is_known_by_the_log(kafka_bootstrap: str, tmp_path: Path) -> None:
    world = World(tmp_path, kafka_bootstrap)
    world.more(100)
    code, output = world.program.run("--max-messages", "100")
    assert code == 0, output
    world.more(100)
    world.delete_before({0: 70})
    world.program.environ["K2I_KAFKA_ON_GAP"] = "continue"
    code, output = world.program.run("--max-messages", "80")
    assert code == 0, output
    report = verified(world.program)
    assert report.verdict is Verdict.PROVEN, report
    assert report.totals["accepted"] == 20
    (tmp_path / "wal").rename(tmp_path / "elsewhere")
    assert verified(world.program).verdict is Verdict.INCOMPLETE


# Damage.


def test_rows_that_were_deleted_are_lost(program: Program) -> None:
    table_of(program).delete(
        "_kafka_partition = 1 and ((_kafka_offset >= 100 and _kafka_offset < 105) "
        "or _kafka_offset = 7)"
    )
    report = verified(program, VerifyOptions(values="none"))
    assert report.verdict is Verdict.DIFFERS
    assert places(report, Kind.LOST) == [(1, 7, 8, ""), (1, 100, 105, "")]
    assert [p.lost for p in report.partitions] == [0, 6, 0, 0]


def test_rows_missing_at_the_very_beginning_are_lost_also_in_a_table_that_tells_no_start(
    program: Program,
) -> None:
    table_of(program).delete("_kafka_partition = 0 and _kafka_offset < 10")
    assert places(verified(program), Kind.LOST) == [(0, 0, 10, "")]
    with table_of(program).transaction() as change:
        change.remove_properties(start_key("main"))
    report = verified(program)
    assert places(report, Kind.LOST) == [(0, 0, 10, "")]
    assert any("does not tell where reading began" in note for note in report.notes)


def test_a_data_file_that_is_added_twice_is_doubled(program: Program) -> None:
    table = table_of(program)
    task = next(iter(table.scan().plan_files()))
    with table.transaction() as change, change.update_snapshot().fast_append() as update:
        update.append_data_file(task.file)
    report = verified(program)
    assert report.verdict is Verdict.DIFFERS
    assert report.totals["doubled"] == task.file.record_count
    assert report.totals["surplus"] == report.totals["different"] == 0
    assert {f.kind for f in report.findings} == {Kind.DOUBLED}


def test_values_that_were_changed_are_named_by_column_and_shown_only_when_asked_for(
    program: Program,
) -> None:
    table = table_of(program)
    changed(table, 1, 17, lambda row: row.update(customer="somebody"))
    changed(table, 3, 4, lambda row: row.update(items=[*row["items"], "more"]))
    changed(table, 0, 9, lambda row: row["address"].update(zip=None))
    report = verified(program)
    assert report.verdict is Verdict.DIFFERS
    wanted = [(0, 9, 10, "address"), (1, 17, 18, "customer"), (3, 4, 5, "items")]
    assert sorted(places(report, Kind.VALUE)) == wanted
    assert report.totals["different"] == 3
    assert "somebody" not in json.dumps(report.to_json())
    shown = verified(program, VerifyOptions(values="full", show_values=True))
    assert "'somebody'" in json.dumps(shown.to_json())


def test_rows_beyond_the_recorded_offset_and_rows_without_a_place_are_surplus(
    program: Program,
) -> None:
    table = table_of(program)
    rows = table.scan(row_filter=at(1, 17)).to_arrow()
    (row,) = rows.to_pylist()
    beyond = {**row, "_kafka_offset": 5000}
    elsewhere = {**row, "_kafka_partition": 9}
    foreign = {**row, "_kafka_topic": None}
    table.append(pa.Table.from_pylist([beyond, elsewhere, foreign], rows.schema))
    report = verified(program)
    assert report.verdict is Verdict.DIFFERS
    assert places(report, Kind.SURPLUS) == [(1, 5000, 5001, ""), (9, 17, 18, "")]
    assert report.unplaced == 1
    assert report.totals["lost"] == report.totals["doubled"] == 0


def test_a_row_at_a_position_of_no_record_is_surplus_when_values_are_compared(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    world = World(tmp_path, kafka_bootstrap)
    writer = Transactions(world, "writer")
    writer.send(0, 5)
    writer.commit()
    world.more(20)
    with running(world.program) as run:
        run.until_at(world.ends())
        run.drain()
    rows = table_of(world.program).scan(row_filter=at(0, 4)).to_arrow()
    (row,) = rows.to_pylist()
    forged = pa.Table.from_pylist([{**row, "_kafka_offset": 5}], rows.schema)
    table_of(world.program).append(forged)
    assert verified(world.program, VerifyOptions(values="none")).verdict is Verdict.PROVEN
    assert places(verified(world.program), Kind.SURPLUS) == [(0, 5, 6, "")]


def test_a_dead_letter_that_was_changed_and_one_that_is_a_row_too_are_found(
    program: Program,
) -> None:
    letters = program.load_table(f"{program.table}__dead_letters")
    assert letters is not None
    rows = letters.scan(row_filter="partition = 2").to_arrow()
    first = min(rows["offset"].to_pylist())
    forged = [
        {**row, "value": b"other"} if row["offset"] == first else row for row in rows.to_pylist()
    ]
    letters.overwrite(pa.Table.from_pylist(forged, rows.schema))
    table = table_of(program)
    row = table.scan(row_filter=at(1, 17)).to_arrow()
    (copy,) = row.to_pylist()
    copy |= {"_kafka_partition": 2, "_kafka_offset": first + 1}
    table.append(pa.Table.from_pylist([copy], row.schema))
    report = verified(program)
    assert places(report, Kind.VALUE) == [(2, first, first + 1, "value")]
    assert places(report, Kind.DOUBLED) == [(2, first + 1, first + 2, "")]


def test_a_column_that_came_late_is_no_difference_in_earlier_rows(
    kafka_bootstrap: str, rest_catalog: CatalogAt, tmp_path: Path
) -> None:
    topic = f"verify-{uuid.uuid4().hex[:8]}"
    create_topic(kafka_bootstrap, topic, 1)
    program = Program(tmp_path, kafka_bootstrap, topic, rest_catalog)
    early = [b'{"n":1,"tags":[],"more":{"deep":[]}}', b'{"n":2,"tags":null,"more":{}}']
    late = [b'{"n":3,"tags":["a"],"more":{"deep":[1]},"new":true}', b'{"n":4,"tags":[]}']
    for values in (early, late):
        produce(kafka_bootstrap, topic, values, partition_of=lambda _n: 0)
        code, output = program.run("--max-messages", "2")
        assert code == 0, output
    report = verified(program)
    assert report.verdict is Verdict.PROVEN, report
    assert report.totals["compared"] == 4


def test_another_topic_of_the_name_is_refused(kafka_bootstrap: str, tmp_path: Path) -> None:
    world = World(tmp_path, kafka_bootstrap)
    world.more(20)
    code, output = world.program.run("--max-messages", "20")
    assert code == 0, output
    world.delete_topic()
    world.create_again()
    world.more(40)
    with pytest.raises(IntegrityError, match="not the one that the table was filled from"):
        verified(world.program)


# The command.


def test_the_command_ends_with_0_7_and_2_and_writes_its_report(
    program: Program, tmp_path: Path
) -> None:
    code, output = finished(program.command("verify", "--values", "full"))
    assert code == 0, output
    assert f"proven: {program.topic}" in output
    table_of(program).delete(at(1, 17))
    path = tmp_path / "report.json"
    code, output = finished(program.command("verify", "--output", str(path), "--seed", "3"))
    assert code == 7, output
    assert "lost: partition 1 offset 17" in output
    report = json.loads(path.read_text())
    assert (report["verdict"], report["totals"]["lost"], report["seed"]) == ("differs", 1, 3)
    code, output = finished(
        program.command("verify", "--json", environ={"K2I_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9"})
    )
    assert code == 2, output
    code, output = finished(
        program.command("verify", environ={"K2I_ICEBERG_TABLE_NAME": "nothing_here"})
    )
    assert code == 3, output
    assert event(17)["customer"] not in output
