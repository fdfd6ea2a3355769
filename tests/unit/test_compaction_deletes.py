"""Rows that others delete before or while files are joined stay deleted; kills leave it whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pyiceberg.manifest import ManifestContent

from k2i_tasks.errors import ServiceError
from k2i_tasks.failpoints import NAMES, VARIABLE, armed
from k2i_tasks.iceberg.committer import Committer
from k2i_tasks.iceberg.maintenance.compaction import Compacted, CompactionOptions
from tests.foreign_deletes import delete_equal, delete_positions
from tests.unit.test_committer import commit, values
from tests.unit.test_compaction import files
from tests.unit.test_compaction_commits import (
    BATCHES,
    assert_whole,
    compaction,
    filled,
    head,
    replaces,
    table_at,
    unused,
)


@pytest.fixture
def by(tmp_path: Path) -> Committer:
    return filled(tmp_path)


def test_rows_deleted_meanwhile_stay_deleted(tmp_path: Path, by: Committer) -> None:
    def delete(_name: str) -> None:
        table_at(tmp_path).delete("n < 15")

    with armed("compact.staged", delete):
        done = compaction(tmp_path).run()
    assert done == Compacted(given_up=1)
    assert values(tmp_path) == list(range(15, 60))
    assert unused(tmp_path) == set()


@pytest.mark.parametrize("exact", [True, False])
def test_files_with_deleted_rows_are_left_alone(tmp_path: Path, by: Committer, exact: bool) -> None:
    deleted = files(table_at(tmp_path))[0]
    delete_positions(table_at(tmp_path), deleted, [0, 3], exact=exact)
    left = values(tmp_path)
    assert len(left) == 58
    # A delete that does not say of which file it is may be of any older one.
    commit(by, tmp_path, "a-6", 60, 70)
    commit(by, tmp_path, "a-7", 70, 80)
    done = compaction(tmp_path).run()
    assert done.files_before == (BATCHES + 1 if exact else 2)
    table = table_at(tmp_path)
    assert values(tmp_path) == sorted([*left, *range(60, 80)])
    assert deleted.file_path in {each.file_path for each in files(table)}
    kept = [m for m in head(table).manifests(table.io) if m.content == ManifestContent.DELETES]
    assert len(kept) == 1


@pytest.mark.parametrize("place", ["compact.file.written", "compact.staged", "compact.send.before"])
def test_rows_deleted_by_position_meanwhile_stay_deleted(
    tmp_path: Path, by: Committer, place: str
) -> None:
    table = table_at(tmp_path)

    def delete(_name: str) -> None:
        delete_positions(table_at(tmp_path), files(table)[2], [1], exact=True)

    with armed(place, delete):
        done = compaction(tmp_path).run()
    assert done == Compacted(given_up=1)
    assert len(values(tmp_path)) == 59
    assert unused(tmp_path) == set()


def test_a_delete_of_another_file_does_not_disturb(tmp_path: Path, by: Committer) -> None:
    size = files(table_at(tmp_path))[0].file_size_in_bytes + 100
    commit(by, tmp_path, "a-6", 60, 9_000)
    large = max(files(table_at(tmp_path)), key=lambda each: each.record_count)
    assert large.record_count > 10

    def delete(_name: str) -> None:
        delete_positions(table_at(tmp_path), large, [0], exact=True)

    with armed("compact.staged", delete):
        done = compaction(tmp_path, CompactionOptions(size, 100 * size, min_files=2)).run()
    assert (done.files_before, done.given_up) == (BATCHES, 0)
    assert values(tmp_path) == [n for n in range(9_000) if n != 60]


def test_a_table_with_equality_deletes_is_refused(tmp_path: Path, by: Committer) -> None:
    job = compaction(tmp_path)

    def delete(_name: str) -> None:
        delete_equal(table_at(tmp_path), files(table_at(tmp_path))[0], "n", [3])

    with armed("compact.staged", delete):
        assert job.run() == Compacted(given_up=1)
    with pytest.raises(ServiceError, match="equality deletes"):
        compaction(tmp_path).run()
    assert unused(tmp_path) == set()


KILLED = """
import sys
from contextlib import nullcontext
from pyiceberg.catalog.sql import SqlCatalog
from k2i_tasks.clock import SystemClock
from k2i_tasks.iceberg.catalog import guard_commits
from k2i_tasks.iceberg.maintenance.compaction import Compaction, CompactionOptions

folder = sys.argv[1]
uri, warehouse = f"sqlite:///{folder}/catalog.db", f"file://{folder}/warehouse"
Compaction(
    guard_commits(SqlCatalog("t", uri=uri, warehouse=warehouse)),
    ("tests", "rows"),
    branch="main",
    options=CompactionOptions(64 << 20, 64 << 20, min_files=2),
    lane=nullcontext(),
    stopping=lambda: False,
    clock=SystemClock(),
).run()
"""


@pytest.mark.parametrize("place", [name for name in NAMES if name.startswith("compact.")])
def test_a_kill_leaves_a_whole_table_and_the_next_compaction_does_the_rest(
    tmp_path: Path, by: Committer, place: str
) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    found = subprocess.run(
        command, env={**os.environ, VARIABLE: place}, capture_output=True, check=False, timeout=120
    )
    assert found.returncode == -signal.SIGKILL, found.stderr
    landed = place == "compact.answered"
    assert len(replaces(assert_whole(tmp_path))) == landed
    assert len(unused(tmp_path)) == (not landed), "an orphan"
    assert compaction(tmp_path).run().files_before == (0 if landed else BATCHES)
    commit(by, tmp_path, "a-6", 60, 70)
    assert_whole(tmp_path, 70)
