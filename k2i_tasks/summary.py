"""What a run leaves on the terminal when it is over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from rich import box
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from k2i_tasks.figures import count, duration
from k2i_tasks.status import RunState, Status
from k2i_tasks.terminal import can_draw
from k2i_tasks.terminal_parts import ACCENT, LABEL, clean, route


class Percentiles(Protocol):
    """Durations of one operation."""

    def percentile(self, percent: float) -> float | None:
        """Seconds; None when there are none."""
        ...


def everything_is_committed(status: Status) -> bool:
    """Whether the table holds all that was consumed."""
    return all(status.committed.get(tp, 0) >= at for tp, at in status.positions.items())


def summary_rows(status: Status, durations: Mapping[str, Percentiles]) -> list[tuple[str, str]]:
    """Name and value of each line of the summary.

    Args:
        status: the run's last snapshot.
        durations: by operation, such as `flush` and `commit`.
    """
    ran_seconds = status.now - (status.first_record_at or status.now)
    rate = status.rows_committed / ran_seconds if ran_seconds > 0 else 0.0
    snapshots = status.snapshots_committed
    rows = [
        ("consumed", f"{count(status.records_consumed)} records in {duration(ran_seconds)}"),
        (
            "committed",
            f"{count(status.rows_committed)} rows in {count(snapshots)} "
            f"snapshot{'' if snapshots == 1 else 's'}, {count(rate)} rows/s",
        ),
    ]
    for name, seconds in durations.items():
        half, most = seconds.percentile(50), seconds.percentile(99)
        if half is not None:
            rows.append((name, f"P50 {duration(half)}, P99 {duration(most)}"))
    rows.append(("dead letters", count(status.dead_letters)))
    if status.pauses:
        rows.append(("pauses", f"{count(status.pauses)} by a full buffer"))
    if not everything_is_committed(status):
        rows.append(("not committed", "read again from Kafka at the next start"))
    return rows


def summary_panel(
    status: Status, durations: Mapping[str, Percentiles], query_command: str
) -> Panel:
    """The summary as a panel, with the command that queries the table."""
    good = status.state is not RunState.FAILED
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style=LABEL, no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in summary_rows(status, durations):
        noteworthy = name == "not committed" or (name == "dead letters" and status.dead_letters)
        grid.add_row(name, Text(value, "yellow" if noteworthy else ""))
    lines: list[Table | Text] = [grid]
    if query_command:
        lines += [Text(""), Text("Look at the rows:", LABEL)]
        lines.append(Text(f"  {clean(query_command)}", f"bold {ACCENT}", overflow="fold"))
    mark = ("✓ ", "bold green") if good else ("✗ ", "bold red")
    return Panel(
        Group(*lines),
        title=Text.assemble(mark, route(status)),
        title_align="left",
        border_style="grey37" if good else "red",
        box=box.ROUNDED,
        padding=(0, 1),
    )


def print_summary(
    status: Status,
    durations: Mapping[str, Percentiles],
    query_command: str,
    console: Console | None = None,
) -> None:
    """Prints the panel on a terminal, the same as plain lines elsewhere.

    Args:
        status: the run's last snapshot.
        durations: by operation, such as `flush` and `commit`.
        query_command: shows the rows; empty for none.
        console: where to print; standard output when None.
    """
    console = console or Console()
    if can_draw(console):
        console.print(summary_panel(status, durations, query_command))
        return
    plain = [("table", f"{status.topic} -> {status.table}"), *summary_rows(status, durations)]
    plain += [("query", query_command)] if query_command else []
    for name, value in plain:
        # Not the console's own print: it would break long lines, and commands are copied.
        console.file.write(f"{name}: {clean(value)}\n")
    console.file.flush()
