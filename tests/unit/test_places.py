"""What is kept of where records of one topic went."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2i_tasks.errors import IntegrityError, ServiceError
from k2i_tasks.kafka import places as places_module
from k2i_tasks.kafka.places import SPANS_MAX, Places
from k2i_tasks.types import OffsetRange
from tests.unit.fan_world import P0


def test_where_records_had_no_value_is_kept_for_the_latest_schemas(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places_module, "UNREAD_MAX", 2)
    path, unread = tmp_path / "tables.json", tmp_path / "unread.json"
    places = Places(path, "t", "rules")
    places.add({"a": "a"}, {P0: 4})
    tables = path.stat().st_ino
    places.keep_unread({7: {0: OffsetRange(5, 6)}, 8: {1: OffsetRange(0, 2)}})
    places.keep_unread({7: {0: OffsetRange(9, 10), 3: OffsetRange(1, 2)}})
    # What is known already is not written again, nor are the tables, of which there may be many.
    before = unread.stat().st_ino
    places.keep_unread({7: {0: OffsetRange(6, 9)}})
    assert (path.stat().st_ino, unread.stat().st_ino) == (tables, before)
    again = Places(path, "t", "rules")
    assert list(again.all) == ["a"]
    assert again.unread(7) == {0: (OffsetRange(5, 10),), 3: (OffsetRange(1, 2),)}
    assert again.unread(8) == {1: (OffsetRange(0, 2),)}
    again.keep_unread({9: {0: OffsetRange(20, 21)}})
    assert [bool(again.unread(one)) for one in (7, 8, 9)] == [True, False, True]
    again.keep_unread({8: {1: OffsetRange(4, 5)}})
    assert again.unread(8) == {1: (OffsetRange(4, 5),)}
    text = unread.read_bytes()
    for damaged in (text[:-1], text.replace(b"5", b"6", 1), b"", b"[]", b"\xff"):
        unread.write_bytes(damaged)
        with pytest.raises(IntegrityError, match=r"unread\.json is damaged"):
            Places(path, "t", "rules")
    unread.unlink()
    unread.mkdir()
    with pytest.raises(ServiceError, match=r"unread\.json cannot be written"):
        places.keep_unread({10: {0: OffsetRange(0, 1)}})
    assert not places.unread(10)


@given(known=st.lists(st.booleans(), max_size=SPANS_MAX), restarts=st.sets(st.integers(0, 15)))
def test_each_record_has_a_value_or_none_as_it_had_at_first(
    tmp_path_factory: pytest.TempPathFactory, known: list[bool], restarts: set[int]
) -> None:
    path = tmp_path_factory.mktemp("places") / "tables.json"
    places = Places(path, "t", "rules")
    for offset, is_known in enumerate(known):
        if offset in restarts:
            places = Places(path, "t", "rules")
        if is_known:
            places.note_read(7)
        else:
            places.keep_unread({7: {0: OffsetRange(offset, offset + 1)}})
    for kept in (places, Places(path, "t", "rules")):
        spans = kept.unread(7).get(0, ())
        marked = [any(s.start <= n < s.end for s in spans) for n in range(len(known))]
        assert marked == [not one for one in known]


def test_reading_from_further_behind_does_not_join_what_is_apart(tmp_path: Path) -> None:
    def unread(at: int) -> None:
        places.keep_unread({7: {0: OffsetRange(at, at + 1)}})

    places = Places(tmp_path / "tables.json", "t", "rules")
    unread(20)
    unread(5)  # the topic is read again from there
    places.note_read(7)
    unread(20)  # as it was
    unread(25)
    assert places.unread(7) == {0: (OffsetRange(5, 6), OffsetRange(20, 26))}
    # Without a break there is one, also of another process.
    places = Places(tmp_path / "tables.json", "t", "rules")
    unread(26)
    assert places.unread(7) == {0: (OffsetRange(5, 6), OffsetRange(20, 27))}


def test_beyond_so_many_spans_the_oldest_two_become_one(tmp_path: Path) -> None:
    places = Places(tmp_path / "tables.json", "t", "rules")
    for n in range(SPANS_MAX + 1):
        places.keep_unread({7: {0: OffsetRange(10 * n, 10 * n + 1)}})
        places.note_read(7)
    first, second, *_, last = places.unread(7)[0]
    assert (first, second) == (OffsetRange(0, 11), OffsetRange(20, 21))
    assert last == OffsetRange(10 * SPANS_MAX, 10 * SPANS_MAX + 1)
    assert len(places.unread(7)[0]) == SPANS_MAX


def test_rules_are_new_only_to_tables(tmp_path: Path) -> None:
    path = tmp_path / "tables.json"
    places = Places(path, "t", "rules")
    places.begin({P0: 3})
    places.add({}, {P0: 3})
    other = Places(path, "t", "other rules")
    assert (other.begun, other.ruled_anew) == ({0: 3}, False)
    places.add({"a": "a"}, {P0: 3})
    assert Places(path, "t", "other rules").ruled_anew
