"""The work of a start does not grow with the table's history."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.io.pyarrow import PyArrowFile

from tests.long_history import started, written
from tests.unit.test_recover import P0


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Calls of the catalog, and files of the warehouse that are read, by their kind."""
    counted: Counter[str] = Counter()

    def count(owner: Any, name: str, kind: Any) -> None:
        plain = getattr(owner, name)

        def call(self: Any, *what: Any, **more: Any) -> Any:
            counted[kind(self)] += 1
            return plain(self, *what, **more)

        monkeypatch.setattr(owner, name, call)

    count(SqlCatalog, "load_table", lambda _catalog: "load_table")
    count(SqlCatalog, "commit_table", lambda _catalog: "commit_table")
    count(PyArrowFile, "open", lambda file: _kind(file.location))
    return counted


def _kind(location: str) -> str:
    name = location.rpartition("/")[2]
    if name.endswith(".avro"):
        return "manifest list" if name.startswith("snap-") else "manifest"
    return "metadata" if name.endswith(".json") else "data file"


@pytest.mark.parametrize("unfit", [False, True], ids=["staged files", "staged files, some unfit"])
def test_a_start_does_as_much_for_a_long_history_as_for_a_short_one(
    tmp_path: Path, work: Counter[str], unfit: bool
) -> None:
    found: list[Counter[str]] = []
    for commits in (3, 23):
        folder = tmp_path / str(commits)
        written(folder, commits, unfit=unfit)
        work.clear()
        assert started(folder) == {P0: 10 * (commits + 1)}
        found.append(Counter(work))
    short, long = found
    if unfit:
        # That no snapshot refers to a file is known once each was looked into; each list once.
        assert long - short == {"manifest list": 20, "manifest": 20}
        return
    assert long == short
    assert short["load_table"] + short["commit_table"] <= 12
