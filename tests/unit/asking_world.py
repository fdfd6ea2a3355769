"""What tests of queries share: tables, an engine with limits, and its processes."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa

from k2i_tasks.asking.engine import Engine
from k2i_tasks.asking.limits import Limits
from k2i_tasks.tickets import Sql
from k2i_tasks.views import Part
from tests.unit.views_world import ArrowView, world

#: Two hundred thousand rows that meet ten thousand each: 2 * 10**9 pairs.
EXPLOSIVE = "SELECT sum(a.v * b.v) AS n FROM big a JOIN big b ON a.k = b.k WHERE a.v + b.v > 1"


def big() -> ArrowView:
    rows = pa.table({"k": [n % 20 for n in range(200_000)], "v": range(200_000)})
    return ArrowView("demo.big", rows.slice(0, 0), rows)


def limited(views: Mapping[str, ArrowView], **limits: object) -> Engine:
    # Of the same priority: other tests may keep the processors busy.
    plain = {"seconds_max": 60.0, "memory_bytes_max": 512 << 20, "nice": 0, **limits}
    return Engine(lambda: views, Limits(**plain))  # type: ignore[arg-type]


class Asked:
    """An engine over some tables, for tests of what stands before it.

    Args:
        limits: of the engine.
    """

    def __init__(self, **limits: object) -> None:
        self.views: dict[str, ArrowView] = {**world(), "demo.big": big()}
        plain = {"seconds_max": 30.0, "memory_bytes_max": 512 << 20, "nice": 0, **limits}
        self.engine = Engine(lambda: self.views, Limits(**plain))  # type: ignore[arg-type]


def rows(engine: Engine, sql: str, part: Part = "all") -> list[dict[str, object]]:
    found: list[dict[str, object]] = engine.answer(Sql(sql, part)).table().to_pylist()
    return found


def children() -> set[int]:
    """Processes of ours that evaluate queries."""
    words = ["ps", "--ppid", str(os.getpid()), "-o", "pid=,stat=,args="]
    lines = subprocess.run(words, capture_output=True, text=True, check=False).stdout.splitlines()
    return {int(line.split()[0]) for line in lines if "asking.worker" in line}


def becomes(true: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.01)
    return true()


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
