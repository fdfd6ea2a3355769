"""The live view fits every terminal and shows what matters; without a terminal, lines do."""

from __future__ import annotations

import io
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from k2i_tasks import figures
from k2i_tasks.fleet_status import combined
from k2i_tasks.metrics import Durations
from k2i_tasks.status import ErrorNote, RunState, Status
from k2i_tasks.summary import print_summary, summary_panel, summary_rows
from k2i_tasks.terminal import (
    Links,
    LiveView,
    PlainView,
    can_draw,
    live_view,
    plain_figures,
    view_of,
)
from k2i_tasks.terminal_parts import Seen
from tests.unit.samples import NOW, sample_commit, sample_status, troubled_status

LINKS = Links("http://127.0.0.1:4200", "http://127.0.0.1:8080", "http://127.0.0.1:9090")
COMMAND = 'k2i query "SELECT count(*) FROM orders" --config k2i.toml'


def seen(commits: int = 12) -> Seen:
    kept = Seen()
    for number in range(commits):
        commit = sample_commit(number, rows=1_000 + number)
        kept.add(sample_status(now=NOW - 60 + number * 5, last_commit=commit))
    return kept


def drawn(status: Status, width: int, height: int, kept: Seen | None = None) -> str:
    console = Console(width=width, height=height, file=io.StringIO(), record=True)
    console.print(live_view(status, kept or seen(), LINKS, width, height))
    return console.export_text()


@pytest.mark.parametrize("width", [36, 60, 80, 104, 200])
@pytest.mark.parametrize("height", [8, 14, 40])
def test_many_tables_fit_the_terminal_the_troubled_first(width: int, height: int) -> None:
    tables = [sample_status(topic=f"topic-{n}", table=f"lake.table_{n}") for n in range(60)]
    tables[40] = sample_status(topic="broken", state=RunState.FAILED)
    both = combined(sample_status(), tables, draining=False)
    lines = drawn(both, width, height).splitlines()
    assert len(lines) <= height - 1
    assert max(map(len, lines)) <= width
    rows = [line for line in lines if "broken" in line or "topic-" in line]
    if height >= 14:
        assert "broken" in rows[0]
        assert any("more" in line for line in lines)


@pytest.mark.parametrize("width", [1, 10, 20, 36, 37, 50, 80, 100, 104, 120, 250])
@pytest.mark.parametrize("height", [1, 3, 8, 9, 12, 18, 24, 50])
@pytest.mark.parametrize("partitions", [0, 1, 4, 3_000])
def test_a_frame_never_exceeds_the_terminal(width: int, height: int, partitions: int) -> None:
    for make in (sample_status, troubled_status):
        lines = drawn(make(partitions=partitions), width, height).splitlines()
        assert max(map(len, lines)) <= width
        assert len(lines) <= max(1, height - 1)


@pytest.mark.parametrize("width", [80, 120])
def test_the_usual_terminals_show_all_figures(width: int) -> None:
    text = drawn(sample_status(), width, 40)
    for part in (
        "orders → demo.orders",
        "● running",
        "1 h 02 m",
        "48,211",
        "snapshots",
        "12",
        "1.2 s old",
        "31.0 MiB of 64.0 MiB",
        "301,085",
        "287,553",
        "12,500",
        "last commits",
        "1,011",
        "http://127.0.0.1:4200",
        "http://127.0.0.1:8080",
        "█",
    ):
        assert part in text, part
    assert "1,204,331" in text or "1.20 M" in text


def test_a_pause_and_its_cause_are_seen_at_once() -> None:
    text = drawn(troubled_status(), 80, 24)
    assert "● paused" in text
    assert "‖ paused" in text
    assert "catalog degraded" in text
    assert "Broker 1 closed the connection." in text


def test_of_many_partitions_sixteen_and_the_sum_are_shown() -> None:
    text = drawn(sample_status(partitions=40), 120, 60)
    assert "all 40" in text
    assert "301,097" in text
    assert "301,098" not in text
    assert f"{sum(1_250 * (n + 1) for n in range(40)):,}" in text


def test_foreign_text_cannot_drive_the_terminal_or_show_secrets() -> None:
    evil = ErrorNote(NOW, "kafka", "x\x1b[2J[red]y[/red]\nline password=canary-77")
    text = drawn(sample_status(topic="a\x1b]0;b", last_errors=(evil,)), 120, 40)
    assert "\x1b" not in text
    assert "[red]y[/red]" in text
    assert "canary-77" not in text


