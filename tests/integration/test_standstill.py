"""A run that stands still before a record: what is committed, what waits, how it goes on."""

from __future__ import annotations

import json
import signal
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_end_to_end import unique
from tests.integration.test_iceberg_world import table_of
from tests.program import Program, finished
from tests.running import Running, running
from tests.support import create_topic, produce, read_by_metadata

pytestmark = pytest.mark.integration

PAUSE = '[schema_evolution]\non_breaking_change = "pause"'


@pytest.fixture
def program(kafka_bootstrap: str, tmp_path: Path) -> Program:
    topic = unique("stand")
    create_topic(kafka_bootstrap, topic, partitions=1)
    return Program(tmp_path, kafka_bootstrap, topic, extra=PAUSE)


def send(program: Program, values: Iterable[Any]) -> None:
    payloads = [json.dumps({"n": value}).encode() for value in values]
    produce(program.bootstrap, program.topic, payloads, partition_of=lambda _number: 0)


def numbers(program: Program, column: str = "n") -> list[Any]:
    rows = read_by_metadata(program.metadata_location())
    return [row[column] for row in sorted(rows, key=lambda row: row["_kafka_offset"])]


def letters(program: Program) -> list[int]:
    rows = read_by_metadata(program.metadata_location(f"{program.table}__dead_letters"))
    return sorted(row["offset"] for row in rows)


def ready(run: Running) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(run.url("readyz"), timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def stands(run: Running, offset: int) -> dict[str, Any]:
    """The report once it stands before this offset, and all before it is committed."""
    return run.until(
        lambda report: (
            report["standstill"] is not None
            and report["standstill"]["offset"] == offset
            and report["partitions"][0]["committed"] == offset
        ),
        f"standing before {offset}",
    )


def schema(program: Program, run: Running, *words: str) -> tuple[int, str]:
    return finished(program.command("schema", *words, "--url", run.url("")))


def test_a_conflict_is_waited_before_until_an_operator_says_how_to_go_on(
    program: Program,
) -> None:
    send(program, range(50))
    with running(program) as run:
        run.until_committed(50)
        send(program, [50, "x", 52, "y"])
        report = stands(run, 51)
        assert report["components"]["schema"]["status"] == "degraded"
        assert report["state"] == "paused"
        code, body = ready(run)
        assert code == 503
        assert "offset 51" in body
        assert "Field n" in body
        assert numbers(program) == list(range(51))
        code, output = schema(program, run, "status")
        assert (code, "offset 51" in output) == (6, True), output
        # The table is as it was.
        code, output = schema(program, run, "resume")
        assert (code, "still again" in output) == (6, True), output
        code, output = schema(program, run, "resume", "--as", "dead-letter")
        assert (code, output.strip()) == (0, "The run goes on.")
        run.until_at({0: 54})
        assert ready(run)[0] == 200
        run.drain()
    assert numbers(program) == [*range(51), 52]
    assert letters(program) == [51, 53]
    assert run.output.count("The run stands before") == 2, run.output


def test_a_run_that_stands_still_drains_and_a_changed_configuration_goes_on(
    program: Program,
) -> None:
    send(program, range(50))
    with running(program) as run:
        run.until_committed(50)
        send(program, ["x", 51])
        stands(run, 50)
        run.drain()
    with running(program) as run:
        stands(run, 50)
        run.kill()
    program.extra = ""
    with running(program) as run:
        run.until_at({0: 52})
        run.drain()
    assert numbers(program) == [*range(50), 51]
    assert letters(program) == [50]


def test_a_table_altered_by_hand_takes_what_the_run_stood_before(program: Program) -> None:
    program.extra += '\nmode = "manual"'
    send(program, range(50))
    with running(program) as run:
        run.until_committed(50)
        payload = json.dumps({"n": 50, "more": "yes"}).encode()
        produce(program.bootstrap, program.topic, [payload], partition_of=lambda _number: 0)
        stands(run, 50)
        from pyiceberg.types import StringType

        with table_of(program).update_schema() as update:
            update.add_column("more", StringType())
        code, output = schema(program, run, "resume")
        assert (code, output.strip()) == (0, "The run goes on.")
        run.until_at({0: 51})
        run.drain()
    assert numbers(program, "more") == [None] * 50 + ["yes"]


def test_the_policy_fail_commits_what_came_before_and_ends_with_3(program: Program) -> None:
    program.extra = PAUSE.replace("pause", "fail")
    send(program, range(50))
    with running(program) as run:
        run.until_committed(50)
        send(program, [50, 51, "x", 53])
        code, output = run.end()
    assert code == 3, output
    assert "offset 52" in output
    assert numbers(program) == list(range(52))


def test_a_flood_of_dead_letters_becomes_a_pause(program: Program) -> None:
    program.extra = ""
    limit = {"K2I_RUN_MAX_DEAD_LETTERS_PER_MINUTE": "3"}
    send(program, range(50))
    with running(program, environ=limit) as run:
        run.until_committed(50)
        send(program, [*"abcde", 55])
        report = stands(run, 53)
        assert report["standstill"]["cause"] == "dead-letters"
        assert letters(program) == [50, 51, 52]
        code, output = schema(program, run, "resume", "--as", "dead-letter")
        assert code == 1, output
        code, output = schema(program, run, "resume")
        assert (code, output.strip()) == (0, "The run goes on.")
        run.until_at({0: 56})
        run.signal(signal.SIGTERM)
        assert run.end()[0] == 0
    assert letters(program) == [50, 51, 52, 53, 54]
    assert numbers(program) == [*range(50), 55]
