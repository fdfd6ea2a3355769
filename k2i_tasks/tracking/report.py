"""Figures of a stretch of an ingest run, and the text that sums them up. Pure but for a lock."""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from k2i_tasks.status import Status

SAMPLES_MAX = 2000
PARTITIONS_SHOWN_MAX = 64
ERRORS_SHOWN_MAX = 10
_KEY = re.compile(r"[^a-z0-9]+")


def artifact_key(table: str, prefix: str = "k2i-ingest") -> str:
    """`k2i-ingest-demo-orders`: Prefect allows lower case letters, digits and dashes."""
    return f"{prefix}-{_KEY.sub('-', table.lower()).strip('-')}"[:255].rstrip("-")


def quantile(samples: Sequence[float], share: float) -> float | None:
    """The sample at `share` (0..1) of the sorted samples; None without samples."""
    if not samples:
        return None
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Tally:
    """How calls went since the last `restart`; bounded, thread-safe, does not block."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: dict[str, deque[float]] = {}
        self._counts: dict[str, int] = {}
        self.restart()

    def restart(self) -> None:
        """Begins a new stretch."""
        with self._lock:
            self._seconds = {}
            self._counts = {"tracked": 0, "inline": 0, "taken_over": 0, "retries": 0, "failed": 0}

    def record(
        self, kind: str, *, seconds: float, tracked: bool | None, attempts: int, failed: bool
    ) -> None:
        """Counts one call: whether Prefect ran it (None: was not asked), tries, outcome."""
        way = "inline" if tracked is None else "tracked" if tracked else "taken_over"
        with self._lock:
            self._seconds.setdefault(kind, deque(maxlen=SAMPLES_MAX)).append(seconds)
            self._counts[way] += 1
            self._counts["retries"] += max(0, attempts - 1)
            self._counts["failed"] += failed

    def counts(self) -> dict[str, int]:
        """tracked, inline, taken_over, retries, failed."""
        with self._lock:
            return dict(self._counts)

    def seconds(self) -> dict[str, list[float]]:
        """Durations of the last calls, by kind."""
        with self._lock:
            return {kind: list(samples) for kind, samples in self._seconds.items()}


@dataclass(frozen=True, slots=True)
class Stretch:
    """One generation as a report sees it: the run's status at its start and now."""

    number: int
    first: Status
    last: Status
    counts: dict[str, int]
    seconds: dict[str, list[float]]


def markdown(stretch: Stretch) -> str:
    """The summary of one generation, as Markdown."""
    first, last = stretch.first, stretch.last
    elapsed = max(1e-9, last.now - first.now)
    rows = last.rows_committed - first.rows_committed
    head = [
        ("rows committed", f"{rows:,}"),
        ("rows/s", f"{rows / elapsed:,.0f}"),
        ("snapshots", f"{last.snapshots_committed - first.snapshots_committed:,}"),
        ("dead letters", f"{last.dead_letters - first.dead_letters:,}"),
        ("seconds", f"{elapsed:,.0f}"),
        ("state", last.state.value),
        ("age of the newest committed row", _seconds(last.freshness_seconds)),
        ("calls tracked / inline / taken over", _ways(stretch.counts)),
        ("retries / failed calls", f"{stretch.counts['retries']} / {stretch.counts['failed']}"),
    ]
    parts = [
        f"# {last.topic} → {last.table}, generation {stretch.number}",
        markdown_table(("figure", "value"), head),
        "## Durations",
        markdown_table(
            ("operation", "calls", "P50", "P99", "longest"), _durations(stretch.seconds)
        ),
        "## Partitions",
        markdown_table(("partition", "committed up to", "read up to", "lag"), _partitions(last)),
    ]
    if last.last_errors:
        parts += ["## Last errors", markdown_table(("when", "where", "what"), _errors(last))]
    return "\n\n".join(parts) + "\n"


def _durations(seconds: dict[str, list[float]]) -> Iterable[Sequence[str]]:
    for kind, samples in sorted(seconds.items(), reverse=True):
        p50, p99 = quantile(samples, 0.5), quantile(samples, 0.99)
        yield kind, str(len(samples)), _seconds(p50), _seconds(p99), _seconds(max(samples))


def _partitions(status: Status) -> Iterable[Sequence[str]]:
    everyone = sorted({*status.positions, *status.committed})
    for tp in everyone[:PARTITIONS_SHOWN_MAX]:
        cells = (status.committed.get(tp), status.positions.get(tp), status.lag.get(tp))
        yield str(tp), *("-" if cell is None else f"{cell:,}" for cell in cells)
    if len(everyone) > PARTITIONS_SHOWN_MAX:
        yield f"and {len(everyone) - PARTITIONS_SHOWN_MAX} more", "", "", ""


def _errors(status: Status) -> Iterable[Sequence[str]]:
    for note in status.last_errors[-ERRORS_SHOWN_MAX:]:
        yield _clock(note.at), note.component, note.message


def _ways(counts: dict[str, int]) -> str:
    return f"{counts['tracked']} / {counts['inline']} / {counts['taken_over']}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f} s"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; what would break it in a cell is escaped."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in rows:
        cells = (cell.replace("|", "\\|").replace("\n", " ") for cell in row)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def refusals_markdown(status: Status) -> str:
    """The dead letters of a run by kind, as Markdown; no values of payloads."""
    rows = [
        (
            one.code,
            one.stage,
            f"{one.letters:,}",
            _clock(one.first_at),
            _clock(one.last_at),
            one.place,
            one.reason,
        )
        for one in status.refusals
    ]
    head = ("code", "stage", "letters", "first", "last", "last at", "reason")
    total = sum(one.letters for one in status.refusals)
    parts = [
        f"# Dead letters of {status.topic} → {status.table}",
        f"{total:,} of {status.records_consumed:,} records that this run has read.",
        markdown_table(head, rows),
        "`k2i dead-letters list` counts all there are, `show` shows one, `replay` puts those that "
        "can be decoded by now into the table.",
    ]
    return "\n\n".join(parts) + "\n"


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


def table_markdown(report: Mapping[str, Any], read_at: datetime) -> str:
    """The state of a committed table, as Markdown.

    Args:
        report: table, rows, data_files, size_bytes, snapshots, committed_at_ms, epoch, offsets.
        read_at: when it was read.
    """
    committed_at_ms = report["committed_at_ms"]
    committed = "never"
    if committed_at_ms is not None:
        at = datetime.fromtimestamp(committed_at_ms / 1000, UTC)
        committed = f"{at:%Y-%m-%d %H:%M:%S} UTC"
    figures = [
        ("rows", f"{report['rows']:,}"),
        ("data files", f"{report['data_files']:,}"),
        ("bytes", f"{report['size_bytes']:,}"),
        ("snapshots", f"{report['snapshots']:,}"),
        ("last commit", committed),
        ("epoch", str(report["epoch"])),
        ("read at", f"{read_at:%Y-%m-%d %H:%M:%S} UTC"),
    ]
    offsets = [(str(tp), f"{offset:,}") for tp, offset in report["offsets"].items()]
    shown = offsets[:PARTITIONS_SHOWN_MAX]
    if len(offsets) > len(shown):
        shown.append((f"and {len(offsets) - len(shown)} more", ""))
    parts = [f"# {report['table']}", markdown_table(("figure", "value"), figures), "## Offsets"]
    return "\n\n".join([*parts, markdown_table(("partition", "next offset"), shown)]) + "\n"
