"""How the figures of a benchmark are told: as a table on the terminal, and as JSON."""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

Turn = TypeVar("Turn")


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


def spread_text(figures: Mapping[str, float]) -> str:
    """What `spread` gives, for people: the median, and least and most beside it if they differ."""
    middle, low, high = (figures[name] for name in ("median", "min", "max"))
    return f"{middle:.2f}" if low == high else f"{middle:.2f} ({low:.2f} to {high:.2f})"


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of what runs several times in turn over a topic."""
    parser.add_argument("--messages", type=above_zero, default=1_000_000)
    parser.add_argument("--runs", type=above_zero, default=3)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--figure", type=Path, help="draw them into this file (.svg, .png)")


def above_zero(text: str) -> int:
    """An option that is a number above 0."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("has to be above 0")
    return number


def in_turn(runs: int, turn: Callable[[int], Turn]) -> list[Turn]:
    """What `turn`, given its number from 0 on, finds in so many runs."""
    found = []
    for number in range(runs):
        print(f"== run {number + 1} of {runs}", file=sys.stderr, flush=True)
        found.append(turn(number))
    return found


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
