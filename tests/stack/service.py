"""The life of one service: fetch, start, wait until it answers, fault, stop."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from . import maven, processes
from .programs import (
    HOST,
    StackError,
    find_jdk,
    locked,
    log,
    tcp_open,
)

FOLDER = Path(__file__).resolve().parent


class Settings:
    """Where things live and which ports to use.

    A port is, in this order: what `ports` says, the one the service already has, its default.

    Args:
        home: folder for data, logs and pids; one home is one stack.
        cache: folder for what was downloaded and built, shared by all stacks of the user.
        ports: `NAME` or `NAME.ROLE` -> port.
    """

    def __init__(self, home: Path, cache: Path, ports: Mapping[str, int] | None = None) -> None:
        self.home = home
        self.cache = cache
        self.ports = dict(ports or {})


class Service:
    """One service. A subclass says what to fetch, what to run, and when it is ready."""

    name: str
    summary = ""
    #: Role -> default port. The role "" is the main one.
    ports: ClassVar[Mapping[str, int]] = {}
    #: Services that must be up before this one.
    needs: Sequence[str] = ()
    start_timeout_seconds = 120
    stop_timeout_seconds = 20

    def __init__(self, settings: Settings, others: Mapping[str, Service]) -> None:
        self.settings = settings
        self.others = others
        self.dir = settings.home / self.name
        self.data = self.dir / "data"
        self.log_file = self.dir / "server.log"
        self._state_file = self.dir / "state.json"

    # What a subclass gives.

    def fetch(self) -> None:
        """Downloads and builds what the service needs; quick when the cache has it."""

    def prepare(self) -> None:
        """Writes configuration and, the first time, initialises the data folder."""

    def command(self) -> list[str | Path]:
        raise NotImplementedError

    def ready(self) -> bool:
        return tcp_open(self.port())

    def after_start(self) -> None:
        """Calls that need the running service, a bucket for one. Idempotent."""

    def client(self) -> dict[str, str]:
        """What a client needs, as environment variables."""
        return {}

    # Ports and state.

    def port(self, role: str = "") -> int:
        key = f"{self.name}.{role}" if role else self.name
        if key in self.settings.ports:
            return self.settings.ports[key]
        recorded = self._state().get("ports", {})
        return int(recorded.get(role, self.ports[role]))

    def url(self, role: str = "") -> str:
        return f"http://{HOST}:{self.port(role)}"

    def _state(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = json.loads(self._state_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return state

    def pid(self) -> int | None:
        """The pid of the running service. A pid that now belongs to another process is ignored."""
        state = self._state()
        pid: int | None = state.get("pid")
        if pid and state.get("started") == processes.start_time(pid):
            return pid
        return None

    # Life cycle.

    def up(self) -> None:
        """Starts the service and those it needs, and waits until they answer. Idempotent."""
        with locked(self.settings.home / f".{self.name}.lock"):
            if self.pid():
                self._wait()
            else:
                for need in self.needs:
                    self.others[need].up()
                self.fetch()
                self._start()
            self.after_start()

    def _start(self) -> None:
        for role in self.ports:
            if tcp_open(self.port(role)):
                raise StackError(f"{self.name}: port {self.port(role)} is in use")
        self.data.mkdir(parents=True, exist_ok=True)
        self.prepare()
        began = time.monotonic()
        with open(self.log_file, "ab") as output:
            process = subprocess.Popen(
                [str(part) for part in self.command()],
                cwd=self.dir,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        state = {
            "pid": process.pid,
            "started": processes.start_time(process.pid),
            "ports": {role: self.port(role) for role in self.ports},
        }
        self._state_file.write_text(json.dumps(state), encoding="utf-8")
        try:
            self._wait(process)
        except BaseException:
            self._stop()
            raise
        log(f"{self.name}: up in {time.monotonic() - began:.1f} s, pid {process.pid}")

    def _wait(self, process: subprocess.Popen[bytes] | None = None) -> None:
        deadline = time.monotonic() + self.start_timeout_seconds
        while not self._is_ready():
            if process is not None and process.poll() is not None:
                raise StackError(f"{self.name}: exited {process.returncode}\n{self._log_tail()}")
            if time.monotonic() > deadline:
                limit = self.start_timeout_seconds
                raise StackError(f"{self.name}: not ready after {limit} s\n{self._log_tail()}")
            time.sleep(0.1)

    def _is_ready(self) -> bool:
        try:
            return self.ready()
        except OSError:
            return False

    def down(self) -> None:
        """Stops the service, its data kept. Idempotent."""
        with locked(self.settings.home / f".{self.name}.lock"):
            if self._stop():
                log(f"{self.name}: stopped")

    def wipe(self) -> None:
        """Stops the service and forgets its data and logs."""
        self.down()
        shutil.rmtree(self.dir, ignore_errors=True)

    def restart(self) -> None:
        """Stops and starts the service on the same ports, its data kept."""
        self.down()
        self.up()

    def kill(self) -> None:
        """Ends the service as a crash would: SIGKILL, nothing flushed."""
        self._stop(signal.SIGKILL)

    def _stop(self, first: signal.Signals = signal.SIGTERM) -> bool:
        """Ends the service's own process group, and returns whether there was one."""
        pid = self.pid()
        if pid is None:
            return False
        if not processes.end_group(pid, first, self.stop_timeout_seconds):
            raise StackError(f"{self.name}: pid {pid} does not end")
        return True

    def pause(self) -> None:
        """Freezes the service: connections stay open and nothing answers."""
        processes.signal_group(self._running_pid(), signal.SIGSTOP)

    def resume(self) -> None:
        """Lets a paused service go on."""
        processes.signal_group(self._running_pid(), signal.SIGCONT)

    def _running_pid(self) -> int:
        pid = self.pid()
        if pid is None:
            raise StackError(f"{self.name}: not running")
        return pid

    def _log_tail(self, lines: int = 30) -> str:
        try:
            text = self.log_file.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return "(no log)"
        return "\n".join(text.splitlines()[-lines:])


