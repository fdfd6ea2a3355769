"""A disk that is remounted read-only amid a run: one clear message, and nothing lost or doubled."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import read_only_log
from tests.integration.test_bad_input import complete, message, reach, refused
from tests.integration.test_end_to_end import expected, landed
from tests.own_disk import Ext4Disk, OwnDisk
from tests.program import Program
from tests.running import Running, running
from tests.support import Position, assert_exactly_once, create_topic, produce_events

pytestmark = pytest.mark.integration


@pytest.fixture
def program(kafka_bootstrap: str, tmp_path: Path) -> Program:
    topic = f"read-only-{uuid.uuid4().hex[:8]}"
    create_topic(kafka_bootstrap, topic)
    return Program(tmp_path, kafka_bootstrap, topic)


class Events:
    """What the topic holds so far."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self.written: dict[Position, dict[str, Any]] = {}

    def more(self, count: int = 400) -> None:
        bootstrap, topic = self._program.bootstrap, self._program.topic
        self.written |= produce_events(bootstrap, topic, count, first=len(self.written))


def gave_up(run: Running, code: int, where: str) -> None:
    """Waits for the end of a run that tells of a read-only place, and what to do."""
    ended_with, output = run.end()
    assert ended_with == code, output
    assert "Traceback" not in output
    assert_told(message(output), where)


def assert_told(told: str, where: str) -> None:
    assert where in told
    assert "Read-only file system" in told
    assert "writable" in told


def test_a_warehouse_that_is_remounted_read_only_ends_the_run_and_the_next_one_completes(
    program: Program, tmp_path: Path
) -> None:
    events = Events(program)
    with OwnDisk(tmp_path / "warehouse") as disk:
        program.prefix = disk.prefix
        with running(program) as run:
            events.more()
            run.until_committed(400)
            disk.read_only()
            events.more()
            gave_up(run, 4, str(disk.folder))
        told, _ = refused(program, 4)
        assert_told(told, str(disk.folder))
        disk.writable()
        with running(program) as run:
            events.more()
            reach(run, events.written)
            run.drain()
        disk.copy_out()
    assert_exactly_once(landed(program), expected(events.written))


def test_a_log_folder_that_is_remounted_read_only_between_runs_is_named(
    program: Program, tmp_path: Path
) -> None:
    events = Events(program)
    with OwnDisk(tmp_path / "wal") as disk:
        program.prefix = disk.prefix
        with running(program) as run:
            events.more()
            run.until_committed(400)
            run.kill()
        disk.read_only()
        told, _ = refused(program, 5)
        assert_told(told, str(disk.folder))
        disk.writable()
        events.more()
        complete(program, events.written)


def turns_read_only(
    program: Program, events: Events, turn: Callable[[], None], back: Callable[[], None]
) -> None:
    """A run whose log turns read-only amid it, one that finds it so, and one after that."""
    wal = f"{program.folder}/wal"
    with running(program) as run:
        events.more()
        run.until_committed(400)
        turn()
        events.more()
        gave_up(run, 5, f"append to {wal}")
    told, _ = refused(program, 5)
    assert_told(told, wal)
    back()
    events.more()
    complete(program, events.written)


def test_a_log_that_turns_read_only_ends_the_run_and_the_next_one_completes(
    program: Program, tmp_path: Path
) -> None:
    flag = tmp_path / "read-only"
    program.module = "tests.read_only_log"
    program.environ = {read_only_log.VARIABLE: str(flag)}
    turns_read_only(program, Events(program), flag.touch, flag.unlink)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="takes root and a loop device")
def test_a_log_on_a_file_system_that_aborts_ends_the_run_and_the_next_one_completes(
    program: Program, tmp_path: Path
) -> None:
    with Ext4Disk(tmp_path / "wal") as disk:
        program.prefix = disk.prefix
        turns_read_only(program, Events(program), disk.read_only, disk.writable)
