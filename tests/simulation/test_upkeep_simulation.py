"""Writers, operators, expiry and orphan removal in any order: what is retained stays readable.

A real table on a local disk, with a clock that is moved by hand and files that are aged with it.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
from pyiceberg.table import Table, snapshots
from pyiceberg.table.refs import SnapshotRefType

from k2i_tasks.errors import CommitStateUnknownError
from k2i_tasks.iceberg.catalog import guard_commits
from k2i_tasks.iceberg.maintenance.expiry import Expiry
from k2i_tasks.iceberg.maintenance.retention import Rules
from tests.iceberg_tables import NAME, catalog_of, config_at
from tests.scale import times
from tests.upkeep import (
    DAY,
    HandClock,
    expiry,
    fresh,
    lose_answer,
    metadata_files,
    new_table,
    numbers,
    on_disk,
    reached,
    removal,
    values,
)

STEPS = 200
RULES = Rules(retention_seconds=3 * DAY, keep_newest=6, keep_history=4)
GRACE_SECONDS = 900.0


class World:
    """One table, what each of its snapshots must read as, and who works on it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.clock = HandClock()
        self.aged: set[str] = set()
        self.known: dict[str, set[str]] = {}
        self.folder = folder
        self.table = new_table(folder)
        self.rows: dict[int, list[int]] = {}
        self.number = 0
        self.expiry = self.new_expiry()

    def new_expiry(self) -> Expiry:
        catalog = catalog_of(config_at(self.folder))
        return expiry(catalog, rules=RULES, clock=self.clock, grace_seconds=GRACE_SECONDS)

    def fresh(self) -> Table:
        return fresh(self.table)

    def head(self) -> list[int]:
        head = self.fresh().metadata.current_snapshot_id
        return self.rows[head] if head is not None else []

    def note(self, expected: list[int], branch: str = "main") -> None:
        """What the newest snapshot of a branch reads as from now on."""
        metadata = self.fresh().metadata
        head = metadata.refs[branch].snapshot_id
        before = self.rows.setdefault(head, sorted(expected))
        assert before == sorted(expected)
        # A rewrite is two snapshots; what the one in between reads as is asked now.
        for one in metadata.snapshots:
            if one.snapshot_id not in self.rows:
                self.rows[one.snapshot_id] = values(self.fresh(), one.snapshot_id)

    def append(self) -> None:
        new = [self.number, self.number + 1]
        self.number += 2
        expected = self.head() + new
        self.fresh().append(numbers(*new))
        self.note(expected)

    def overwrite(self) -> None:
        before = self.head()
        if not before:
            return
        bound = self.random.choice(before)
        self.number += 1
        expected = [n for n in before if n > bound] + [self.number]
        self.fresh().overwrite(numbers(self.number), overwrite_filter=f"n <= {bound}")
        self.number += 1
        self.note(expected)

    def delete(self) -> None:
        before = self.head()
        if before:
            gone = self.random.choice(before)
            self.fresh().delete(f"n == {gone}")
            self.note([n for n in before if n != gone])

    def append_to_branch(self) -> None:
        metadata = self.fresh().metadata
        if "side" in metadata.refs:
            before = self.rows[metadata.refs["side"].snapshot_id]
            self.number += 1
            self.fresh().append(numbers(self.number), branch="side")
            self.note([*before, self.number], "side")

    def tag(self) -> None:
        table = self.fresh()
        name = self.random.choice(("a", "b", "side"))
        if not table.metadata.snapshots:
            return
        if name in table.metadata.refs:
            manage = table.manage_snapshots()
            kind = table.metadata.refs[name].snapshot_ref_type
            drop = manage.remove_tag if kind is SnapshotRefType.TAG else manage.remove_branch
            drop(name).commit()
            return
        target = self.random.choice(table.metadata.snapshots).snapshot_id
        manage = table.manage_snapshots()
        (manage.create_branch if name == "side" else manage.create_tag)(target, name).commit()

    def roll_back(self) -> None:
        table = self.fresh()
        history = [one.snapshot_id for one in list(table.history())[:-1]]
        there = {one.snapshot_id for one in table.metadata.snapshots}
        ancestors = []
        current = table.current_snapshot()
        while current is not None and current.parent_snapshot_id in there:
            ancestors.append(current.parent_snapshot_id)
            current = table.snapshot_by_id(current.parent_snapshot_id)
        known = [one for one in ancestors if one in history]
        if known:
            target = self.random.choice(known[:3])
            table.manage_snapshots().rollback_to_snapshot(target).commit()

    def fail(self) -> None:
        """A commit whose answer is lost, and the commit with it: its files are orphans."""
        catalog = catalog_of(config_at(self.folder))
        table = catalog.load_table(NAME)
        lose_answer(catalog, lands=False)
        guard_commits(catalog)
        with pytest.raises(CommitStateUnknownError):
            table.append(numbers(-1))

    def wait(self) -> None:
        self.age()
        self.clock.now += self.random.choice((60.0, 3_600.0, DAY / 4, DAY / 2))

    def expire(self) -> None:
        before = self.fresh().metadata
        self.expiry.run()
        after = self.fresh().metadata
        assert after.refs == before.refs
        assert after.properties == before.properties
        branches = sum(
            one.snapshot_ref_type is SnapshotRefType.BRANCH for one in after.refs.values()
        )
        bound = RULES.keep_newest * branches + RULES.keep_history + len(after.refs)
        assert len(after.snapshots) <= bound

    def restart(self) -> None:
        self.expiry = self.new_expiry()

    def remove_orphans(self) -> None:
        self.age()
        removal(catalog_of(config_at(self.folder)), clock=self.clock).run()

    def age(self) -> None:
        """Gives each file that is new the time of the hand's clock."""
        for path in (*on_disk(self.table), *map(str, self.folder.rglob("*.metadata.json"))):
            if path not in self.aged:
                self.aged.add(path)
                os.utime(path, (self.clock.now, self.clock.now))

    def check(self, step: str) -> None:
        table = self.fresh()
        missing = reached(table, self.known) - on_disk(table)
        assert not missing, f"{step}: {missing}"
        assert all(Path(path).exists() for path in metadata_files(table)), step
        self.rows = {
            one.snapshot_id: self.rows[one.snapshot_id] for one in table.metadata.snapshots
        }

    def check_values(self) -> None:
        table = self.fresh()
        for number, expected in self.rows.items():
            assert values(table, number) == expected

    def check_nothing_is_left_over(self) -> None:
        """Once all graces and bounds are over, the disk holds what is needed and no more."""
        self.expire()
        self.clock.now += GRACE_SECONDS + 2 * DAY
        self.age()
        self.clock.now += 2 * DAY
        self.expire()
        self.remove_orphans()
        table = self.fresh()
        assert on_disk(table) == reached(table)


@pytest.mark.parametrize("seed", range(times(1, 100)))
def test_whatever_is_retained_stays_readable_and_whatever_is_not_goes(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, seed)
    # Snapshots bear the hand's time too.
    monkeypatch.setattr(snapshots, "time", SimpleNamespace(time=world.clock.unix))
    steps = {
        world.append: 8,
        world.overwrite: 4,
        world.delete: 2,
        world.append_to_branch: 3,
        world.tag: 2,
        world.roll_back: 1,
        world.fail: 1,
        world.wait: 5,
        world.expire: 5,
        world.restart: 1,
        world.remove_orphans: 2,
    }
    kinds, weights = list(steps), list(steps.values())
    done = []
    for count in range(STEPS):
        step = world.random.choices(kinds, weights)[0]
        done.append(step.__name__)
        step()
        world.age()
        world.check(f"seed {seed}, step {count}: {done[-8:]}")
        if count % 40 == 0:
            world.check_values()
    world.check_values()
    world.check_nothing_is_left_over()
    world.check("the end")
    world.check_values()
