"""The program beside the parts that it cannot do without, each alone, on one topic in one run.

The client alone; decoding alone, of payloads in memory, by Arrow's reader and by ours; Parquet
alone, of columns in memory; and a chain of all these on one thread, without a table, a commit or a
log. They take turns, so that a machine whose speed changes is the same for all: read the ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import drawing, report
from benchmarks import topic as topics
from benchmarks.engines import PEERS
from benchmarks.ingested import EndedError, ingest, program_of
from benchmarks.parts import PARTS
from benchmarks.services import Services, services

#: What is measured, in order.
TITLES = {
    "drain": "librdkafka, values not touched",
    **PARTS,
    "chain": "one thread: all of this, no table",
    "k2i": "K2I for Python, typed",
}
#: Longest that one part may take, in seconds.
PATIENCE_SECONDS = 1_800.0


@dataclass(frozen=True, slots=True)
class Taken:
    """One turn of one part."""

    cpu_seconds: float
    wall_seconds: float
    equal: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    report.add_run_arguments(parser)


def run(chosen: argparse.Namespace) -> int:
    """Measures, prints and writes the figures; 1 if what was written differs, 2 if a part fails."""
    with tempfile.TemporaryDirectory(prefix="k2i-limits-") as folder:
        home = Path(folder)
        with services(home) as running:
            topic = topics.fill(running.bootstrap, chosen.messages)
            try:
                turns = report.in_turn(
                    chosen.runs,
                    lambda run: {name: _taken(name, run, topic, running, home) for name in TITLES},
                )
            except EndedError as error:
                print(error, file=sys.stderr)
                return 2
    found = {
        "messages": topic.messages,
        "bytes_per_message": round(topic.message_bytes, 1),
        **report.machine(),
        "parts": {name: _summed_up(name, turns, topic) for name in TITLES},
    }
    _show(found)
    if chosen.figure:
        drawing.limits(found, chosen.figure)
    equal = all(taken.equal for turn in turns for taken in turn.values())
    return report.finished(found, chosen.json, equal=equal)


def _taken(name: str, turn: int, topic: topics.Topic, running: Services, home: Path) -> Taken:
    folder = home / f"{name}-{turn}"
    if name == "k2i":
        program = program_of(folder, running, topic.name, table=f"limits_{turn}")
        cost = ingest(program, topic.messages)
        location = program.metadata_location(f"limits_{turn}")
        compared = topics.compared(topic, location, typed=True)
        return Taken(cost.cpu_seconds, cost.wall_seconds, bool(compared["equals_topic"]))
    folder.mkdir()
    place = (topic.bootstrap, topic.name, str(topic.messages))
    if name == "drain":
        words = [str(PEERS / "drain.py"), *place]
    elif name == "chain":
        words = ["-m", "benchmarks.peers.chain", *place, str(folder)]
    else:
        words = ["-m", "benchmarks.parts", name, *place, str(folder)]
    spent = _spent([sys.executable, *words])
    # What the client alone reads is nowhere: it ends after so many messages.
    equal = name == "drain" or bool(topics.compared_files(topic, folder)["equals_topic"])
    return Taken(spent["cpu_seconds"], spent["wall_seconds"], equal)


def _spent(words: Sequence[str]) -> dict[str, float]:
    """Runs a part, and reads what it says that it took."""
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise EndedError(f"{error}\n{error.stderr!r}") from error
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _summed_up(
    name: str, turns: Sequence[Mapping[str, Taken]], topic: topics.Topic
) -> dict[str, Any]:
    """Medians; the ratios are those of each turn, of the program to this part."""
    million = topic.messages / 1e6
    return {
        "title": TITLES[name],
        "cpu_seconds_per_million_rows": report.spread(
            [turn[name].cpu_seconds / million for turn in turns], 3
        ),
        "rows_per_second": round(
            statistics.median(topic.messages / turn[name].wall_seconds for turn in turns)
        ),
        "k2i_cpu_ratio": report.spread(
            [turn["k2i"].cpu_seconds / turn[name].cpu_seconds for turn in turns], 3
        ),
        "k2i_time_ratio": report.spread(
            [turn["k2i"].wall_seconds / turn[name].wall_seconds for turn in turns], 3
        ),
        "equals_topic": all(turn[name].equal for turn in turns),
    }


def _show(found: Mapping[str, Any]) -> None:
    text = report.spread_text
    rows = [
        (
            part["title"],
            text(part["cpu_seconds_per_million_rows"]),
            f"{part['rows_per_second']:,}",
            text(part["k2i_cpu_ratio"]),
            text(part["k2i_time_ratio"]),
            "" if part["equals_topic"] else "DIFFERS",
        )
        for part in found["parts"].values()
    ]
    title = f"{found['messages']:,} events of {found['bytes_per_message']} bytes"
    columns = ("", "CPU s per million", "rows/s", "K2I's CPU to it", "K2I's time to it", "")
    report.show(title, columns, rows)
