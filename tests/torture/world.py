"""One topic and one table: runs in forked processes, and what must hold after each of them."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pyiceberg.table import Table

from k2i_tasks.config import load_config
from k2i_tasks.iceberg.catalog import find_table, open_catalog
from k2i_tasks.iceberg.state import recorded
from k2i_tasks.types import Job
from tests.program import Program
from tests.support import Position, read_by_metadata
from tests.torture.broker import COLUMN_EVERY, BrokerProcess, is_bad, payload, told
from tests.torture.forked import LIES, NONE, Fault, ingest, maintain

PARTITIONS = 4
#: Longest that any process may take, in seconds.
PATIENCE_SECONDS = 120.0
SETTINGS = {
    "K2I_BUFFER_FLUSH_INTERVAL_SECONDS": "0.1",
    "K2I_BUFFER_FLUSH_BATCH_SIZE": "40",
    "K2I_KAFKA_BATCH_SIZE": "25",
    "K2I_TRANSACTION_LOG_CHECKPOINT_INTERVAL_ENTRIES": "9",
    "K2I_MAINTENANCE_COMPACTION_MIN_FILES": "2",
    "K2I_MAINTENANCE_SNAPSHOTS_KEPT": "3",
    "K2I_MAINTENANCE_SNAPSHOT_HISTORY_KEPT": "2",
    "K2I_MAINTENANCE_SNAPSHOT_GRACE_SECONDS": "0",
}


class WrongError(AssertionError):
    """The table is not the topic."""


class World:
    """A topic, a table, a log folder.

    Args:
        folder: for all of it.
        broker: a running broker.
        number: of this world, for names.
    """

    def __init__(self, folder: Path, broker: BrokerProcess, number: int) -> None:
        self.folder = folder
        self.topic = f"torture-{number}"
        self.wal = folder / "wal"
        self._broker = broker
        self._program = Program(folder, broker.bootstrap, self.topic)
        self._config_path = self._program.config
        #: What the topic holds: the event's number at each position.
        self.written: dict[Position, int] = {}
        broker.topic(self.topic, PARTITIONS)

    # What happens.

    def produce(self, count: int) -> None:
        first = len(self.written)
        for number, partition, offset in self._broker.produce(self.topic, first, count):
            self.written[partition, offset] = number

    def produce_a_new_column(self) -> int:
        """Writes events until one has a column that the table lacks; how many."""
        count = COLUMN_EVERY - len(self.written) % COLUMN_EVERY + 1
        self.produce(count)
        return count

    def lose_wal(self) -> None:
        shutil.rmtree(self.wal, ignore_errors=True)

    def damage_wal(self, draw: random.Random, *, torn: bool) -> bool:
        """Cuts the last segment, or flips a bit in it; whether there was one to damage."""
        segments = sorted(self.wal.glob("*.log")) if self.wal.is_dir() else []
        if not segments or segments[-1].stat().st_size < 64:
            return False
        content = bytearray(segments[-1].read_bytes())
        if torn:
            del content[len(content) - draw.randint(1, 40) :]
        else:
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        segments[-1].write_bytes(content)
        return True

    # Processes.

    def start(self, fault: Fault = NONE, *, wal: Path | None = None) -> int:
        """Forks a run that ends once it has committed all that the topic holds now; its pid."""
        config = load_config(
            self._config_path,
            environ={**SETTINGS, "K2I_TRANSACTION_LOG_LOG_DIR": str(wal or self.wal)},
            overrides={},
        )
        ends = self._ends()
        return self._fork(lambda: ingest(config, ends, fault, self.folder), fault)

    def start_upkeep(self, jobs: Sequence[Job], fault: Fault = NONE) -> int:
        """Forks a process that does these jobs; its pid."""
        config = load_config(self._config_path, environ=SETTINGS, overrides={})
        return self._fork(lambda: maintain(config, jobs, fault, self.folder), fault)

    def upkeep(self, *jobs: Job, fault: Fault = NONE) -> int:
        """The exit code of a process that does these jobs, negative the signal that ended it."""
        return self.wait(self.start_upkeep(jobs, fault))

    def run(self, fault: Fault = NONE, *, wal: Path | None = None) -> int:
        """The run's exit code, negative the signal that ended it."""
        return self.wait(self.start(fault, wal=wal), kill_after=fault.kill_after)

    def wait(self, pid: int, *, kill_after: float | None = None, stopped: bool = False) -> int:
        """Waits for the end (or, if `stopped`, for the freezing) of a forked process.

        Returns:
            The exit code, negative the signal that ended (or froze) it.
        """
        began = time.monotonic()
        killed = False
        while True:
            ended, status = os.waitpid(pid, os.WNOHANG | (os.WUNTRACED if stopped else 0))
            if ended and os.WIFSTOPPED(status):
                return -os.WSTOPSIG(status)
            if ended:
                return os.waitstatus_to_exitcode(status)
            waited = time.monotonic() - began
            if kill_after is not None and not killed and waited >= kill_after:
                os.kill(pid, signal.SIGKILL)
                killed = True
            if waited > PATIENCE_SECONDS:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise WrongError(f"a run did not end within {PATIENCE_SECONDS:.0f} s\n{self.log()}")
            time.sleep(0.002)

    def lies(self) -> list[str]:
        """What the catalog of the runs since the last call has answered falsely."""
        path = self.folder / LIES
        found = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return found

    def log(self) -> str:
        """The last lines that runs of this world have printed."""
        path = self.folder / "output.log"
        return path.read_text(encoding="utf-8", errors="replace")[-6000:] if path.exists() else ""

    def check(self, *, final: bool = False) -> None:
        """Compares table and topic.

        Args:
            final: all of the topic must be there, and an outsider compares every value.

        Raises:
            WrongError: they differ; says where.
        """
        report = self.folder / "check.txt"
        report.unlink(missing_ok=True)
        pid = self._fork(lambda: self._checked(report, final=final), NONE)
        if self.wait(pid) != 0:
            found = report.read_text(encoding="utf-8") if report.exists() else "the check crashed"
            raise WrongError(f"{found}\n{self.log()}")

    def _fork(self, work: Callable[[], int], fault: Fault) -> int:
        pid = os.fork()
        if pid:
            return pid
        code = 70
        try:
            quiet = fault.file_bytes_max is not None  # its own log would be cut as well
            name = os.devnull if quiet else str(self.folder / "output.log")
            output = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            code = work()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def _ends(self) -> dict[int, int]:
        ends: dict[int, int] = {}
        for partition, offset in self.written:
            ends[partition] = max(ends.get(partition, 0), offset + 1)
        return ends

    # The comparison.

    def _checked(self, report: Path, *, final: bool) -> int:
        try:
            self._compare(final=final)
        except AssertionError as error:
            report.write_text(str(error), encoding="utf-8")
            return 1
        return 0

    def _compare(self, *, final: bool) -> None:
        config = load_config(self._config_path, environ={}, overrides={})
        catalog = open_catalog(config.iceberg, {})
        table = find_table(catalog, ("tests", self._program.table))
        letters_table = find_table(catalog, ("tests", f"{self._program.table}__dead_letters"))
        if table is None:
            assert not final, "there is no table"
            return
        state = recorded(table.metadata, config.iceberg.sink, config.iceberg.branch).newest
        upto = {tp.partition: at for tp, at in state.offsets.items()} if state else {}
        paths = _paths(table)
        assert len(paths) == len(set(paths)), "a data file is in the table twice"
        _history(table)
        if letters_table is not None:
            _history(letters_table)
        rows = table.scan(selected_fields=("_kafka_partition", "_kafka_offset", "order_id"))
        numbers = _by_position(rows.to_arrow().to_pylist(), "_kafka_partition", "_kafka_offset")
        letters: dict[Position, dict[str, Any]] = {}
        if letters_table is not None:
            letters = _by_position(
                letters_table.scan().to_arrow().to_pylist(), "partition", "offset"
            )
        self._places(numbers, letters, upto, final=final)
        if final:
            self._values(table.metadata_location, letters)

    def _places(
        self,
        rows: dict[Position, dict[str, Any]],
        letters: dict[Position, dict[str, Any]],
        upto: dict[int, int],
        *,
        final: bool,
    ) -> None:
        for place, row in rows.items():
            number = self.written.get(place)
            assert number is not None, f"a row at {place}, where the topic has nothing"
            assert row["order_id"] == number, f"{place}: {row['order_id']} instead of {number}"
            assert not is_bad(number), f"a row at {place}, whose record cannot be decoded"
            assert place[1] < upto.get(place[0], 0), f"{place} is beyond the recorded offsets"
        for place in letters:
            number = self.written.get(place)
            assert number is not None, f"a dead letter at {place}, where the topic has nothing"
            assert is_bad(number), f"a dead letter at {place}, whose record is sound"
        for place, number in self.written.items():
            due = final or place[1] < upto.get(place[0], 0)
            found = letters if is_bad(number) else rows
            assert not due or place in found, f"{place} (event {number}) is lost"

    def _values(self, location: str, letters: dict[Position, dict[str, Any]]) -> None:
        for row in read_by_metadata(location):
            place = (row["_kafka_partition"], row["_kafka_offset"])
            wanted = told(self.written[place])
            for name in ("customer", "amount", "express", "address", "items", "note"):
                assert row[name] == wanted[name], f"{place}: {name} is {row[name]!r}"
            for name in row:
                if name.startswith("column_"):
                    assert row[name] == wanted.get(name), f"{place}: {name} is {row[name]!r}"
        for place, letter in letters.items():
            assert bytes(letter["value"]) == payload(self.written[place]), f"letter at {place}"


def _paths(table: Table) -> list[str]:
    """Path of every live data file."""
    snapshot = table.current_snapshot()
    manifests = snapshot.manifests(table.io) if snapshot is not None else []
    entries = [entry for one in manifests for entry in one.fetch_manifest_entry(table.io)]
    return [entry.data_file.file_path for entry in entries]


def _history(table: Table) -> None:
    """Every file of every snapshot that is left is there."""
    manifests = {
        manifest.manifest_path: manifest
        for snapshot in table.snapshots()
        for manifest in snapshot.manifests(table.io)
    }
    paths = {
        entry.data_file.file_path
        for manifest in manifests.values()
        for entry in manifest.fetch_manifest_entry(table.io)
    }
    for path in paths:
        assert table.io.new_input(path).exists(), f"{path} is gone, and a snapshot has it"


def _by_position(
    rows: list[dict[str, Any]], partition: str, offset: str
) -> dict[Position, dict[str, Any]]:
    found: dict[Position, dict[str, Any]] = {}
    for row in rows:
        place = (row[partition], row[offset])
        assert place not in found, f"{place} is there twice"
        found[place] = row
    return found
