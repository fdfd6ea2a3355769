"""The jobs of one table as they are wired: over failures, long waits, and beside each other."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pyarrow as pa
import pytest

from k2i_tasks.config import Config
from k2i_tasks.errors import CommitConflictError, ServiceError, TransientError
from k2i_tasks.failpoints import armed
from k2i_tasks.iceberg.files import in_folder
from k2i_tasks.iceberg.maintenance.tables import TableUpkeep
from k2i_tasks.iceberg.schema import create_table
from k2i_tasks.iceberg.writer import DataFileWriter
from k2i_tasks.types import Job
from tests.foreign_deletes import delete_equal
from tests.iceberg_tables import NAME, append, catalog_of, config_at
from tests.upkeep import DAY, HandClock, expiry, removal, values


def configured(folder: Path) -> Config:
    found = config_at(folder)
    upkeep = found.maintenance.model_copy(
        update={"compaction_min_files": 2, "orphan_retention_days": 1}
    )
    return found.model_copy(update={"maintenance": upkeep})


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Of a table with four small files."""
    config = configured(tmp_path)
    rows = pa.table({"n": pa.array([0], pa.int64())})
    create_table(catalog_of(config), NAME, rows.schema, config)
    for number in range(4):
        table = catalog_of(config).load_table(NAME)
        rows = pa.table({"n": pa.array([number], pa.int64())})
        append(table, DataFileWriter(table, config).write([rows], batch_id=f"b-{number}"))
    return config


def upkeep(config: Config, clock: HandClock) -> TableUpkeep:
    return TableUpkeep(
        catalog_of(config),
        NAME,
        branch="main",
        config=config,
        lane=contextlib.nullcontext(),
        stopping=lambda: False,
        clock=clock,
    )


def away(_name: str) -> None:
    raise TransientError("the catalog is away")


def test_files_that_orphan_removal_took_meanwhile_are_not_committed(config: Config) -> None:
    clock = HandClock()
    jobs = upkeep(config, clock)
    with armed("compact.send.before", away), pytest.raises(TransientError):
        jobs.run(Job.COMPACT)
    clock.now += 2 * DAY
    assert jobs.run(Job.ORPHANS).figures["removed"] > 0
    assert jobs.run(Job.COMPACT).figures["given_up"] == 1
    table = catalog_of(config).load_table(NAME)
    assert values(table) == [0, 1, 2, 3]
    assert jobs.run(Job.COMPACT).figures["files_after"] == 1
    assert values(table.refresh()) == [0, 1, 2, 3]


def test_files_that_lie_there_still_are_committed_however_late(config: Config) -> None:
    clock = HandClock()
    jobs = upkeep(config, clock)
    with armed("compact.send.before", away), pytest.raises(TransientError):
        jobs.run(Job.COMPACT)
    clock.now += 2 * DAY
    assert jobs.run(Job.COMPACT).figures["files_after"] == 1
    assert values(catalog_of(config).load_table(NAME)) == [0, 1, 2, 3]


def test_a_job_that_cannot_be_done_fails_each_time(config: Config) -> None:
    table = catalog_of(config).load_table(NAME)
    delete_equal(table, next(iter(table.scan().plan_files())).file, "n", [1])
    jobs = upkeep(config, HandClock())
    for _ in range(3):
        with pytest.raises(ServiceError, match="equality deletes"):
            jobs.run(Job.COMPACT)


def test_a_folder_that_orphan_removal_takes_from_under_a_writer_is_made_again(
    tmp_path: Path,
) -> None:
    path, tries = tmp_path / "day=1" / "a.parquet", 0

    def opened() -> int:
        nonlocal tries
        tries += 1
        if tries == 1:
            path.parent.rmdir()
        return path.write_bytes(b"x")

    assert in_folder(path, opened) == 1
    assert (tries, path.read_bytes()) == (2, b"x")


def test_a_tag_that_is_set_amid_an_expiry_keeps_its_snapshot(config: Config) -> None:
    table = catalog_of(config).load_table(NAME)
    old = table.metadata.snapshots[0].snapshot_id

    def tag(_name: str) -> None:
        catalog_of(config).load_table(NAME).manage_snapshots().create_tag(old, "keep").commit()

    job = expiry(catalog_of(config))
    with armed("expire.send.before", tag), pytest.raises(CommitConflictError):
        job.run()
    assert job.run().snapshots == 2
    table = table.refresh()
    assert set(table.metadata.refs) == {"main", "keep"}
    assert values(table, old) == [0]


def test_an_expiry_amid_an_orphan_removal_only_has_it_tried_again(config: Config) -> None:
    job = expiry(catalog_of(config))
    pending = [job]

    def expire() -> bool:
        if listed and pending:
            pending.pop().run()
        return False

    listed: list[str] = []
    found = removal(catalog_of(config), stopping=expire)
    with armed("orphans.listed", listed.append), pytest.raises(TransientError, match="expired"):
        found.run()
    assert not pending
    assert found.run().left == 0
