"""`python flows/ingest.py` as it stands: events, table, and a Prefect server of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.stack.programs import free_port

pytestmark = pytest.mark.prefect_server

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 180.0


def task_runs(port: int) -> list[dict[str, Any]]:
    """What the server knows of; nothing while it does not answer."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/task_runs/filter",
        data=json.dumps({"limit": 200, "sort": "ID_DESC"}).encode(),
        headers={"content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            found: list[dict[str, Any]] = json.load(answer)
            return found
    except OSError:
        return []


def completed(port: int) -> list[str]:
    return [run["name"] for run in task_runs(port) if run["state_type"] == "COMPLETED"]


def test_the_demo_shows_its_flushes_and_commits_in_a_server_of_its_own(tmp_path: Path) -> None:
    port = free_port()
    chosen = {
        "K2I_PREFECT_SERVER_PORT": str(port),
        "K2I_MONITORING_HEALTH_PORT": "0",
        "K2I_MONITORING_METRICS_PORT": "0",
    }
    theirs = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    log = tmp_path / "log.txt"
    with log.open("w") as output:
        demo = subprocess.Popen(
            [sys.executable, "flows/ingest.py", "--plain", "--data-dir", str(tmp_path / "data")],
            cwd=ROOT,
            env={**theirs, **chosen},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while sum(name.startswith("commit ") for name in completed(port)) < 2:
                assert demo.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as page:
                assert b"<html" in page.read(10_000).lower()
            demo.send_signal(signal.SIGINT)
            code = demo.wait(PATIENCE_SECONDS)
        finally:
            if demo.poll() is None:
                demo.kill()
                demo.wait()
    text = log.read_text()
    assert code == 0, text
    assert "Traceback" not in text
    consumed = re.search(r"^consumed: ([\d,]+) records", text, re.M)
    committed = re.search(r"^committed: ([\d,]+) rows", text, re.M)
    assert consumed, text
    assert committed, text
    assert consumed[1] == committed[1] != "0"
    # Each call is in the log once, whoever ran it.
    labels = Counter(
        re.findall(r"((?:flush|commit) (?:\d+ rows|events) [^:]+?:\[\d+,\d+\).*?): ", text)
    )
    assert labels, text
    assert max(labels.values()) == 1
