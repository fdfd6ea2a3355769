"""Hosts one run in this process: signals, time limit, HTTP, live view, summary, exit code."""

from __future__ import annotations

import atexit
import logging
import os
import re
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from rich.console import Console

from k2i_tasks import logs
from k2i_tasks.cli_options import say
from k2i_tasks.collector import postponed, relaxed
from k2i_tasks.config import Config
from k2i_tasks.errors import EXIT_SIGNAL, Component, ConfigError, K2IError, ServiceError
from k2i_tasks.fleet import Fleet
from k2i_tasks.metrics import Metrics
from k2i_tasks.ports import TrackerFactory
from k2i_tasks.resident import bounded
from k2i_tasks.runner import Runner
from k2i_tasks.serving.http import Binding, HttpServer
from k2i_tasks.serving.pages import health_server, metrics_server
from k2i_tasks.sql_words import FORBIDDEN, KEYWORDS
from k2i_tasks.status import Status
from k2i_tasks.summary import print_summary
from k2i_tasks.terminal import can_draw, view_of
from k2i_tasks.terminal_parts import Links
from k2i_tasks.wiring_query import QueryService

log = logging.getLogger(__name__)

#: A name that a query takes without quotes, unless it is a word of SQL.
PLAIN_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: Time for the tracker to send its last reports after the drain, in seconds.
CLOSE_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class IngestOptions:
    """How one run is hosted.

    Args:
        duration_seconds: drain after this time; None for no end.
        max_messages: drain after exactly this many records; None for no end.
        demo: embedded broker and generated events instead of a real broker.
        plain: log lines instead of the live view, also on a terminal.
        verbose: tracebacks of errors raised on purpose too.
        prefect_ui: address of Prefect's UI, to show.
        query_command: the command that queries the table, to show.
    """

    duration_seconds: float | None = None
    max_messages: int | None = None
    demo: bool = False
    plain: bool = False
    verbose: bool = False
    prefect_ui: str | None = None
    query_command: str = ""


