"""A compaction keeps the commits of its process waiting no longer than its own takes."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from k2i_tasks.clock import SystemClock
from k2i_tasks.failpoints import armed
from k2i_tasks.iceberg.committer import Committer
from k2i_tasks.iceberg.maintenance.compaction import Compaction
from tests.unit.test_committer import NAME, open_catalog
from tests.unit.test_compaction import ALL
from tests.unit.test_compaction_commits import filled


@pytest.fixture
def by(tmp_path: Path) -> Committer:
    return filled(tmp_path)


def test_the_lane_is_held_while_a_commit_is_built_and_no_longer(
    tmp_path: Path, by: Committer
) -> None:
    lane, held = threading.Lock(), {}
    job = Compaction(
        open_catalog(tmp_path),
        NAME,
        branch="main",
        options=ALL,
        lane=lane,
        stopping=lambda: False,
        clock=SystemClock(),
    )
    note = lambda name: held.update({name: lane.locked()})  # noqa: E731
    with armed("compact.send.before", note):
        job.run()
    assert held == {"compact.send.before": True}
    assert not lane.locked()
