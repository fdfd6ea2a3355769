"""A program that was just started, by its health page."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, AnyStr

from tests.forks import Forked

#: Longest that one start may take, in seconds.
PATIENCE_SECONDS = 120.0
#: Time between two looks.
LOOK_SECONDS = 0.01


@contextmanager
def killed_at_last(process: subprocess.Popen[AnyStr] | Forked) -> Iterator[None]:
    """Leaves no process behind, whatever happens in the block."""
    try:
        yield
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def awaited(
    process: subprocess.Popen[AnyStr] | Forked,
    port: int,
    condition: Callable[[dict[str, Any]], object],
    what: str,
) -> dict[str, Any]:
    """The first report for which `condition` holds, looked for 100 times a second.

    Raises:
        RuntimeError: there was no `what` in time, or the process has ended.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
                report: dict[str, Any] = json.load(answer)
        except (urllib.error.URLError, ConnectionError):
            report = {}
        if condition(report):
            return report
        time.sleep(LOOK_SECONDS)
    raise RuntimeError(f"no {what} within {PATIENCE_SECONDS:.0f} s, exit code {process.poll()}")
