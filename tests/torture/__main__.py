"""`python -m tests.torture --cycles 500 --seed 7`: crash after crash, and nothing lost or doubled.

Forks one process per cycle, with what it needs imported: a cycle takes about a second. The seed
decides events, kinds of fault and places; when a process is killed at a time, the scheduler has
its say too. Ends with 1 and keeps the folder at the first difference between topic and table.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.torture.broker import BrokerProcess
from tests.torture.cycles import Tally, Torture
from tests.torture.world import WrongError


def torture(cycles: int, seed: int, folder: Path, minutes: float | None = None) -> Tally:
    """Runs the cycles; the tally of what was done.

    Args:
        cycles: how many.
        seed: decides what happens.
        folder: for topics' and tables' files.
        minutes: ends sooner after this time.

    Raises:
        WrongError: table and topic differ, or a process ended unexpectedly.
    """
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    began = time.monotonic()
    with BrokerProcess() as broker:
        run = Torture(seed, folder, broker)
        for number in range(cycles):
            if deadline is not None and time.monotonic() > deadline:
                break
            run.cycle()
            if (number + 1) % 50 == 0:
                spent = time.monotonic() - began
                print(f"{number + 1} cycles, {spent:.0f} s, {run.tally.events} events", flush=True)
        run.finish()
        return run.tally


def report(tally: Tally, seed: int, seconds: float) -> dict[str, Any]:
    """The tally as plain values."""
    return {
        "seed": seed,
        "cycles": tally.cycles,
        "seconds": round(seconds),
        "events": tally.events,
        "tables": tally.worlds,
        "kinds": dict(sorted(tally.kinds.items())),
        "kills_by_place": dict(sorted(tally.places.items())),
        "outcomes": dict(sorted(tally.outcomes.items())),
        "lies": dict(sorted(tally.lies.items())),
        "lost": 0,
        "doubled": 0,
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--cycles", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--minutes", type=float, help="end after this time")
    parser.add_argument("--json", type=Path, help="write the tally to this file")
    chosen = parser.parse_args()
    print(f"seed {chosen.seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="k2i-torture-"))
    began = time.monotonic()
    try:
        tally = torture(chosen.cycles, chosen.seed, folder, chosen.minutes)
    except WrongError as error:
        print(f"seed {chosen.seed}: {error}\nkept: {folder}", file=sys.stderr)
        return 1
    found = report(tally, chosen.seed, time.monotonic() - began)
    print(json.dumps(found, indent=2))
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=2), encoding="utf-8")
    folder.rmdir()
    return 0


if __name__ == "__main__":
    sys.exit(main())
