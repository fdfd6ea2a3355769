"""A member of a group is killed at a named place while another lives: that one takes over."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from k2i_tasks.failpoints import VARIABLE
from tests.group_world import member, until_settled, until_shared
from tests.kafka_world import Stream, World
from tests.running import running

#: Places on the way of a claim (the first time by) and of a batch.
PLACES = [
    "flush.staged:1",
    "commit.intent.before:2",
    "commit.send.before:2",
    "commit.answered:2",
    "claim.landed:1",
]
SLOW_PLACES = [
    "flush.before:1",
    "flush.file.before:1",
    "flush.file.written:1",
    "flush.file.synced:1",
    "flush.staged.before:1",
    "recovery.step:1",
    "commit.before:1",
    "commit.manifests.before:1",
    "commit.manifests.before:2",
    "commit.intent.before:1",
    "commit.send.before:1",
    "commit.answered:1",
    "commit.landed.before:1",
    "commit.landed:1",
    "offsets.committed:1",
    "wal.append.before:2",
    "wal.append.written:3",
    "wal.append.synced:1",
    "wal.checkpoint.tmp:1",
    "wal.checkpoint.renamed:1",
]
#: It dies anyway; the sooner the group finds out, the better.
DOOMED = {"K2I_KAFKA_SESSION_TIMEOUT_MS": "1500"}


@pytest.mark.integration
@pytest.mark.timeout(900)
@pytest.mark.parametrize("places", [PLACES, pytest.param(SLOW_PLACES, marks=pytest.mark.slow)])
def test_a_member_that_is_killed_at_any_place_is_replaced_and_each_row_is_there_once(
    kafka_bootstrap: str, tmp_path: Path, places: list[str]
) -> None:
    world = World(tmp_path, kafka_bootstrap, partitions=4)
    with Stream(world) as stream, running(member(world, 1)) as survivor:
        survivor.until_committed(10)
        for place in places:
            # Its log is that of the one that was killed before, whose partitions have moved on.
            doomed = member(world, 2)
            with running(doomed, environ={**DOOMED, VARIABLE: place}) as run:
                code, output = run.end()
            assert code == -signal.SIGKILL, f"{place}: exit code {code}\n{output}"
            until_shared(world, survivor)
            rows = survivor.report()["records"]["committed_rows"]
            survivor.until_committed(rows + 1)
        with running(member(world, 2)) as heir:
            until_shared(world, survivor, heir)
            stream.stop()
            until_settled(world, survivor, heir)
            survivor.drain()
            heir.drain()
    world.all_in()
