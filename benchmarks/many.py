"""One process that fills many tables, each from a topic of its own: a curve of `scaling`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from confluent_kafka.admin import AdminClient

from benchmarks import topic as topics
from benchmarks.ingested import ENVIRON, PATIENCE_SECONDS, Cost, EndedError
from benchmarks.meter import Meter
from benchmarks.services import Services
from tests.program import Program
from tests.running import Running, running

#: A topic of its own has few rows: they are not to wait long for their commit.
FLUSH_SECONDS = 1
#: How often the program is asked how far it is: each answer costs it some CPU.
LOOK_SECONDS = 0.2


def filled(bootstrap: str, tables: int, messages: int) -> list[topics.Topic]:
    """As many topics, which have so many messages together. May block for minutes."""
    return [topics.fill(bootstrap, max(1, messages // tables), seed=7) for _ in range(tables)]


def removed(bootstrap: str, sources: list[topics.Topic]) -> None:
    """Deletes the topics."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 4})
    for done in admin.delete_topics([source.name for source in sources]).values():
        done.result(60)


def ingest(folder: Path, services: Services, sources: list[topics.Topic]) -> tuple[Cost, bool]:
    """Runs the program until each topic is in a table; what it took, and whether all are equal.

    CPU and time go from the first bytes of the topics to the commit that completes the last table.

    Args:
        folder: for its files; made here.
        services: broker and catalog.
        sources: the topics.

    Raises:
        EndedError: the program failed, or did not end in time.
    """
    folder.mkdir()
    messages = sum(source.messages for source in sources)
    names = ", ".join(f'"{source.name}"' for source in sources)
    program = Program(
        folder,
        services.bootstrap,
        "many",
        services.catalog,
        extra="[prefect]\nenabled = false\n",
        routing=f"[routing]\ntopics = [{names}]\n",
        environ={**ENVIRON, "K2I_BUFFER_FLUSH_INTERVAL_SECONDS": str(FLUSH_SECONDS)},
    )
    port = int(services.bootstrap.rpartition(":")[2])
    with running(program) as run, Meter(run.process.pid, port) as meter:
        end = _completed(run, messages)
        first, last = meter.first_data(), meter.at(end)
    cost = Cost(
        cpu_seconds=last.cpu_seconds - first.cpu_seconds,
        wall_seconds=end - first.at,
        start_cpu_seconds=first.cpu_seconds,
        peak_rss_mb=meter.peak_rss_mb,
        stages={},
    )
    return cost, all(_equal(program, source) for source in sources)


def _completed(run: Running, messages: int) -> float:
    """Waits until so many rows are committed; when that was."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and run.process.poll() is None:
        report: dict[str, Any] = run.report()
        if report and report["records"]["committed_rows"] >= messages:
            return time.monotonic()
        time.sleep(LOOK_SECONDS)
    raise EndedError(f"not all of {messages} rows were committed\n{run.output[-4000:]}")


def _equal(program: Program, source: topics.Topic) -> bool:
    location = program.metadata_location(source.name)
    return bool(topics.compared(source, location, typed=True)["equals_topic"])
