"""Records that wait until their tables can be told, and who may deal out a topic."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from k2i_tasks.errors import Component, IntegrityError, K2IError, ServiceError, TransientError
from k2i_tasks.kafka import fan as fans
from k2i_tasks.kafka.places import Places
from tests.unit.fan_world import P0, PATIENCE_SECONDS, FakeTopic, Rig, awaited, places_of

AWAY = TransientError("The registry is away.", component=Component.REGISTRY)


def waiting(folder: Path, topic: FakeTopic, error: K2IError) -> Rig:
    """A fan that cannot tell the table of `x`."""
    rig = Rig(folder, topic)
    rig.away, rig.unknown = error, {"x"}
    return rig


def test_records_whose_table_cannot_be_told_wait_with_all_behind_them(tmp_path: Path) -> None:
    topic = FakeTopic("aabxab" + "ab" * 20)
    with waiting(tmp_path, topic, AWAY) as rig:
        assert rig.found.wait(PATIENCE_SECONDS)
        first = rig.run("a")
        # What stands before it is given, of the same batch too.
        first.until_at(3)
        awaited(lambda: rig.fan.held.note)
        for _ in range(50):
            first.turn()
        assert first.at == {P0: 3}
        assert sorted(rig.places.all) == ["a", "b"]
        note = rig.fan.held.note
        assert note is not None
        assert (note.component, note.message) == ("registry", str(AWAY))
        # What comes meanwhile is lag.
        topic.records[0] += "a" * 100
        first.until(lambda: first.branch.lag()[P0] == len(topic.records[0]) - 3)
        # A run that begins further behind gets what is before it.
        again = rig.run("b", {P0: 0})
        again.until_at(3)
        assert again.got == [(0, 2)]
        rig.unknown = set()
        runs = [first, again, rig.run("x", {P0: 0})]
        for run in runs:
            run.until_at(len(topic.records[0]))
            assert run.got == places_of(topic, run.key)


def test_what_is_passed_meanwhile_does_not_hide_the_first_record_of_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fans, "LOOK_SECONDS", 0.0)
    topic = FakeTopic("x..a")
    with waiting(tmp_path, topic, AWAY) as rig:
        awaited(lambda: rig.fan.held.note)
        reader = rig.readers[0]
        looks = reader.looks
        awaited(lambda: reader.looks > looks + 5)
        rig.unknown = set()
        assert rig.found.wait(PATIENCE_SECONDS)
        assert rig.places.start("x") == {P0: 0}
        first = rig.run("x")
        first.until_at(4)
        second = rig.run("a")
        second.until_at(4)
        assert (first.got, second.got) == ([(0, 0)], [(0, 3)])


def test_a_drain_does_not_wait_for_what_cannot_be_told(tmp_path: Path) -> None:
    topic = FakeTopic("aaxaa")
    with waiting(tmp_path, topic, AWAY) as rig:
        assert rig.found.wait(PATIENCE_SECONDS)
        first = rig.run("a")
        first.until_at(2)
        awaited(lambda: rig.fan.held.note)
        began = time.monotonic()
        rig.fan.settle(PATIENCE_SECONDS)
        assert time.monotonic() - began < PATIENCE_SECONDS / 2
        assert first.at == {P0: 2}


def test_a_registry_that_refuses_us_ends_the_reading_and_not_what_is_before_it(
    tmp_path: Path,
) -> None:
    topic = FakeTopic("aaxaa")
    refused = ServiceError("No right to read it.", component=Component.REGISTRY)
    with waiting(tmp_path, topic, refused) as rig:
        assert rig.found.wait(PATIENCE_SECONDS)
        first = rig.run("a")
        with pytest.raises(ServiceError, match="No right"):
            first.until_at(5)
        assert first.at == {P0: 2}
        rig.unknown = set()
        again = rig.run("a", first.at)
        again.until_at(5)
        assert first.got + again.got == places_of(topic, "a")


def test_two_processes_do_not_deal_out_one_topic(tmp_path: Path) -> None:
    path = tmp_path / "routing" / "tables.json"
    mine = Places.taken(path, "t", "rules")
    mine.add({"a": "a"}, {P0: 0})
    with pytest.raises(ServiceError, match=f"dealt out by process {os.getpid()}, which works in"):
        Places.taken(path, "t", "rules")
    # Who only looks may.
    assert list(Places(path, "t", "rules").all) == ["a"]
    mine.release()
    mine.release()
    again = Places.taken(path, "t", "rules")
    assert list(again.all) == ["a"]
    again.release()
    path.write_bytes(b"{")
    for _ in range(2):  # what fails lets go of it
        with pytest.raises(IntegrityError):
            Places.taken(path, "t", "rules")
