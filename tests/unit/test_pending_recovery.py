"""Staged files and the columns that they need, left by a run that died: committed, or read anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from k2i_tasks.errors import CommitStateUnknownError, SchemaRacedError
from k2i_tasks.failpoints import arm, armed
from k2i_tasks.operations import Operations
from k2i_tasks.types import SealedBatch
from tests.evolving import batch, land, payload, rival, table_at, text
from tests.iceberg_tables import columns_alone
from tests.unit.test_recover import P0, claimed, lose_answers, operations


def staged_by_another(
    folder: Path, *batches: SealedBatch, then: Callable[[Operations], None] | None = None
) -> None:
    """What a run leaves that dies after it has staged these, and done something more."""
    with operations(folder, "dead") as found:
        claimed(found, {P0: 0})
        found.recover()
        land(found, batch(0))
        for each in batches:
            found.flush(each)
        if then is not None:
            then(found)


def test_recovery_commits_staged_files_with_the_columns_that_they_need(tmp_path: Path) -> None:
    staged_by_another(tmp_path, batch(1, a=text("a2", "a3")), batch(2, b=text("b4", "b5")))
    before = len(table_at(tmp_path).metadata.metadata_log)
    with operations(tmp_path, "next") as found:
        claimed(found, {P0: 0})
        assert found.recover() == {P0: 6}
        land(found, batch(3, a=text("a6", "a7"), c=text("c6", "c7")))
    table = table_at(tmp_path)
    assert len(table.metadata.metadata_log) == before + 4, "a claim, and three batches"
    assert columns_alone(table) == []
    assert payload(tmp_path)[2:] == [
        {"n": 2, "a": "a2"},
        {"n": 3, "a": "a3"},
        {"n": 4, "b": "b4"},
        {"n": 5, "b": "b5"},
        {"n": 6, "a": "a6", "c": "c6"},
        {"n": 7, "a": "a7", "c": "c7"},
    ]


def test_recovery_reads_again_what_was_staged_for_a_schema_that_moved(tmp_path: Path) -> None:
    staged_by_another(tmp_path, batch(1, a=text("a2", "a3")), batch(2, b=text("b4", "b5")))
    rival(tmp_path, "theirs")
    with operations(tmp_path, "next") as found:
        claimed(found, {P0: 0})
        assert found.recover() == {P0: 2}
        land(found, batch(1, a=text("a2", "a3")))
    assert payload(tmp_path)[2:] == [{"n": 2, "a": "a2"}, {"n": 3, "a": "a3"}]


def test_recovery_takes_a_schema_that_moves_under_it_for_a_conflict(tmp_path: Path) -> None:
    staged_by_another(tmp_path, batch(1, a=text("a2", "a3")))
    with operations(tmp_path, "next") as found:
        claimed(found, {P0: 0})
        with (
            armed("commit.before", lambda _name: rival(tmp_path, "theirs")),
            pytest.raises(SchemaRacedError),
        ):
            found.recover()
        assert found.recover() == {P0: 2}
    assert len(payload(tmp_path)) == 2


@pytest.mark.parametrize("applied", [False, True])
def test_recovery_of_an_evolving_commit_whose_answer_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, applied: bool
) -> None:
    with operations(tmp_path, "dead") as found:
        claimed(found, {P0: 0})
        found.recover()
        land(found, batch(0))
        found.flush(batch(1, a=text("a2", "a3")))
        found.flush(batch(2, b=text("b4", "b5")))
        with monkeypatch.context() as patch:
            lose_answers(patch, nth=1, applied=applied)
            with pytest.raises(CommitStateUnknownError):
                found.commit(batch(1))
    with operations(tmp_path, "next") as found:
        claimed(found, {P0: 0})
        assert found.recover() == {P0: 6}
    assert payload(tmp_path)[2:] == [
        {"n": 2, "a": "a2"},
        {"n": 3, "a": "a3"},
        {"n": 4, "b": "b4"},
        {"n": 5, "b": "b5"},
    ]
    assert columns_alone(table_at(tmp_path)) == []


class Killed(BaseException):
    """The process ended here."""


def kill(_place: str) -> None:
    raise Killed


@pytest.mark.parametrize(
    "place",
    [
        "schema.evolve.before",
        "schema.evolved",
        "schema.commit.before",
        "schema.committed",
        "flush.file.before",
        "flush.file.synced",
        "commit.send.before",
        "commit.answered",
        "commit.landed.before",
    ],
)
def test_a_kill_on_the_way_out_of_a_lost_race_loses_nothing(tmp_path: Path, place: str) -> None:
    ours = [batch(1, a=text("a2", "a3")), batch(2, b=text("b4", "b5"))]
    staged_by_another(tmp_path, *ours, then=lambda found: lose_race(tmp_path, found, ours, place))
    with operations(tmp_path, "next") as found:
        claimed(found, {P0: 0})
        done = found.recover()[P0]
        land(found, *ours[done // 2 - 1 :])
    assert payload(tmp_path)[2:] == [
        {"n": 2, "a": "a2"},
        {"n": 3, "a": "a3"},
        {"n": 4, "b": "b4"},
        {"n": 5, "b": "b5"},
    ]


def lose_race(folder: Path, run: Operations, ours: list[SealedBatch], place: str) -> None:
    """Loses the race, twice if only then the place is come by, and dies there."""
    rival(folder, "theirs")

    def again(_place: str) -> None:
        rival(folder, "more of theirs")
        arm(place, kill)

    twice = place.startswith("schema.evolve")
    first = ("flush.file.before", again) if twice else (place, kill)
    with armed(*first), pytest.raises(Killed):
        run.commit(ours[0])
