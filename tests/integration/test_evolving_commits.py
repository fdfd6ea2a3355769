"""Columns in the commit of their rows, at a REST catalog: its history, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.table import Table

from k2i_tasks.errors import CommitStateUnknownError
from k2i_tasks.iceberg.catalog import guard_commits, open_catalog
from k2i_tasks.iceberg.evolution import evolve
from k2i_tasks.journal import Journal
from k2i_tasks.operations import Operations
from k2i_tasks.wal.log import WriteAheadLog
from k2i_tasks.wiring import build_operations
from tests.evolving import GIVEN, Wire, batch, land, text
from tests.iceberg_tables import columns_alone, field_ids
from tests.integration.test_end_to_end import unique
from tests.integration.test_two_flows import config_of
from tests.program import Program
from tests.running import running
from tests.support import CatalogAt, create_topic, produce, read_by_metadata
from tests.unit.test_recover import P0, claimed

pytestmark = pytest.mark.integration
ROUNDS = 5


def test_a_run_whose_fields_grow_makes_no_commit_that_is_of_the_schema_alone(
    kafka_bootstrap: str, rest_catalog: CatalogAt, tmp_path: Path
) -> None:
    topic = unique("growing")
    create_topic(kafka_bootstrap, topic, partitions=1)
    program = Program(tmp_path, kafka_bootstrap, topic, rest=rest_catalog)
    sent: list[dict[str, Any]] = []
    seen: list[dict[str, int]] = []
    with running(program) as run:
        for turn in range(ROUNDS):
            document: dict[str, Any] = {"id": turn, "s": {f"m{turn}": turn}, f"c{turn}": str(turn)}
            document["n"] = 1 << (40 if turn == ROUNDS - 1 else 4)
            sent.append(document)
            produce(kafka_bootstrap, topic, [json.dumps(document).encode()])
            run.until_committed(turn + 1)
            table = program.load_table()
            assert table is not None
            seen.append(field_ids(table.schema()))
        run.drain()
    table = program.load_table()
    assert table is not None
    # The table's making, a claim, and a commit for each round.
    assert len(table.snapshots()) == ROUNDS + 1
    assert len(table.metadata.metadata_log) == ROUNDS + 1
    assert columns_alone(table) == []
    for snapshot in table.snapshots()[2:]:
        assert snapshot.schema_id is not None
    after = field_ids(table.schema())
    assert all(earlier.items() <= after.items() for earlier in seen)
    for row, document in zip(sorted_by_offset(table.metadata_location), sent, strict=True):
        members = {name: value for name, value in row["s"].items() if value is not None}
        assert members == document["s"]
        for name in document.keys() - {"s"}:
            assert row[name] == document[name]


def sorted_by_offset(location: str) -> list[dict[str, Any]]:
    return sorted(read_by_metadata(location), key=lambda row: row["_kafka_offset"])


class At:
    """A table of its own at the REST catalog, with what works on it and a rival."""

    def __init__(self, rest: CatalogAt, folder: Path) -> None:
        config = config_of(rest, unique("evolving").replace("-", "_"))
        evolving = {"schema_mismatch_action": "evolve"}
        tables = config.iceberg.table_management.model_copy(update=evolving)
        iceberg = config.iceberg.model_copy(update={"table_management": tables})
        self.config = config.model_copy(update={"iceberg": iceberg})
        self.name = config.iceberg.identifier
        self._folder = folder

    @contextmanager
    def run(self) -> Iterator[Operations]:
        log = WriteAheadLog.open(self._folder, segment_bytes_max=1 << 20, segments_max=10)
        found = build_operations(self.config, {}, "run", Journal(log), lambda _offsets: None)
        try:
            claimed(found, {P0: 0})
            found.recover()
            land(found, batch(0))
            yield found
        finally:
            found.close()

    def table(self) -> Table:
        return guard_commits(open_catalog(self.config.iceberg, {})).load_table(self.name)

    def rival(self) -> None:
        evolve(guard_commits(open_catalog(self.config.iceberg, {})), self.name, GIVEN)

    def rows(self) -> list[dict[str, Any]]:
        rows = read_by_metadata(self.table().metadata_location)
        found = [{k: v for k, v in row.items() if v is not None and k[0] != "_"} for row in rows]
        return sorted(found, key=lambda row: row["n"])[2:]


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    return Wire(monkeypatch, RestCatalog)


def test_changes_that_wait_for_each_other_are_known_again_when_the_catalog_tells_them(
    rest_catalog: CatalogAt, tmp_path: Path
) -> None:
    at = At(rest_catalog, tmp_path)
    with at.run() as run:
        land(
            run,
            batch(1, a=text("a2", "a3")),
            batch(2, b=text("b4", "b5")),
            batch(3, a=text("a6", "a7"), c=text("c6", "c7")),
        )
    assert columns_alone(at.table()) == []
    assert len(at.table().metadata.metadata_log) == 5, "made, claimed, four batches"
    assert [row.get("a") for row in at.rows()] == ["a2", "a3", None, None, "a6", "a7"]
    assert [row.get("b") for row in at.rows()] == [None, None, "b4", "b5", None, None]


def test_a_late_commit_with_a_column_is_refused_once_another_writer_has_its_ids(
    rest_catalog: CatalogAt, tmp_path: Path, wire: Wire
) -> None:
    at = At(rest_catalog, tmp_path)
    with at.run() as run:
        mine = batch(1, a=text("a2", "a3"))
        run.flush(mine)
        wire.hold()
        with pytest.raises(CommitStateUnknownError):
            run.commit(mine)
        at.rival()
        with pytest.raises(Exception, match=r"schema|field id"):
            wire.deliver()
        run.commit(mine)
    assert at.rows() == [{"n": 2, "a": "a2"}, {"n": 3, "a": "a3"}]
    fields = field_ids(at.table().schema())
    assert len(set(fields.values())) == len(fields)


def test_a_late_commit_with_a_column_that_nothing_came_before_is_done_once(
    rest_catalog: CatalogAt, tmp_path: Path, wire: Wire
) -> None:
    at = At(rest_catalog, tmp_path)
    with at.run() as run:
        mine = batch(1, a=text("a2", "a3"))
        run.flush(mine)
        wire.hold()
        with pytest.raises(CommitStateUnknownError):
            run.commit(mine)
        wire.deliver()
        run.commit(mine)
    assert at.rows() == [{"n": 2, "a": "a2"}, {"n": 3, "a": "a3"}]
    assert columns_alone(at.table()) == []
