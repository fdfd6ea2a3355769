"""The processes that evaluate queries, as the run sees them: started, lent, killed."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa

import k2i_tasks
from k2i_tasks.asking.wire import Wire
from k2i_tasks.errors import Component, K2IError, TransientError

#: What a worker may know of the environment. No secrets: it has no use for any.
_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
START_SECONDS = 30.0
#: Longest wait for the end of a process whose socket is closed.
END_SECONDS = 5.0
#: How often whoever waits looks whether the answer is still wanted.
LOOK_SECONDS = 0.05


class Worker:
    """One process, for one query at a time.

    Args:
        memory_bytes_max: memory that a query may take on top of what the process has.
        nice: priority below that of this process.

    Raises:
        TransientError: the system has no room for it now.
    """

    def __init__(self, memory_bytes_max: int, nice: int) -> None:
        try:
            connection = self._started(memory_bytes_max, nice)
        except OSError as error:
            raise TransientError(
                f"The process that evaluates queries cannot be started: {error.strerror}.",
                component=Component.RUNTIME,
                remedy="Ask again in a while. If it stays so, the machine has no memory left, or "
                "the run has as many processes or open files as it may.",
            ) from error
        self.wire = Wire(connection)
        self.pid = self._process.pid
        self.idle_since = 0.0
        self._lock = threading.Lock()
        self._dead = False

    def _started(self, memory_bytes_max: int, nice: int) -> socket.socket:
        """Our end of the connection; nothing is left open where it cannot be started."""
        with ExitStack() as ours, ExitStack() as theirs:
            here, there = socket.socketpair()
            ours.callback(here.close)
            theirs.callback(there.close)
            life, self._life = os.pipe()
            ours.callback(os.close, self._life)
            theirs.callback(os.close, life)
            words = [str(one) for one in (there.fileno(), life, memory_bytes_max, nice)]
            environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
            environment["PYTHONPATH"] = str(Path(k2i_tasks.__file__).parents[1])
            self._process = subprocess.Popen(
                [sys.executable, "-m", "k2i_tasks.asking.worker", *words],
                pass_fds=(there.fileno(), life),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                # Ctrl-C is the run's to answer. No session of its own: where the scheduler shares
                # out by session first, its priority would count for nothing.
                process_group=0,
            )
            ours.pop_all()
        return here

    def ready(self, waits: Callable[[], bool]) -> None:
        """Returns once it has started. Blocks.

        Raises:
            K2IError: it could not be started.
        """
        deadline = time.monotonic() + START_SECONDS
        frame = None
        while frame is None and time.monotonic() < deadline:
            frame = self.received(waits)
        if frame is None or frame[0] != b"R":
            raise K2IError("The process that evaluates queries does not start.")

    def received(self, waits: Callable[[], bool]) -> tuple[bytes, pa.Buffer] | None:
        """The next frame; None if there was none for a moment, or nobody waits for it any more.

        Raises:
            EOFError: the process is gone.
        """
        poller = select.poll()
        poller.register(self.wire.connection, select.POLLIN)
        while not poller.poll(LOOK_SECONDS * 1_000):
            if not waits():
                return None
        return self.wire.receive()

    def exit_code(self) -> int | None:
        """With which it ended by itself, as `subprocess` has it: a signal is negative.

        None if it is still there. Blocks a moment, for a process that is about to be gone.
        """
        try:
            return self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            return None

    def is_there(self) -> bool:
        """Whether it is alive. Does not block."""
        return self._process.poll() is None

    def kill(self) -> None:
        """Ends it at once, whatever it is at. Idempotent; any thread."""
        with self._lock:
            if self._dead:
                return
            self._dead = True
            self._process.kill()
            self._process.wait()
            os.close(self._life)
            # Whoever is about to read finds the end; the number is not used again meanwhile.
            self.wire.connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Ends it and forgets it; for the thread that has it."""
        self.kill()
        self.wire.close()


class Workers:
    """Lends workers, and keeps some for the next query.

    Args:
        make: starts one.
        kept_max: idle ones that are kept.
        idle_seconds_max: for how long.
    """

    def __init__(
        self, make: Callable[[], Worker], *, kept_max: int = 2, idle_seconds_max: float = 120.0
    ) -> None:
        self._make = make
        self._kept_max = kept_max
        self._idle_seconds_max = idle_seconds_max
        self._idle: list[Worker] = []
        self._lock = threading.Lock()
        self._closed = False
        #: Tidies when nobody asks any more.
        self._timer: threading.Timer | None = None

    def take(self) -> tuple[Worker, bool]:
        """A worker, and whether it was just started and is to be waited for."""
        self.tidy()
        while (worker := self._kept()) is not None:
            if worker.is_there():
                return worker, False
            # Ended from outside while nobody needed it: no query's concern.
            worker.close()
        return self._make(), True

    def _kept(self) -> Worker | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def give_back(self, worker: Worker) -> None:
        """For the next query. It has to be between two of them."""
        worker.idle_since = time.monotonic()
        with self._lock:
            if not self._closed and len(self._idle) < self._kept_max:
                self._idle.append(worker)
                self._tidy_later()
                return
        worker.close()

    def tidy(self) -> None:
        """Ends those that nobody has needed for long. Idempotent."""
        oldest = time.monotonic() - self._idle_seconds_max
        with self._lock:
            old = [one for one in self._idle if one.idle_since <= oldest]
            self._idle = [one for one in self._idle if one.idle_since > oldest]
        for worker in old:
            worker.close()

    def close(self) -> None:
        """Ends all idle ones. Idempotent."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            if self._timer is not None:
                self._timer.cancel()
        for worker in idle:
            worker.close()

    def _tidy_later(self) -> None:
        """With the lock held. The last one that was given back is the last to be old."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = threading.Timer(self._idle_seconds_max, self.tidy)
        self._timer.daemon = True
        self._timer.start()