def test_the_curve_shows_one_bar_a_second_and_a_commit_is_seen_once() -> None:
    kept = Seen()
    for tick in range(40):
        kept.add(sample_status(now=NOW + tick / 4, last_commit=sample_commit(tick // 20)))
    assert len(kept.rates) == 10
    assert [commit.snapshot_id for _, commit in kept.commits] == [0, 1]


def test_memory_of_a_view_is_bounded() -> None:
    kept = Seen()
    for tick in range(5_000):
        kept.add(sample_status(now=NOW + tick, last_commit=sample_commit(tick)))
    assert len(kept.rates) <= 240
    assert len(kept.commits) <= 8


def test_without_a_terminal_the_plain_view_is_chosen() -> None:
    assert isinstance(view_of(sample_status, LINKS, console=Console(file=io.StringIO())), PlainView)
    terminal = Console(file=io.StringIO(), force_terminal=True)
    assert isinstance(view_of(sample_status, LINKS, plain=True, console=terminal), PlainView)


def test_a_terminal_that_cannot_draw_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert can_draw(Console(file=io.StringIO(), force_terminal=True))
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    assert not can_draw(Console(file=ascii_only, force_terminal=True))
    monkeypatch.setenv("TERM", "dumb")
    assert not can_draw(Console(file=io.StringIO(), force_terminal=True))


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_live_view_draws_and_gives_the_terminal_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, height=24)
    looked = threading.Semaphore(0)

    def status() -> Status:
        looked.release()
        return sample_status()

    view = LiveView(status, LINKS, console)
    view.start()
    for _ in range(3):
        assert looked.acquire(timeout=5)
    view.stop()
    view.stop()
    assert "48,211" in out.getvalue()
    assert out.getvalue().count("\x1b[?25l") == out.getvalue().count("\x1b[?25h") == 1


def test_a_view_that_fails_is_logged_and_does_not_reach_the_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def status() -> Status:
        raise RuntimeError("no status")

    view = PlainView(status, every_seconds=0.01)
    view.start()
    eventually(lambda: "the view stopped" in caplog.text)
    view.stop()


def test_a_view_can_be_stopped_before_it_was_started() -> None:
    PlainView(sample_status).stop()


def test_plain_lines_carry_the_same_figures(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    view = PlainView(troubled_status, every_seconds=0.01)
    view.start()
    eventually(lambda: len(caplog.records) >= 2)
    view.stop()
    record: Any = caplog.records[0]
    assert record.getMessage() == "progress"
    assert (record.consumed, record.committed_rows, record.paused) == (1_204_331, 1_150_200, True)
    assert plain_figures(sample_status())["lag"] == 12_500


def ended(**changes: Any) -> Status:
    status = sample_status(state=RunState.STOPPED, first_record_at=NOW - 10, **changes)
    return replace(status, committed=status.positions)


def durations() -> dict[str, Durations]:
    flush, commit = Durations(), Durations()
    for number in range(1, 101):
        flush.add(number / 1000)
        commit.add(number / 100)
    return {"flush": flush, "commit": commit}


def test_the_summary_says_what_happened_and_how_to_query_it() -> None:
    rows = dict(summary_rows(ended(), durations()))
    assert rows["consumed"] == "1,204,331 records in 10.0 s"
    assert rows["committed"] == "1,150,200 rows in 23 snapshots, 115,020 rows/s"
    assert rows["flush"] == "P50 50 ms, P99 99 ms"
    assert rows["commit"] == "P50 500 ms, P99 990 ms"
    assert "not committed" not in rows
    console = Console(width=90, file=io.StringIO(), record=True)
    console.print(summary_panel(ended(), durations(), COMMAND))
    assert COMMAND in console.export_text()


def test_a_run_that_left_something_uncommitted_says_so() -> None:
    assert "not committed" in dict(summary_rows(sample_status(), {}))


def test_a_run_without_records_has_a_summary_too() -> None:
    empty = ended(records_consumed=0, rows_committed=0, snapshots_committed=0)
    rows = dict(summary_rows(replace(empty, first_record_at=None), {"flush": Durations()}))
    assert rows["committed"] == "0 rows in 0 snapshots, 0 rows/s"
    assert "flush" not in rows


def test_without_a_terminal_the_summary_is_lines_that_can_be_copied() -> None:
    out = io.StringIO()
    long_command = COMMAND + " --limit 10 --format json" * 8
    print_summary(ended(), durations(), long_command, Console(file=out, width=40))
    assert f"query: {long_command}\n" in out.getvalue()
    assert "╭" not in out.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0.0004, "0.4 ms"),
        (0.0412, "41 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 m 00 s"),
        (184, "3 m 04 s"),
        (3_720, "1 h 02 m"),
        (273_600, "3 d 04 h"),
    ],
)
def test_durations_read_well(seconds: float | None, text: str) -> None:
    assert figures.duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (999.6, "1.00 k"),
        (48_211, "48.2 k"),
        (999_960, "1.00 M"),
        (1.2e9, "1.20 G"),
    ],
)
def test_short_counts_read_well(number: float, text: str) -> None:
    assert figures.short_count(number) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 B"), (1_023, "1023 B"), (1_024, "1.0 KiB"), (3_400_000, "3.2 MiB")]
)
def test_sizes_read_well(number: float, text: str) -> None:
    assert figures.size(number) == text


def test_a_curve_of_nothing_is_flat() -> None:
    assert figures.curve([], 10) == ""
    assert figures.curve([0, 0], 10) == "▁▁"
    assert figures.curve([0, 50, 100], 2) == "▅█"
    assert figures.curve([1.0], 0) == ""
