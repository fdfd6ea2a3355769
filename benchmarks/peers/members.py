"""`members.py COUNT FOLDER WORD...`: so many members of one consumer group, each by that command.

SIGTERM is passed on to all of them, and so is the end of one. Ends once all have: with the first
exit code that is not 0.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

#: Linux's prctl: the signal that a process gets when its parent has ended.
_PARENT_DEATH_SIGNAL = 1

count, folder, words = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
members: dict[int, subprocess.Popen[bytes]] = {}
system = ctypes.CDLL(None)


def end(number: int = signal.SIGTERM, _frame: Any = None) -> None:
    for pid, member in members.items():
        # By its id: a question whether it lives would take its end from who waits for it below.
        if member.returncode is None:
            os.kill(pid, number)


def follow() -> None:
    """A member does not outlive us, however we end."""
    system.prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


# Whoever ends us meanwhile is heard once all are there to be told.
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
signal.signal(signal.SIGTERM, end)
for number in range(count):
    # The one thing that members do not have in common.
    log = {"K2I_TRANSACTION_LOG_LOG_DIR": str(folder / f"log-{number}")}
    member = subprocess.Popen(words, env={**os.environ, **log}, preexec_fn=follow)
    members[member.pid] = member
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

code = 0
for _ in range(count):
    # Whichever ends first: alone, the others would do its work, and be taken for all of them.
    pid, status = os.wait()
    members[pid].returncode = os.waitstatus_to_exitcode(status)
    code = code or abs(members[pid].returncode)
    end()
sys.exit(code)
