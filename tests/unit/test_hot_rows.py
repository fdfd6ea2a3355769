"""Hot and cold rows of a real table in one frame: new columns, wider types, conditions, keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import polars as pl
import pyarrow as pa
import pytest
from pyiceberg.expressions import AlwaysTrue, And, GreaterThan, LessThan, LessThanOrEqual

from k2i_tasks.buffer.hot import HotBuffer
from k2i_tasks.buffer.upkeep import HotUpkeep
from k2i_tasks.config import Config
from k2i_tasks.errors import ConfigError, IntegrityError, SchemaConflictError, TransientError
from k2i_tasks.hot_rows import FRAME_PIECES_MAX
from k2i_tasks.hot_view import TableView
from k2i_tasks.iceberg.committer import Committer
from k2i_tasks.iceberg.heads import Heads
from k2i_tasks.iceberg.pushdown import pushed
from k2i_tasks.iceberg.staging import Staging
from k2i_tasks.iceberg.state import SinkState
from k2i_tasks.iceberg.writer import data_file
from k2i_tasks.predicates import plain
from k2i_tasks.types import DecodedBatch, OffsetRange, SealReason, TopicPartition
from tests.iceberg_tables import NAME, catalog_of, config_at

P0 = TopicPartition("events", 0)
# PyIceberg's types know the form with which its JSON is read, not the one that is for people.
above, below, up_to = (
    cast(Callable[[str, Any], Any], each) for each in (GreaterThan, LessThan, LessThanOrEqual)
)


class Setting:
    """A table of a local catalog, what fills it, and its view."""

    def __init__(self, folder: Path, key_column: str | None = "id") -> None:
        absent = dict.fromkeys(("topic", "timestamp", "key", "headers"), "")
        self.config: Config = config_at(folder, metadata_columns=absent)
        self.catalog = catalog_of(self.config)
        self.staging = Staging(self.catalog, NAME, self.config)
        self.committer = Committer(self.catalog, NAME, sink="k2i", branch="main", owner="me")
        self.buffer = HotBuffer(ttl_seconds=60, bytes_max=1 << 30)
        self.upkeep = HotUpkeep(self.buffer, key_column)
        self.buffer.worker = None
        heads = Heads(lambda: catalog_of(self.config), NAME, "k2i", "main")
        self.view = TableView("db.events", self.buffer, heads, self.upkeep)
        self.at = 0
        self.count = 0

    def create(self, schema: pa.Schema) -> None:
        self.staging.create(pa.schema([*schema, *COORDINATES]))
        self.committer.claim(SinkState(), {P0: 0})
        self.buffer.begin({P0: 0})

    def append(self, **columns: Any) -> pa.Table:
        """Appends rows in the order of their offsets."""
        rows = pa.table(columns)
        offsets = pa.array(range(self.at, self.at + rows.num_rows), pa.int64())
        rows = rows.append_column("_kafka_partition", pa.array([0] * len(rows), pa.int32()))
        rows = rows.append_column("_kafka_offset", offsets)
        ranges = {P0: OffsetRange(self.at, self.at + rows.num_rows)}
        self.at += rows.num_rows
        self.buffer.append(DecodedBatch(rows, (), ranges, rows.nbytes, -1))
        return rows

    def commit(self, *, told: bool = True) -> None:
        """Commits all that is not; the buffer hears of it, or does not."""
        self.count += 1
        name = f"b{self.count}"
        pieces = [p for p in self.buffer.held().pieces if p.expires_at is None]
        start = pieces[0].ranges[P0].start
        ranges = {P0: OffsetRange(start, self.at)}
        batch = self.buffer.seal(name, SealReason.ROWS, ranges)
        staged = self.staging.stage(batch.tables, batch_id=name)
        self.committer.commit(
            name,
            ranges,
            lambda table: [data_file(table, file) for file in staged.files],
            summary={},
            intent=lambda _snapshot, _parent: None,
            schema=staged.schema,
        )
        if told:
            self.buffer.release(name)

    def rows(self, part: Any = "all") -> list[dict[str, Any]]:
        frame = self.view.cut(part).frame.drop("_kafka_partition")
        return frame.sort("_kafka_offset").collect().to_dicts()


COORDINATES = [("_kafka_partition", pa.int32()), ("_kafka_offset", pa.int64())]


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    found = Setting(tmp_path)
    yield found
    found.view.close()


def test_a_column_that_is_in_memory_and_not_in_the_table_yet_is_in_the_view(
    setting: Setting,
) -> None:
    setting.create(pa.schema([("id", pa.int64())]))
    setting.append(id=[1, 2])
    setting.commit()
    setting.append(id=[3], note=["new"])
    assert setting.rows() == [
        {"id": 1, "_kafka_offset": 0, "note": None},
        {"id": 2, "_kafka_offset": 1, "note": None},
        {"id": 3, "_kafka_offset": 2, "note": "new"},
    ]
    setting.commit()  # the table has it now; the rows before it lack it in memory
    assert [row["note"] for row in setting.rows()] == [None, None, "new"]
    assert [row["note"] for row in setting.rows("hot")] == [None, None, "new"]
    assert [row["note"] for row in setting.rows("cold")] == [None, None, "new"]


def test_numbers_are_as_wide_as_the_table_or_memory_has_them(setting: Setting) -> None:
    setting.create(pa.schema([("id", pa.int32()), ("x", pa.float32())]))
    setting.append(id=pa.array([1], pa.int32()), x=pa.array([0.5], pa.float32()))
    setting.commit()
    setting.append(id=pa.array([1 << 40], pa.int64()), x=pa.array([0.1], pa.float64()))
    frame = setting.view.cut().frame
    assert frame.collect_schema()["id"] == pl.Int64
    assert [(row["id"], row["x"]) for row in setting.rows()] == [(1, 0.5), (1 << 40, 0.1)]
    found = setting.view.at("events", 0, 0)
    assert found.schema.field("id").type == pa.int64()


def test_types_that_contradict_the_table_are_an_error_that_says_so(setting: Setting) -> None:
    setting.create(pa.schema([("id", pa.int64())]))
    setting.append(id=["text"])
    with pytest.raises(SchemaConflictError, match="disagree"):
        setting.view.cut()
    assert setting.rows("cold") == []


def test_rows_without_a_value_that_the_table_requires_are_shown(setting: Setting) -> None:
    setting.create(pa.schema([pa.field("id", pa.int64(), nullable=False)]))
    with setting.catalog.load_table(NAME).update_schema(allow_incompatible_changes=True) as update:
        update.update_column("id", required=True)
    setting.append(id=[1, None])
    for part in ("all", "hot"):
        assert [row["id"] for row in setting.rows(part)] == [1, None]
    assert setting.view.at("events", 0, 1).column("id").to_pylist() == [None]


def test_a_commit_that_the_run_knows_nothing_of_doubles_no_row(setting: Setting) -> None:
    setting.create(pa.schema([("id", pa.int64())]))
    setting.append(id=[1, 2, 3])
    setting.commit(told=False)
    setting.append(id=[4])
    cut = setting.view.cut()
    assert cut.hot_rows == 1
    assert [row["id"] for row in setting.rows()] == [1, 2, 3, 4]


def test_a_view_reads_the_table_of_its_moment_after_more_was_committed(setting: Setting) -> None:
    setting.create(pa.schema([("id", pa.int64())]))
    setting.append(id=[1])
    setting.commit()
    setting.append(id=[2])
    before = setting.view.cut()
    setting.append(id=[3])
    setting.commit()
    assert before.frame.collect()["id"].to_list() == [1, 2]
    assert before.positions == {P0: 2}


def test_a_table_that_is_not_there_yet_is_what_memory_has(setting: Setting) -> None:
    with pytest.raises(TransientError, match="no record was read yet"):
        setting.view.cut()
    setting.buffer.begin({P0: 0})
    setting.append(id=[1], note=["a"])
    assert [row["note"] for row in setting.rows()] == ["a"]


def test_a_table_that_is_dropped_under_a_view_is_an_error(setting: Setting) -> None:
    setting.create(pa.schema([("id", pa.int64())]))
    setting.append(id=[1])
    setting.commit()
    setting.rows()
    setting.catalog.drop_table(NAME)
    with pytest.raises(IntegrityError, match="was dropped"):
        setting.view.cut()


def test_a_condition_reaches_the_scan_and_counts_come_out_right(setting: Setting) -> None:
    setting.create(pa.schema([("id", pa.int64()), ("city", pa.string())]))
    setting.append(id=[1, 2, 3], city=["Bern", None, "Zug"])
    setting.commit()
    setting.append(id=[4, 5], city=["Bern", "Zug"])
    frame = setting.view.cut().frame
    assert frame.select(pl.len()).collect().item() == 5
    bern = frame.filter(pl.col("city") == "Bern").select("id").collect()
    assert sorted(bern["id"].to_list()) == [1, 4]
    assert frame.filter(pl.col("id") > 1).head(2).collect().height == 2
    assert frame.filter(pl.col("city").is_null()).select(pl.len()).collect().item() == 1


def test_what_iceberg_compares_otherwise_is_not_pushed(setting: Setting) -> None:
    setting.create(
        pa.schema([("id", pa.int64()), ("x", pa.float64()), ("at", pa.timestamp("us", "UTC"))])
    )
    schema = setting.catalog.load_table(NAME).schema()

    def of(condition: pl.Expr) -> Any:
        return pushed(plain(condition), schema)

    assert of((pl.col("id") > 5) & (pl.col("id") < 9)) == And(above("id", 5), below("id", 9))
    # NaN is above all numbers for polars.
    assert of(pl.col("x") > 5.0) == AlwaysTrue()
    # An older file may have floats, which the value is rounded to.
    assert of(pl.col("x") < 5.0) == up_to("x", 5.0)
    assert of((pl.col("id") > 5) | pl.col("x").is_nan()) == AlwaysTrue()
    assert of((pl.col("id") > 5) & pl.col("x").is_nan()) == above("id", 5)
    assert of(pl.lit(5) < pl.col("id")) == above("id", 5)
    assert of(~(pl.col("id") > 5)) == AlwaysTrue()
    assert of(pl.col("absent") > 5) == AlwaysTrue()
    moment = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
    assert of(pl.col("at") < moment) == below("at", moment.isoformat())


def test_lists_and_structs_can_be_asked_for_nulls(setting: Setting) -> None:
    kinds = {"tags": pa.list_(pa.string()), "place": pa.struct({"city": pa.string()})}
    setting.create(pa.schema(list(kinds.items())))
    setting.append(
        tags=pa.array([["a"], None, []], kinds["tags"]),
        place=pa.array([{"city": "Bern"}, {"city": None}, None], kinds["place"]),
    )
    setting.commit()
    frame = setting.view.cut("cold").frame
    for name in kinds:
        column = pl.col(name)
        assert frame.filter(column.is_null()).select(pl.len()).collect().item() == 1
        assert frame.filter(column.is_not_null()).select(pl.len()).collect().item() == 2


def test_a_nan_is_found_by_what_polars_says_of_it(setting: Setting) -> None:
    setting.create(pa.schema([("x", pa.float64())]))
    setting.append(x=[1.0, float("nan")])
    setting.commit()
    frame = setting.view.cut().frame
    assert frame.filter(pl.col("x") > 5.0).select(pl.len()).collect().item() == 1


@pytest.mark.parametrize("indexed", [True, False])
def test_keys_that_share_a_hash_are_told_apart(tmp_path: Path, indexed: bool) -> None:
    setting = Setting(tmp_path)
    setting.create(pa.schema([("id", pa.string())]))
    # Only between the first 64 bytes and the last 8 do they differ.
    keys = [f"{'x' * 70}{number}{'y' * 20}" for number in range(5)]
    setting.append(id=keys * 3)
    if indexed:
        setting.upkeep.step()
    for key in keys:
        assert setting.view.with_key(key).column("id").to_pylist() == [key] * 3


@pytest.mark.parametrize(
    ("kind", "values", "asked"),
    [
        (pa.int32(), [1, 2, None, -3], -3),
        (pa.int64(), [1, 2, None, -3], "2"),
        (pa.string(), ["", "a", "abcdefgh", "abcdefghi", "Zürich", None], "Zürich"),
        (pa.string(), ["", "a", None], ""),
        (pa.binary(), [b"", b"a", b"\x00\x00"], b"\x00\x00"),
        (pa.float64(), [0.0, 1.5, None], -0.0),
        (pa.bool_(), [True, False, None], True),
        (pa.decimal128(10, 2), [None, 1, 2], 2),
        (pa.date32(), [1, 2, 3], "1970-01-03"),
        (pa.timestamp("us", "UTC"), [1_000_000, None], datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)),
    ],
)
def test_keys_of_any_plain_type_are_found(
    tmp_path: Path, kind: pa.DataType, values: list[Any], asked: Any
) -> None:
    setting = Setting(tmp_path)
    setting.create(pa.schema([("id", kind)]))
    setting.append(id=pa.array(values, kind))
    setting.upkeep.step()
    assert setting.upkeep.index.end == len(values)
    setting.append(id=pa.array(values, kind))  # not indexed yet
    found = setting.view.with_key(asked)
    assert found.num_rows == 2
    assert found.column("_kafka_offset").to_pylist()[1] >= len(values)
    with pytest.raises(ConfigError, match="key column"):
        setting.view.with_key(object())


def test_a_view_without_an_index_says_which_setting_is_missing(tmp_path: Path) -> None:
    setting = Setting(tmp_path, key_column=None)
    with pytest.raises(ConfigError, match="not indexed"):
        setting.view.with_key(1)


def test_small_pieces_are_joined_once_they_are_committed_and_found_as_before(
    setting: Setting,
) -> None:
    setting.create(pa.schema([("id", pa.int64())]))
    for number in range(40):
        setting.append(id=[number])
    setting.upkeep.step()
    assert len(setting.buffer.held().pieces) == 40, "a flush may need them as they are"
    setting.commit()
    before = setting.rows("hot")
    setting.upkeep.step()
    assert len(setting.buffer.held().pieces) == 1
    assert setting.rows("hot") == before
    assert setting.view.at("events", 0, 17).column("id").to_pylist() == [17]
    assert setting.view.with_key(23).column("_kafka_offset").to_pylist() == [23]


def test_many_small_pieces_are_a_few_frames_and_each_row_is_there_once(setting: Setting) -> None:
    setting.create(pa.schema([("id", pa.int64()), ("note", pa.string())]))
    for number in range(300):
        setting.append(id=[2 * number, 2 * number + 1], note=["a", None])
        if number % 7 == 0:
            setting.rows("hot")
    assert [row["id"] for row in setting.rows()] == list(range(600))
    made = setting.buffer.held().made
    assert sum(len(one.pieces) for one in made) == 300
    assert len(made) <= 300 / FRAME_PIECES_MAX + 10
    assert max(len(one.pieces) for one in made) <= FRAME_PIECES_MAX
    before = setting.view.cut("hot").frame
    setting.commit()
    setting.append(id=[600], note=["late"])
    assert [row["id"] for row in setting.rows()] == list(range(601))
    setting.upkeep.step()
    assert len(setting.buffer.held().pieces) < 300, "some were joined"
    assert [row["id"] for row in setting.rows("hot")] == list(range(601))
    assert before.collect()["id"].to_list() == list(range(600)), "a cut stays as it is"


def test_rows_in_another_order_than_the_table_are_looked_up_in_its_order(setting: Setting) -> None:
    setting.create(pa.schema([("id", pa.int64()), ("note", pa.string())]))
    setting.append(note=["a", "b"], id=[1, 2])
    setting.upkeep.step()
    wanted = setting.view.cut().frame.collect_schema().names()
    for _ in range(2):
        found = setting.view.at("events", 0, 1)
        assert found.schema.names == wanted
        assert found.to_pylist() == setting.view.with_key(2).to_pylist()
        assert found.column("note").to_pylist() == ["b"]
    setting.append(id=[3], note=["c"], more=[True])  # the view does not know that column yet
    setting.view.cut()
    assert setting.view.at("events", 0, 0).to_pylist()[0]["more"] is None
    assert setting.view.at("events", 0, 2).to_pylist()[0]["more"] is True


def test_lists_of_uuids_are_shown_where_there_are_rows_and_where_there_are_none(
    setting: Setting,
) -> None:
    kind = pa.list_(pa.uuid())
    setting.create(pa.schema([("id", pa.int64()), ("parts", kind)]))
    parts = pa.ListArray.from_arrays(
        pa.array([0, 2], pa.int32()),
        pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"a" * 16, b"b" * 16], pa.binary(16))),
    )
    wanted = [{"id": 1, "parts": [b"a" * 16, b"b" * 16], "_kafka_offset": 0}]
    for part in ("all", "hot", "cold"):
        assert setting.rows(part) == []
    setting.append(id=[1], parts=parts)
    assert (setting.rows("hot"), setting.rows("cold")) == (wanted, [])
    setting.commit()
    assert setting.rows() == setting.rows("cold") == wanted
    assert setting.view.at("events", 0, 7).num_rows == 0
    assert setting.view.at("events", 0, 0).num_rows == 1
