"""Kafka events into an Iceberg table: `python flows/ingest.py`, or a deployment of `ingest`.

Run as a script, nothing of Prefect is imported here: the first record does not wait for it.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

if __name__ == "__main__":
    # Until the run takes the signals over there is nothing to drain, and nothing to tell.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    # As a script, the folder above is not on the path.
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from k2i_tasks.calls import Tracker
from k2i_tasks.cli_options import say, settings
from k2i_tasks.config import Config, load_config, load_demo, refuse_secrets
from k2i_tasks.errors import EXIT_CODES, Component, K2IError
from k2i_tasks.ingest import IngestOptions, bounded_exit, query_command, run_ingest
from k2i_tasks.status import Status
from k2i_tasks.tracking_choice import choose_tracking

DATA_DIR = Path("k2i-data")
#: All is committed and reported by then; what Prefect still does at exit may hang.
EXIT_SECONDS = 3.0


class _Parser(argparse.ArgumentParser):
    """Ends with 1 if the command line is wrong: 2, which many programs use, is Kafka's here."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(EXIT_CODES[Component.CONFIG], f"{self.prog}: {message}\n")


def arguments(words: Sequence[str]) -> argparse.Namespace:
    """The command line, parsed; ends the process with a usage line if it is wrong."""
    parser = _Parser(
        prog="flows/ingest.py",
        description="Ingest a Kafka topic into an Iceberg table. Without --config: a demo with "
        "an embedded broker, generated events and a local warehouse.",
    )
    add = parser.add_argument
    add("-c", "--config", type=Path, metavar="FILE", help="configuration file (TOML)")
    add("--data-dir", type=Path, metavar="DIR", help=f"folder of the demo (default {DATA_DIR})")
    add("--duration", type=_positive, metavar="SECONDS", help="drain after this time")
    add("--max-messages", type=_count, metavar="N", help="drain after exactly N records")
    add("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override a key")
    add("--plain", action="store_true", help="log lines instead of the live view")
    add("--no-ui", action="store_true", help="do not start a local Prefect server")
    add("--no-prefect", action="store_true", help="do not show the run in Prefect at all")
    add("-v", "--verbose", action="store_true", help="show tracebacks")
    return parser.parse_args(words)


def overrides_of(chosen: argparse.Namespace) -> dict[str, Any]:
    """Configuration keys that the command line sets.

    Raises:
        ConfigError: a `--set` is not KEY=VALUE.
    """
    overrides = settings(chosen.set)
    if chosen.no_ui:
        overrides["prefect.start_server"] = False
    if chosen.no_prefect:
        overrides["prefect.enabled"] = False
    if chosen.data_dir is not None and chosen.config is not None:
        overrides["run.data_dir"] = str(chosen.data_dir)
    return overrides


def configuration(path: Path | None, data_dir: Path | None, overrides: Mapping[str, Any]) -> Config:
    """The configuration of a run: the file's or the demo's, under the environment, under overrides.

    Raises:
        ConfigError: it is wrong; names the key.
    """
    if path is not None:
        return load_config(path, environ=os.environ, overrides=overrides)
    folder = data_dir or Path(overrides.get("run.data_dir", DATA_DIR))
    return load_demo(folder, environ=os.environ, overrides=overrides)


def main(words: Sequence[str]) -> int:
    """Runs one ingest in this process; the exit code. Blocks until it is drained."""
    chosen = arguments(words)
    try:
        config = configuration(chosen.config, chosen.data_dir, overrides_of(chosen))
        tracking = choose_tracking(config, os.environ)
    except K2IError as error:
        say(error, verbose=chosen.verbose)
        return error.exit_code
    table = "" if config.routing.enabled else ".".join(config.iceberg.identifier)
    place = ["--config", chosen.config] if chosen.config else ["--data-dir", config.run.data_dir]
    # What says which table it is has to be said again to whoever queries it.
    for item in chosen.set:
        place += ["--set", item] if item.startswith("iceberg.") else []
    options = IngestOptions(
        duration_seconds=chosen.duration,
        max_messages=chosen.max_messages,
        demo=chosen.config is None,
        plain=chosen.plain,
        verbose=chosen.verbose,
        prefect_ui=tracking.ui_url,
        query_command=query_command([str(word) for word in place], table),
    )
    return run_ingest(config, options, tracking.factory)


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError("must be above zero")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value <= 0:
        raise argparse.ArgumentTypeError("must be above zero")
    return value


if __name__ == "__main__":
    bounded_exit(main(sys.argv[1:]), EXIT_SECONDS)

# From here on: what Prefect imports to deploy, serve or run this flow.

from prefect import State, flow  # noqa: E402  (costs more than a second; a script goes without)
from prefect.states import Cancelled, Completed, Failed  # noqa: E402

from k2i_tasks.companion import Adopted  # noqa: E402
from k2i_tasks.tasks import FLOW_NAME, seat_here, settings_here  # noqa: E402

#: How long a process that a worker started may take to report its end before it goes without.
REPORT_SECONDS = 90.0


@flow(name=FLOW_NAME, validate_parameters=False, persist_result=False, log_prints=False)
def ingest(config_path: str | None = None, overrides: dict[str, Any] | None = None) -> State[Any]:
    """Ingests the configured topics into their tables until it is stopped.

    This flow run is the first generation, and what a worker, a cancellation and the UI hold on to
    for as long as the process lives; later generations follow as flow runs of their own.

    Args:
        config_path: the configuration file on the machine that runs this; None for the demo.
        overrides: `section.key` to value. Prefect stores them in the clear: no secrets, except as
            references (`env:NAME`, `file:/path`).
    """
    changes = overrides or {}
    refuse_secrets(changes)
    config = configuration(Path(config_path) if config_path else None, None, changes)
    seat = seat_here(1)
    tracking = choose_tracking(config, os.environ, adopted=Adopted(seat, settings_here()))
    options = IngestOptions(demo=config_path is None, plain=True, prefect_ui=tracking.ui_url)
    seen: list[Callable[[], Status]] = []

    def factory(status: Callable[[], Status], request_drain: Callable[[str], None]) -> Tracker:
        seen.append(status)
        return tracking.factory(status, request_drain)

    code = run_ingest(config, options, factory)
    if "PREFECT__FLOW_RUN_ID" in os.environ:  # a process of its own, which must not hang at exit
        _end_within(REPORT_SECONDS, code)
    if code != 0:
        notes = seen[0]().last_errors if seen else ()
        reason = notes[-1].message if notes else "see the process's log"
        return Failed(message=f"The run ended with exit code {code}: {reason}")
    if seat.verdict == "cancelled":
        return Cancelled(message="Drained.")
    return Completed(message="Drained.")


def _end_within(seconds: float, code: int) -> None:
    timer = threading.Timer(seconds, os._exit, (code,))
    timer.daemon = True
    timer.start()
