"""One topic read once for several tables: runs that come, go, fail and are slow."""

from __future__ import annotations

import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from k2i_tasks.errors import Component, IntegrityError, ServiceError, TransientError
from k2i_tasks.kafka import fan as fans
from k2i_tasks.kafka import front
from k2i_tasks.kafka.feeds import Feed
from k2i_tasks.kafka.places import Places
from k2i_tasks.types import OffsetRange, RawBatch
from tests.unit.fan_world import P0, P1, PATIENCE_SECONDS, FakeTopic, Rig, awaited, places_of


def test_tables_are_found_and_each_gets_its_own_from_its_first_record_on(tmp_path: Path) -> None:
    topic = FakeTopic("aaaaaaabab", "bbbccc")
    with Rig(tmp_path, topic) as rig:
        assert rig.found.wait(PATIENCE_SECONDS)
        assert list(rig.places.all) == ["a"]
        first = rig.run("a")
        first.until_at(10, 6)
        assert sorted(rig.places.all) == ["a", "b", "c"]
        # Others have been given what lies behind their first records by now.
        runs = [rig.run(key) for key in "bc"]
        for run in runs:
            run.until_at(10, 6)
        topic.records[0] += "abc"
        for run in (first, *runs):
            run.until_at(13, 6)
            assert sorted(run.got) == places_of(topic, run.key)
    # They were on disk before anybody was told, or given anything.
    assert rig.kept[0] == {"a"}
    assert rig.kept[-1] == {"a", "b", "c"}
    # The next process knows them, and where they begin.
    again = Places(tmp_path / "tables.json", "t", "rules")
    assert sorted(again.all) == ["a", "b", "c"]
    assert again.start("b")[P0] <= 7


def test_a_run_that_begins_again_further_behind_gets_all_again_and_the_others_nothing_twice(
    tmp_path: Path,
) -> None:
    topic = FakeTopic("ab" * 20, "ba" * 20)
    with Rig(tmp_path, topic) as rig:
        assert rig.found.wait(PATIENCE_SECONDS)
        good = rig.run("a")
        good.until_at(40, 40)
        for start in (10, 0, 30):
            again = rig.run("b", {P0: start, P1: start})
            again.until_at(40, 40)
            wanted = [(p, o) for p, o in places_of(topic, "b") if o >= start]
            assert sorted(again.got) == wanted
            again.branch.close()
        topic.records[0] += "a"
        good.until_at(41, 40)
        assert sorted(good.got) == places_of(topic, "a")


def test_a_slow_run_is_left_behind_and_catches_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fans, "STALL_SECONDS", 0.05)
    topic = FakeTopic("ab" * 100)
    with Rig(tmp_path, topic) as rig:
        rig.limit = 4
        assert rig.found.wait(PATIENCE_SECONDS)
        fast, slow = rig.run("a"), rig.run("b", {P0: 0})
        fast.until_at(200)
        assert slow.got == []
        slow.until_at(200)
        assert sorted(fast.got) == places_of(topic, "a")
        assert sorted(slow.got) == places_of(topic, "b")


