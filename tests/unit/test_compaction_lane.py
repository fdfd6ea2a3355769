"""A compaction keeps the commits of its process waiting no longer than its own takes."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from pyiceberg.io import FileIO
from pyiceberg.manifest import ManifestFile

from k2i_tasks.failpoints import armed
from k2i_tasks.iceberg import manifests
from k2i_tasks.iceberg.committer import Committer
from k2i_tasks.iceberg.maintenance import compaction as module
from k2i_tasks.iceberg.manifests import Fetched
from tests.unit.test_compaction_commits import BATCHES, assert_whole, compaction, filled


@pytest.fixture
def by(tmp_path: Path) -> Committer:
    return filled(tmp_path)


def test_the_lane_is_held_while_a_commit_is_built_and_no_longer(
    tmp_path: Path, by: Committer
) -> None:
    lane, held = threading.Lock(), {}
    job = compaction(tmp_path, lane=lane)
    note = lambda name: held.update({name: lane.locked()})  # noqa: E731
    with armed("compact.send.before", note):
        job.run()
    assert held == {"compact.send.before": True}
    assert not lane.locked()


@pytest.mark.parametrize("most", [32 << 20, 0], ids=["known", "too large to be kept"])
def test_manifests_are_read_before_the_lane_is_held(
    tmp_path: Path, by: Committer, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    lane, fetch, in_lane = threading.Lock(), manifests._fetch, list[bool]()

    def noted(io: FileIO, manifest: ManifestFile) -> Fetched:
        in_lane.append(lane.locked())
        return fetch(io, manifest)

    monkeypatch.setattr(manifests, "_fetch", noted)
    monkeypatch.setattr(module, "_READ_AHEAD_BYTES", most)
    assert compaction(tmp_path, lane=lane).run().files_before == BATCHES
    # Once to plan, once to be written anew.
    assert len(in_lane) == 2 * BATCHES
    assert sum(in_lane) == (0 if most else BATCHES)
    assert_whole(tmp_path)
