"""A replay on a real table, killed wherever it can be: each letter is a row once, or is open."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyiceberg.catalog import Catalog

from k2i_tasks.calls import RetryPolicy
from k2i_tasks.codecs import MetadataColumns, make_decoder
from k2i_tasks.errors import (
    CommitConflictError,
    CommitStateUnknownError,
    FencedError,
    IntegrityError,
)
from k2i_tasks.failpoints import NAMES, armed
from k2i_tasks.iceberg.committer import Committer
from k2i_tasks.iceberg.data_files import data_file
from k2i_tasks.iceberg.dead_letters import DeadLetterTable
from k2i_tasks.iceberg.evolution import evolve
from k2i_tasks.iceberg.letters import Letters
from k2i_tasks.iceberg.marks import Marks
from k2i_tasks.iceberg.positions import PositionColumns
from k2i_tasks.iceberg.staging import Staging
from k2i_tasks.iceberg.state import SinkState, recorded, replay_sink
from k2i_tasks.replay import Replay, Replayed, ReplayOptions, ReplayTables
from k2i_tasks.types import DeadLetter, OffsetRange, TopicPartition
from tests.iceberg_tables import NAME, catalog_of, config_at
from tests.unit.codec_batches import batch_of

LETTERS = (NAME[0], f"{NAME[1]}__dead_letters")
P0 = TopicPartition("t", 0)
ONCE = RetryPolicy(budget_seconds=0.0)
PLACES = [name for name in NAMES if name.startswith(("replay.", "compact.", "commit."))]


class Killed(BaseException):
    """The process ended here."""


def kill(_place: str) -> None:
    raise Killed


def decoder_for(schema: Any) -> Any:
    return make_decoder(
        "json",
        columns=MetadataColumns(),
        table_schema=schema,
        max_message_bytes=1 << 20,
        mode="auto-additive",
    )


class World:
    """A table, its sink and its letters."""

    def __init__(self, folder: Path) -> None:
        self.config = config_at(folder)
        catalog = catalog_of(self.config)
        self.catalog = catalog
        self.staging = Staging(catalog, NAME, self.config)
        rows = decoder_for(None).decode(batch_of([b'{"a": 1}'])).table
        self.staging.create(rows.schema)
        self.sink = Committer(catalog, NAME, sink="main", branch="main", owner="run")
        self.sink.claim(SinkState(), {P0: 0})
        by = Committer(catalog, LETTERS, sink="main", branch="main", owner="run")
        self.letters = DeadLetterTable(catalog, by, self.config)
        self.end = 0

    def refuse(self, *values: bytes, committed: bool = True) -> None:
        """Takes records in as dead letters, with their batch or just before it."""
        start, self.end = self.end, self.end + len(values)
        name, span = f"run-{start}", {P0: OffsetRange(start, self.end)}
        told = [
            DeadLetter("t", 0, start + n, 1000, b"k", value, None, "decode", "x", "bad")
            for n, value in enumerate(values)
        ]
        self.letters.commit(name, span, self.letters.stage(told, name))
        if committed:
            self.pass_on(name, start)

    def pass_on(self, name: str, start: int) -> None:
        span = {P0: OffsetRange(start, self.end)}
        nothing: Callable[[int, int | None], None] = lambda _snapshot, _parent: None  # noqa: E731
        self.sink.commit(name, span, lambda _table: (), summary={}, intent=nothing)

    def replay(
        self,
        *,
        on_rollback: Any = "halt",
        policy: RetryPolicy = ONCE,
        catalog: Catalog | None = None,
    ) -> Replay:
        catalog = catalog or catalog_of(self.config)
        sink = replay_sink("main")
        tables = ReplayTables(
            lambda: Letters.load(catalog, LETTERS),
            Marks(catalog, LETTERS, "zstd"),
            Staging(catalog, NAME, self.config),
            Committer(catalog, NAME, sink=sink, branch="main", owner=f"replay-{id(catalog)}"),
        )
        options = ReplayOptions(
            "t",
            "main",
            PositionColumns("_kafka_partition", "_kafka_offset", "_kafka_topic"),
            on_rollback,
            policy,
        )
        return Replay(tables, decoder_for, options)

    def run(self, **options: Any) -> Replayed:
        return self.replay(**options).run("", dry_run=False)

    def rows(self) -> list[int]:
        table = self.catalog.load_table(NAME)
        found = table.scan(selected_fields=("_kafka_offset",)).to_arrow()["_kafka_offset"]
        return sorted(found.to_pylist())

    def open(self) -> list[int]:
        """Offsets of the letters whose record is no row by a replay."""
        found = Letters.load(self.catalog, LETTERS)
        metadata = self.catalog.load_table(NAME).metadata
        state = recorded(metadata, replay_sink("main"), "main").newest or SinkState()
        chosen = found.still_open(found.chosen("", done=False), state.batches)
        return sorted(offset for _, _, offset in found.keys(chosen))

    def assert_state_of_the_sink(self) -> None:
        state = recorded(self.catalog.load_table(NAME).metadata, "main", "main")
        assert not state.rolled_back
        assert state.newest is not None
        assert state.newest.offsets == {P0: self.end}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_each_letter_that_can_be_decoded_is_a_row_and_the_rest_stays_open(world: World) -> None:
    world.refuse(b'{"a": 1}', b"{", b'{"a": 2, "b": "new"}', b'{"a": "text"}')
    done = world.run()
    assert (done.read, done.rows, done.present, done.waiting) == (4, 2, 0, 0)
    assert done.failed == {("decode", "json.syntax"): 1, ("decode", "json.type_mismatch"): 1}
    assert done.reasons["decode", "json.syntax"][0] == "t/0/1"
    assert (world.rows(), world.open()) == ([0, 2], [1, 3])
    again = world.run()
    assert (again.read, again.rows) == (2, 0)
    world.assert_state_of_the_sink()


def test_letters_of_a_batch_that_is_not_committed_are_left_alone(world: World) -> None:
    world.refuse(b'{"a": 1}')
    world.refuse(b'{"a": 2}', committed=False)
    done = world.run()
    assert (done.rows, done.waiting, world.rows()) == (1, 1, [0])
    world.pass_on("run-1", 1)
    assert world.run().rows == 1
    assert world.rows() == [0, 1]


def test_letters_go_in_piece_by_piece(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("k2i_tasks.iceberg.letters.PIECE_ROWS", 7)
    world.refuse(*(json.dumps({"a": n}).encode() for n in range(30)))
    assert world.run().rows == 30
    assert world.rows() == list(range(30))
    assert world.open() == []


def test_a_replay_that_is_overtaken_while_it_has_chosen_letters_is_fenced(world: World) -> None:
    world.refuse(b'{"a": 1}', b'{"a": 2}')

    def overtaken(_place: str) -> None:
        assert world.run().rows == 2

    with armed("replay.chosen", overtaken), pytest.raises(FencedError, match="Another replay"):
        world.run()
    assert (world.rows(), world.open()) == ([0, 1], [])
    world.assert_state_of_the_sink()


def test_letters_that_a_fenced_replay_chooses_too_late_are_not_lost(world: World) -> None:
    world.refuse(b'{"a": 1}')

    def overtaken(_place: str) -> None:
        assert world.replay().run("offset = 99", dry_run=False).rows == 0

    with armed("replay.choose.before", overtaken), pytest.raises(FencedError):
        world.run()
    assert world.open() == [0]
    done = world.run()
    assert (done.rows, done.reopened, world.rows()) == (1, 1, [0])


def test_an_interrupted_replay_whose_snapshots_are_expired_is_known_to_have_landed(
    world: World,
) -> None:
    world.refuse(b'{"a": 1}')
    with armed("replay.committed", kill), pytest.raises(Killed):
        world.run()
    world.refuse(b"{")
    table = world.catalog.load_table(NAME)
    for snapshot in table.metadata.snapshots[:-1]:
        table.maintenance.expire_snapshots().by_id(snapshot.snapshot_id).commit()
    done = world.run()
    assert (done.finished, done.rows, done.reopened) == (1, 0, 0)
    assert (world.rows(), world.open()) == ([0], [1])


def test_after_a_rollback_letters_without_their_rows_are_opened_again_if_so_chosen(
    world: World,
) -> None:
    world.refuse(b'{"a": 1}')
    world.run()
    world.refuse(b'{"a": 2}')
    table = world.catalog.load_table(NAME)
    kept = table.metadata.current_snapshot_id
    assert kept is not None
    world.run()
    assert world.rows() == [0, 1]
    table.refresh()
    table.manage_snapshots().set_current_snapshot(snapshot_id=kept).commit()
    with pytest.raises(IntegrityError, match="rolled back"):
        world.run()
    done = world.run(on_rollback="replay")
    assert (done.rows, world.rows(), world.open()) == (1, [0, 1], [])


def test_after_a_rollback_letters_stay_done_if_so_chosen(world: World) -> None:
    world.refuse(b'{"a": 1}')
    with armed("replay.claimed", kill), pytest.raises(Killed):
        world.run()
    claimed = world.catalog.load_table(NAME).metadata.current_snapshot_id
    assert claimed is not None
    world.run()
    table = world.catalog.load_table(NAME)
    table.manage_snapshots().set_current_snapshot(snapshot_id=claimed).commit()
    assert world.run(on_rollback="keep").rows == 0
    assert (world.rows(), world.open()) == ([], [])


def test_a_row_at_the_place_of_a_letter_is_not_doubled(world: World) -> None:
    world.refuse(b'{"a": 1}', b'{"a": 2}')
    rows = decoder_for(None).decode(batch_of([b'{"a": 1}'])).table
    world.staging.open()
    staged = world.staging.stage([rows], batch_id="again").files
    table = world.catalog.load_table(NAME)
    with table.transaction() as transaction, transaction.update_snapshot().fast_append() as update:
        update.append_data_file(data_file(table, staged[0]))
    done = world.run()
    assert (done.rows, done.present) == (1, 1)
    assert (world.rows(), world.open()) == ([0, 1], [])


def lying(config: Any, answers: Iterator[str]) -> Catalog:
    """A catalog that answers commits falsely: done or not, and told or not."""
    catalog = catalog_of(config)
    plain = catalog.commit_table

    def commit_table(*arguments: Any, **named: Any) -> Any:
        answer = next(answers, "done")
        found = None if answer.startswith("not done") else plain(*arguments, **named)
        if answer.endswith("a conflict"):
            raise CommitConflictError("409")
        if answer.endswith("no answer"):
            raise CommitStateUnknownError("cut")
        return found

    commit_table.guarded = True  # type: ignore[attr-defined]
    catalog.commit_table = commit_table  # type: ignore[method-assign]
    return catalog


ANSWERS = (
    *("done", "done, a conflict", "done, no answer"),
    *("not done, a conflict", "not done, no answer"),
)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(ANSWERS), max_size=12))
def test_a_catalog_that_answers_falsely_makes_a_replay_neither_lose_nor_double(
    answers: Sequence[str],
) -> None:
    quick = RetryPolicy(initial_seconds=0.001, max_wait_seconds=0.001, budget_seconds=30.0)
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        world.refuse(b'{"a": 1}', b"{", b'{"b": 2}')
        catalog = lying(world.config, iter(answers))
        with patch("k2i_tasks.calls.RACE_WAIT_SECONDS_MAX", 0.001):
            done = world.replay(policy=quick, catalog=catalog).run("", dry_run=False)
        assert (done.rows, world.rows(), world.open()) == (2, [0, 2], [1])
        world.assert_state_of_the_sink()


Step = tuple[str, int, int]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(PLACES), st.integers(1, 3), st.integers(1, 4)),
        min_size=1,
        max_size=5,
    )
)
def test_replays_killed_at_any_places_in_any_order_lose_and_double_nothing(
    steps: Sequence[Step],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        good: list[int] = []
        for place, nth, count in steps:
            good += range(world.end, world.end + count)
            world.refuse(*(b'{"a": 1}' for _ in range(count)), b"{")
            try:
                with armed(place, kill, nth=nth):
                    world.run()
            except Killed:
                pass
            rows = world.rows()
            assert len(rows) == len(set(rows))
            assert sorted((*rows, *world.open())) == list(range(world.end))
            world.assert_state_of_the_sink()
        world.run()
        assert world.rows() == good


def test_a_schema_that_another_writer_moves_under_a_replay_costs_no_letter(world: World) -> None:
    world.refuse(b'{"a": 1, "new": "x"}', b'{"a": 2}')

    def rival(_name: str) -> None:
        evolve(catalog_of(world.config), NAME, pa.schema([("theirs", pa.int64())]))

    with armed("replay.staged", rival):
        assert world.run(policy=RetryPolicy(initial_seconds=0.001)).rows == 2
    assert (world.rows(), world.open()) == ([0, 1], [])
    found = world.catalog.load_table(NAME).scan().to_arrow()
    assert sorted(found["new"].to_pylist(), key=repr) == ["x", None]
    assert set(found["theirs"].to_pylist()) == {None}
