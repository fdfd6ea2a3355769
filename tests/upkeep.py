"""Real tables with a history of rewrites, and what is on their disk against what they reach.

What a table reaches is read by PyIceberg's own reader, so that the program's takes no part in the
verdict.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.table import Table

from k2i_tasks.iceberg.files import local_path
from k2i_tasks.iceberg.maintenance.expiry import Expiry
from k2i_tasks.iceberg.maintenance.orphans import OrphanRemoval
from k2i_tasks.iceberg.maintenance.retention import Rules
from tests.iceberg_tables import NAME, catalog_of, config_at

DAY = 86_400.0
#: Everything goes that is not protected.
NOTHING_KEPT = Rules(retention_seconds=0.001, keep_newest=1, keep_history=0)


class HandClock:
    """The machine's time when it was made, and what it is moved by."""

    def __init__(self) -> None:
        self.now = time.time() + 1

    def monotonic(self) -> float:
        return self.now

    def unix(self) -> float:
        return self.now


def fresh(table: Table) -> Table:
    """The table as it is now."""
    return table.catalog.load_table(table.name())


def never() -> bool:
    return False


def expiry(
    catalog: Catalog,
    identifier: tuple[str, ...] = NAME,
    *,
    rules: Rules = NOTHING_KEPT,
    clock: HandClock | None = None,
    grace_seconds: float = 0,
    stopping: Callable[[], bool] = never,
) -> Expiry:
    return Expiry(
        catalog,
        identifier,
        rules=rules,
        lane=contextlib.nullcontext(),
        stopping=stopping,
        clock=clock or HandClock(),
        grace_seconds=grace_seconds,
    )


def removal(
    catalog: Catalog,
    identifier: tuple[str, ...] = NAME,
    *,
    older_than_seconds: float = DAY,
    clock: HandClock | None = None,
    stopping: Callable[[], bool] = never,
    floor_seconds: float = DAY,
) -> OrphanRemoval:
    return OrphanRemoval(
        catalog,
        identifier,
        older_than_seconds=older_than_seconds,
        stopping=stopping,
        clock=clock or HandClock(),
        floor_seconds=floor_seconds,
    )


def numbers(*values: int) -> pa.Table:
    return pa.table({"n": pa.array(values, pa.int64())})


def new_table(
    folder: Path,
    identifier: tuple[str, ...] = NAME,
    properties: Mapping[str, str] | None = None,
) -> Table:
    """An empty table of one column `n`."""
    catalog = catalog_of(config_at(folder))
    catalog.create_namespace_if_not_exists(identifier[:-1])
    return catalog.create_table(identifier, numbers().schema, properties=dict(properties or {}))


def rewritten(table: Table, rounds: int = 1) -> None:
    """Appends, deletes a part of a file, and replaces rows: old files end up in old snapshots."""
    for number in range(rounds):
        at = number * 100
        table.append(numbers(at, at + 1, at + 2))
        table.append(numbers(at + 10, at + 11))
        table.delete(f"n == {at + 1}")
        table.overwrite(numbers(at + 20), overwrite_filter=f"n == {at + 10} or n == {at + 11}")


def values(table: Table, snapshot_id: int | None = None) -> list[int]:
    found: list[int] = table.scan(snapshot_id=snapshot_id).to_arrow()["n"].to_pylist()
    return sorted(found)


def reached(table: Table, known: dict[str, set[str]] | None = None) -> set[str]:
    """The path of each file that the snapshots of a table need, metadata files left out.

    Args:
        table: local paths come without scheme.
        known: what was read of lists and manifests before, by path; is added to.
    """
    found: set[str] = set()
    known = {} if known is None else known
    for snapshot in table.metadata.snapshots:
        if snapshot.manifest_list not in known:
            manifests = snapshot.manifests(table.io)
            known[snapshot.manifest_list] = {one.manifest_path for one in manifests}
            for one in manifests:
                if one.manifest_path not in known:
                    entries = one.fetch_manifest_entry(table.io)
                    known[one.manifest_path] = {entry.data_file.file_path for entry in entries}
        found |= {snapshot.manifest_list, *known[snapshot.manifest_list]}
        for path in known[snapshot.manifest_list]:
            found |= known[path]
    found |= {one.statistics_path for one in table.metadata.statistics}
    found |= {one.statistics_path for one in table.metadata.partition_statistics}
    return {str(local_path(path) or path) for path in found}


def metadata_files(table: Table) -> set[str]:
    found = {table.metadata_location, *(one.metadata_file for one in table.metadata.metadata_log)}
    return {str(local_path(path) or path) for path in found}


def on_disk(table: Table) -> set[str]:
    """The path of each file below a local table's folder, metadata files left out."""
    root = local_path(table.location())
    assert root is not None
    found = {str(path) for path in root.rglob("*") if path.is_file()}
    return {path for path in found if not path.endswith(".metadata.json")}


def assert_exact(table: Table) -> None:
    """Each file there is needed, and each file that is needed is there."""
    there, needed = on_disk(table), reached(table)
    assert not there - needed, f"nobody needs {sorted(there - needed)[:5]}"
    assert not needed - there, f"missing: {sorted(needed - there)[:5]}"
    assert all(Path(path).is_file() for path in metadata_files(table))


def aged(path: str | Path, seconds: float = 2 * DAY) -> None:
    """Makes a file or folder that much older than it is."""
    at = time.time() - seconds
    os.utime(path, (at, at))


def all_aged(table: Table, seconds: float = 2 * DAY) -> None:
    root = local_path(table.location())
    assert root is not None
    for path in root.rglob("*"):
        aged(path, seconds)


def lose_answer(catalog: Catalog, *, lands: bool) -> None:
    """The next commit's answer is lost, and the commit with it unless it `lands`."""
    whole = catalog.commit_table

    def commit_table(table: Table, requirements: Any, updates: Any) -> Any:
        catalog.commit_table = whole  # type: ignore[method-assign]
        if lands:
            whole(table, requirements, updates)
        raise ConnectionError("the answer was lost")

    commit_table.guarded = False  # type: ignore[attr-defined]
    catalog.commit_table = commit_table  # type: ignore[method-assign]
