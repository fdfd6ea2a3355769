"""A real process is killed round the commit that brings a column: with its rows, or not at all."""

from __future__ import annotations

import json
import signal
import uuid
from pathlib import Path
from typing import Any

import pytest

from k2i_tasks.failpoints import VARIABLE
from tests.iceberg_tables import columns_alone, field_ids
from tests.program import Program
from tests.support import Position, create_topic, event, produce, read_by_metadata

#: Each run meets a column that is new. The first commit of a run is its claim.
PLACES = [
    "flush.staged.before:1",
    "flush.staged:1",
    "commit.before:1",
    "commit.manifests.before:2",
    "commit.intent.before:2",
    "commit.send.before:2",
    "schema.commit.before:1",
    "schema.committed:1",
    "commit.answered:2",
    "commit.landed.before:1",
    "recovery.step:1",
    "commit.landed:1",
]
ROWS = 40


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_a_kill_leaves_no_column_without_rows_and_no_rows_without_their_column(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    topic = f"evolving-{uuid.uuid4().hex[:8]}"
    create_topic(kafka_bootstrap, topic)
    program = Program(tmp_path, kafka_bootstrap, topic)
    written: dict[Position, dict[str, Any]] = {}

    def more(turn: int, *names: str) -> None:
        first = turn * ROWS
        events = [
            event(n) | {name: f"{name} of {n}" for name in names}
            for n in range(first, first + ROWS)
        ]
        sent = produce(kafka_bootstrap, topic, [json.dumps(each).encode() for each in events])
        written.update({where: json.loads(value or b"") for where, value in sent.items()})

    more(0)
    code, output = program.run("--max-messages", str(ROWS))
    assert code == 0, output
    known: dict[str, int] = {}
    for turn, place in enumerate(PLACES, 1):
        more(turn, f"new_{turn}")
        code, output = program.run("--duration", "15", environ={VARIABLE: place})
        assert code == -signal.SIGKILL, f"{place}: exit code {code}\n{output}"
        known = whole(program, known, place)
    code, output = program.run("--duration", "4")
    assert code == 0, output
    known = whole(program, known, "the end")
    assert {f"new_{turn}" for turn, _ in enumerate(PLACES, 1)} <= known.keys()
    rows = read_by_metadata(program.metadata_location())
    found = {(row["_kafka_partition"], row["_kafka_offset"]): row for row in rows}
    assert len(rows) == len(found)
    assert found.keys() == written.keys()
    for where, row in found.items():
        new = {name: value for name, value in row.items() if name.startswith("new_") and value}
        wanted = {name: value for name, value in written[where].items() if name.startswith("new_")}
        assert new == wanted
        assert row["order_id"] == written[where]["order_id"]


def whole(program: Program, known: dict[str, int], place: str) -> dict[str, int]:
    """Checks the table after a kill; the ids of its fields."""
    table = program.load_table()
    assert table is not None
    assert columns_alone(table) == [], place
    found = field_ids(table.schema())
    assert known.items() <= found.items(), f"{place}: a field has another id"
    rows = read_by_metadata(table.metadata_location)
    for name in found:
        if name.startswith("new_"):
            assert any(row[name] for row in rows), f"{place}: {name} has no row"
    return found
