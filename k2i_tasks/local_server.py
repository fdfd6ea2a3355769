"""A Prefect server with its UI that belongs to this process: starts with it, ends with it."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from k2i_tasks.errors import Component, ServiceError

log = logging.getLogger(__name__)

HEALTH_LOOK_SECONDS = 0.5
HEALTH_REQUEST_SECONDS = 2.0
#: A day of events and a week of runs: what a laptop needs, and a database that stays small.
SERVER_SETTINGS: dict[str, str] = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": "604800",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_LOOP_SECONDS": "3600",
    "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": "P1D",
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    "PREFECT_CLI_PROMPT": "false",
}
_KEEPER = Path(__file__).with_name("server_keeper.py")


def free_port(host: str, preferred: int) -> int:
    """`preferred` if nobody listens there, else a free port.

    Raises:
        ServiceError: the host has no port to give.
    """
    for port in (preferred, 0):
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
                return int(probe.getsockname()[1])
        except OSError as error:
            log.debug("port %d on %s is taken: %s", port, host, error)
    raise ServiceError(
        f"no free port on {host} for Prefect's server",
        component=Component.RUNTIME,
        remedy="Set prefect.server_host to an address of this machine.",
    )


class LocalServer:
    """`prefect server start` as a child in its own session, with its own home and database.

    Ctrl-C in the terminal does not reach it. It ends with `stop`, and also when this process is
    killed: a keeper process holds the other end of a pipe.

    Args:
        home: folder for its database and logs; made if missing. Never the user's own Prefect home.
        host, port: where it listens; another port is chosen if that one is taken.
        environ: what the server's environment is built from; its own PREFECT_* are left out.
    """

    def __init__(
        self, home: Path, host: str, port: int, *, environ: Mapping[str, str] | None = None
    ) -> None:
        self._home = home.absolute()
        self._host = host
        self._port = free_port(host, port)
        self._environ = dict(os.environ if environ is None else environ)
        self._lock = threading.Lock()
        self._keeper: subprocess.Popen[bytes] | None = None
        self._stopped = False

    @property
    def url(self) -> str:
        """The API's address."""
        return f"http://{self._host}:{self._port}/api"

    @property
    def ui_url(self) -> str:
        """The page to open in a browser."""
        return f"http://{self._host}:{self._port}"

    @property
    def log_path(self) -> Path:
        """What the server says."""
        return self._home / "server.log"

    @property
    def keeper_pid(self) -> int | None:
        """The process that ends the server when this one is gone; None before the start."""
        return None if self._keeper is None else self._keeper.pid

    def start(self) -> None:
        """Starts the server. Idempotent; does not wait until it is healthy.

        Raises:
            ServiceError: the folder cannot be written or the process not started.
        """
        with self._lock:
            if self._keeper is not None or self._stopped:
                return
            try:
                self._home.mkdir(parents=True, exist_ok=True)
                with self.log_path.open("wb") as output:
                    self._keeper = subprocess.Popen(
                        [sys.executable, "-I", "-S", str(_KEEPER), *self._command()],
                        env=self._server_environ(),
                        stdin=subprocess.PIPE,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
            except OSError as error:
                raise ServiceError(
                    f"Prefect's server does not start in {self._home}: {error}",
                    remedy="Choose another folder with --data-dir, or run with --no-prefect.",
                ) from error

    def healthy(self) -> bool:
        """Whether the server answers now. May block for two seconds."""
        try:
            with urllib.request.urlopen(
                f"{self.url}/health", timeout=HEALTH_REQUEST_SECONDS
            ) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def wait_until_healthy(self, timeout_seconds: float) -> bool:
        """Whether the server answers in time. May block."""
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline and self.running():
            if self.healthy():
                return True
            time.sleep(HEALTH_LOOK_SECONDS)
        return False

    def running(self) -> bool:
        """Whether the server's process is there."""
        return self._keeper is not None and self._keeper.poll() is None

    def stop(self, timeout_seconds: float = 10.0) -> None:
        """Ends the server and waits for it. Idempotent; may block for `timeout_seconds`."""
        with self._lock:
            self._stopped = True
            keeper = self._keeper
        if keeper is None:
            return
        if keeper.stdin is not None and not keeper.stdin.closed:
            keeper.stdin.close()  # the keeper ends the server's whole group
        try:
            keeper.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            log.warning("Prefect's server takes longer to end; its keeper ends it")

    def _command(self) -> list[str]:
        command = [sys.executable, "-m", "prefect", "server", "start"]
        return [*command, "--host", self._host, "--port", str(self._port)]

    def _server_environ(self) -> dict[str, str]:
        theirs = {k: v for k, v in self._environ.items() if not k.startswith("PREFECT_")}
        # The UI asks the port that this setting names, whatever --port says.
        address = {
            "PREFECT_SERVER_API_HOST": self._host,
            "PREFECT_SERVER_API_PORT": str(self._port),
        }
        home = {
            "PREFECT_HOME": str(self._home),
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": (
                f"sqlite+aiosqlite:///{self._home / 'prefect.db'}"
            ),
        }
        return theirs | SERVER_SETTINGS | address | home
