"""The program while it runs: what its health page says, what it logs, how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.program import Process, Program
from tests.stack.programs import free_port

#: Longest wait for anything: far above what a loaded machine needs.
PATIENCE_SECONDS = 90
#: Next offset per partition number.
Offsets = dict[int, int]


class Running:
    """One process of the program.

    Args:
        process: just started.
        log: the file that its output goes to.
        port: of its health page.
    """

    def __init__(self, process: Process, log: Path, port: int) -> None:
        self.process = process
        self._log = log
        self._port = port

    @property
    def output(self) -> str:
        """All that it has logged so far."""
        return self._log.read_text(encoding="utf-8")

    def url(self, page: str) -> str:
        """The address of one of its pages."""
        return f"http://127.0.0.1:{self._port}/{page}"

    def report(self) -> dict[str, Any]:
        """Its health page; empty while there is no run behind it yet."""
        try:
            with urllib.request.urlopen(self.url("health"), timeout=10) as answer:
                page = answer.read()
        except urllib.error.HTTPError as error:
            page = error.read()
        except OSError:
            return {}
        report: dict[str, Any] = json.loads(page)
        return report if "partitions" in report else {}

    def until(self, condition: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        """Waits for a report for which `condition` holds; fails if the process ends before."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        report: dict[str, Any] = {}
        while time.monotonic() < deadline and self.process.poll() is None:
            report = self.report()
            if report and condition(report):
                return report
            time.sleep(0.02)
        code = self.process.poll()
        raise AssertionError(f"never {what} (exit code {code}); {report}\n{self.output}")

    def until_consumed(self, records: int) -> dict[str, Any]:
        """Waits until it owns the table and has consumed so many records."""
        return self.until(
            lambda report: report["epoch"] > 0 and report["records"]["consumed"] >= records,
            f"{records} consumed",
        )

    def until_committed(self, rows: int) -> dict[str, Any]:
        """Waits until it has committed so many rows."""
        return self.until(
            lambda report: report["records"]["committed_rows"] >= rows, f"{rows} rows committed"
        )

    def until_at(self, offsets: Mapping[int, int]) -> dict[str, Any]:
        """Waits until it has read up to these offsets, records or not."""
        return self.until(lambda report: at(report) == offsets, f"at {offsets}")

    def until_logged(self, text: str) -> None:
        """Waits until it has logged `text`."""
        self.until(lambda _report: text in self.output, f"logged {text!r}")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> tuple[int, str]:
        """Waits until it has ended by itself; exit code and output."""
        try:
            return self.process.wait(PATIENCE_SECONDS), self.output
        except subprocess.TimeoutExpired:
            raise AssertionError(f"did not end:\n{self.output}") from None

    def drain(self) -> str:
        """Asks it to drain and waits until it has; its output."""
        self.signal(signal.SIGTERM)
        code, output = self.end()
        assert code == 0, output
        return output

    def kill(self) -> None:
        """Ends it as `kill -9` does."""
        self.process.kill()
        self.process.wait(PATIENCE_SECONDS)


def at(report: Mapping[str, Any]) -> Offsets:
    """Next offset to read of each partition, by a health report."""
    return {each["partition"]: each["position"] for each in report["partitions"]}


@contextmanager
def running(
    program: Program, *arguments: str, environ: Mapping[str, str] | None = None
) -> Iterator[Running]:
    """The program as a process, which is killed at the end if it still runs."""
    port = free_port()
    log = program.folder / f"log-{port}.txt"
    settings = {"K2I_MONITORING_HEALTH_PORT": str(port), **(environ or {})}
    with log.open("w", encoding="utf-8") as output:
        process = program.start(*arguments, stdout=output, environ=settings)
    try:
        yield Running(process, log, port)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(30)
