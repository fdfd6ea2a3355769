"""What tests of faults between the program and its services share: a feed, counts, comparison."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.integration.test_end_to_end import expected, landed, unique
from tests.program import Program
from tests.running import Running
from tests.support import (
    CatalogAt,
    Position,
    assert_exactly_once,
    create_topic,
    event,
    produce,
    read_by_metadata,
)

#: Records that a fault meets the commit of.
MORE = 40
#: A producer that begins at once: without faults at the broker nothing is sent twice.
PLAIN = {"enable.idempotence": False, "retries": 0, "linger.ms": 1}


@dataclass
class World:
    """One topic, one table, the program that fills it, and faults between that and its services.

    Args:
        program: reaches its services through proxies.
        eyes: the same, past the proxies; for looking only.
    """

    program: Program
    eyes: Program
    written: dict[Position, dict[str, Any]] = field(default_factory=dict)
    bad: dict[Position, bytes] = field(default_factory=dict)

    @property
    def table(self) -> str:
        return self.program.table

    @property
    def letters(self) -> str:
        return f"{self.table}__dead_letters"

    def more(self, count: int = MORE, *, bad: int = 0) -> int:
        """Writes events, with bad records behind them; how many events there are now."""
        first = len(self.written)
        values = [json.dumps(event(number)).encode() for number in range(first, first + count)]
        values += [b"bad %d" % (len(self.bad) + number) for number in range(bad)]
        bootstrap, topic = self.program.bootstrap, self.program.topic
        for place, value in produce(bootstrap, topic, values, config=PLAIN).items():
            assert value is not None
            if value.startswith(b"bad"):
                self.bad[place] = value
            else:
                self.written[place] = json.loads(value)
        return len(self.written)

    def rows(self, name: str | None = None) -> int:
        """Rows of the table, or of another beside it, as its newest snapshot says."""
        table = self.eyes.load_table(name)
        snapshot = table.current_snapshot() if table is not None else None
        if snapshot is None or snapshot.summary is None:
            return 0
        return int(snapshot.summary.additional_properties["total-records"])

    def until_landed(self, run: Running) -> None:
        """Waits until the run owns the table, and that holds as many rows as there are events."""
        run.until(
            lambda report: report["state"] == "running" and self.rows() >= len(self.written),
            f"{len(self.written)} rows in the table",
        )

    def assert_counts(self) -> None:
        """As many rows and letters as events and bad records: cheap, after each of many faults."""
        assert self.rows() == len(self.written)
        assert self.rows(self.letters) == len(self.bad)

    def assert_complete(self) -> None:
        """Each event is one row, value by value, and no data file is in the table twice."""
        assert_exactly_once(landed(self.eyes), expected(self.written))
        self._assert_no_file_twice(self.table)
        if self.bad:
            self._assert_no_file_twice(self.letters)
            store = self.eyes.rest.store if self.eyes.rest is not None else None
            letters = read_by_metadata(self.eyes.metadata_location(self.letters), store=store)
            found = sorted((each["partition"], each["offset"], each["value"]) for each in letters)
            assert found == sorted((*place, value) for place, value in self.bad.items())

    def _assert_no_file_twice(self, name: str) -> None:
        table = self.eyes.load_table(name)
        assert table is not None
        files = table.inspect.data_files().column("file_path").to_pylist()
        assert len(files) == len(set(files))


def world_at(
    folder: Path, bootstrap: str, real: CatalogAt, between: CatalogAt, environ: dict[str, str]
) -> World:
    """A new topic, and a program that reaches the catalog and the store as `between` says."""
    topic = unique("faults")
    create_topic(bootstrap, topic)
    program = Program(folder / "in", bootstrap, topic, between, environ=environ)
    eyes = replace(program, folder=folder / "out", rest=real)
    for each in (program, eyes):
        each.folder.mkdir()
    return World(program, eyes)


@contextmanager
def meeting(fault: str) -> Iterator[None]:
    """Names the fault in whatever fails while it is met."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"the fault: {fault}")
        raise
