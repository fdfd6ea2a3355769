"""One million typed JSON events, from a real broker into a REST catalog, with kills on the way.

Starts broker and catalog itself (the test stack: Java 17 and Maven), produces the events, runs the
program as a process, kills it (-9) as often as asked, and has DuckDB compare every value and every
(partition, offset) with what was produced. Figures are those of the whole process: start-up, which
a short run pays as well, included and given apart.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.meter import peak_mb
from benchmarks.services import services
from tests.program import Program
from tests.support import CatalogAt, create_topic, event, outsider, produce

PARTITIONS = 4
#: What DuckDB recomputes of `tests.support.event`, from the number alone.
EXPECTED = """
    customer = printf('customer-%04d', order_id % 997)
    AND amount = round(order_id * 0.25, 2)
    AND express = (order_id % 3 = 0)
    AND epoch(created_at) = epoch(make_timestamp(2026, 1, 1 + order_id % 28, order_id % 24, 0, 0))
    AND address.city = 'city-' || (order_id % 50)
    AND address.zip = printf('%05d', order_id % 100000)
    AND items = ['sku-' || (order_id % 7), 'sku-' || (order_id % 11)]
    AND note IS NOT DISTINCT FROM
        CASE WHEN order_id % 5 = 0 THEN NULL ELSE 'note ü ' || order_id END
    AND _kafka_partition = order_id % 4
    AND decode(_kafka_key) = 'key-' || order_id
"""


@dataclass
class Cost:
    """What one process used: CPU seconds (user and system), wall seconds, peak memory in MB."""

    cpu_seconds: float
    wall_seconds: float
    peak_rss_mb: float
    exit_code: int
    output: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=0, help="kill -9 this often on the way")
    parser.add_argument("--json", type=Path, help="write the figures to this file")


def run(chosen: argparse.Namespace) -> int:
    """Measures, prints and writes the figures; 1 if the table is not the topic."""
    with tempfile.TemporaryDirectory(prefix="k2i-bench-") as folder:
        home = Path(folder)
        with services(home) as running:
            bootstrap, catalog = running.bootstrap, running.catalog
            figures = _measured(home, bootstrap, catalog, chosen.messages, chosen.kills)
    print(json.dumps(figures, indent=2))
    if chosen.json:
        chosen.json.write_text(json.dumps(figures, indent=2), encoding="utf-8")
    return 0 if figures["table_equals_topic"] else 1


def _measured(
    folder: Path, bootstrap: str, catalog: CatalogAt, messages: int, kills: int
) -> dict[str, Any]:
    topic = f"bench-{int(time.time())}"
    create_topic(bootstrap, topic, PARTITIONS)
    values = (json.dumps(event(number)).encode() for number in range(messages))
    written = produce(bootstrap, topic, values, config={"linger.ms": 50, "compression.type": "lz4"})
    payload_bytes = sum(len(value or b"") for value in written.values())
    extra = "[prefect]\nenabled = false"
    program = Program(folder, bootstrap, topic, catalog, extra=extra)
    program.environ = {
        "K2I_KAFKA_BATCH_SIZE": "20000",
        "K2I_BUFFER_FLUSH_INTERVAL_SECONDS": "5",
        "K2I_BUFFER_FLUSH_BATCH_SIZE": "100000",
        "K2I_BUFFER_MAX_SIZE_MB": "256",
    }
    costs = [_killed(program, turn, kills, messages) for turn in range(kills)]
    left = messages - _rows(program)
    last = _cost(program, ["--max-messages", str(left)]) if left else None
    costs += [last] if last is not None else []
    cpu = sum(cost.cpu_seconds for cost in costs)
    wall = sum(cost.wall_seconds for cost in costs)
    found = _verdict(program, messages)
    report: dict[str, Any] = {
        "messages": messages,
        "kills": kills,
        "bytes_per_message": round(payload_bytes / messages, 1),
        **found,
        "cpu_seconds_per_million_rows": round(cpu / messages * 1e6, 2),
        "rows_per_second": round(messages / wall),
        "peak_rss_mb": round(max(cost.peak_rss_mb for cost in costs)),
        "exit_codes": [cost.exit_code for cost in costs],
        "load_average": os.getloadavg(),
    }
    if last is not None:
        report["last_run"] = {k: v for k, v in asdict(last).items() if k != "output"}
        report["last_run_summary"] = summary_of(last.output)
    return report


def _killed(program: Program, turn: int, kills: int, messages: int) -> Cost:
    """A run that is killed once its share of the rows is in the table."""
    wanted = messages * (turn + 1) // (kills + 1)
    return _cost(program, [], until=lambda: _rows(program) >= wanted)


def _cost(program: Program, words: list[str], until: Any = None) -> Cost:
    log = program.folder / "output.log"
    began = time.monotonic()
    with log.open("w", encoding="utf-8") as stream:
        process = program.start(*words, stdout=stream)
        most_mb = 0.0
        while True:
            most_mb = max(most_mb, peak_mb(process.pid))
            ended, status, used = os.wait4(process.pid, os.WNOHANG)
            if ended:
                break
            if until is not None and until():
                process.send_signal(signal.SIGKILL)
                until = None
            time.sleep(0.02)
        process.returncode = os.waitstatus_to_exitcode(status)
    return Cost(
        cpu_seconds=round(used.ru_utime + used.ru_stime, 2),
        wall_seconds=round(time.monotonic() - began, 2),
        peak_rss_mb=round(most_mb, 1),
        exit_code=process.returncode,
        output=log.read_text(encoding="utf-8"),
    )


def _rows(program: Program) -> int:
    """Rows that the table holds; 0 while there is none."""
    table = program.load_table()
    snapshot = table.current_snapshot() if table is not None else None
    if snapshot is None or snapshot.summary is None:
        return 0
    return int(snapshot.summary.additional_properties.get("total-records", 0))


def _verdict(program: Program, messages: int) -> dict[str, Any]:
    location = program.metadata_location()
    query = f"""
        SELECT count(*), count(DISTINCT (_kafka_partition, _kafka_offset)),
               count(DISTINCT order_id), min(order_id), max(order_id),
               count(*) FILTER (NOT ({EXPECTED}))
        FROM iceberg_scan('{location}')"""
    with outsider() as connection:
        row = connection.execute(query).fetchone()
    assert row is not None
    rows, places, distinct, lowest, highest, wrong = row
    good = (rows, places, distinct, lowest, highest, wrong) == (
        *(messages,) * 3,
        0,
        messages - 1,
        0,
    )
    return {
        "rows": rows,
        "distinct": distinct,
        "distinct_positions": places,
        "wrong_values": wrong,
        "table_equals_topic": good,
    }


def summary_of(output: str) -> dict[str, str]:
    """The lines of the program's own summary."""
    found = re.findall(r"^(consumed|committed|flush|commit|dead letters): (.*)$", output, re.M)
    return dict(found)
