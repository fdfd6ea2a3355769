"""Processes of the program that begin with its modules loaded: forked by one that has them.

A start takes most of a second of CPU, nearly all of it imports, and the tests start the program a
thousand times. What is forked can be killed, stopped and waited for, reads its command line and its
environment, and ends as Python does. What it has of the process that forks: modules, their
allocators, and the seed of hashes. So nothing is forked whose memory is measured, or whose
environment has what is read before or while modules are loaded. The process that forks runs no
thread of Python's and has nothing open; it belongs to the process of the tests and ends with it.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from functools import cache
from typing import IO, Any

#: What an ingestion loads sooner or later; the rest comes with it.
MODULES = (
    "k2i_tasks.ingest",
    "k2i_tasks.wiring",
    "k2i_tasks.wiring_query",
    "k2i_tasks.tracking_choice",
    "k2i_tasks.maintenance",
    "k2i_tasks.iceberg.maintenance.tables",
    "k2i_tasks.codecs.json",
    "k2i_tasks.doors.flight",
    "k2i_tasks.doors.http",
    "k2i_tasks.cli_dead_letters",
    "pyiceberg.catalog.rest",
    "pyiceberg.catalog.sql",
    "sqlalchemy.dialects.sqlite",
)
#: Variables that a process reads before ours can: those of a fork are of no effect.
EARLY = ("PYTHON", "LD_", "PYICEBERG_", "ARROW_", "MALLOC_", "GRPC_", "OMP_", "OPENBLAS_")
#: Most bytes of a command line with its environment.
REQUEST_BYTES_MAX = 128 << 10
#: Bytes of a number in an answer: first the process's id, then, when it has ended, how.
NUMBER_BYTES = 8


class Forked:
    """A process of the program, with what the tests use of a `subprocess.Popen[str]`.

    Args:
        module: what is run, as by `python -m`.
        words: its command line.
        environ: its variables, all of them.
        stdout: where its output and its errors go: a file, `subprocess.PIPE` or `DEVNULL`.

    Attributes:
        stdout: what it writes, if that is a pipe.
        returncode: how it has ended, as far as asked; the negative signal that killed it.
    """

    stdin = stderr = None

    def __init__(
        self, module: str, words: list[str], environ: dict[str, str], stdout: int | IO[str]
    ) -> None:
        early = {name for name in {*environ, *os.environ} if name.startswith(EARLY)}
        late = [name for name in early if environ.get(name) != os.environ.get(name)]
        assert not late, f"{', '.join(late)}: of no effect on what is forked"
        self.args = [module, *words]
        self.returncode: int | None = None
        self._written = bytearray()
        self.stdout: IO[str] | None = None
        request = {"module": module, "words": words, "environ": environ, "folder": os.getcwd()}
        message = json.dumps(request).encode()
        assert len(message) <= REQUEST_BYTES_MAX, f"{len(message)} bytes are too many to be sent"
        self._answer, answering = os.pipe()
        if stdout == subprocess.PIPE:
            reading, output = os.pipe()
            self.stdout = open(reading, encoding="utf-8")  # noqa: SIM115  # as long as we are
        elif stdout == subprocess.DEVNULL:
            output = os.open(os.devnull, os.O_WRONLY)
        else:
            output = os.dup(stdout if isinstance(stdout, int) else stdout.fileno())
        try:
            socket.send_fds(_forker(), [message], [output, answering])
        finally:
            os.close(answering)
            os.close(output)
        self.pid = self._number()

    def _number(self) -> int:
        found = os.read(self._answer, NUMBER_BYTES)
        assert found, "the process that forks has ended"
        return int.from_bytes(found, "little", signed=True)

    def poll(self) -> int | None:
        """How it has ended; None if it has not."""
        try:
            return self.wait(0.0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Waits until it has ended; how it has."""
        if self.returncode is None:
            if not select.select([self._answer], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            self.returncode = os.waitstatus_to_exitcode(self._number())
            os.close(self._answer)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """Waits until it has ended; what it has written."""
        deadline = None if timeout is None else time.monotonic() + timeout

        def left() -> float | None:
            return None if deadline is None else max(0.0, deadline - time.monotonic())

        if self.stdout is not None and not self.stdout.closed:
            file = self.stdout.fileno()
            while True:
                if not select.select([file], [], [], left())[0]:
                    raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
                chunk = os.read(file, 1 << 16)
                if not chunk:
                    break
                # Kept over a time-out: what was written until then is asked for next.
                self._written += chunk
            self.stdout.close()
        self.wait(left())
        return self._written.decode(), None

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless it has ended."""
        # It may end between the question and the signal.
        with suppress(ProcessLookupError):
            if self.returncode is None:
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@cache
def _forker() -> socket.socket:
    """The way to the process that forks, which is started first; it ends when this is closed."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * REQUEST_BYTES_MAX)
    with its:
        subprocess.Popen(
            [sys.executable, "-m", "tests.forks", str(its.fileno())],
            pass_fds=[its.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
    return ours


def _serve(control: socket.socket) -> dict[str, Any] | None:
    """Forks for each request; in what is forked, the request; None at the end of requests.

    What is alive then is killed: nobody waits for it.
    """
    children: dict[int, int] = {}
    # Ctrl-C is for the tests, which end by it, and this process with them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    wake, waking = os.pipe()
    os.set_blocking(waking, False)
    signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    try:
        while True:
            ready, _, _ = select.select([control.fileno(), wake], [], [])
            if wake in ready:
                os.read(wake, 1 << 10)
                _tell_ends(children)
            if control.fileno() not in ready:
                continue
            message, files, _, _ = socket.recv_fds(control, REQUEST_BYTES_MAX, 2)
            if not message:
                return None
            output, answering = files
            pid = os.fork()
            if pid == 0:
                for descriptor in (1, 2):
                    os.dup2(output, descriptor)
                for descriptor in (output, answering, *children.values()):
                    os.close(descriptor)
                children.clear()  # they are not ours here
                request: dict[str, Any] = json.loads(message)
                return request
            os.close(output)
            children[pid] = answering
            _tell(answering, pid)
    finally:
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        control.close()
        os.close(wake)
        os.close(waking)


def _tell_ends(children: dict[int, int]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        answering = children.pop(pid)
        _tell(answering, status)
        os.close(answering)


def _tell(answering: int, number: int) -> None:
    with suppress(BrokenPipeError):  # nobody waits for it any more
        os.write(answering, number.to_bytes(NUMBER_BYTES, "little", signed=True))


def main(descriptor: int) -> None:
    plain = set(os.environ)
    for name in MODULES:
        importlib.import_module(name)
    assert "prefect" not in sys.modules, "Prefect has threads, and reads its settings once"
    own = {name: text for name, text in os.environ.items() if name not in plain}
    # What was loaded stays: nothing of it is looked through, and so copied, in what is forked.
    gc.collect()
    gc.freeze()
    request = _serve(socket.socket(fileno=descriptor))
    if request is None:
        return
    os.environ.clear()
    os.environ.update(own | request["environ"])
    os.chdir(request["folder"])
    # The one thing that a module of ours reads from its environment while it is loaded.
    importlib.import_module("k2i_tasks.failpoints").arm_from(os.environ)
    sys.argv = [request["module"], *request["words"]]
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
