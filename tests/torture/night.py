"""`make torture`: everything that is random or slow, in the counts of a night, or in a share of it.

Runs one step after the other and prints what each took; ends with 1 when a step has failed, and
with 4 when the time was over before the last step.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.scale import VARIABLE

#: Cycles of the torture harness in a whole night.
CYCLES = 5000
#: How often the tests on real brokers are run in a whole night.
ROUNDS = 20
#: Longest that a step which is cut may take to stop what it has started.
STOP_SECONDS = 120.0
WORLDS = (
    "kafka_world",
    "kafka_losses",
    "group",
    "group_changes",
    "iceberg_world",
    "schema_world",
    "compaction",
    "catalog_faults",
    "store_faults",
)


@dataclass(frozen=True, slots=True)
class Step:
    """One process.

    Args:
        name: what it tries.
        words: after `python -m`.
    """

    name: str
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """A step that was run.

    Args:
        name: of the step.
        code: how it ended, negative the signal that ended it; None when the time was over.
        seconds: how long it ran.
    """

    name: str
    code: int | None
    seconds: int

    def __str__(self) -> str:
        verdict = "cut" if self.code is None else "FAILED" if self.code else "held"
        return f"{verdict:6} {self.seconds:6d} s  {self.name}"


def steps(scale: float, seed: int) -> Iterator[Step]:
    """All there is to do."""
    cycles = max(1, round(CYCLES * scale))
    words = f"tests.torture --cycles {cycles} --seed {seed}"
    yield Step(f"{cycles} crashes and faults, seed {seed}", tuple(words.split()))
    yield Step("schedules", _tests("tests/simulation"))
    yield Step("bytes and bits of the log", _tests("tests/property"))
    yield Step("kills of runs that Prefect shows", _tests("tests/flows/test_kill_tracked.py"))
    files = [f"tests/integration/test_{name}.py" for name in WORLDS]
    for number in range(1, max(1, round(ROUNDS * scale)) + 1):
        yield Step(f"brokers, catalogs and stores, round {number}", _tests(*files))
    yield Step("views under load", _tests("tests/integration/test_exact_view.py"))
    yield Step("what takes minutes", _tests("-m", "slow", "tests"))


def _tests(*words: str) -> tuple[str, ...]:
    spread = ("-n", "2", "--dist", "loadscope", "--no-loadscope-reorder")
    return ("pytest", "-q", "--timeout", "10800", *spread, *words)


def run(step: Step, scale: float, seconds: float) -> Done:
    """Runs a step, for so long at most."""
    print(f"== {step.name}", flush=True)
    began = time.monotonic()
    environ = {**os.environ, VARIABLE: str(scale)}
    process = subprocess.Popen([sys.executable, "-m", *step.words], env=environ)
    code: int | None = None
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # services that tests have started are stopped
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return Done(step.name, code, round(time.monotonic() - began))


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture.night", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="share of a whole night, 0 to 1")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--minutes", type=float, default=720.0, help="end after this time")
    parser.add_argument("--json", type=Path, help="write what was done to this file")
    chosen = parser.parse_args(words)
    if not 0 <= chosen.scale <= 1:
        parser.error(f"--scale is a share of a night, from 0 to 1: {chosen.scale}")
    if not chosen.minutes > 0:
        parser.error(f"--minutes has to be above 0: {chosen.minutes}")
    print(f"seed {chosen.seed}, scale {chosen.scale}", flush=True)
    deadline = time.monotonic() + 60 * chosen.minutes
    done: list[Done] = []
    try:
        for step in steps(chosen.scale, chosen.seed):
            left = deadline - time.monotonic()
            done.append(run(step, chosen.scale, left) if left > 0 else Done(step.name, None, 0))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    finally:
        print(*done, sep="\n", flush=True)
        if chosen.json:
            chosen.json.write_text(json.dumps([asdict(each) for each in done], indent=2))
    if any(each.code for each in done):
        return 1
    return 4 if any(each.code is None for each in done) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
