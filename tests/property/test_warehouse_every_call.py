"""Every call that writes or syncs a file of a local warehouse, failing in every way.

A flush stages its batch whole or not at all; a commit is in the table whole or not at all; neither
is tried again, and the next run completes.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.table import Table

from k2i_tasks import durable
from k2i_tasks.config import Config
from k2i_tasks.errors import K2IError, ServiceError, is_transient
from k2i_tasks.iceberg import files
from k2i_tasks.iceberg.data_files import FRESH
from k2i_tasks.iceberg.schema import create_table
from k2i_tasks.iceberg.store import probe
from k2i_tasks.iceberg.writer import DataFileWriter
from k2i_tasks.types import DeadLetter, OffsetRange, SealedBatch, StagedFile
from tests.iceberg_tables import NAME, catalog_of, config_at
from tests.unit.test_recover import P0, batch, claimed, numbers, operations
from tests.unit.wal_disks import Fault, Spread

CODES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
ROWS = pa.table({"city": ["a", "b", "c"] * 40, "n": pa.array(range(120), pa.int64())})


class Warehouse:
    """The warehouse's calls, counted; they fail as told. Syncs nothing really.

    Args:
        patch: for the length of the test.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.fault: Fault | None = None
        #: The calls since the fault was set.
        self.calls: list[str] = []
        patch.setattr(pa, "OSFile", lambda path, _mode: pa.PythonFile(_File(self, path), "w"))
        patch.setattr(durable, "sync", lambda _path: self.passes("sync"))
        create, write = files._DurableFile.create, files._DurableStream.write

        def created(file: Any, overwrite: bool = False) -> Any:
            self.passes("open")
            return create(file, overwrite)

        def written(stream: Any, data: bytes) -> int:
            self.halved(lambda half: write(stream, half), data)
            return write(stream, data)

        patch.setattr(files._DurableFile, "create", created)
        patch.setattr(files._DurableStream, "write", written)

    def passes(self, call: str) -> None:
        """One more call, unless it fails."""
        self.calls.append(call)
        fault, number = self.fault, len(self.calls)
        if fault is None:
            return
        if number == fault.nth or (number > fault.nth and fault.spread is Spread.ALL):
            raise OSError(fault.code, os.strerror(fault.code))

    def halved(self, write: Any, data: bytes) -> None:
        """A write, half of which is done first where it is to be a short one that fails."""
        if self.fault is not None and self.fault.short and len(self.calls) + 1 == self.fault.nth:
            write(bytes(data)[: len(data) // 2])
        self.passes("write")

    @contextmanager
    def failing(self, fault: Fault | None) -> Iterator[None]:
        """Counts anew, and fails as told meanwhile."""
        self.fault, self.calls = fault, []
        try:
            yield
        finally:
            self.fault = None


class _File:
    """A file for Arrow, each write of which is one of the warehouse's calls."""

    def __init__(self, warehouse: Warehouse, path: str) -> None:
        self._warehouse = warehouse
        warehouse.passes("open")
        self._file = open(path, "wb", buffering=0)  # noqa: SIM115

    def write(self, data: bytes) -> int:
        self._warehouse.halved(self._file.write, data)
        return self._file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@pytest.fixture
def warehouse(monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    return Warehouse(monkeypatch)


def faults(calls: Sequence[str]) -> Iterator[Fault]:
    """Every way in which one of these calls can fail."""
    for nth, call in enumerate(calls, 1):
        for code in CODES:
            for spread in (Spread.ONCE, Spread.ALL):
                yield Fault(nth, code, spread)
                if call == "write":
                    yield Fault(nth, code, spread, short=True)


def partitioned(folder: Path) -> tuple[Table, Config]:
    """A table whose rows make three files."""
    config = config_at(folder, partition_spec=[{"source_field": "city", "transform": "identity"}])
    return create_table(catalog_of(config), NAME, ROWS.schema, config), config


def data_folder(table: Table) -> Path:
    return Path(table.location()) / "data"


def assert_refused(error: BaseException, *codes: int) -> None:
    """An error that ends the run, and says what to do."""
    assert isinstance(error, ServiceError), repr(error)
    assert error.exit_code in codes
    assert error.remedy
    assert not is_transient(error)


def assert_nothing_staged(table: Table) -> None:
    assert list(data_folder(table).rglob("*.parquet")) == []
    assert len(FRESH._found) == 0


def assert_staged(table: Table, staged: Sequence[StagedFile]) -> None:
    there = sorted(str(path) for path in data_folder(table).rglob("*.parquet"))
    assert there == sorted(file.path for file in staged)
    assert all(Path(file.path).stat().st_size == file.size_bytes for file in staged)
    rows = pa.concat_tables([pq.ParquetFile(path).read() for path in there])
    assert sorted(rows.column("n").to_pylist()) == list(range(120))


def test_no_failing_call_of_a_flush_leaves_a_part_of_its_batch(
    tmp_path: Path, warehouse: Warehouse
) -> None:
    table, config = partitioned(tmp_path)
    FRESH._found.clear()

    def written() -> list[StagedFile]:
        shutil.rmtree(data_folder(table), ignore_errors=True)
        return DataFileWriter(table, config).write([ROWS], batch_id="batch")

    with warehouse.failing(None):
        staged = written()
    assert_staged(table, staged)
    calls = list(warehouse.calls)
    assert {call: calls.count(call) for call in ("open", "sync")} == {"open": 3, "sync": 3 * 2 + 4}
    for file in staged:
        FRESH.forget(file.path)
    for fault in faults(calls):
        try:
            with warehouse.failing(fault), pytest.raises(K2IError) as caught:
                written()
            assert_refused(caught.value, 4)
            assert_nothing_staged(table)
        except BaseException as error:
            error.add_note(f"{fault}, a call of {calls[fault.nth - 1]}")
            raise


def test_no_size_at_which_the_disk_is_full_leaves_a_part_of_a_batch(tmp_path: Path) -> None:
    """Arrow's own writes, against the system's limit of a file's size."""
    table, config = partitioned(tmp_path)
    FRESH._found.clear()
    writer = DataFileWriter(table, config)
    staged = writer.write([ROWS], batch_id="batch")
    largest = max(file.size_bytes for file in staged)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for file in staged:
        FRESH.forget(file.path)
    for room_bytes in range(0, largest, 11):
        shutil.rmtree(data_folder(table))
        resource.setrlimit(resource.RLIMIT_FSIZE, (room_bytes, hard))
        try:
            with pytest.raises(K2IError) as caught:
                writer.write([ROWS], batch_id="batch")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert_refused(caught.value, 4)
        assert_nothing_staged(table)
    assert_staged(table, writer.write([ROWS], batch_id="batch"))


def test_a_check_of_the_warehouse_tells_of_each_failing_call(
    tmp_path: Path, warehouse: Warehouse
) -> None:
    table, _ = partitioned(tmp_path)
    with warehouse.failing(None):
        probe(table.io, table.location())
    calls = list(warehouse.calls)
    assert set(calls) == {"open", "write", "sync"}
    for fault in faults(calls):
        with warehouse.failing(fault), pytest.raises(K2IError) as caught:
            probe(table.io, table.location())
        assert_refused(caught.value, 4)


def with_a_letter(number: int) -> SealedBatch:
    """Positions [11 n, 11 n + 11): ten rows, and a dead letter behind them."""
    first = 11 * number
    rows = pa.table({"n": pa.array(range(first, first + 10), pa.int64())})
    letter = DeadLetter("events", 0, first + 10, -1, None, b"x", None, "decode", "c", "bad")
    span = OffsetRange(first, first + 11)
    return replace(batch(number), tables=(rows,), dead_letters=(letter,), ranges={P0: span})


def letters(folder: Path) -> list[int]:
    table = catalog_of(config_at(folder)).load_table((NAME[0], f"{NAME[1]}__dead_letters"))
    found: list[int] = table.scan().to_arrow().column("offset").to_pylist()
    return sorted(found)


def total(folder: Path, name: str) -> int:
    """Rows of a table by the summary of its newest snapshot."""
    snapshot = catalog_of(config_at(folder)).load_table((NAME[0], name)).current_snapshot()
    assert snapshot is not None
    assert snapshot.summary is not None
    return int(snapshot.summary.additional_properties["total-records"])


def each_call(calls: Sequence[str]) -> list[int]:
    return list(range(1, len(calls) + 1))


def ends(calls: Sequence[str]) -> list[int]:
    """Of each file its opening, first and last write and syncs; most are written in many pieces."""
    amid = ("write", "write", "write")
    return [nth for nth in each_call(calls) if tuple(calls[nth - 2 : nth + 1]) != amid]


@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("which", [ends, pytest.param(each_call, marks=pytest.mark.slow)])
def test_no_failing_call_of_a_commit_lands_a_part_of_it(
    tmp_path: Path, warehouse: Warehouse, which: Callable[[Sequence[str]], list[int]]
) -> None:
    with operations(tmp_path, "sound") as found:
        claimed(found, {P0: 0})
        found.flush(with_a_letter(0))
        with warehouse.failing(None):
            found.commit(with_a_letter(0))
    calls = list(warehouse.calls)
    assert calls.count("sync") == 2 * calls.count("open") == 12, "the file, and its name"
    every = list(faults(calls))
    number = 0
    for number, nth in enumerate(which(calls), 1):
        ways = [fault for fault in every if fault.nth == nth]
        fault = ways[number * 5 % len(ways)]
        with operations(tmp_path, f"run-{number}") as found:
            claimed(found, {})
            assert found.recover() == {P0: 11 * number}
            found.flush(with_a_letter(number))
            try:
                with warehouse.failing(fault), pytest.raises(K2IError) as caught:
                    found.commit(with_a_letter(number))
                assert_refused(caught.value, 3, 4)
                assert total(tmp_path, NAME[1]) == 10 * number
                assert total(tmp_path, f"{NAME[1]}__dead_letters") in (number, number + 1)
            except BaseException as error:
                error.add_note(f"{fault}, a call of {calls[nth - 1]}")
                raise
    with operations(tmp_path, "last") as found:
        claimed(found, {})
        assert found.recover() == {P0: 11 * (number + 1)}
    places = range(11 * (number + 1))
    assert sorted(numbers(tmp_path)) == [at for at in places if at % 11 != 10]
    assert letters(tmp_path) == [at for at in places if at % 11 == 10]