class Stopper:
    """Turns signals, a time limit and other wishes to stop into one drain.

    The first signal drains; the second ends the process at once (nothing is lost: what was not
    committed is read again).
    """

    def __init__(self) -> None:
        self._drain: Callable[[str], None] | None = None
        self._reason: str | None = None
        self._signals = 0

    def attach(self, request_drain: Callable[[str], None]) -> None:
        """Where wishes go; one that came before is passed on."""
        self._drain = request_drain
        if self._reason is not None:
            request_drain(self._reason)

    def ask(self, reason: str) -> None:
        """Asks for a drain. Idempotent; any thread."""
        self._reason = self._reason or reason
        if self._drain is not None:
            self._drain(reason)

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._signals += 1
        if self._signals > 1:
            os.write(2, b"\nSecond signal: ended at once; uncommitted records are read again.\n")
            os._exit(EXIT_SIGNAL)
        self.ask(f"{signal.Signals(number).name} received")

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Catches SIGINT and SIGTERM while inside; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        before: dict[int, Any] = {n: signal.signal(n, self.on_signal) for n in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def after(self, seconds: float | None) -> Iterator[None]:
        """Asks for a drain after `seconds`, if that is a number."""
        if seconds is None:
            yield
            return
        timer = threading.Timer(seconds, self.ask, (f"{seconds:g} s have passed",))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def run_ingest(config: Config, options: IngestOptions, tracker_factory: TrackerFactory) -> int:
    """Runs one ingest to its drain; the exit code. Blocks.

    Prints one clear message for an error raised on purpose; anything else leaves as it is.
    """
    live = not options.plain and can_draw(Console())
    with ExitStack() as stack:
        stopper = Stopper()
        stack.enter_context(stopper.signals())
        try:
            _configure_logs(config, options, live, stack)
            status = _hosted(config, options, tracker_factory, stopper, live, stack)
        except K2IError as error:
            log.debug("the run ended with an error", exc_info=error)
            say(error, verbose=options.verbose)
            return error.exit_code
        consumed, committed = status.records_consumed, status.rows_committed
        log.info("ended: %d records consumed, %d rows committed", consumed, committed)
        return 0


def _hosted(
    config: Config,
    options: IngestOptions,
    tracker_factory: TrackerFactory,
    stopper: Stopper,
    live: bool,
    stack: ExitStack,
) -> Status:
    with postponed():
        from k2i_tasks.hot_tables import HotTables
        from k2i_tasks.wiring import build_runner, embedded
        from k2i_tasks.wiring_fleet import build_fleet

    metrics = Metrics()
    holder: list[Runner | Fleet] = []

    def status() -> Status | None:
        return holder[0].status() if holder else None

    health, exposition = _servers(config, metrics, status)
    for server in (health, exposition):
        stack.enter_context(server)
    if options.demo:
        broker = embedded(config, options.max_messages, lambda: _consumed(holder))
        config = stack.enter_context(broker)
    hot = HotTables() if config.query.enabled else None
    if hot is not None:
        stack.callback(hot.close)
        stack.enter_context(QueryService(config, hot.views))
    runner: Runner | Fleet
    if config.routing.by_value:
        _refuse_part(config)
    if config.routing.enabled:
        _refuse_count(options)
        runner = build_fleet(config, tracker_factory=tracker_factory, metrics=metrics, hot=hot)
    else:
        runner = build_runner(
            config,
            tracker_factory=tracker_factory,
            metrics=metrics,
            records_max=options.max_messages,
            hot=hot,
        )
    metrics.watch(runner.status)
    holder.append(runner)
    stopper.attach(runner.request_drain)
    links = Links(options.prefect_ui, health.url, exposition.url, options.query_command)
    log.info("health: %s, metrics: %s", health.url, exposition.url)
    if options.prefect_ui is not None:
        log.info("Prefect: %s", options.prefect_ui)
    view = view_of(runner.status, links, plain=not live)
    view.start()
    try:
        size = bounded(config.buffer.size_bytes_max)
        with stopper.after(options.duration_seconds), relaxed(), size:
            return runner.run()
    finally:
        view.stop()
        runner.tracker.close(CLOSE_SECONDS)
        final = runner.status()
        if final.epoch:  # else it never came to own the table: the error says it all
            durations = {"flush": metrics.flush_durations, "commit": metrics.commit_durations}
            print_summary(final, durations, options.query_command)


def _refuse_part(config: Config) -> None:
    if not config.routing.enabled:
        raise ConfigError(
            "The records of one topic go to several tables: all are written, or none.",
            field="routing.topic",
            remedy="Leave routing.topic out.",
        )


def _refuse_count(options: IngestOptions) -> None:
    if options.max_messages is not None:
        raise ConfigError(
            "--max-messages counts the records of one topic, and [routing] has many.",
            field="max-messages",
            remedy="Use --duration, or read one topic by kafka.topic.",
        )


def _servers(
    config: Config, metrics: Metrics, status: Callable[[], Status | None]
) -> tuple[HttpServer, HttpServer]:
    """Both ports, bound: a busy one ends the run before it begins."""
    monitoring = config.monitoring
    health = Binding(
        monitoring.health_host,
        monitoring.health_port,
        "monitoring.health_port",
        "monitoring.health_host",
    )
    metric = Binding(
        monitoring.metrics_host,
        monitoring.metrics_port,
        "monitoring.metrics_port",
        "monitoring.metrics_host",
    )
    return health_server(health, status), metrics_server(metric, metrics.exposition)


def _configure_logs(config: Config, options: IngestOptions, live: bool, stack: ExitStack) -> None:
    """Log lines go to standard error; under the live view into a file beside the log folder."""
    stream: TextIO | None = None
    if live:
        folder = Path(config.run.data_dir or config.transaction_log.log_dir)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stream = stack.enter_context((folder / "k2i.log").open("a", encoding="utf-8"))
        except OSError as error:
            raise ServiceError(
                f"The log file {folder / 'k2i.log'} cannot be written: {error.strerror}.",
                component=Component.WAL,
                remedy="Choose a folder that this user may write to: run.data_dir, --data-dir, or "
                "transaction_log.log_dir.",
            ) from error
    monitoring = config.monitoring
    level, form = monitoring.log_level, monitoring.log_format
    logs.configure(level, form, stream, verbose=options.verbose)
    if stream is not None:
        # Before the file is closed: threads of libraries may have a last word.
        stack.callback(logs.configure, level, form, verbose=options.verbose)


def _consumed(holder: list[Runner | Fleet]) -> int:
    return holder[0].status().records_consumed if holder else 0


def query_command(place: Sequence[str], table: str) -> str:
    """The very command that counts the table's rows, whether or not `k2i` is on the path.

    Args:
        place: the words that say which table it is, such as `--config` and `k2i.toml`.
        table: its dotted name; empty where there are several, and so no one command.
    """
    if not table:
        return ""
    beside = Path(sys.executable).with_name("k2i")
    here = Path.cwd()
    if not beside.exists():
        program = f"{sys.executable} -m k2i_tasks.cli"
    else:
        program = str(beside.relative_to(here) if beside.is_relative_to(here) else beside)
    words = " ".join(map(shlex.quote, place))
    return f"{program} query {words} {_counting(table)}"


def _counting(table: str) -> str:
    """The query, quoted for a shell; the name is in double quotes where it is no plain word."""
    reserved = KEYWORDS | FORBIDDEN
    parts = table.split(".")
    if all(PLAIN_WORD.fullmatch(part) and part.lower() not in reserved for part in parts):
        return f'"SELECT count(*) FROM {table}"'
    return shlex.quote(f'SELECT count(*) FROM "{parts[-1]}"')


#: The exit code, once `bounded_exit` was called.
_ending: list[int] = []


@atexit.register
def _leave() -> None:
    """Runs last: what was loaded later (Prefect) has registered its own behind this."""
    if not _ending:
        return
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(_ending[0])


def bounded_exit(code: int, seconds: float = 10.0) -> None:
    """Ends the process with `code`; by force if threads of libraries hold it up that long.

    The interpreter is not taken down: a thread that is still importing Prefect, or inside a C++
    library, would abort the process then, and its exit code would not be ours.
    """
    _ending.append(code)

    def force() -> None:
        time.sleep(seconds)
        os._exit(code)

    threading.Thread(target=force, daemon=True).start()
    sys.exit(code)
