"""A real process is killed at every named place; topic and table stay equal, value by value."""

from __future__ import annotations

import json
import signal
import uuid
from pathlib import Path
from typing import Any

import pytest

from k2i_tasks.failpoints import VARIABLE
from tests.integration.test_end_to_end import expected, landed
from tests.program import Program
from tests.support import (
    Position,
    assert_exactly_once,
    create_topic,
    event,
    produce,
    read_by_metadata,
)

#: Places on the way of a batch, and which time by is the one that kills.
PLACES = [
    "claim.landed:1",
    "recovery.step:1",
    "wal.append.before:2",
    "wal.append.written:3",
    "wal.append.synced:1",
    "wal.checkpoint.tmp:1",
    "wal.checkpoint.renamed:1",
    "flush.before:1",
    "flush.file.before:1",
    "flush.file.written:1",
    "flush.file.synced:1",
    "flush.staged.before:1",
    "flush.staged:1",
    "dead_letters.commit.before:1",
    "dead_letters.committed:1",
    "commit.before:1",
    "commit.manifests.before:2",
    "commit.intent.before:2",
    "commit.send.before:2",
    "commit.answered:2",
    "commit.landed.before:1",
    "commit.landed:1",
    "offsets.committed:1",
]
#: Reached only when there is something to recover, or the broker's group coordinator (new with the
#: broker, and nothing waits for it) has answered in time: no kill is no failure there.
CONDITIONAL = {"recovery.step:1", "offsets.committed:1"}


@pytest.mark.integration
@pytest.mark.timeout(900)
def test_a_kill_at_any_place_loses_and_doubles_nothing(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    topic = f"crash-{uuid.uuid4().hex[:8]}"
    create_topic(kafka_bootstrap, topic)
    program = Program(tmp_path, kafka_bootstrap, topic)
    written: dict[Position, dict[str, Any]] = {}
    bad: dict[Position, bytes] = {}
    for turn, place in enumerate(PLACES):
        first = turn * 300
        values = [json.dumps(event(n)).encode() for n in range(first, first + 300)]
        values[7] = b"bad %d" % turn
        for where, value in produce(kafka_bootstrap, topic, values).items():
            assert value is not None
            if value.startswith(b"bad"):
                bad[where] = value
            else:
                written[where] = json.loads(value)
        code, output = program.run("--duration", "15", environ={VARIABLE: place})
        killed = code == -signal.SIGKILL
        assert killed or place in CONDITIONAL, f"{place}: exit code {code}\n{output}"
    code, output = program.run("--duration", "4")
    assert code == 0, output
    assert_exactly_once(landed(program), expected(written))
    letters = read_by_metadata(program.metadata_location(f"{program.table}__dead_letters"))
    found = sorted((one["partition"], one["offset"], bytes(one["value"])) for one in letters)
    assert found == sorted((*where, value) for where, value in bad.items())
