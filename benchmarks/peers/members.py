"""`members.py COUNT CONFIG`: so many members of one consumer group, each a `k2i ingest`.

SIGTERM is passed on to all of them. Ends once all have: with the first exit code that is not 0.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

count, config = int(sys.argv[1]), Path(sys.argv[2])
words = ["-m", "k2i_tasks.cli", "ingest", "--config", str(config), "--no-prefect", "--plain"]
members: list[subprocess.Popen[bytes]] = []


def pass_on(number: int, _frame: Any) -> None:
    for member in members:
        member.send_signal(number)


signal.signal(signal.SIGTERM, pass_on)
for number in range(count):
    # The one thing that members do not have in common.
    log = {"K2I_TRANSACTION_LOG_LOG_DIR": str(config.parent / f"log-{number}")}
    members.append(subprocess.Popen([sys.executable, *words], env={**os.environ, **log}))
codes = [member.wait() for member in members]
sys.exit(next((code for code in codes if code), 0))
