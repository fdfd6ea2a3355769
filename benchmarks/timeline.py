"""Both cores at work: the CPU of each stage over time, while the program works off a backlog.

A look at `/proc/PID/task/*/schedstat` every 50 ms, CPU of each thread in nanoseconds; a thread
belongs to the stage that its name says. How long two stages ran at once cannot be seen from such
sums alone, but bounded by them, look by look. DuckDB compares the table with the topic. Linux.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import drawing, report
from benchmarks import topic as topics
from benchmarks.ingested import EndedError, ingest, program_of
from benchmarks.profiled import DECODERS, THREADS_FILE
from benchmarks.services import Services, services

#: Stage, in order, and what is done in it.
STAGES = {
    "client": "Kafka client's threads",
    "main": "consume and decode",
    "shares": "decode, the other shares",
    "files": "Parquet files",
    "commit": "Iceberg commits",
    "native": "threads of Arrow and other libraries",
    "rest": "the rest",
}
#: First part of a Python thread's name -> its stage.
NAMES = {DECODERS: "shares", "k2i-flush": "files", "k2i-upload": "files", "k2i-commit": "commit"}
#: What the first field of the line counts, time on a processor, in seconds.
_NANOSECONDS = 1e-9


@dataclass
class Looks:
    """CPU seconds of each thread so far, at each look.

    Attributes:
        at: when (monotonic seconds), rising.
        threads: id -> (name as the system has it, [CPU seconds at each look]).
    """

    at: list[float] = field(default_factory=list)
    threads: dict[int, tuple[str, list[float]]] = field(default_factory=dict)

    def look(self, pid: int) -> None:
        """Adds what there is; a thread that has ended keeps what it had."""
        number = len(self.at)
        self.at.append(time.monotonic())
        for task in Path(f"/proc/{pid}/task").glob("*"):
            try:
                name = (task / "comm").read_text("utf-8", errors="replace").strip()
                spent = int((task / "schedstat").read_text("ascii").split()[0]) * _NANOSECONDS
            except (OSError, IndexError):
                continue  # it has just ended
            _name, past = self.threads.get(int(task.name), ("", []))
            _fill(past, number)
            past.append(spent)
            self.threads[int(task.name)] = (name, past)

    def by_stage(self, pid: int, names: Mapping[int, str]) -> dict[str, list[list[float]]]:
        """CPU seconds so far, at each look, of each thread of each stage.

        Args:
            pid: of the process, which is its first thread's id, too.
            names: of Python's threads, by id.
        """
        found: dict[str, list[list[float]]] = {stage: [] for stage in STAGES}
        for thread, (system_name, spent) in self.threads.items():
            _fill(spent, len(self.at))
            stage = "main" if thread == pid else stage_of(system_name, names.get(thread))
            found[stage].append(spent)
        return found


def _fill(spent: list[float], count: int) -> None:
    """Up to so many looks with the last, or with nothing before the first."""
    spent += [spent[-1] if spent else 0.0] * (count - len(spent))


def stage_of(system_name: str, name: str | None) -> str:
    """The stage of a thread other than the first, by its names; None if Python knows none."""
    if system_name.startswith("rdk:"):
        return "client"
    if name is None:
        return "native"
    return next((stage for first, stage in NAMES.items() if name.startswith(first)), "rest")


def names_in(lines: Iterable[str]) -> dict[int, str]:
    """Names of Python's threads by id, from lines `id name`."""
    parted = (line.partition(" ") for line in lines)
    return {int(number): name.strip() for number, _, name in parted}


def at_once(
    spent: Mapping[str, Sequence[Sequence[float]]], seconds: Sequence[float], cpus: int
) -> tuple[float, float]:
    """Seconds in which two stages or more ran at once: at least, and at most.

    A stage ran as long as its busiest thread at least, and as long as all of them together at most.
    While not two stages run, what they ran adds up to 1 a second at most, else to the number of
    processors: hence the least. A moment with two has one that is not of the stage that ran most,
    and counts twice in the sum: hence the most.

    Args:
        spent: stage -> [threads][n], CPU seconds between this look and the one before.
        seconds: [n], time between them.
        cpus: processors, at least 1.
    """
    least = most = 0.0
    for number, passed in enumerate(seconds):
        looks = [[thread[number] for thread in threads] for threads in spent.values() if threads]
        longest = [min(sum(look), passed) for look in looks]
        shortest = sum(min(max(look), passed) for look in looks)
        running = min(cpus, sum(ran > 0 for ran in longest))
        if running > 1:
            least += min(passed, max(0.0, shortest - passed) / (running - 1))
            most += min(passed, sum(longest) / 2, sum(longest) - max(longest))
    return least, most


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--every", type=float, default=0.05, help="seconds between two looks")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--figure", type=Path, help="draw them into this file (.svg, .png)")


