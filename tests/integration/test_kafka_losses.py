"""Records that Kafka loses before we read them, and topics that are not what they were."""

from __future__ import annotations

import re
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from k2i_tasks.failpoints import VARIABLE
from k2i_tasks.journal import JournalState, replay
from k2i_tasks.types import OffsetRange
from k2i_tasks.wal.__main__ import read_all
from tests.kafka_world import Stream, World
from tests.running import PATIENCE_SECONDS, Running, at, running

pytestmark = pytest.mark.integration

MakeWorld = Callable[..., World]
#: The rows stay in memory until the drain.
HOLD = {"K2I_BUFFER_FLUSH_INTERVAL_SECONDS": "3600"}
GO_ON = {"K2I_KAFKA_ON_GAP": "continue"}


@pytest.fixture
def make(kafka_bootstrap: str, tmp_path: Path) -> MakeWorld:
    return lambda **options: World(tmp_path, kafka_bootstrap, **options)


def logged(folder: Path) -> JournalState:
    """What a write-ahead log knows, be it in use or not."""
    return replay(entry for shown in read_all(folder) if shown.live for entry in shown.entries)


def gaps(world: World) -> list[Mapping[str, list[int]]]:
    """The gaps that the log holds, partition number to range."""
    known = logged(world.program.folder / "wal").gaps
    return [found["ranges"][world.topic] for found in known]


def overtake(world: World, run: Running) -> int:
    """Freezes a program that has read all, and deletes records that it has not; up to which."""
    run.signal(signal.SIGSTOP)
    world.more(10)  # a request that was waiting at the broker may still take these
    world.more(100)
    low = world.ends()[0] - 40
    world.delete_before({0: low})
    run.signal(signal.SIGCONT)
    return low


def lost(output: str) -> OffsetRange:
    """The range that a program names as gone, in partition 0."""
    found = re.search(r"gone from Kafka before they were read: 0:\[(\d+),(\d+)\)", output)
    assert found, output
    return OffsetRange(int(found[1]), int(found[2]))


def test_records_deleted_before_they_are_read_stop_a_run_that_first_commits_what_it_has(
    make: MakeWorld,
) -> None:
    world = make(partitions=1)
    world.more(50)
    with running(world.program, environ=HOLD) as run:
        run.until_consumed(50)
        assert world.next_offsets() == {0: 0}
        low = overtake(world, run)
        code, output = run.end()
    assert code == 2, output
    gone = lost(output)
    assert (gone.start in range(50, 61), gone.end) == (True, low)
    assert world.next_offsets() == {0: gone.start}
    everything = dict(world.written)
    world.written = {place: row for place, row in everything.items() if place[1] < gone.start}
    world.all_in()
    claims = world.state().epoch
    code, output = world.program.run()
    assert code == 2, output
    assert lost(output) == gone
    assert world.state().epoch == claims, "nothing is changed by a run that cannot start"
    # As the operator decides, it goes on behind the gap; and at once behind the next one.
    world.written = {p: row for p, row in everything.items() if p[1] not in range(*span(gone))}
    with running(world.program, environ=GO_ON) as run:
        run.until_committed(40)
        assert gaps(world) == [{"0": span(gone)}]
        position = at(run.report())[0]
        low = overtake(world, run)
        run.until_logged(f",{low}) (partition:")
        report = run.until_at(world.ends())
        assert [note for note in report["last_errors"] if f",{low})" in note["message"]]
        run.until_committed(80)
        run.drain()
    first, second = gaps(world)
    assert first == {"0": span(gone)}
    start, end = second["0"]
    assert (start in range(position, position + 11), end) == (True, low)
    world.written = {p: row for p, row in world.written.items() if p[1] not in range(start, end)}
    world.all_in()


def span(gone: OffsetRange) -> list[int]:
    return [gone.start, gone.end]


def test_what_was_written_to_files_before_kafka_deleted_it_is_committed(make: MakeWorld) -> None:
    world = make(partitions=1)
    world.more(50)
    code, output = world.program.run(environ={VARIABLE: "flush.staged:1"})
    assert code == -9, output
    assert world.next_offsets() == {0: 0}
    read = dict(world.written)
    world.more(50)
    world.delete_before({0: 70})
    code, output = world.program.run()
    assert code == 2, output
    assert span(lost(output)) == [50, 70]
    assert world.next_offsets() == {0: 50}
    world.written = read
    world.all_in()


def test_a_topic_created_again_stops_the_run_before_a_record_of_it_is_committed(
    make: MakeWorld,
) -> None:
    world = make()
    # So long that the next look at the topic comes after the commit.
    never = {"K2I_KAFKA_METADATA_REFRESH_SECONDS": "3600"}
    world.more(60)
    with running(world.program, environ=never) as run:
        run.until_committed(60)
        old, before = world.topic_id(), dict(world.written)
        run.signal(signal.SIGSTOP)  # when it wakes, its old position is one of the new topic
        world.delete_topic()
        world.create_again()
        world.more(400)
        run.signal(signal.SIGCONT)
        code, output = run.end()
    assert_names_both(world, code, output, old)
    world.written = dict(before)
    world.all_in()
    code, output = world.program.run()  # down meanwhile, and more records than we have read
    assert_names_both(world, code, output, old)
    world.delete_topic()
    world.create_again()
    world.more(4)
    code, output = world.program.run()  # fewer records than we have read
    assert_names_both(world, code, output, old)
    world.written = dict(before)
    world.all_in()


def assert_names_both(world: World, code: int, output: str, old: str) -> None:
    """The program has ended with 2, and names the ids of the topic then and now."""
    new = world.topic_id()
    assert code == 2, output
    assert new != old
    assert f"its id was {old} and is {new}" in output


def test_a_frozen_run_that_was_taken_over_from_is_fenced_when_it_wakes(make: MakeWorld) -> None:
    world = make()
    world.more(80)
    other = world.another_program(world.program.folder / "wal2", group="another-group")
    with running(world.program, environ=HOLD) as run:
        run.until_consumed(80)
        run.signal(signal.SIGSTOP)
        world.more(40)
        code, output = other.run("--max-messages", "120")
        assert code == 0, output
        world.all_in()
        run.signal(signal.SIGCONT)
        run.signal(signal.SIGTERM)  # it has 80 rows to commit, and tries
        code, output = run.end()
    assert code == 3, output
    assert "fenced" in output
    assert world.next_offsets() == world.ends()
    world.all_in()


def test_a_run_from_a_copy_of_the_log_fences_the_first_and_harms_no_file(make: MakeWorld) -> None:
    world = make()
    copy = world.program.folder / "copy"
    other = world.another_program(copy, group=world.group)
    with running(world.program) as first, Stream(world) as stream:
        first.until_committed(1)
        copy_with_files_on_their_way(world.program.folder / "wal", copy)
        # More commits than the table remembers ids of batches.
        commits = first.until(bool, "up")["records"]["snapshots"] + 20
        first.until(lambda report: report["records"]["snapshots"] >= commits, "20 commits later")
        with running(other) as second:
            code, output = first.end()
            assert code == 3, output
            assert "fenced" in output
            second.until(lambda report: report["records"]["snapshots"] >= 3, "3 commits later")
            stream.stop()
            second.until_at(world.ends())
            second.drain()
    assert "recovery: batch" in second.output
    assert world.next_offsets() == world.ends()
    world.all_in()


def copy_with_files_on_their_way(wal: Path, copy: Path) -> None:
    """Copies the log of a running program at a moment when a batch is staged and not done."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(wal, copy)
        if any(batch.files for batch in logged(copy).batches.values()):
            return
    raise AssertionError("never a batch on its way")
