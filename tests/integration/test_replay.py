"""Repaired dead letters go into the table, each once, whatever is killed and whoever writes too."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from k2i_tasks.config import load_config
from k2i_tasks.failpoints import VARIABLE
from k2i_tasks.verification.report import Verdict
from k2i_tasks.verification.subject import VerifyOptions
from k2i_tasks.wiring_letters import open_letters
from k2i_tasks.wiring_table import verify_table
from tests.integration.test_end_to_end import expected, landed, unique
from tests.program import Program, finished
from tests.running import Running, running
from tests.support import (
    CatalogAt,
    Position,
    assert_exactly_once,
    create_topic,
    event,
    produce,
)

pytestmark = pytest.mark.integration

#: Refuses records with members that are no column.
STRICT = {"K2I_SCHEMA_EVOLUTION_MODE": "manual"}
#: Where a replay is killed, and which time by. A mark is a rewrite of files: its commit comes by
#: the places of compaction, first for *choose*, then for *finish*.
PLACES = (
    "replay.claimed:1",
    "replay.settled:1",
    "replay.choose.before:1",
    "compact.file.written:1",
    "compact.send.before:1",
    "compact.answered:1",
    "replay.chosen:1",
    "replay.staged:1",
    "schema.commit.before:1",
    "schema.committed:1",
    "commit.send.before:2",
    "commit.answered:2",
    "replay.committed:1",
    "compact.send.before:2",
    "compact.answered:2",
    "replay.finished:1",
)


class World:
    """A topic with records of three kinds: sound, sound in time, and never sound."""

    def __init__(self, folder: Path, bootstrap: str, rest: CatalogAt | None) -> None:
        topic = unique("replay")
        create_topic(bootstrap, topic)
        self.program = Program(folder, bootstrap, topic, rest)
        self.sound: dict[Position, dict[str, Any]] = {}
        self.bad: dict[Position, bytes] = {}
        self._numbers = 0

    def more(self, count: int, late: int = 0, bad: int = 0) -> None:
        """Writes sound records, then those with a new member, then those that are no JSON."""
        numbers = iter(range(self._numbers, 1 << 30))
        values = [json.dumps(event(next(numbers))).encode() for _ in range(count)]
        values += [
            json.dumps({**event(number), "extra": f"x{number}"}).encode()
            for number, _ in zip(numbers, range(late), strict=False)
        ]
        values += [b"bad %d" % next(numbers) for _ in range(bad)]
        self._numbers = next(numbers)
        for place, value in produce(self.program.bootstrap, self.program.topic, values).items():
            assert value is not None
            if value.startswith(b"bad"):
                self.bad[place] = value
            else:
                self.sound[place] = json.loads(value)

    def ingest(self, count: int, late: int = 0, bad: int = 0) -> None:
        """Has a run take in sound records, and then another one, which is strict, the others."""
        self.more(count)
        code, output = self.program.run("--max-messages", str(count))
        assert code == 0, output
        self.more(0, late, bad)
        code, output = self.program.run("--max-messages", str(late + bad), environ=STRICT)
        assert code == 0, output

    @property
    def records(self) -> int:
        return len(self.sound) + len(self.bad)

    def until_taken(self, run: Running) -> None:
        """Waits until a run has committed all that the topic holds."""
        ends: dict[int, int] = {}
        for partition, offset in (*self.sound, *self.bad):
            ends[partition] = max(ends.get(partition, 0), offset + 1)
        run.until(
            lambda report: {p["partition"]: p["committed"] for p in report["partitions"]} == ends,
            f"committed up to {ends}",
        )

    def replay(self, *arguments: str, place: str = "") -> tuple[int, str]:
        environ = {VARIABLE: place} if place else {}
        return finished(self.program.command("dead-letters replay", *arguments, environ=environ))

    def assert_proven(self) -> None:
        config = load_config(self.program.config, environ={}, overrides={})
        report = verify_table(config, VerifyOptions(values="full"))
        assert report.verdict is Verdict.PROVEN, report

    def assert_complete(self) -> None:
        """All that can be decoded is a row, once and value by value; the rest is open."""
        self.assert_proven()
        rows = landed(self.program)
        assert_exactly_once(rows, expected(self.sound))
        config = load_config(self.program.config, environ={}, overrides={})
        letters = open_letters(config)
        keys = letters.keys(letters.chosen("", done=False))
        assert {(partition, offset) for _, partition, offset in keys} == set(self.bad)


@pytest.fixture
def world(kafka_bootstrap: str, rest_catalog: CatalogAt, tmp_path: Path) -> World:
    return World(tmp_path, kafka_bootstrap, rest_catalog)


@pytest.mark.timeout(600)
def test_a_replay_killed_anywhere_beside_a_run_loses_and_doubles_nothing(world: World) -> None:
    world.more(100)
    with running(world.program, environ=STRICT) as run:
        world.until_taken(run)
        for place in PLACES:
            world.more(10, late=8, bad=2)
            world.until_taken(run)
            code, output = world.replay(place=place)
            assert code == -signal.SIGKILL, f"{place}: exit code {code}\n{output}"
            world.assert_proven()
        world.more(20, late=20, bad=2)
        world.until_taken(run)
        code, output = world.replay()
        assert code == 0, output
        world.more(20)
        world.until_taken(run)
        assert run.process.poll() is None
        run.drain()
    world.assert_complete()


@pytest.mark.timeout(300)
def test_of_replays_at_once_each_letter_goes_in_once(world: World) -> None:
    world.ingest(50, late=100, bad=3)
    rivals = [world.program.command("dead-letters replay") for _ in range(3)]
    ended = [finished(rival) for rival in rivals]
    assert all(code in (0, 3) for code, _ in ended), ended
    assert any(code == 0 for code, _ in ended), ended
    code, output = world.replay()
    assert code == 0, output
    world.assert_complete()


def test_what_is_replayed_and_what_is_still_refused_is_told(world: World) -> None:
    world.ingest(20, late=4, bad=2)
    code, output = world.replay("--dry-run", "--json")
    planned = json.loads(output)
    assert (code, planned["planned"], planned["rows"], planned["read"]) == (0, True, 4, 6)
    assert len(landed(world.program)) == 20
    late = {place for place, value in world.sound.items() if "extra" in value}
    partition, offset = min(late)
    code, output = world.replay(
        "--json", "--where", f"partition = {partition} and offset = {offset}"
    )
    assert (code, json.loads(output)["rows"]) == (0, 1)
    code, output = world.replay()
    assert code == 0
    assert "5 open letters read, 3 went into the table" in output
    assert "json.syntax" in output
    assert "bad " not in output, "a payload was told"
    world.assert_complete()
    listed = finished(world.program.command("dead-letters list", "--all", "--format", "json"))
    kinds = json.loads(listed[1])
    assert sum(kind["letters"] for kind in kinds) == 6
    assert sum(kind["replayed"] for kind in kinds) == 4
    place = f"{world.program.topic}/{partition}/{offset}"
    code, output = finished(world.program.command("dead-letters show", place))
    assert code == 0, output
    assert "replayed" in output
    assert f'"extra": "x{world.sound[partition, offset]["order_id"]}"' in output


def test_letters_whose_record_was_read_again_and_is_a_row_are_only_marked(world: World) -> None:
    world.ingest(20, late=4)
    # The table is rolled back to before the records, which are read again by another configuration.
    table = world.program.load_table()
    assert table is not None
    first = table.metadata.snapshots[0].snapshot_id
    table.manage_snapshots().set_current_snapshot(snapshot_id=first).commit()
    again = {"K2I_ICEBERG_ON_ROLLBACK": "replay"}
    code, output = world.program.run("--max-messages", str(world.records), environ=again)
    assert code == 0, output
    code, output = world.replay("--json")
    told = json.loads(output)
    assert (code, told["rows"], told["present"]) == (0, 0, 4), output
    world.assert_complete()