def run(chosen: argparse.Namespace) -> int:
    """Measures, prints and writes the figures; 1 if the table differs, 2 if the run fails."""
    if not Path("/proc/self/schedstat").exists():
        print("timeline needs a Linux that tells the CPU of each thread", file=sys.stderr)
        return 2
    if chosen.messages < 1 or not chosen.every > 0:
        print("--messages and --every have to be above 0", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="k2i-timeline-") as folder:
        home = Path(folder)
        with services(home) as running:
            topic = topics.fill(running.bootstrap, chosen.messages)
            try:
                found = _measured(home / "run", running, topic, chosen.every)
            except EndedError as error:
                print(error, file=sys.stderr)
                return 2
    _show(found)
    if chosen.figure:
        drawing.timeline(found, STAGES, chosen.figure)
    return report.finished(found, chosen.json, equal=found["table_equals_topic"])


def _measured(folder: Path, running: Services, topic: topics.Topic, every: float) -> dict[str, Any]:
    threads, looks = folder / "threads", Looks()
    program = program_of(
        folder, running, topic.name, table="timeline", environ={THREADS_FILE: str(threads)}
    )
    pids: set[int] = set()

    def look(pid: int) -> None:
        pids.add(pid)
        looks.look(pid)

    cost = ingest(program, topic.messages, look, every)
    (pid,) = pids
    names = names_in(threads.read_text("utf-8").splitlines())
    compared = topics.compared(topic, program.metadata_location("timeline"), typed=True)
    first, last = cost.stages["wall_before"], cost.stages["wall"]
    return {
        "messages": topic.messages,
        "bytes_per_message": round(topic.message_bytes, 1),
        **report.machine(),
        **over_time(looks.at, looks.by_stage(pid, names), first, last),
        "cpu_seconds": round(cost.cpu_seconds, 2),
        "rows_per_second": round(topic.messages / cost.wall_seconds),
        "table_equals_topic": bool(compared["equals_topic"]),
    }


def over_time(
    at: Sequence[float],
    spent: Mapping[str, Sequence[Sequence[float]]],
    first: float,
    last: float,
) -> dict[str, Any]:
    """The looks between two moments, as CPU of each stage in between.

    Args:
        at: when each look was.
        spent: stage -> CPU seconds so far at each, by thread.
        first, last: what is between them counts.
    """
    chosen = [n for n in range(1, len(at)) if at[n - 1] >= first and at[n] <= last]
    seconds = [at[n] - at[n - 1] for n in chosen]
    threads = {
        stage: [[past[n] - past[n - 1] for n in chosen] for past in pasts]
        for stage, pasts in spent.items()
    }
    least, most = at_once(threads, seconds, os.cpu_count() or 1)
    each = {
        stage: [sum(look) for look in zip(*parts, strict=True)] if parts else [0.0] * len(chosen)
        for stage, parts in threads.items()
    }
    whole = sum(seconds) or 1.0
    return {
        "seconds": [round(at[n] - first, 4) for n in chosen],
        "interval_seconds": [round(one, 4) for one in seconds],
        "cores": {
            stage: [round(cpu / t, 4) for cpu, t in zip(parts, seconds, strict=True)]
            for stage, parts in each.items()
        },
        "stage_cpu_seconds": {stage: round(sum(parts), 3) for stage, parts in each.items()},
        "stage_cores": {stage: round(sum(parts) / whole, 3) for stage, parts in each.items()},
        "two_at_once": {"at_least": round(least / whole, 3), "at_most": round(most / whole, 3)},
    }


def _show(found: Mapping[str, Any]) -> None:
    cpu, cores = found["stage_cpu_seconds"], found["stage_cores"]
    rows = [(title, f"{cpu[stage]:.2f}", f"{cores[stage]:.2f}") for stage, title in STAGES.items()]
    rows.append(("all", f"{sum(cpu.values()):.2f}", f"{sum(cores.values()):.2f}"))
    title = f"{found['messages']:,} events of {found['bytes_per_message']} bytes"
    report.show(title, ("stage", "CPU s", "cores"), rows)
    least, most = (found["two_at_once"][name] for name in ("at_least", "at_most"))
    print(
        f"two stages or more ran at once for {least:.0%} of the time at least, {most:.0%} at most"
    )
