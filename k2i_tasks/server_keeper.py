"""Runs a command in a session of its own and ends it when whoever started this one is gone.

Run as a file, by path: `python server_keeper.py COMMAND...`. Standard library only. Its standard
input is the read end of a pipe that the owner holds: when the owner ends, however that happens, the
pipe closes and the command's whole process group is ended. It keeps the command's exit code.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

GRACE_SECONDS = 5.0
LOOK_SECONDS = 0.2


def end_group(process: subprocess.Popen[bytes], grace_seconds: float = GRACE_SECONDS) -> None:
    """Asks the process group to end, and makes it after `grace_seconds`. Idempotent, may block."""
    _signal_group(process.pid, signal.SIGTERM)
    try:
        process.wait(grace_seconds)
    except subprocess.TimeoutExpired:
        pass
    finally:
        _signal_group(process.pid, signal.SIGKILL)  # also what outlived the group's first process
        process.wait()


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return  # it is gone


def main(command: list[str]) -> int:
    """Runs `command` until it ends or the owner does; its exit code."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    ending = threading.Event()

    def watch() -> None:
        while os.read(0, 4096):
            pass
        ending.set()

    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: ending.set())
    threading.Thread(target=watch, daemon=True).start()
    while process.poll() is None and not ending.wait(LOOK_SECONDS):
        pass
    end_group(process)
    return process.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