def test_a_run_that_is_slow_all_the_time_does_not_slow_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It always takes something before it could be called stuck."""
    monkeypatch.setattr(fans, "STALL_SECONDS", 0.1)
    topic = FakeTopic("ab" * 1000)
    with Rig(tmp_path, topic) as rig:
        rig.limit = 4
        assert rig.found.wait(PATIENCE_SECONDS)
        fast, slow = rig.run("a"), rig.run("b", {P0: 0})

        def both() -> bool:
            time.sleep(0.02)
            slow.turn()
            return fast.at[P0] == 2000

        began = time.monotonic()
        together = threading.Thread(target=fast.until, args=(lambda: fast.at[P0] == 2000,))
        together.start()
        while together.is_alive():
            both()
        assert slow.at[P0] < 1000, time.monotonic() - began
        # It reads again what it has missed, and nothing else; then the end is read on.
        slow.until_at(2000)
        topic.records[0] += "ab"
        for run in (fast, slow):
            run.until_at(2002)
            assert run.got == places_of(topic, run.key)


def test_a_run_that_lags_far_behind_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front, "TURN_SECONDS", 0.02)
    topic = FakeTopic("a" + "b" * 3 + "a" * 3000)
    with Rig(tmp_path, topic) as rig:
        assert rig.found.wait(PATIENCE_SECONDS)
        fast = rig.run("a")
        fast.until_at(3004)
        for _ in range(5):
            # It never comes far, and begins again and again.
            broken = rig.run("b", {P0: 0})
            topic.records[0] += "a"
            fast.until_at(len(topic.records[0]))
            assert rig.fan.lag("b")[P0] > 0
            broken.branch.close()
        late = rig.run("b", {P0: 0})
        late.until_at(len(topic.records[0]))
        for run in (fast, late):
            assert run.got == places_of(topic, run.key)


def test_what_another_file_knew_is_found_again_also_after_a_kill_meanwhile(tmp_path: Path) -> None:
    """Table a is far, table b is not, and the file is lost; the process ends after it has a."""
    topic = FakeTopic("a" * 10 + "b" * 10 + "a" * 80)
    topic.end = 8
    with Rig(tmp_path, topic) as rig:
        assert rig.found.wait(PATIENCE_SECONDS)
        awaited(lambda: rig.places.all)
    assert list(Places(rig.path, "t", "rules").all) == ["a"]
    topic.end = None
    with Rig(tmp_path, topic) as rig:
        run = rig.run("a", {P0: 100})
        awaited(lambda: sorted(rig.places.all) == ["a", "b"])
        rest = rig.run("b", {P0: 15})
        rest.until_at(100)
        assert rest.got == [place for place in places_of(topic, "b") if place[1] >= 15]
        awaited(lambda: rig.places.begun is None)
        assert run.got == []
    assert Places(rig.path, "t", "rules").begun is None


def test_records_of_nothing_wait_for_a_slow_run_within_bounds(tmp_path: Path) -> None:
    feed = Feed({P0: 0})
    none = np.arange(1000)
    raw = RawBatch(
        *("t", none.astype(np.int32) * 0, none, none, [None] * 1000, [None] * 1000),
        *(None, {P0: OffsetRange(0, 1000)}, 0),
    )
    feed.hand(raw, none)
    assert feed.is_full(100_000, 0.0)


def test_what_was_read_of_one_topic_is_not_confirmed_by_another_of_its_name(
    tmp_path: Path,
) -> None:
    topic = FakeTopic("ab")
    with Rig(tmp_path, topic) as rig:
        assert rig.found.wait(PATIENCE_SECONDS)
        run = rig.run("a")
        run.branch.confirm()
        with pytest.raises(IntegrityError, match="created again"):
            rig.fan.confirm("another id")


def test_alone_a_slow_run_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fans, "STALL_SECONDS", 0.001)
    topic = FakeTopic("a" * 50)
    with Rig(tmp_path, topic) as rig:
        rig.limit = 4
        assert rig.found.wait(PATIENCE_SECONDS)
        run = rig.run("a")
        run.until_at(50)
        assert len(rig.readers[0].assigned) <= 2


def test_when_the_topic_cannot_be_read_each_run_is_told_after_all_that_came_before(
    tmp_path: Path,
) -> None:
    topic = FakeTopic("ab" * 5)
    with Rig(tmp_path, topic) as rig:
        assert rig.found.wait(PATIENCE_SECONDS)
        runs = [rig.run("a"), rig.run("b", {P0: 0})]
        awaited(lambda: rig.fan.lag("a") == {P0: 10} and all(p.lag() for p in [runs[0].branch]))
        for run in runs:
            run.until(partial(getattr, run, "got"))
        topic.failure = ServiceError("Gone.", component=Component.KAFKA)
        awaited(lambda: rig.fan.failure)
        for run in runs:
            with pytest.raises(ServiceError, match="Gone"):
                run.until(lambda: False)
            run.branch.close()
        with pytest.raises(TransientError):
            rig.fan.confirm("id")
        topic.failure = None
        again = [rig.run(run.key, run.at) for run in runs]
        topic.records[0] += "ab"
        for run, later in zip(runs, again, strict=True):
            later.until_at(12)
            assert sorted(run.got + later.got) == places_of(topic, run.key)
        assert topic.readers == 2


def test_what_kafka_has_deleted_is_told_to_each_run_that_needed_it(tmp_path: Path) -> None:
    topic = FakeTopic("a" * 10 + "b" * 10 + "ab" * 5)
    with Rig(tmp_path, topic) as rig:
        assert rig.found.wait(PATIENCE_SECONDS)
        rig.run("a").until_at(30)
        topic.low[0] = 15
        late = rig.run("b", {P0: 5})
        late.until_at(30)
        assert late.lost == [OffsetRange(5, 15)]
        assert late.got == [place for place in places_of(topic, "b") if place[1] >= 15]


def test_partitions_that_are_added_are_read_from_their_beginning(tmp_path: Path) -> None:
    topic = FakeTopic("ab")
    with Rig(tmp_path, topic) as rig:
        assert rig.found.wait(PATIENCE_SECONDS)
        runs = [rig.run("a"), rig.run("b", {P0: 0})]
        for run in runs:
            run.until_at(2)
        topic.records.append(list("bab"))
        topic.low.append(0)
        for run in runs:
            run.until_at(2, 3)
            assert sorted(run.got) == places_of(topic, run.key)


def test_offsets_are_published_as_far_as_all_have_committed(tmp_path: Path) -> None:
    topic = FakeTopic("ab" * 5)
    with Rig(tmp_path, topic) as rig:
        assert rig.found.wait(PATIENCE_SECONDS)
        first, second = rig.run("a"), rig.run("b", {P0: 0})
        first.branch.commit_offsets({P0: 7})
        assert rig.readers[0].published == []
        second.branch.commit_offsets({P0: 4})
        first.branch.commit_offsets({P0: 9})
        assert rig.readers[0].published == [{P0: 4}, {P0: 4}]


def test_after_settling_all_runs_stand_at_one_place(tmp_path: Path) -> None:
    topic = FakeTopic("ab" * 100)
    with Rig(tmp_path, topic) as rig:
        assert rig.found.wait(PATIENCE_SECONDS)
        runs = [rig.run("a"), rig.run("b", {P0: 0})]
        settling = threading.Thread(target=rig.fan.settle, args=(PATIENCE_SECONDS,))
        settling.start()
        while settling.is_alive():
            for run in runs:
                run.turn()
        assert runs[0].at == runs[1].at
        rig.fan.confirm("id")


def test_rules_may_change_only_where_all_tables_stand_at_one_place(tmp_path: Path) -> None:
    topic = FakeTopic("ab" * 10)
    with Rig(tmp_path, topic) as rig:
        assert rig.found.wait(PATIENCE_SECONDS)
        rig.run("a").until_at(20)
        awaited(lambda: rig.places.begun is None)
    with Rig(tmp_path, topic, "other rules") as rig:
        run = rig.run("a", {P0: 20})
        rig.run("b", {P0: 10})
        with pytest.raises(IntegrityError, match="was changed while the tables stand"):
            run.until(lambda: False)
    with Rig(tmp_path, topic, "other rules") as rig:
        runs = [rig.run(key, {P0: 20}) for key in "ab"]
        topic.records[0] += "ab"
        for run in runs:
            run.until_at(22)
    assert not Places(tmp_path / "tables.json", "t", "other rules").ruled_anew


def test_rules_may_not_change_before_all_that_was_there_at_the_beginning_was_dealt_out(
    tmp_path: Path,
) -> None:
    topic = FakeTopic("ab" * 10)
    topic.end = 5
    with Rig(tmp_path, topic) as rig:
        assert rig.found.wait(PATIENCE_SECONDS)
    with Rig(tmp_path, topic, "other rules") as rig:
        runs = [rig.run(key, {P0: 5}) for key in rig.places.all]
        with pytest.raises(IntegrityError, match="was changed while"):
            runs[0].until(lambda: False)


def test_tables_that_the_rules_name_anew_are_let_go_once_they_stand_at_one_place(
    tmp_path: Path,
) -> None:
    topic = FakeTopic("ab" * 10)
    with Rig(tmp_path, topic) as rig:
        assert rig.found.wait(PATIENCE_SECONDS)
        rig.run("a").until_at(20)
        awaited(lambda: rig.places.begun is None)
    rig = Rig(tmp_path, topic, "other rules")
    rig.renamed = {"a": "x", "b": "b", "c": "b"}
    with rig:
        old = [rig.run(key, {P0: 20}) for key in "ab"]
        topic.records[0] += "abc"
        awaited(lambda: sorted(rig.places.all) == ["b", "x"])
        new = rig.run("x")
        new.until_at(23)
        assert new.got == [(0, 20)]
        old[1].until_at(23)
        assert old[1].got == [(0, 21), (0, 22)]


def test_the_kept_tables_are_whole_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "tables.json"
    places = Places(path, "t", "rules")
    places.add({"a": "x", "b": None}, {P0: 5, P1: 0})
    known = Places(path, "t", "rules")
    assert known.all == places.all
    assert known.start("b") == {P0: 5, P1: 0}
    with pytest.raises(IntegrityError, match="is about topic t"):
        Places(path, "another", "rules")
    text = path.read_bytes()
    for damaged in (text[:-1], text.replace(b"5", b"6", 1), b"", b"[]", b"\xff"):
        path.write_bytes(damaged)
        with pytest.raises(IntegrityError, match="is damaged"):
            Places(path, "t", "rules")
    with pytest.raises(IntegrityError, match="more than 10000 tables"):
        places.add({str(n): None for n in range(10_000)}, {P0: 0})
    path.unlink()
    path.mkdir()
    with pytest.raises(ServiceError, match="cannot be read"):
        Places(path, "t", "rules")
    with pytest.raises(ServiceError, match="cannot be written"):
        places.add({"c": None}, {P0: 0})
    assert list(places.all) == ["a", "b"]
