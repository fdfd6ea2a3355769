"""Failpoints: free when off, exact when armed."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import k2i_tasks
from k2i_tasks import failpoints
from k2i_tasks.errors import ConfigError

PLACE = "wal.append.written"


@pytest.fixture(autouse=True)
def _nothing_stays_armed() -> Iterator[None]:
    yield
    failpoints.disarm()


def test_nothing_happens_at_a_place_that_is_not_armed() -> None:
    failpoints.hit(PLACE)
    seen: list[str] = []
    failpoints.arm(PLACE, seen.append)
    failpoints.hit("wal.append.before")
    assert seen == []


def test_an_action_runs_at_the_nth_hit_and_never_again() -> None:
    seen: list[str] = []
    failpoints.arm(PLACE, seen.append, nth=3)
    for _ in range(2):
        failpoints.hit(PLACE)
    assert seen == []
    for _ in range(5):
        failpoints.hit(PLACE)
    assert seen == [PLACE]


def test_nothing_is_armed_after_the_block_even_when_it_fails() -> None:
    seen: list[str] = []
    with pytest.raises(RuntimeError), failpoints.armed(PLACE, seen.append):
        raise RuntimeError
    failpoints.hit(PLACE)
    assert seen == []


@pytest.mark.parametrize("wanted", ["no.such.place", f"{PLACE}:0", f"{PLACE}:x"])
def test_what_cannot_be_armed_is_refused(wanted: str) -> None:
    with pytest.raises(ConfigError, match=failpoints.VARIABLE):
        failpoints.arm_from({failpoints.VARIABLE: wanted})
    failpoints.arm_from({})


def test_a_process_told_by_its_environment_kills_itself_at_that_hit() -> None:
    script = (
        "from k2i_tasks.failpoints import hit\n"
        "for i in range(1, 10):\n"
        f"    print(i, flush=True); hit({PLACE!r})\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env={failpoints.VARIABLE: f"{PLACE}:4"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == -signal.SIGKILL
    assert ran.stdout.split() == ["1", "2", "3", "4"]


def test_every_place_in_the_source_is_declared_and_every_declared_one_is_there() -> None:
    """Places made of a prefix, `hit(f"{place}.tmp")`, count for each prefix in the registry."""
    source = "\n".join(
        path.read_text() for path in sorted(Path(k2i_tasks.__file__).parent.rglob("*.py"))
    )
    code = "\n".join(line for line in source.splitlines() if "`" not in line)
    whole = set(re.findall(r'\bhit\(\s*"([^"]+)"', code))
    endings = set(re.findall(r'\bhit\(\s*f"\{place\}(\.[^"]+)"', code))
    prefixes = set(re.findall(r'_begin\(\s*"([^"]+)"', code))
    built = {prefix + ending for prefix in prefixes for ending in endings}
    assert len(set(failpoints.NAMES)) == len(failpoints.NAMES)
    assert whole | built == set(failpoints.NAMES)


def test_every_place_is_in_the_table_of_crash_points() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "exactly-once.md"
    told = set(re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)`", page.read_text(encoding="utf-8")))
    assert not set(failpoints.NAMES) - told