class JavaService(Service):
    """A program of Maven artefacts: pom/<name>/pom.xml lists what is fetched."""

    #: The folder under pom/, when it is not the service's name.
    pom: str | None = None
    #: A source file of ours under java/, compiled with the sources beside it that it uses, against
    #: what was fetched, and put before it.
    own_source: str | None = None
    heap = "256m"
    #: Major version of the oldest JDK that runs it.
    java = 17

    @property
    def lib(self) -> Path:
        """The folder with the fetched jars."""
        return maven.jars(self.settings.cache, self._name, self._pom_file())

    @property
    def _name(self) -> str:
        return self.pom or self.name

    def _pom_file(self) -> Path:
        return FOLDER / "pom" / self._name / "pom.xml"

    def fetch(self) -> None:
        cache = self.settings.cache
        library = maven.fetch(cache, self._name, self._pom_file())
        if self.own_source:
            maven.compile_java(cache, self._name, library, FOLDER / "java", self.own_source)

    def _own_classes(self) -> Path:
        return maven.classes(self.settings.cache, self._name, self.lib, FOLDER / "java")

    def jars(self) -> str:
        """The class path of what was fetched."""
        return f"{self.lib}/*"

    def classpath(self) -> str:
        return f"{self._own_classes()}:{self.jars()}" if self.own_source else self.jars()

    def java_command(self, *arguments: str | Path) -> list[str | Path]:
        """java with settings for a small, quick-starting server."""
        tmp = self.dir / "tmp"
        tmp.mkdir(parents=True, exist_ok=True)
        return [
            find_jdk(self.java) / "bin" / "java",
            f"-Xmx{self.heap}",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-XX:+ExitOnOutOfMemoryError",
            f"-Djava.io.tmpdir={tmp}",
            *arguments,
        ]
