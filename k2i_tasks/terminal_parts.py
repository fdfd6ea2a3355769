"""The parts of the live view. Pure: from a `Status` and what was seen before, what to draw."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from datetime import datetime

from rich.console import JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from k2i_tasks.figures import count, curve, duration, short_count, size
from k2i_tasks.logs import one_line, redact
from k2i_tasks.status import ErrorNote, RunState, Status
from k2i_tasks.types import TableCommit, TopicPartition

PARTITIONS_SHOWN_MAX = 16
COMMITS_KEPT = 8
RATES_KEPT = 240
RATE_EVERY_SECONDS = 1.0

STATE_STYLES = {
    RunState.STARTING: "cyan",
    RunState.RUNNING: "green",
    RunState.PAUSED: "yellow",
    RunState.REBALANCING: "cyan",
    RunState.DRAINING: "cyan",
    RunState.STOPPED: "bright_black",
    RunState.FAILED: "red",
}
LABEL = "bright_black"
#: The colour is said too: a panel's title would take that of the frame.
HEAD = "bold default"
ACCENT = "cyan"


@dataclass(frozen=True, slots=True)
class Links:
    """Where else a run can be looked at; None or empty for what there is not."""

    prefect_ui: str | None = None
    health: str | None = None
    metrics: str | None = None
    query_command: str = ""


@dataclass(slots=True)
class Seen:
    """What a view remembers between two looks: a curve of rates, and the last commits."""

    rates: deque[float] = field(default_factory=lambda: deque(maxlen=RATES_KEPT))
    commits: deque[tuple[float, TableCommit]] = field(
        default_factory=lambda: deque(maxlen=COMMITS_KEPT)
    )
    _next_rate_at: float = 0.0

    def add(self, status: Status) -> None:
        """Takes in one look; rates once a second, a commit when its snapshot is new."""
        if status.now >= self._next_rate_at:
            self.rates.append(status.records_per_second)
            self._next_rate_at = status.now + RATE_EVERY_SECONDS
        commit = status.last_commit
        known = self.commits[-1][1].snapshot_id if self.commits else None
        if commit is not None and commit.snapshot_id != known:
            self.commits.append((status.now, commit))


def clock_time(at: float) -> str:
    """`14:03:22` in local time."""
    return datetime.fromtimestamp(at).strftime("%H:%M:%S")


def clean(text: str) -> str:
    """Foreign text that may be shown: one line, nothing secret, no control characters."""
    return one_line(redact(text))


def route(status: Status) -> Text:
    """`orders → demo.orders`."""
    return Text.assemble((clean(status.topic), HEAD), (" → ", LABEL), (clean(status.table), HEAD))


def state_line(status: Status) -> Text:
    """`● running  1 h 02 m  epoch 3`, and what is not healthy."""
    style = STATE_STYLES[status.state]
    uptime = duration(max(0.0, status.now - status.started_at))
    line = Text.assemble(
        ("● ", style), (status.state.value, f"bold {style}"), (f"  {uptime}", LABEL)
    )
    if status.epoch > 0:
        line.append(f"  epoch {status.epoch}", LABEL)
    for name, component in sorted(status.components.items()):
        if component.status.value in ("degraded", "unhealthy"):
            style = "red" if component.status.value == "unhealthy" else "yellow"
            line.append(f"  {name} {component.status.value}", style)
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


def figures(status: Status, width_chars: int) -> Table:
    """The run's numbers, each under its name."""
    number = count if width_chars >= 96 else short_count
    tiles = [
        ("messages/s", count(status.records_per_second), f"bold {ACCENT}"),
        ("consumed", number(status.records_consumed), "bold"),
        ("committed", number(status.rows_committed), "bold"),
        ("snapshots", count(status.snapshots_committed), "bold"),
        (
            "dead letters",
            count(status.dead_letters),
            "bold yellow" if status.dead_letters else "bold",
        ),
        ("newest row", _age(status.freshness_seconds), "bold"),
    ]
    fitting = tiles[: max(2, min(len(tiles), width_chars // 12))]
    grid = Table.grid(expand=True, padding=(0, 1))
    for name, _, _ in fitting:
        grid.add_column(min_width=len(name), no_wrap=True, overflow="ellipsis")
    grid.add_row(*(Text(name, LABEL) for name, _, _ in fitting))
    grid.add_row(*(Text(value, style) for _, value, style in fitting))
    return grid


def _age(seconds: float | None) -> str:
    return "–" if seconds is None else f"{duration(seconds)} old"


def rate_curve(seen: Seen, width_chars: int) -> Text:
    """Messages a second over the last minutes, one bar a second."""
    line = curve(list(seen.rates), width_chars)
    return Text(line, ACCENT, no_wrap=True, overflow="crop")


def buffer_bar(status: Status, width_chars: int) -> Text:
    """How full the buffer is, with a mark when consumption is paused by it."""
    share = status.buffer_bytes / status.buffer_bytes_max if status.buffer_bytes_max else 0.0
    style = "yellow" if status.paused or share >= 0.9 else ACCENT
    text = f"  {size(status.buffer_bytes)} of {size(status.buffer_bytes_max)}"
    batches = status.batches_in_flight
    flight = f"  {batches} batch{'' if batches == 1 else 'es'} in flight" if batches else ""
    mark = "  ‖ paused" if status.paused else ""
    if len(text) + len(flight) + len(mark) + 7 + 10 > width_chars:
        flight = ""
    bar_chars = max(4, min(40, width_chars - 7 - len(text) - len(flight) - len(mark)))
    full = min(bar_chars, round(share * bar_chars))
    bar = Text.assemble(
        ("buffer ", LABEL), ("━" * full, style), ("━" * (bar_chars - full), "grey23")
    )
    bar.append(text)
    bar.append(flight, LABEL)
    bar.append(mark, "bold yellow")
    bar.no_wrap, bar.overflow = True, "crop"
    return bar


def partitions(status: Status, rows_max: int) -> Table:
    """Position, committed offset and lag of each partition, then the sum.

    Args:
        status: the run's snapshot.
        rows_max: most rows below the header, the sum included; at least 1.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style=LABEL)
    table.add_column("partition", justify="right", no_wrap=True)
    for name in ("position", "committed", "to commit", "lag"):
        table.add_column(name, justify="right", no_wrap=True)
    tps = sorted(status.positions)
    several = len(tps) > 1
    shown = tps[: min(PARTITIONS_SHOWN_MAX, rows_max - 1 if several else rows_max)]
    for tp in shown:
        committed = status.committed.get(tp)
        table.add_row(
            str(tp.partition),
            count(status.positions[tp]),
            "–" if committed is None else count(committed),
            _number(None if committed is None else status.positions[tp] - committed),
            _number(status.lag.get(tp)),
        )
    if several:
        name = "all" if len(shown) == len(tps) else f"all {len(tps)}"
        waiting = sum(_waiting(status, tp) for tp in tps)
        total = sum(status.lag.values())
        table.add_row(Text(name, LABEL), "", "", _number(waiting), _number(total))
    return table


def tables(status: Status, width_chars: int, rows_max: int) -> Table:
    """What each of several tables does: the troubled first, then those with the most lag.

    Args:
        status: of a run over several tables.
        width_chars: columns there are; of few, only what matters most is shown.
        rows_max: most rows below the header; at least 1.
    """
    columns = ["state", "lag"]
    columns += ["messages/s", "committed"] if width_chars >= 70 else []
    columns += ["newest row"] if width_chars >= 90 else []
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style=LABEL)
    table.add_column("topic", no_wrap=True, overflow="ellipsis", ratio=1)
    if width_chars >= 90:
        table.add_column("table", no_wrap=True, overflow="ellipsis", ratio=1, style=LABEL)
    for name in columns:
        justify: JustifyMethod = "left" if name == "state" else "right"
        table.add_column(name, justify=justify, no_wrap=True, min_width=len(name))
    ordered = sorted(status.tables, key=_urgency)
    shown = ordered[: rows_max if len(ordered) <= rows_max else rows_max - 1]
    for one in shown:
        lag = sum(one.lag.values())
        figures = {
            "state": Text(one.state.value, STATE_STYLES[one.state]),
            "lag": Text(short_count(lag), "" if lag else LABEL),
            "messages/s": Text(short_count(one.records_per_second)),
            "committed": Text(short_count(one.rows_committed)),
            "newest row": Text(_age(one.freshness_seconds)),
        }
        names = [clean(one.topic)] + ([clean(one.table)] if width_chars >= 90 else [])
        table.add_row(*names, *(figures[name] for name in columns))
    rest = len(ordered) - len(shown)
    if rest:
        table.add_row(Text(f"and {rest} more", LABEL))
    return table


def _urgency(status: Status) -> tuple[bool, int, str]:
    well = status.state in (RunState.RUNNING, RunState.STARTING)
    return well, -sum(status.lag.values()), status.topic


def _waiting(status: Status, tp: TopicPartition) -> int:
    committed = status.committed.get(tp)
    return 0 if committed is None else status.positions[tp] - committed


def _number(number: int | None) -> Text:
    if number is None:
        return Text("–", LABEL)
    return Text(count(number), LABEL if number == 0 else "")


def commits(seen: Seen, rows_max: int) -> Table:
    """The last commits, newest first."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style=LABEL)
    table.add_column("last commits", style=LABEL, no_wrap=True)
    for name in ("rows", "size", "took"):
        table.add_column(name, justify="right", no_wrap=True)
    for at, commit in list(reversed(seen.commits))[:rows_max]:
        took = duration(commit.seconds)
        table.add_row(clock_time(at), count(commit.rows), size(commit.size_bytes), took)
    return table


def errors(notes: tuple[ErrorNote, ...], rows_max: int) -> Table:
    """The last errors, newest first, one line each."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False, expand=True)
    table.add_column(no_wrap=True, style=LABEL)
    table.add_column(no_wrap=True, style="red")
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    newest = sorted(notes, key=lambda note: note.at, reverse=True)[:rows_max]
    for note in newest:
        table.add_row(clock_time(note.at), clean(note.component), Text(clean(note.message)))
    return table


def link_line(links: Links, width_chars: int) -> RenderableType | None:
    """`Prefect http://…  health http://…`: the whole links that fit, None when there are none."""
    named = (("Prefect", links.prefect_ui), ("health", links.health), ("metrics", links.metrics))
    line = Text(no_wrap=True, overflow="ellipsis")
    for name, url in named:
        if not url or (line and len(line) + len(name) + len(clean(url)) + 3 > width_chars):
            continue
        line.append("  " if line else "")
        line.append(f"{name} ", LABEL)
        line.append(clean(url), f"{ACCENT} link {clean(url)}")
    return line if line else None
