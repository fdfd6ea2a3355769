"""A table with a history, and a start on it: open, claim, recover what a dead run left."""

from __future__ import annotations

from pathlib import Path

from k2i_tasks.types import Offsets
from tests.unit.test_recover import P0, batch, claimed, operations


def written(folder: Path, commits: int, *, unfit: bool = False) -> None:
    """So many commits of ten rows each, one data file a commit, by one run, which then dies.

    It leaves a batch that is staged, which the next start commits.

    Args:
        folder: of log, catalog and warehouse.
        commits: beside the claim.
        unfit: whether it leaves one more, which does not follow on that and will be discarded.
    """
    with operations(folder, "dead") as found:
        claimed(found, {P0: 0})
        found.recover()
        for number in range(commits):
            found.flush(batch(number))
            found.commit(batch(number))
        found.flush(batch(commits))
        if unfit:
            found.flush(batch(commits + 2))


def started(folder: Path) -> Offsets:
    """What the start of a run does to the table; the offsets to read from."""
    with operations(folder, "next") as found:
        claimed(found, {})
        return found.recover()
