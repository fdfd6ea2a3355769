"""The cycles of one deck of the torture harness: every failpoint kills, and the counts are due."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.torture.cycles import PLACES

ROOT = Path(__file__).resolve().parent.parent.parent
CYCLES = 120
#: Draws every place at least once within so many cycles.
SEED = 11


@pytest.mark.timeout(900)
def test_a_deck_of_crashes_and_faults_loses_and_doubles_nothing(tmp_path: Path) -> None:
    tally = tmp_path / "tally.json"
    # In a process without threads of its own, since it forks.
    words = f"-m tests.torture --cycles {CYCLES} --seed {SEED} --json {tally}".split()
    done = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=840,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:]
    found = json.loads(tally.read_text(encoding="utf-8"))
    assert found["cycles"] == CYCLES
    assert set(found["kills_by_place"]) == set(PLACES), "some places killed nobody"
    assert found["kinds"]["log lost"] >= 10
    frozen = ("fenced", "frozen after its last commit")
    assert sum(found["outcomes"].get(what, 0) for what in frozen) >= 10
    assert sum(found["lies"].values()) >= 100
    assert min(found["lies"].values()) >= 5
    assert len(found["lies"]) == 5
