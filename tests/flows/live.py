"""A real Prefect server that can be killed, and the command line beside it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from k2i_tasks.local_server import LocalServer, free_port
from tests.flows.rig import wait_until

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 120.0
#: How long a busy server may go on refusing.
BUSY_SECONDS = 60.0


class Live:
    """A server that can be killed and come back at the same address, with the same database."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = free_port("127.0.0.1", 0)
        self.server = self._new()

    def _new(self) -> LocalServer:
        return LocalServer(self.home, "127.0.0.1", self.port)

    @property
    def url(self) -> str:
        return self.server.url

    def start(self, *, wait: bool = True) -> None:
        self.server = self._new()
        assert self.server.url.endswith(f":{self.port}/api")
        self.server.start()
        if wait:
            assert self.server.wait_until_healthy(START_SECONDS), self.server.log_path.read_text()

    def kill(self) -> None:
        """SIGKILL to the server's process group, as a crash would."""
        os.killpg(server_group(self.server), signal.SIGKILL)
        wait_until(lambda: not self.server.running(), 10, "the keeper sees its server gone")

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(f"{self.url}{path}")
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("content-type", "application/json")
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                # Its SQLite database is locked for longer than it waits; nothing was done.
                if error.code != 503 or time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def run(self, flow_run_id: str) -> Any:
        return self.ask(f"/flow_runs/{flow_run_id}")

    def task_runs(self) -> list[Any]:
        found: list[Any] = []
        while page := self.ask(
            "/task_runs/filter", {"limit": 200, "offset": len(found), "sort": "ID_DESC"}
        ):
            found += page
        return found


def children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue  # it ended meanwhile
        if int(text.rpartition(")")[2].split()[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def server_group(server: LocalServer) -> int:
    assert server.keeper_pid is not None
    (group,) = children(server.keeper_pid)
    return group


def prefect(live: Live, *words: str, cwd: Path = ROOT) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *words],
        env=client_environ(live),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def client_environ(live: Live) -> dict[str, str]:
    theirs = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    ours = {
        "PREFECT_API_URL": live.url,
        "PREFECT_HOME": str(live.home / "client"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "DO_NOT_TRACK": "1",
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "200",
    }
    return theirs | ours
