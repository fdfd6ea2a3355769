"""Commits that are built on what the commit before has left, on a real SQL catalog."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.table import Table
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import LongType

from k2i_tasks.errors import CommitStateUnknownError, K2IError, is_transient
from k2i_tasks.iceberg import committer as module
from k2i_tasks.iceberg.committer import Committer, Head
from k2i_tasks.iceberg.schema import create_table
from tests.unit.test_committer import NAME, claimed, commit, config, open_catalog, values

SCHEMA = pa.schema([("n", pa.int64())])


class Calls:
    """How often a committer has looked at its table, and has sent something.

    Args:
        by: the committer.
        patch: for the length of the test.
    """

    def __init__(self, by: Committer, patch: pytest.MonkeyPatch) -> None:
        self.looks = self.sent = 0
        #: Raised in place of the next answer.
        self.lost: Exception | None = None
        look, send = by.look, by.catalog.commit_table

        def looked() -> Head:
            self.looks += 1
            return look()

        def sent(*what: Any, **named: Any) -> Any:
            self.sent += 1
            answer = send(*what, **named)
            lost, self.lost = self.lost, None
            if lost is not None:
                raise lost
            return answer

        patch.setattr(by, "look", looked)
        patch.setattr(by.catalog, "commit_table", sent)


def grow(by: Committer, folder: Path, batch: int) -> None:
    """Commits the next five rows."""
    commit(by, folder, f"a-{batch}", 5 * batch, 5 * batch + 5)


def made(folder: Path) -> Committer:
    folder.mkdir(exist_ok=True)
    create_table(open_catalog(folder), NAME, SCHEMA, config(folder))
    return claimed(folder, "a")


def others(folder: Path) -> Table:
    """The table, as another program has it."""
    return open_catalog(folder).load_table(NAME)


def test_one_who_is_alone_looks_at_the_table_from_time_to_time_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by = made(tmp_path)
    calls = Calls(by, monkeypatch)
    for batch in range(4):
        grow(by, tmp_path, batch)
    assert (calls.looks, calls.sent) == (1, 4)
    by._looked_at -= module.LEFT_SECONDS_MAX
    for batch in range(4, 8):
        grow(by, tmp_path, batch)
    assert (calls.looks, calls.sent) == (2, 8)
    assert values(tmp_path) == list(range(40))


def test_between_commits_of_others_nothing_is_built_in_vain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by = made(tmp_path)
    calls = Calls(by, monkeypatch)
    for batch in range(6):
        grow(by, tmp_path, batch)
        others(tmp_path).append(pa.table({"n": [1000 + batch]}, schema=SCHEMA))
    # Our second one does not know yet that we are not alone.
    assert (calls.looks, calls.sent) == (6, 7)
    assert values(tmp_path) == [*range(30), *range(1000, 1006)]


def test_after_a_lost_answer_the_table_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by = made(tmp_path)
    calls = Calls(by, monkeypatch)
    grow(by, tmp_path, 0)
    calls.lost = CommitStateUnknownError("no answer")
    with pytest.raises(CommitStateUnknownError):
        grow(by, tmp_path, 1)
    assert calls.looks == 1
    grow(by, tmp_path, 1)
    assert (calls.looks, calls.sent) == (2, 2)
    grow(by, tmp_path, 2)
    assert values(tmp_path) == list(range(15))


def nothing(folder: Path) -> None:
    pass


def append(folder: Path) -> None:
    others(folder).append(pa.table({"n": [1000]}, schema=SCHEMA))


def claim(folder: Path) -> None:
    claimed(folder, "b")


def overtake(folder: Path) -> None:
    commit(claimed(folder, "b"), folder, "b-1", 10, 12)


def roll_back(folder: Path) -> None:
    table = others(folder)
    parent = table.metadata.snapshot_by_id(table.metadata.current_snapshot_id or 0)
    assert parent is not None
    assert parent.parent_snapshot_id is not None
    table.manage_snapshots().rollback_to_snapshot(parent.parent_snapshot_id).commit()


def roll_back_and_forth(folder: Path) -> None:
    head = others(folder).metadata.current_snapshot_id
    assert head is not None
    roll_back(folder)
    others(folder).manage_snapshots().set_current_snapshot(head).commit()


def drop(folder: Path) -> None:
    open_catalog(folder).drop_table(NAME)


def make_again(folder: Path) -> None:
    drop(folder)
    create_table(open_catalog(folder), NAME, SCHEMA, config(folder))


def add_a_column(folder: Path) -> None:
    with others(folder).update_schema() as update:
        update.add_column("m", LongType())


def partition(folder: Path) -> None:
    with others(folder).update_spec() as update:
        update.add_field("n", IdentityTransform(), "n_part")


def set_a_property(folder: Path) -> None:
    with others(folder).transaction() as transaction:
        transaction.set_properties({"owner": "somebody"})


def expire(folder: Path) -> None:
    table = others(folder)
    oldest = table.metadata.snapshots[0].snapshot_id
    table.maintenance.expire_snapshots().by_id(oldest).commit()


def write_a_branch(folder: Path) -> None:
    table = others(folder)
    head = table.metadata.current_snapshot_id
    assert head is not None
    table.manage_snapshots().create_branch(head, "other").commit()
    others(folder).append(pa.table({"n": [1000]}, schema=SCHEMA), branch="other")


RIVALS = [
    nothing,
    append,
    claim,
    overtake,
    roll_back,
    roll_back_and_forth,
    make_again,
    add_a_column,
    partition,
    set_a_property,
    expire,
    write_a_branch,
]


@pytest.mark.parametrize("rival", RIVALS)
def test_whatever_another_does_it_ends_as_if_the_table_were_looked_at_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rival: Callable[[Path], None]
) -> None:
    def outcome(folder: Path) -> object:
        by = made(folder)
        grow(by, folder, 0)
        grow(by, folder, 1)
        rival(folder)
        for _ in range(3):
            try:
                grow(by, folder, 2)
            except K2IError as error:
                if not is_transient(error) and not isinstance(error, CommitStateUnknownError):
                    return type(error), None
                continue
            break
        grow(by, folder, 3)
        return None, values(folder)

    found = outcome(tmp_path / "left")
    monkeypatch.setattr(module, "LEFT_SECONDS_MAX", 0.0)
    assert found == outcome(tmp_path / "looked")
