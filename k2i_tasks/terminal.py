"""How a run looks on a terminal: a live view, or a log line every few seconds without one."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Protocol

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from k2i_tasks import terminal_parts as parts
from k2i_tasks.figures import short_count, size
from k2i_tasks.status import Status
from k2i_tasks.terminal_parts import Links, Seen

log = logging.getLogger(__name__)

REFRESH_SECONDS = 0.25
PLAIN_SECONDS = 5.0
JOIN_SECONDS = 2.0
#: Below these a panel would be all frame: one line is shown instead.
WIDTH_MIN, HEIGHT_MIN = 36, 8
#: From here on, partitions and commits stand side by side.
WIDTH_OF_TWO_COLUMNS = 104
ERRORS_SHOWN_MAX = 3
COMMITS_SHOWN_MAX = 5

__all__ = ["Links", "LiveView", "PlainView", "View", "can_draw", "live_view", "view_of"]


class View(Protocol):
    """Shows a run while it lasts."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


def can_draw(console: Console) -> bool:
    """Whether `console` is a terminal that can show the live view."""
    utf = console.encoding.lower().replace("-", "").startswith("utf")
    return console.is_terminal and not console.is_dumb_terminal and utf


def view_of(
    status: Callable[[], Status],
    links: Links,
    *,
    plain: bool = False,
    console: Console | None = None,
) -> View:
    """The live view on a terminal, else (or when `plain`) log lines.

    Args:
        status: the run's snapshot; called from the view's own thread.
        links: where else the run can be looked at.
        plain: no drawing, whatever the terminal.
        console: where to draw; standard output when None.
    """
    console = console or Console()
    if plain or not can_draw(console):
        return PlainView(status)
    return LiveView(status, links, console)


def live_view(
    status: Status, seen: Seen, links: Links, width_chars: int, height_chars: int
) -> RenderableType:
    """One frame, never larger than the terminal.

    Args:
        status: the run's snapshot.
        seen: what earlier looks left.
        links: where else the run can be looked at.
        width_chars: columns of the terminal.
        height_chars: lines of the terminal.
    """
    if width_chars < WIDTH_MIN or height_chars < HEIGHT_MIN:
        return _one_line(status, width_chars)
    inner_chars = width_chars - 4
    # The frame, and the line below it where the cursor rests.
    left_lines = height_chars - 3
    head: list[RenderableType] = [
        parts.state_line(status),
        parts.figures(status, inner_chars),
        parts.buffer_bar(status, inner_chars),
    ]
    left_lines -= 4
    if left_lines >= 12:
        head.insert(1, Text(""))
        head.insert(3, Text(""))
        left_lines -= 2
    if left_lines >= 2:
        head.insert(-1, parts.rate_curve(seen, inner_chars))
        left_lines -= 1
    foot = parts.link_line(links, inner_chars)
    if foot is not None and left_lines >= 4:
        left_lines -= 2
    else:
        foot = None
    body = _body(status, seen, inner_chars, left_lines)
    tail = [] if foot is None else [Text(""), foot]
    return Panel(
        Group(*head, *body, *tail),
        title=Text.assemble(("K2I  ", f"bold {parts.ACCENT}"), parts.route(status)),
        title_align="left",
        border_style="grey37",
        box=box.ROUNDED,
        padding=(0, 1),
        width=width_chars,
    )


def _one_line(status: Status, width_chars: int) -> Text:
    line = Text.assemble(
        parts.state_line(status).plain.partition("  ")[0],
        f" {short_count(status.records_per_second)}/s",
        f" {short_count(status.rows_committed)} rows",
    )
    line.truncate(width_chars)
    line.no_wrap, line.overflow = True, "crop"
    return line


