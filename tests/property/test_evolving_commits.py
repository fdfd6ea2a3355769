"""Columns in the commits of their rows, beside a rival and a catalog that answers falsely."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyiceberg.catalog.sql import SqlCatalog

from k2i_tasks.calls import Call, RetryPolicy
from k2i_tasks.errors import CommitStateUnknownError
from k2i_tasks.iceberg.evolution import evolve
from k2i_tasks.operations import Operations
from k2i_tasks.types import OffsetRange, SealedBatch, SealReason
from tests.iceberg_tables import NAME, catalog_of, config_at, field_ids
from tests.scale import times
from tests.unit.test_recover import P0, claimed, operations

#: Most batches that are staged and not committed.
AHEAD_MAX = 3
NAMES = st.sampled_from("abcd")
FAULTS = st.sampled_from(["", "", "", "refused", "lost", "late", "raced"])
WIDTHS = st.sampled_from([0, 0, 0, 32, 64])
RIVAL = st.tuples(st.just("rival"), NAMES, st.sampled_from("xy"))
STEPS = st.one_of(
    st.tuples(st.just("flush"), st.lists(NAMES, max_size=2, unique=True), WIDTHS),
    st.tuples(st.just("encode"), st.lists(NAMES, max_size=2, unique=True), WIDTHS),
    st.tuples(st.just("commit"), FAULTS),
    RIVAL,
    RIVAL,
    st.tuples(st.just("late")),
    st.tuples(st.just("crash")),
)


def rows_of(number: int, names: list[str], bits: int) -> pa.Table:
    """One row; a value says which column it is of, and `w` may need so many bits."""
    columns: dict[str, pa.Array] = {"n": pa.array([number], pa.int64())}
    for name in names:
        columns[name] = pa.array([{"x": f"{name}{number}"}], pa.struct({"x": pa.string()}))
    if bits:
        wide = bits == 64
        columns["w"] = pa.array([number + (wide << 40)], pa.int64() if wide else pa.int32())
    return pa.table(columns)


class World:
    """A run of one partition, a rival writer of the same table, and the wire to the catalog."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.fault = ""
        self.late: list[Callable[[], Any]] = []
        self.waiting: list[SealedBatch] = []
        self.encoded: list[pa.Table] = []
        self.rows: list[pa.Table] = []
        self.runs = 0
        self.names: dict[str, int] = {}
        self._plain = SqlCatalog.commit_table
        world = self

        def send(catalog: SqlCatalog, *what: Any) -> Any:
            return world.send(lambda: world._plain(catalog, *what))

        patch.setattr(SqlCatalog, "commit_table", send)
        self.start()

    def send(self, request: Callable[[], Any]) -> Any:
        fault, self.fault = self.fault, ""
        if fault == "refused":
            raise CommitStateUnknownError("and nothing was done")
        if fault == "late":
            self.late.append(request)
            raise CommitStateUnknownError("it may land yet")
        if fault == "raced":
            self.rival("a", "x")
        answer = request()
        if fault == "lost":
            raise CommitStateUnknownError("though it was done")
        return answer

    def start(self) -> None:
        self.runs += 1
        self._context = operations(self.folder, f"run-{self.runs}")
        self.run: Operations = self._context.__enter__()
        claimed(self.run, {P0: 0})
        done = self.run.recover()[P0]
        self.rows = self.rows[:done]
        self.waiting, self.encoded = [], []

    def crash(self) -> None:
        """What was staged is left to the next run, the rest is read again."""
        gone = self.rows
        self._context.__exit__(None, None, None)
        self.start()
        for table in gone[len(self.rows) :]:
            self.flush(table)

    def flush(self, table: pa.Table) -> None:
        if len(self.waiting) == AHEAD_MAX:
            self.commit("")
        tables = [*self.encoded, table]
        first = len(self.rows) - len(self.encoded)
        self.rows.append(table)
        self.encoded = []
        span = OffsetRange(first, first + len(tables))
        name = f"{self.runs}-{first}"
        made = SealedBatch(name, tuple(tables), (), {P0: span}, len(tables), 1, SealReason.ROWS, -1)
        self.run.flush(made)
        self.waiting.append(made)

    def encode(self, table: pa.Table) -> None:
        first = len(self.rows) - len(self.encoded)
        self.rows.append(table)
        self.encoded.append(table)
        call = Call(
            "flush",
            "encode",
            lambda: self.run.encode(f"{self.runs}-{first}", [table]),
            RetryPolicy(budget_seconds=0.0),
        )
        call.claim("test")
        call.run_with_retries()  # may fail: the flush does it

    def commit(self, fault: str) -> None:
        if not self.waiting:
            return
        self.fault, batch = fault, self.waiting.pop(0)
        policy = RetryPolicy(initial_seconds=0.0001, max_wait_seconds=0.001)

        def attempt() -> None:
            self.run.commit(batch)

        call = Call("commit", "commit", attempt, policy)
        call.claim("test")
        call.run_with_retries()
        assert call.error is None, call.error
        self.fault = ""
        self.look()

    def rival(self, name: str, member: str) -> None:
        schema = pa.schema([(name, pa.struct({member: pa.string()}))])
        evolve(catalog_of(config_at(self.folder)), NAME, schema)

    def deliver(self) -> None:
        """What is late reaches the catalog, which may refuse it."""
        late, self.late = self.late, []
        for request in late:
            try:
                request()
            except Exception:
                continue
        self.look()

    def look(self) -> None:
        """A field's id is for good, and no two have one."""
        found = field_ids(catalog_of(config_at(self.folder)).load_table(NAME).schema())
        assert self.names.items() <= found.items()
        assert len(set(found.values())) == len(found)
        self.names = found

    def finish(self) -> None:
        if self.encoded:
            self.flush(rows_of(len(self.rows), [], 0))
        while self.waiting:
            self.commit("")
        self.deliver()
        self._context.__exit__(None, None, None)
        wanted = [without_nulls(table.to_pylist()[0]) for table in self.rows]
        table = catalog_of(config_at(self.folder)).load_table(NAME)
        rows = [without_nulls(row) for row in table.scan().to_arrow().to_pylist()]
        assert sorted(rows, key=lambda row: row["n"]) == wanted


def without_nulls(row: dict[str, Any]) -> dict[str, Any]:
    """Without what is null, members too."""
    return {
        name: without_nulls(value) if isinstance(value, dict) else value
        for name, value in row.items()
        if value is not None
    }


@settings(
    deadline=None,
    max_examples=times(25, 2_000),
    suppress_health_check=[HealthCheck.too_slow],
)
@given(st.lists(STEPS, min_size=3, max_size=14))
def test_rows_and_ids_are_right_whoever_else_evolves_and_whatever_is_answered(
    steps: list[tuple[Any, ...]],
) -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("k2i_tasks.iceberg.ahead.GROUP_ROWS_MIN", 1)
        world = World(Path(folder), patch)
        for step in steps:
            match step:
                case "flush", names, bits:
                    world.flush(rows_of(len(world.rows), names, bits))
                case "encode", names, bits:
                    world.encode(rows_of(len(world.rows), names, bits))
                case "commit", fault:
                    world.commit(fault)
                case "rival", name, member:
                    world.rival(name, member)
                case ("late",):
                    world.deliver()
                case _:
                    world.crash()
        world.finish()
