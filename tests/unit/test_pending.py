"""A column that rows need comes in the commit of these rows, whoever else changes the table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from pyiceberg.catalog.sql import SqlCatalog

from k2i_tasks.errors import (
    CommitConflictError,
    CommitStateUnknownError,
    SchemaMovedError,
    SchemaRacedError,
)
from k2i_tasks.failpoints import arm, armed
from k2i_tasks.iceberg import ahead
from k2i_tasks.iceberg.evolution import evolve, widened
from k2i_tasks.iceberg.pending import PendingSchema
from k2i_tasks.operations import Operations
from tests.evolving import GIVEN, Wire, batch, joined, land, payload, rival, table_at, text
from tests.iceberg_tables import (
    NAME,
    catalog_of,
    columns_alone,
    config_at,
    field_ids,
    history,
)
from tests.unit.test_recover import P0, claimed, lose_answers, operations


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    return Wire(monkeypatch, SqlCatalog)


@pytest.fixture
def run(tmp_path: Path, wire: Wire) -> Iterator[Operations]:
    with operations(tmp_path, "run") as found:
        claimed(found, {P0: 0})
        found.recover()
        # Kafka's columns, which this table was made without, come with the first batch.
        land(found, batch(0))
        yield found


def test_a_column_comes_in_the_very_commit_of_its_rows(tmp_path: Path, run: Operations) -> None:
    before = len(table_at(tmp_path).metadata.metadata_log)
    run.flush(batch(1, a=text("a2", "a3")))
    assert "a" not in table_at(tmp_path).schema().column_names
    run.commit(batch(1, a=text("a2", "a3")))
    table = table_at(tmp_path)
    assert len(table.metadata.metadata_log) == before + 1
    snapshot = table.current_snapshot()
    assert snapshot is not None
    assert snapshot.schema_id == table.metadata.current_schema_id
    assert table.metadata.last_column_id == table.schema().highest_field_id
    assert columns_alone(table) == []
    assert payload(tmp_path)[2:] == [{"n": 2, "a": "a2"}, {"n": 3, "a": "a3"}]


def test_a_change_that_has_landed_is_carried_no_further(run: Operations) -> None:
    ours = [batch(1, a=text("a2", "a3")), batch(2, a=text("a4", "a5"))]
    changes = [run.flush(each).schema for each in ours]
    assert changes[0] is not None
    assert changes[1] is changes[0], "until it is known to be there"
    for each in ours:
        run.commit(each)
    assert run.flush(batch(3, a=text("a6", "a7"))).schema is None


def test_batches_that_wait_for_each_other_each_bring_their_own_change(
    tmp_path: Path, run: Operations
) -> None:
    before = table_at(tmp_path)
    land(
        run,
        batch(
            1, a=text("a2", "a3"), s=pa.array([{"x": 1}, {"x": 2}], pa.struct({"x": pa.int32()}))
        ),
        batch(2, a=text("a4", "a5")),
        batch(3, s=pa.array([{"x": 1 << 40, "y": "y6"}, None])),
        batch(4, b=pa.array([0.5, None])),
    )
    table = table_at(tmp_path)
    assert len(table.snapshots()) == len(before.snapshots()) + 4
    assert len(table.metadata.metadata_log) == len(before.metadata.metadata_log) + 4
    assert columns_alone(table) == []
    assert payload(tmp_path)[2:] == [
        {"n": 2, "a": "a2", "s": {"x": 1, "y": None}},
        {"n": 3, "a": "a3", "s": {"x": 2, "y": None}},
        {"n": 4, "a": "a4"},
        {"n": 5, "a": "a5"},
        {"n": 6, "s": {"x": 1 << 40, "y": "y6"}},
        {"n": 7},
        {"n": 8, "b": 0.5},
        {"n": 9},
    ]
    for schema, _snapshot in history(table):
        assert field_ids(schema).items() <= field_ids(table.schema()).items()


def test_files_whose_ids_another_writer_was_given_are_written_anew(
    tmp_path: Path, run: Operations
) -> None:
    behind = [batch(1, a=text("a2", "a3")), batch(2, a=text("a4", "a5"), c=text("c4", "c5"))]
    for each in behind:
        run.flush(each)
    rival(tmp_path, "theirs")
    taken = field_ids(table_at(tmp_path).schema())
    for each in behind:
        run.commit(each)
    land(run, batch(3, d=text("d6", "d7")))
    after = field_ids(table_at(tmp_path).schema())
    assert taken.items() <= after.items()
    assert len(set(after.values())) == len(after)
    assert payload(tmp_path)[2:] == [
        {"n": 2, "a": "a2"},
        {"n": 3, "a": "a3"},
        {"n": 4, "a": "a4", "c": "c4"},
        {"n": 5, "a": "a5", "c": "c5"},
        {"n": 6, "d": "d6"},
        {"n": 7, "d": "d7"},
    ]
    assert columns_alone(table_at(tmp_path)) == [{"theirs"}]


def test_who_loses_a_race_twice_makes_the_columns_first_and_cannot_lose_again(
    tmp_path: Path, run: Operations
) -> None:
    mine = batch(1, a=text("a2", "a3"))
    run.flush(mine)
    rival(tmp_path, "first")

    def faster(place: str) -> None:
        rival(tmp_path, "second")
        arm(place, lambda _name: rival(tmp_path, "third"))

    # Each time that files are written anew.
    with armed("flush.file.before", faster):
        run.commit(mine)
    assert payload(tmp_path)[2:] == [{"n": 2, "a": "a2"}, {"n": 3, "a": "a3"}]
    assert columns_alone(table_at(tmp_path)) == [{"first"}, {"second"}, {"a"}, {"third"}]


def test_files_written_after_a_lost_race_are_of_use_again(tmp_path: Path, run: Operations) -> None:
    run.flush(batch(1, a=text("a2", "a3")))
    rival(tmp_path, "theirs")
    run.commit(batch(1, a=text("a2", "a3")))
    staged = run.flush(batch(2, a=text("a4", "a5")))
    run.commit(batch(2, a=text("a4", "a5")))
    there = {task.file.file_path for task in table_at(tmp_path).scan().plan_files()}
    assert {file.path for file in staged.files} <= there


def test_a_writer_who_brought_the_same_column_makes_none_of_our_files_useless(
    tmp_path: Path, run: Operations
) -> None:
    staged = run.flush(batch(1, a=text("a2", "a3")))
    rival(tmp_path, "a")
    schema = table_at(tmp_path).schema()
    run.commit(batch(1, a=text("a2", "a3")))
    table = table_at(tmp_path)
    assert table.schema() == schema
    assert {task.file.file_path for task in table.scan().plan_files()} >= {
        file.path for file in staged.files
    }
    assert payload(tmp_path)[2:] == [{"n": 2, "a": "a2"}, {"n": 3, "a": "a3"}]


def test_a_column_of_another_type_that_came_meanwhile_has_the_rows_read_again(
    tmp_path: Path, run: Operations
) -> None:
    run.flush(batch(1, a=text("a2", "a3")))
    rival(tmp_path, "a", pa.int64())
    with pytest.raises(SchemaMovedError, match="'a' is long in the table"):
        run.commit(batch(1, a=text("a2", "a3")))
    assert len(payload(tmp_path)) == 2


def test_a_column_that_came_between_look_and_commit_is_a_conflict_and_then_seen(
    tmp_path: Path, run: Operations
) -> None:
    mine = batch(1, a=text("a2", "a3"))
    run.flush(mine)
    with (
        armed("schema.commit.before", lambda _name: rival(tmp_path, "theirs")),
        pytest.raises(CommitConflictError),
    ):
        run.commit(mine)
    assert "a" not in table_at(tmp_path).schema().column_names
    run.commit(mine)
    assert payload(tmp_path)[2:] == [{"n": 2, "a": "a2"}, {"n": 3, "a": "a3"}]


def test_a_commit_that_comes_late_onto_another_schema_is_refused(
    tmp_path: Path, run: Operations, wire: Wire
) -> None:
    mine = batch(1, a=text("a2", "a3"))
    run.flush(mine)
    wire.hold()
    with pytest.raises(CommitStateUnknownError):
        run.commit(mine)
    rival(tmp_path, "theirs")
    with pytest.raises(Exception, match="Requirement failed"):
        wire.deliver()
    run.commit(mine)
    assert payload(tmp_path)[2:] == [{"n": 2, "a": "a2"}, {"n": 3, "a": "a3"}]


def test_a_commit_that_comes_late_onto_its_own_schema_is_done_once(
    tmp_path: Path, run: Operations, wire: Wire
) -> None:
    mine = batch(1, a=text("a2", "a3"))
    run.flush(mine)
    wire.hold()
    with pytest.raises(CommitStateUnknownError):
        run.commit(mine)
    wire.deliver()
    run.commit(mine)
    assert payload(tmp_path)[2:] == [{"n": 2, "a": "a2"}, {"n": 3, "a": "a3"}]
    assert columns_alone(table_at(tmp_path)) == []


@pytest.mark.parametrize("applied", [False, True])
def test_a_lost_answer_to_a_commit_with_a_column_neither_loses_nor_doubles_it(
    tmp_path: Path, run: Operations, monkeypatch: pytest.MonkeyPatch, applied: bool
) -> None:
    ours = [batch(1, a=text("a2", "a3")), batch(2, b=text("b4", "b5"))]
    for each in ours:
        run.flush(each)
    lose_answers(monkeypatch, nth=1, applied=applied)
    with pytest.raises(CommitStateUnknownError):
        run.commit(ours[0])
    assert ("a" in table_at(tmp_path).schema().column_names) is applied
    for each in ours:
        run.commit(each)
    assert payload(tmp_path)[2:] == [
        {"n": 2, "a": "a2"},
        {"n": 3, "a": "a3"},
        {"n": 4, "b": "b4"},
        {"n": 5, "b": "b5"},
    ]
    assert columns_alone(table_at(tmp_path)) == []


def test_a_column_that_ends_a_lost_race_is_found_by_the_next_attempt(
    tmp_path: Path, run: Operations
) -> None:
    mine = batch(1, a=text("a2", "a3"))
    run.flush(mine)
    rival(tmp_path, "theirs")

    def fail(_name: str) -> None:
        raise CommitStateUnknownError("the connection was cut")

    with armed("commit.send.before", fail), pytest.raises(CommitStateUnknownError):
        run.commit(mine)
    run.commit(mine)
    assert payload(tmp_path)[2:] == [{"n": 2, "a": "a2"}, {"n": 3, "a": "a3"}]


# Rows that are encoded before their batch is sealed.


def test_what_was_encoded_by_a_lost_change_is_written_anew(
    tmp_path: Path, run: Operations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "GROUP_ROWS_MIN", 1)
    first, second = batch(1, a=text("a2", "a3")), batch(2, b=text("b4", "b5"))
    both = joined(first, second)
    run.encode("batch-1", first.tables)
    rival(tmp_path, "theirs")
    with pytest.raises(SchemaRacedError):
        run.encode("batch-1", second.tables)
    land(run, both)
    assert payload(tmp_path)[2:] == [
        {"n": 2, "a": "a2"},
        {"n": 3, "a": "a3"},
        {"n": 4, "b": "b4"},
        {"n": 5, "b": "b5"},
    ]
    assert columns_alone(table_at(tmp_path)) == [{"theirs"}], "no race was lost at the commit"


def test_a_change_in_the_middle_of_a_lost_batch_leaves_no_file_of_earlier_ids(
    tmp_path: Path, run: Operations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "GROUP_ROWS_MIN", 1)
    first, second = batch(1, a=text("a2", "a3")), batch(2, b=text("b4", "b5"))
    run.encode("batch-1", first.tables)
    rival(tmp_path, "theirs")
    whole = joined(first, second)
    land(run, whole)
    assert [row.get("a") for row in payload(tmp_path)[2:]] == ["a2", "a3", None, None]
    assert [row.get("b") for row in payload(tmp_path)[2:]] == [None, None, "b4", "b5"]


# The change itself.

MORE = [
    pa.schema([("new", pa.list_(pa.struct({"y": pa.float32()})))]),
    pa.schema([("m", pa.map_(pa.string(), pa.struct({"x": pa.int64(), "z": pa.string()})))]),
]


@pytest.mark.parametrize("rows", MORE)
def test_a_change_gives_out_the_ids_that_a_commit_of_its_own_would(
    tmp_path: Path, rows: pa.Schema
) -> None:
    config = config_at(tmp_path)
    catalog = catalog_of(config)
    catalog.create_namespace("db")
    catalog.create_table(NAME, GIVEN)
    _table, change = widened(catalog.load_table(NAME), rows)
    assert change is not None
    again = PendingSchema.from_json(json.loads(json.dumps(change.to_json())))
    assert again == change
    assert not again.is_in(catalog.load_table(NAME).metadata)
    assert again.is_made_on(catalog.load_table(NAME).metadata)
    assert evolve(catalog, NAME, rows).schema() == change.schema
    assert again.is_in(catalog.load_table(NAME).metadata)
    assert not again.is_made_on(catalog.load_table(NAME).metadata)
