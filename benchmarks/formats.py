"""What each payload format costs from topic to table, clean and with one bad record in 1,000.

The same order events in every format, each a topic of its own; framed ones name a schema of a
registry in this process. The streams take turns. DuckDB compares the tables with the topics; of a
dirty stream, rows and dead letters together are the messages.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import drawing, report
from benchmarks import topic as topics
from benchmarks.encodings import BAD_EVERY, encoders, written
from benchmarks.ingested import EndedError, ingest, program_of
from benchmarks.services import Services, services
from k2i_tasks.kafka.orders import OrderPool
from tests.program import Program
from tests.schema_registry import FakeRegistry
from tests.support import outsider

#: What is measured, in order: formats, and how some records of the stream are spoilt.
STREAMS = (
    *(
        ("raw", ""),
        ("string", ""),
        ("json", ""),
        ("jsonschema", ""),
        ("avro", ""),
        ("protobuf", ""),
    ),
    *(("json", "cut"), ("json", "broken"), ("avro", "cut"), ("protobuf", "cut")),
)
SEED = 7


@dataclass(frozen=True, slots=True)
class Stream:
    """A topic in one format.

    Args:
        kind: the format.
        spoilt: how some records are, as in `SPOILS`; empty if none is.
        topic: what it holds.
    """

    kind: str
    spoilt: str
    topic: topics.Topic

    @property
    def name(self) -> str:
        return _name(self.kind, self.spoilt)


@dataclass(frozen=True, slots=True)
class Turn:
    """One ingestion of one stream; shares are of all records, seconds of CPU."""

    cpu_seconds: float
    wall_seconds: float
    decode_seconds: float
    slow_share: float
    equal: bool


def _name(kind: str, spoilt: str) -> str:
    return f"{kind}, {spoilt}" if spoilt else kind


def add_arguments(parser: argparse.ArgumentParser) -> None:
    report.add_run_arguments(parser)


def run(chosen: argparse.Namespace) -> int:
    """Measures, prints and writes the figures; 1 if what was written differs, 2 if a run fails."""
    with tempfile.TemporaryDirectory(prefix="k2i-formats-") as folder, FakeRegistry() as registry:
        home = Path(folder)
        with services(home) as running:
            streams = _streams(running, registry, chosen.messages)
            try:
                turns = report.in_turn(
                    chosen.runs,
                    lambda run: {
                        one.name: _turn(one, run, running, registry, home) for one in streams
                    },
                )
            except EndedError as error:
                print(error, file=sys.stderr)
                return 2
    found = {
        "messages": chosen.messages,
        "bad_every": BAD_EVERY,
        **report.machine(),
        "streams": {one.name: _summed_up(one, turns) for one in streams},
        "dirty_cpu_ratio": {
            one.name: report.spread(
                [turn[one.name].cpu_seconds / turn[one.kind].cpu_seconds for turn in turns], 3
            )
            for one in streams
            if one.spoilt
        },
    }
    _show(found)
    if chosen.figure:
        drawing.formats(found, chosen.figure)
    equal = all(turn.equal for each in turns for turn in each.values())
    return report.finished(found, chosen.json, equal=equal)


def _streams(running: Services, registry: FakeRegistry, messages: int) -> list[Stream]:
    """Fills a topic for each. May block for minutes."""
    pool, made = OrderPool(SEED, topics.POOL), encoders(registry)
    sums = topics.sums_of(pool, messages)
    found: list[Stream] = []
    for kind, spoilt in STREAMS:
        print(f"== filling a topic: {_name(kind, spoilt)}", file=sys.stderr, flush=True)
        name = topics.named(kind)
        events = written(pool.events(0, messages, time.time()), made[kind], spoilt)
        size = topics.send(running.bootstrap, name, events, topics.PARTITIONS)
        topic = topics.Topic(running.bootstrap, name, messages, size / messages, sums)
        found.append(Stream(kind, spoilt, topic))
    return found


def _turn(
    stream: Stream, number: int, running: Services, registry: FakeRegistry, home: Path
) -> Turn:
    table = f"{stream.kind}_{stream.spoilt or 'clean'}_{number}"
    environ = {
        "K2I_KAFKA_FORMAT_TYPE": stream.kind,
        "K2I_KAFKA_FORMAT_SCHEMA_REGISTRY_URL": registry.url,
        "K2I_KAFKA_FORMAT_LATEST_ON_STARTUP": "false",
    }
    folder = home / table
    program = program_of(folder, running, stream.topic.name, table=table, environ=environ)
    cost = ingest(program, stream.topic.messages)
    return Turn(
        cpu_seconds=cost.cpu_seconds,
        wall_seconds=cost.wall_seconds,
        decode_seconds=cost.stages["decode"],
        slow_share=cost.stages.get("slow_records", 0.0) / stream.topic.messages,
        equal=_equal(stream, program, table),
    )


def _equal(stream: Stream, program: Program, table: str) -> bool:
    location, messages = program.metadata_location(table), stream.topic.messages
    if stream.spoilt:
        bad = messages // BAD_EVERY
        letters = program.metadata_location(f"{table}__dead_letters") if bad else None
        rows = _count(location, "event_id")
        return rows == messages - bad and (
            letters is None or _count(letters, '("partition", "offset")') == bad
        )
    typed = stream.kind not in ("raw", "string")
    return bool(topics.compared(stream.topic, location, typed=typed)["equals_topic"])


def _count(location: str, unique: str) -> int:
    """Rows that differ; -1 if some do not."""
    with outsider() as connection:
        row = connection.execute(
            f"SELECT count(*), count(DISTINCT {unique}) FROM iceberg_scan('{location}')"
        ).fetchone()
    assert row is not None
    return int(row[0]) if row[0] == row[1] else -1


def _summed_up(stream: Stream, turns: Sequence[Mapping[str, Turn]]) -> dict[str, Any]:
    mine = [turn[stream.name] for turn in turns]
    million = stream.topic.messages / 1e6
    return {
        "bytes_per_message": round(stream.topic.message_bytes, 1),
        "cpu_seconds_per_million_rows": report.spread(
            [one.cpu_seconds / million for one in mine], 3
        ),
        "decode_cpu_seconds_per_million_rows": report.spread(
            [one.decode_seconds / million for one in mine], 3
        ),
        "rows_per_second": round(
            statistics.median(stream.topic.messages / one.wall_seconds for one in mine)
        ),
        "slow_share": round(max(one.slow_share for one in mine), 6),
        "equals_topic": all(one.equal for one in mine),
    }


def _show(found: Mapping[str, Any]) -> None:
    text = report.spread_text
    rows = []
    for name, stream in found["streams"].items():
        ratio = found["dirty_cpu_ratio"].get(name)
        rows.append(
            (
                name,
                f"{stream['bytes_per_message']:.0f}",
                text(stream["cpu_seconds_per_million_rows"]),
                text(stream["decode_cpu_seconds_per_million_rows"]),
                f"{stream['rows_per_second']:,}",
                f"{stream['slow_share']:.2%}",
                "" if ratio is None else text(ratio),
                "" if stream["equals_topic"] else "DIFFERS",
            )
        )
    columns = (
        *("format", "bytes", "CPU s per million", "decoding", "rows/s"),
        *("slow path", "CPU to clean", ""),
    )
    report.show(f"{found['messages']:,} events", columns, rows)
