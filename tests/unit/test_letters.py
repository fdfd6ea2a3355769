"""The dead-letter table: its columns, what is read of it, and the marks of replays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.expressions import AlwaysTrue

from k2i_tasks.errors import CommitConflictError, ConfigError, ServiceError
from k2i_tasks.iceberg.committer import Committer
from k2i_tasks.iceberg.dead_letters import SCHEMA, DeadLetterTable
from k2i_tasks.iceberg.letters import Letters, at, not_landed, place_of
from k2i_tasks.iceberg.marks import Marks
from k2i_tasks.iceberg.schema import create_table
from k2i_tasks.types import DeadLetter, OffsetRange, TopicPartition
from tests.iceberg_tables import catalog_of, config_at

NAME = ("db", "events__dead_letters")
P0 = TopicPartition("t", 0)


def letter(offset: int, **more: Any) -> DeadLetter:
    told: dict[str, Any] = {
        "timestamp_ms": 1000,
        "key": b"k",
        "value": b"bad",
        "headers": [("h", b"1")],
    }
    told |= {"stage": "decode", "code": "json.syntax", "reason": "bad", **more}
    return DeadLetter("t", 0, offset, **told)


class World:
    """A dead-letter table, and what writes it."""

    def __init__(self, folder: Path) -> None:
        self.config = config_at(folder)
        by = Committer(catalog_of(self.config), NAME, sink="main", branch="main", owner="a")
        self.store = DeadLetterTable(catalog_of(self.config), by, self.config)
        self.catalog = catalog_of(self.config)
        self.marks = Marks(self.catalog, NAME, "zstd")

    def add(self, *letters: DeadLetter, start: int = 0) -> None:
        end = max(one.offset for one in letters) + 1
        batch = f"a-{end}"
        staged = self.store.stage(letters, batch)
        self.store.commit(batch, {P0: OffsetRange(start, end)}, staged)

    def rows(self) -> list[dict[str, Any]]:
        pieces = list(Letters.load(self.catalog, NAME).pieces(AlwaysTrue()))
        return sorted(pa.concat_tables(pieces).to_pylist(), key=lambda row: row["offset"])

    def open(self) -> list[int]:
        found = Letters.load(self.catalog, NAME)
        return sorted(offset for _, _, offset in found.keys(found.chosen("", done=False)))

    def choose(self, offsets: Sequence[int], replay_id: str) -> None:
        self.marks.choose(AlwaysTrue(), {("t", 0, offset) for offset in offsets}, replay_id)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_table_of_an_older_version_gets_the_new_columns_and_keeps_its_letters(
    world: World,
) -> None:
    old = pa.schema([field for field in SCHEMA if not field.name.startswith(("schema_", "repl"))])
    create_table(world.catalog, NAME, old, world.config)
    by = Committer(world.catalog, NAME, sink="main", branch="main", owner="a")
    rows = pa.Table.from_pylist([{"topic": "t", "partition": 0, "offset": 1}], schema=old)
    world.catalog.load_table(NAME).append(rows)
    before = Letters.load(world.catalog, NAME)
    assert not before.has_marks
    assert before.undone() == set()
    assert before.keys(before.chosen("offset = 1", done=False)) == {("t", 0, 1)}
    assert by.epoch == 0
    world.add(letter(3, schema_id=7))
    assert [(row["offset"], row["schema_id"]) for row in world.rows()] == [(1, None), (3, 7)]
    world.choose([1, 3], "r-1")
    world.marks.finish(["r-1"])
    assert world.open() == []


def test_letters_keep_times_as_the_table_does_and_ids_that_an_int_holds(world: World) -> None:
    years_beyond = 1 << 62
    world.add(
        letter(1, timestamp_ms=-1, schema_id=(1 << 32) - 1),
        letter(2, timestamp_ms=years_beyond, schema_id=(1 << 31) - 1),
        letter(3, timestamp_ms=-5000),
    )
    rows = world.rows()
    assert [row["schema_id"] for row in rows] == [None, (1 << 31) - 1, None]
    assert [row["timestamp"] and row["timestamp"].timestamp() for row in rows] == [None, None, -5]


def test_marks_change_the_marks_alone_and_other_letters_not_at_all(world: World) -> None:
    world.add(letter(1), letter(2), letter(3))
    world.add(letter(8), start=4)
    before = world.rows()
    world.choose([1, 3, 8], "r-1")
    world.choose([2, 3], "r-2")  # 3 is another's
    world.marks.finish(["r-1"])
    found = world.rows()
    marks = [(row["offset"], row["replay_id"], row["replayed_at"] is not None) for row in found]
    assert marks == [(1, "r-1", True), (2, "r-2", False), (3, "r-1", True), (8, "r-1", True)]
    bare = [{**row, "replay_id": None, "replayed_at": None} for row in found]
    assert bare == before
    letters = Letters.load(world.catalog, NAME)
    assert letters.undone() == {"r-2"}
    assert letters.keys(not_landed(["r-9"])) == {("t", 0, 2)}
    assert letters.keys(not_landed(["r-2"])) == set()
    world.marks.reopen(["r-1", "r-2"])
    assert world.rows() == before


def test_marks_carry_on_what_the_sink_has_recorded_in_the_table(world: World) -> None:
    world.add(letter(1))
    world.choose([1], "r-1")
    # Read again after a crash, in a batch with other bounds: the letter is known.
    world.store.commit("b-1", {P0: OffsetRange(0, 5)}, world.store.stage([letter(1)], "b-1"))
    assert [row["replay_id"] for row in world.rows()] == ["r-1"]


def test_a_conflict_that_had_landed_removes_no_file_and_marks_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add(letter(1), letter(2))
    plain = world.catalog.commit_table

    def landed_and_refused(*arguments: Any, **named: Any) -> Any:
        plain(*arguments, **named)
        raise CommitConflictError("409, though done")

    landed_and_refused.guarded = True  # type: ignore[attr-defined]
    monkeypatch.setattr(world.catalog, "commit_table", landed_and_refused)
    world.choose([2], "r-1")
    monkeypatch.undo()
    assert [row["replay_id"] for row in world.rows()] == [None, "r-1"]
    assert len(world.catalog.load_table(NAME).metadata.snapshots) == 2


def test_letters_that_come_while_marks_are_set_are_kept(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add(letter(1))
    plain, tries = world.catalog.commit_table, []

    def raced(*arguments: Any, **named: Any) -> Any:
        tries.append(1)
        if len(tries) == 1:
            world.add(letter(5), start=2)
        return plain(*arguments, **named)

    monkeypatch.setattr(world.catalog, "commit_table", raced)
    world.choose([1], "r-1")
    assert [(row["offset"], row["replay_id"]) for row in world.rows()] == [(1, "r-1"), (5, None)]
    assert len(tries) == 2


def test_letters_come_in_pieces_of_bounded_size(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add(*(letter(number, value=bytes(1000)) for number in range(100)))
    monkeypatch.setattr("k2i_tasks.iceberg.letters.PIECE_ROWS", 30)
    monkeypatch.setattr("k2i_tasks.iceberg.letters.PIECE_BYTES", 20_000)
    pieces = list(Letters.load(world.catalog, NAME).pieces(AlwaysTrue()))
    assert sum(piece.num_rows for piece in pieces) == 100
    assert max(piece.num_rows for piece in pieces) <= 30


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("code = ", "'code = ' is none"),
        ("cod = 'x'", "Could not find field with name cod"),
        ("partition = 'three'", "Could not convert three into a int"),
    ],
)
def test_a_condition_that_cannot_be_used_is_told_with_what_is_wrong(
    world: World, where: str, told: str
) -> None:
    world.add(letter(1))
    with pytest.raises(ConfigError, match=told):
        Letters.load(world.catalog, NAME).chosen(where, done=False)


def test_where_there_is_no_table_it_is_said(world: World) -> None:
    with pytest.raises(ServiceError, match="no record was refused yet"):
        Letters.load(world.catalog, NAME)


@pytest.mark.parametrize("text", ["orders", "orders/3", "orders/x/1", "/1/2", "orders/1/-2"])
def test_what_is_no_place_of_a_letter_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not TOPIC/PARTITION/OFFSET"):
        place_of(text)
    assert place_of("orders/3/4711") == ("orders", 3, 4711)


def test_one_letter_is_found_by_its_place(world: World) -> None:
    world.add(letter(1), letter(2))
    found = Letters.load(world.catalog, NAME)
    assert found.keys(at("t", 0, 2)) == {("t", 0, 2)}
