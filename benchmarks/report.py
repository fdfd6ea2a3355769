"""How the figures of a benchmark are told: as a table on the terminal, and as JSON."""

from __future__ import annotations

import json
import logging
import os
import statistics
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def percentile(values: Iterable[float], percent: float) -> float:
    """The nearest-rank percentile; `percent` is above 0 and at most 100.

    Raises:
        ValueError: there is no value.
    """
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no percentile of nothing")
    return ordered[ceil(len(ordered) * percent / 100) - 1]


def spread(values: Sequence[float], digits: int = 4) -> dict[str, float]:
    """Least, median and most."""
    found = {"min": min(values), "median": statistics.median(values), "max": max(values)}
    return {name: round(value, digits) for name, value in found.items()}


def machine() -> dict[str, Any]:
    """What else was going on: how many processors there are, and how many wanted one."""
    return {"cpus": os.cpu_count(), "load_average": [round(one, 1) for one in os.getloadavg()]}


@contextmanager
def quiet() -> Iterator[None]:
    """Log lines of the program stay out of the figures, but for errors."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def show(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a table; the first column is text, the others are figures."""
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    # A pipe has no width, and cut figures are of no use.
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def finished(report: dict[str, Any], path: Path | None, *, equal: bool) -> int:
    """Tells the machine's load, writes the report if it is asked for; the exit code.

    Args:
        report: figures, and those of `machine`.
        path: where it is to be written; None for nowhere.
        equal: whether each table holds exactly what was written.
    """
    load = " ".join(f"{one:.1f}" for one in report["load_average"])
    print(f"{report['cpus']} processors, load average {load}")
    if path is not None:
        path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if not equal:
        print("a table is not equal to what was written", file=sys.stderr)
    return 0 if equal else 1
