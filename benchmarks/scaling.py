"""Rate and CPU of the program over message size, columns, partitions of topic and table, tables.

Each point is a topic of bounded bytes that the program ingests into a table of its own, typed; its
figures are those of `benchmarks.ingested`, start-up apart, and DuckDB compares the table with the
topic. A point is a cliff if it is more than three times worse than a neighbour, both per byte and
per row: a larger message may cost more per row, and a smaller one more per byte.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import drawing, many, report, shapes
from benchmarks import topic as topics
from benchmarks.ingested import Cost, EndedError, ingest, program_of
from benchmarks.services import Services, services

#: How much worse than a neighbour a point may be.
CLIFF = 3.0
#: Columns of a message whose size varies, and the size of one whose partitions do.
COLUMNS, ORDER_BYTES = 5, 288
#: Bounds of a topic, whatever its bytes.
MESSAGES_MIN, MESSAGES_MAX = 500, 2_000_000
MEGABYTES, QUICK_MEGABYTES = 200, 8
FIGURES = ("cpu_seconds", "wall_seconds")


@dataclass(frozen=True, slots=True)
class Point:
    """A topic, how its table is checked, and what the program's file says besides."""

    topic: topics.Topic
    compared: Callable[[str], dict[str, Any]]
    extra: str = ""


@dataclass(frozen=True, slots=True)
class Curve:
    """What varies.

    Args:
        title: of the axis.
        values: of the points, rising.
        quick: those of a small run.
        filled: makes the topic of a point of at most so many bytes; None where the points are
            numbers of tables, each with a topic of its own.
        per_byte: whether the cost is told per gigabyte; else per million rows.
        kept: whether the next point can have the same topic.
    """

    title: str
    values: Sequence[int]
    quick: Sequence[int]
    filled: Callable[[str, int, int], Point] | None
    per_byte: bool
    kept: bool = False