def _body(status: Status, seen: Seen, width_chars: int, left_lines: int) -> list[RenderableType]:
    """Partitions, commits and errors, as far as `left_lines` go; each with a blank line above."""
    noted = min(len(status.last_errors), ERRORS_SHOWN_MAX, max(0, left_lines - 1))
    if noted:
        left_lines -= noted + 1
    body: list[RenderableType] = []
    room = left_lines - 2
    if room >= 1 and status.tables:
        body += [Text(""), parts.tables(status, width_chars, room)]
    elif room >= 1 and status.positions:
        if width_chars >= WIDTH_OF_TWO_COLUMNS - 4:
            body += [Text(""), _side_by_side(status, seen, room)]
        else:
            body += _stacked(status, seen, room)
    if noted:
        body += [Text(""), parts.errors(status.last_errors, noted)]
    return body


def _side_by_side(status: Status, seen: Seen, room: int) -> Table:
    grid = Table.grid(expand=True, padding=(0, 3))
    grid.add_column(ratio=3)
    grid.add_column(ratio=2)
    latest = parts.commits(seen, min(room, parts.COMMITS_KEPT)) if seen.commits else ""
    grid.add_row(parts.partitions(status, room), latest)
    return grid


def _stacked(status: Status, seen: Seen, room: int) -> list[RenderableType]:
    wanted = min(len(status.positions), parts.PARTITIONS_SHOWN_MAX) + 1
    rows = min(room, wanted)
    shown: list[RenderableType] = [Text(""), parts.partitions(status, rows)]
    # A blank line and a header of its own.
    rest = min(room - rows - 2, COMMITS_SHOWN_MAX)
    if rest >= 1 and seen.commits:
        shown += [Text(""), parts.commits(seen, rest)]
    return shown


class _Ticking:
    """A daemon thread that looks at the run at an even pace until it is stopped."""

    def __init__(self, status: Callable[[], Status], every_seconds: float) -> None:
        self._status = status
        self._every_seconds = every_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="k2i-view", daemon=True)

    def start(self) -> None:
        """Begins to show the run; does not block."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the view and gives the terminal back. Idempotent; blocks two seconds at most."""
        self._stop.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(JOIN_SECONDS)

    def _loop(self) -> None:
        while not self._stop.is_set():
            try:
                self._show(self._status())
            except Exception:
                # A picture that fails must not take the run with it; the log says what failed.
                log.exception("the view stopped")
                return
            self._stop.wait(self._every_seconds)

    def _show(self, status: Status) -> None:
        raise NotImplementedError


class LiveView(_Ticking):
    """Draws the run in place, four times a second; lines that are logged scroll by above it.

    Args:
        status: the run's snapshot; called from the view's thread.
        links: where else the run can be looked at.
        console: the terminal.
    """

    def __init__(self, status: Callable[[], Status], links: Links, console: Console) -> None:
        super().__init__(status, REFRESH_SECONDS)
        self._links = links
        self._console = console
        self._seen = Seen()
        self._live = Live(
            console=console, auto_refresh=False, transient=True, vertical_overflow="crop"
        )

    def start(self) -> None:
        self._live.start()
        super().start()

    def stop(self) -> None:
        super().stop()
        self._live.stop()

    def _show(self, status: Status) -> None:
        self._seen.add(status)
        width, height = self._console.size
        frame = live_view(status, self._seen, self._links, width, height)
        self._live.update(frame, refresh=True)


class PlainView(_Ticking):
    """Logs the same figures at an even pace.

    Args:
        status: the run's snapshot; called from the view's thread.
        every_seconds: time between two lines.
    """

    def __init__(self, status: Callable[[], Status], every_seconds: float = PLAIN_SECONDS) -> None:
        super().__init__(status, every_seconds)

    def _show(self, status: Status) -> None:
        log.info("progress", extra=plain_figures(status))


def plain_figures(status: Status) -> dict[str, object]:
    """What a progress line says, name by name."""
    age_seconds = status.freshness_seconds
    return {
        "state": status.state.value,
        "records_per_second": round(status.records_per_second),
        "consumed": status.records_consumed,
        "committed_rows": status.rows_committed,
        "snapshots": status.snapshots_committed,
        "dead_letters": status.dead_letters,
        "lag": sum(status.lag.values()),
        "freshness_seconds": None if age_seconds is None else round(age_seconds, 1),
        "buffer": size(status.buffer_bytes).replace(" ", ""),
        "paused": status.paused,
        "errors": len(status.last_errors),
    }
