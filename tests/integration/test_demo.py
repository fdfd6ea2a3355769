"""`make demo` as a newcomer meets it: on a terminal, ended by Ctrl-C, its table queried."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.stack.programs import free_port

ROOT = Path(__file__).resolve().parent.parent.parent
CTRL_C = b"\x03"
PATIENCE_SECONDS = 120.0
_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|[()][A-Z0-9]|[=>])")


class Terminal:
    """A program on a terminal of 40 lines by 200 columns.

    Args:
        command: its words.
        environ: its environment.
    """

    def __init__(self, command: list[str], environ: dict[str, str]) -> None:
        self._text = b""
        self.code: int | None = None
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.chdir(ROOT)
            os.execvpe(command[0], command, environ)

    def type(self, keys: bytes) -> None:
        os.write(self._terminal, keys)

    def read(self, seconds: float) -> None:
        """Takes what is printed within `seconds`; notes the exit code when the program ends."""
        ready, _, _ = select.select([self._terminal], [], [], seconds)
        if ready:
            try:
                self._text += os.read(self._terminal, 1 << 16)
                return
            except OSError:  # how Linux says that the other side is closed
                pass
        ended, status = os.waitpid(self.pid, os.WNOHANG)
        if ended:
            self.code = os.waitstatus_to_exitcode(status)

    @property
    def text(self) -> str:
        """All that was printed, without its colours."""
        return _ESCAPES.sub("", self._text.decode(errors="replace")).replace("\r", "")

    def close(self) -> None:
        if self.code is None:
            os.kill(self.pid, 9)
            os.waitpid(self.pid, 0)
        os.close(self._terminal)


def report(port: int) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except (urllib.error.URLError, ConnectionError):
        return {}


@pytest.mark.integration
def test_the_demo_drains_on_ctrl_c_and_its_table_can_be_queried(tmp_path: Path) -> None:
    if shutil.which("make") is None or not (ROOT / ".venv" / "run.stamp").exists():
        pytest.skip("`make demo` would have to install its environment first")
    port = free_port()
    ports = {"K2I_MONITORING_HEALTH_PORT": str(port), "K2I_MONITORING_METRICS_PORT": "0"}
    size = {"COLUMNS": "200", "LINES": "40", "TERM": "xterm-256color"}
    words = ["make", "demo", f"ARGS=--data-dir {tmp_path} --no-ui --no-prefect"]
    # A make that runs this test must not tell the one that it starts what to do.
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    demo = Terminal(words, {**clean, **ports, **size})
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while demo.code is None and not report(port).get("last_commit"):
            assert time.monotonic() < deadline, demo.text[-3000:]
            demo.read(0.2)
        demo.type(CTRL_C)
        while demo.code is None:
            assert time.monotonic() < deadline, demo.text[-3000:]
            demo.read(0.2)
    finally:
        demo.close()
    assert demo.code == 0, demo.text[-3000:]
    assert "Traceback" not in demo.text
    summary = demo.text[-3000:]
    consumed = re.search(r"consumed\s+([\d,]+) records", summary)
    committed = re.search(r"committed\s+([\d,]+) rows", summary)
    assert consumed, summary
    assert committed, summary
    assert consumed[1] == committed[1]
    printed = re.search(r"\S*k2i query .*?demo\.orders\"", summary)
    assert printed, summary
    rows = int(committed[1].replace(",", ""))
    assert counted(printed[0]) == rows
    # The same folder again: another topic, the same table. Without a terminal, plain lines.
    words = f"flows/ingest.py --data-dir {tmp_path} --no-prefect --max-messages 500".split()
    again = ran([sys.executable, *words], {**clean, **ports})
    assert re.search(r"^consumed: 500 records", again, re.M), again
    assert "\x1b" not in again
    assert counted(printed[0]) == rows + 500


def ran(words: list[str], environ: dict[str, str] | None = None) -> str:
    """The output of a program that must succeed."""
    done = subprocess.run(
        words,
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def counted(command: str) -> int:
    """What the printed command answers."""
    return int(ran([*shlex.split(command), "--format", "csv"]).split()[-1])