def _messages(bytes_max: int, each: int) -> int:
    return min(MESSAGES_MAX, max(MESSAGES_MIN, bytes_max // each))


def _shaped(shape: shapes.Shape, bootstrap: str, bytes_max: int) -> Point:
    bodies = shapes.Bodies(shape)
    messages = _messages(bytes_max, bodies.message_bytes)
    topic = shapes.fill(bootstrap, bodies, messages, topics.PARTITIONS)
    return Point(topic, lambda location: shapes.compared(shape, topic, location))


def _of_size(bootstrap: str, size: int, bytes_max: int) -> Point:
    return _shaped(shapes.Shape(COLUMNS, size), bootstrap, bytes_max)


def _of_columns(bootstrap: str, columns: int, bytes_max: int) -> Point:
    return _shaped(shapes.Shape(columns), bootstrap, bytes_max)


def _over_partitions(bootstrap: str, partitions: int, bytes_max: int) -> Point:
    topic = topics.fill(bootstrap, _messages(bytes_max, ORDER_BYTES), partitions=partitions)
    return Point(topic, lambda location: topics.compared(topic, location, typed=True))


def _into_buckets(bootstrap: str, buckets: int, bytes_max: int) -> Point:
    point = _over_partitions(bootstrap, topics.PARTITIONS, bytes_max)
    return Point(point.topic, point.compared, bucketed(buckets))


def bucketed(buckets: int) -> str:
    """The program's file: a table with so many partitions, by the event's id."""
    field = f'source_field = "event_id"\ntransform = "bucket[{buckets}]"'
    return f"[[iceberg.partition_spec]]\n{field}\n" if buckets > 1 else ""


CURVES = {
    "size": Curve(
        "message size, bytes",
        (100, 300, 1_000, 3_000, 10_000, 30_000, 100_000),
        (100, 1_000, 100_000),
        _of_size,
        per_byte=True,
    ),
    "columns": Curve(
        "columns", (5, 10, 20, 50, 100, 200, 500), (5, 50, 500), _of_columns, per_byte=True
    ),
    "partitions": Curve(
        "Kafka partitions", (1, 4, 16, 64, 256), (1, 16, 256), _over_partitions, per_byte=False
    ),
    "table-partitions": Curve(
        "table partitions",
        (1, 10, 30, 100, 300, 1_000),
        (1, 30, 1_000),
        _into_buckets,
        per_byte=False,
        kept=True,
    ),
    "tables": Curve("tables", (1, 5, 20, 50), (1, 5), None, per_byte=False),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--curves", default=",".join(CURVES), help=f"of {', '.join(CURVES)}")
    parser.add_argument("--megabytes", type=int, help=f"of a topic at most; {MEGABYTES} if not")
    parser.add_argument("--runs", type=int, default=1, help="of each point; medians are told")
    parser.add_argument("--quick", action="store_true", help="few points, small topics")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--figure", type=Path, help="draw them into this file (.svg, .png)")


def run(chosen: argparse.Namespace) -> int:
    """Measures, prints and writes the figures; 1 if a table differs, 2 if a run fails."""
    names = list(dict.fromkeys(name for name in chosen.curves.split(",") if name))
    unknown = [name for name in names if name not in CURVES]
    megabytes = chosen.megabytes or (QUICK_MEGABYTES if chosen.quick else MEGABYTES)
    if unknown or not names or chosen.runs < 1 or megabytes < 1:
        print(
            f"--curves takes {', '.join(CURVES)}; --runs and --megabytes have to be above 0",
            file=sys.stderr,
        )
        return 2
    curves: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="k2i-scaling-") as folder:
        home = Path(folder)
        with services(home) as running:
            try:
                for name in names:
                    curve = CURVES[name]
                    values = curve.quick if chosen.quick else curve.values
                    measure = _Measure(home, running, name, megabytes * 1_000_000, chosen.runs)
                    curves[name] = measure.points(curve, values)
            except EndedError as error:
                print(error, file=sys.stderr)
                return 2
    found: dict[str, Any] = {
        "megabytes": megabytes,
        "runs": chosen.runs,
        **report.machine(),
        "curves": {
            name: {
                "title": CURVES[name].title,
                "per_byte": CURVES[name].per_byte,
                "points": points,
                "cliffs": cliffs(points),
            }
            for name, points in curves.items()
        },
    }
    _show(found)
    if chosen.figure:
        drawing.scaling(found, chosen.figure)
    equal = all(point["table_equals_topic"] for points in curves.values() for point in points)
    return report.finished(found, chosen.json, equal=equal)


@dataclass(frozen=True, slots=True)
class _Measure:
    """Takes the points of one curve, one after the other."""

    home: Path
    running: Services
    name: str
    bytes_max: int
    runs: int

    def points(self, curve: Curve, values: Sequence[int]) -> list[dict[str, Any]]:
        found, kept = [], None
        for value in values:
            print(f"== {curve.title}: {value:,}", file=sys.stderr, flush=True)
            if curve.filled is None:
                found.append(self._tables(value))
                continue
            with self._topic(curve, value, kept) as point:
                kept = point.topic if curve.kept else None
                found.append(self._point(value, point))
        return found

    @contextmanager
    def _topic(self, curve: Curve, value: int, kept: topics.Topic | None) -> Iterator[Point]:
        """The topic of a point, deleted afterwards unless the next point has it, too."""
        bootstrap = self.running.bootstrap
        if kept is not None:
            topic = kept
            yield Point(topic, lambda at: topics.compared(topic, at, typed=True), bucketed(value))
            return
        assert curve.filled is not None
        point = curve.filled(bootstrap, value, self.bytes_max)
        yield point
        if not curve.kept:
            many.removed(bootstrap, [point.topic])

    def _tables(self, count: int) -> dict[str, Any]:
        bootstrap = self.running.bootstrap
        sources = many.filled(bootstrap, count, _messages(self.bytes_max, ORDER_BYTES))
        costs, equal = [], True
        for turn in range(self.runs):
            cost, same = many.ingest(self.home / f"tables_{count}_{turn}", self.running, sources)
            costs.append(cost)
            equal = equal and same
        many.removed(bootstrap, sources)
        messages = sum(source.messages for source in sources)
        whole = topics.Topic(bootstrap, "all", messages, sources[0].message_bytes, {})
        return {"value": count, **told(whole, costs), "table_equals_topic": equal}

    def _point(self, value: int, point: Point) -> dict[str, Any]:
        costs, equal = [], True
        for turn in range(self.runs):
            table = f"{self.name}_{value}_{turn}".replace("-", "_")
            program = program_of(
                self.home / table, self.running, point.topic.name, table=table, extra=point.extra
            )
            costs.append(ingest(program, point.topic.messages))
            compared = point.compared(program.metadata_location(table))
            equal = equal and bool(compared["equals_topic"])
        return {"value": value, **told(point.topic, costs), "table_equals_topic": equal}


def told(topic: topics.Topic, costs: Sequence[Cost]) -> dict[str, Any]:
    """The medians of the runs of one point, per row and per byte of the values."""
    cpu, wall = (statistics.median(getattr(cost, name) for cost in costs) for name in FIGURES)
    size = topic.messages * topic.message_bytes
    return {
        "messages": topic.messages,
        "bytes_per_message": round(topic.message_bytes, 1),
        "rows_per_second": round(topic.messages / wall, 1),
        "megabytes_per_second": round(size / 1e6 / wall, 5),
        "cpu_seconds_per_million_rows": round(cpu / topic.messages * 1e6, 4),
        "cpu_seconds_per_gigabyte": round(cpu / size * 1e9, 4),
        "peak_rss_mb": round(max(cost.peak_rss_mb for cost in costs)),
        "runs": [{name: round(getattr(cost, name), 3) for name in FIGURES} for cost in costs],
    }


def cliffs(points: Sequence[Mapping[str, Any]]) -> list[int]:
    """The values whose cost is more than `CLIFF` times a neighbour's, per byte and per row."""

    def worse(point: Mapping[str, Any], other: Mapping[str, Any]) -> float:
        names = ("cpu_seconds_per_million_rows", "cpu_seconds_per_gigabyte")
        slower = (other["rows_per_second"], other["megabytes_per_second"])
        faster = (point["rows_per_second"], point["megabytes_per_second"])
        cpu = min(float(point[name] / other[name]) for name in names)
        time = min(float(a / b) for a, b in zip(slower, faster, strict=True))
        return max(cpu, time)

    return [
        point["value"]
        for at, point in enumerate(points)
        if any(
            worse(point, other) > CLIFF
            for other in (*points[max(0, at - 1) : at], *points[at + 1 : at + 2])
        )
    ]


def _show(found: Mapping[str, Any]) -> None:
    columns = ("", "messages", "rows/s", "MB/s", "CPU s per million", "per GB", "peak MB", "")
    for curve in found["curves"].values():
        rows = [
            (
                f"{point['value']:,}",
                f"{point['messages']:,}",
                f"{point['rows_per_second']:,.0f}",
                f"{point['megabytes_per_second']:,.1f}",
                f"{point['cpu_seconds_per_million_rows']:,.1f}",
                f"{point['cpu_seconds_per_gigabyte']:,.1f}",
                f"{point['peak_rss_mb']:,}",
                " ".join(
                    [
                        *(["cliff"] if point["value"] in curve["cliffs"] else []),
                        "" if point["table_equals_topic"] else "DIFFERS",
                    ]
                ).strip(),
            )
            for point in curve["points"]
        ]
        report.show(f"{curve['title'][0].upper()}{curve['title'][1:]}", columns, rows)
