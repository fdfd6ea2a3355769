"""Builds what answers clients of a run: the engine, both doors, and how they are found."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from k2i_tasks import discovery, logs
from k2i_tasks.config import Config
from k2i_tasks.config.model_query import Query
from k2i_tasks.errors import K2IError
from k2i_tasks.secrets import resolve_all
from k2i_tasks.views import View

if TYPE_CHECKING:
    from k2i_tasks.asking.engine import Engine
    from k2i_tasks.asking.limits import Limits
    from k2i_tasks.doors.flight import FlightDoor
    from k2i_tasks.doors.http import HttpDoor

log = logging.getLogger(__name__)


def run_folder(config: Config) -> Path:
    """Where a run says how it is asked."""
    return Path(config.run.data_dir or config.transaction_log.log_dir)


def limits_of(query: Query) -> Limits:
    """What queries may take, as configured."""
    from k2i_tasks.asking.limits import Limits

    return Limits(
        rows_max=query.max_rows,
        bytes_max=query.result_bytes_max,
        seconds_max=query.max_seconds,
        memory_bytes_max=query.memory_bytes_max,
        queries_max=query.max_queries,
        waiting_max=query.max_waiting,
        wait_seconds_max=query.max_wait_seconds,
        followers_max=query.max_followers,
        nice=query.nice,
    )


class QueryService:
    """Answers queries of a run from a thread of its own; a run that nobody asks pays its start.

    Args:
        config: of the run; `query` says what is opened.
        views: the tables there are now, by full name; called for each question, on any thread.

    Raises:
        ConfigError: a token, certificate or key cannot be read.
    """

    def __init__(self, config: Config, views: Callable[[], Mapping[str, View]]) -> None:
        self._query = config.query
        self._folder = run_folder(config)
        self._views = views
        resolved = resolve_all(config)
        self._tokens = {name: resolved[f"query.tokens.{name}"] for name in self._query.tokens}
        for token in self._tokens.values():
            logs.register_secret(token)
        self._engine: Engine | None = None
        self._flight: FlightDoor | None = None
        self._http: HttpDoor | None = None
        self._published: Path | None = None
        self._lock = threading.Lock()
        self._stopped = False
        self._thread: threading.Thread | None = None
        #: Set once it answers, or has failed to.
        self.settled = threading.Event()

    @property
    def flight_url(self) -> str | None:
        """Where Flight answers; None while it does not."""
        return None if self._flight is None else self._flight.url

    @property
    def http_url(self) -> str | None:
        """Where HTTP answers; None while it does not."""
        return None if self._http is None else self._http.url

    def start(self) -> None:
        """Opens the doors in the background: the run does not wait for their libraries."""
        if self._query.enabled:
            self._thread = threading.Thread(target=self._begin, name="k2i-query", daemon=True)
            self._thread.start()

    def open(self) -> None:
        """Opens the doors. Blocks for a fraction of a second.

        Raises:
            K2IError: a port is taken, or a file cannot be used.
        """
        from k2i_tasks.asking.engine import Engine
        from k2i_tasks.doors.flight import FlightDoor, pem_pair
        from k2i_tasks.doors.http import HttpDoor, tls_context
        from k2i_tasks.doors.tokens import LOCAL, Tokens, fresh_token

        query, local = self._query, fresh_token()
        tokens = Tokens({**self._tokens, LOCAL: local})
        logs.register_secret(local)
        pair = context = None
        if query.tls_cert_location is not None and query.tls_key_location is not None:
            context = tls_context(str(query.tls_cert_location), str(query.tls_key_location))
            pair = pem_pair(query.tls_cert_location, query.tls_key_location)
        with self._lock:
            if self._stopped:
                return
            self._engine = Engine(self._views, limits_of(query))
            self._flight = FlightDoor(self._engine, query.host, query.flight_port, tokens, pair)
            self._http = HttpDoor(self._engine, query.host, query.http_port, tokens, context)
            self._http.start()
            other = discovery.running(self._folder)
            if other is None or other.pid == os.getpid():
                self._published = discovery.publish(
                    self._folder, self._flight.url, self._http.url, local
                )
            else:
                log.warning(
                    "process %d is found by %s already: this run can be asked by its ports and "
                    "query.tokens alone; give each run a folder of its own (run.data_dir)",
                    other.pid,
                    self._folder / discovery.NAME,
                )
        log.info("queries: %s, %s/query", self._flight.url, self._http.url)

    def stop(self) -> None:
        """Closes the doors; queries under way are given up. Idempotent; blocks a moment."""
        with self._lock:
            self._stopped = True
            if self._published is not None:
                discovery.withdraw(self._published)
            if self._engine is not None:
                self._engine.close()
            if self._http is not None:
                self._http.stop()
            if self._flight is not None:
                self._flight.stop()
            self._flight = self._http = self._engine = self._published = None

    def _begin(self) -> None:
        try:
            self.open()
        except Exception as error:
            # Rows go on into the table: whoever only asks must not end the run.
            foreseen = isinstance(error, (K2IError, OSError))
            log.error("queries are not answered: %s", error, exc_info=None if foreseen else error)
            self.stop()
        finally:
            self.settled.set()

    def __enter__(self) -> QueryService:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()
