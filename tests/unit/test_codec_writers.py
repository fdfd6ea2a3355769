"""Schemas that are fetched in the background: what is ready, what waits, and what is told."""

from __future__ import annotations

import threading

import pyarrow as pa
import pytest

from k2i_tasks.calls import RetryPolicy
from k2i_tasks.codecs import writers as module
from k2i_tasks.codecs.frames import Writer
from k2i_tasks.codecs.payloads import PayloadDecoder
from k2i_tasks.codecs.writers import Writers
from k2i_tasks.errors import DecodeError, ServiceError, TransientError
from k2i_tasks.registry import WriterSchema
from tests.unit.codec_batches import batch_of
from tests.unit.framed_rows import Known, RowsDecoder, framed, row

PATIENCE = 30.0
LONG = pa.schema([("a", pa.int64())])
AWAY = TransientError("The registry is away.")
AT_ONCE = RetryPolicy(initial_seconds=0.0)
ONE, TWO = Writer(1), Writer(2)


def writers_of(known: Known, now: list[float] | None = None) -> Writers[PayloadDecoder]:
    clock = [0.0] if now is None else now
    return Writers(known, known.make, policy=AT_ONCE, monotonic=lambda: clock[0])  # type: ignore[arg-type]


def test_what_is_known_is_ready_at_once_and_fetched_once() -> None:
    known = Known({1: LONG, 2: LONG})
    writers = writers_of(known)
    assert writers.prepare({ONE, TWO}, PATIENCE) == set()
    assert writers.prepare({TWO}, 0.0) == set()
    assert isinstance(writers[ONE], RowsDecoder)
    assert known.asked == [1, 2]


def test_asking_does_not_wait_for_a_fetch_that_takes_long() -> None:
    released = threading.Event()
    known = Known({1: LONG})

    def slow(schema: WriterSchema, path: tuple[int, ...]) -> PayloadDecoder:
        assert released.wait(PATIENCE)
        return known.make(schema, path)

    writers: Writers[PayloadDecoder] = Writers(known, slow)  # type: ignore[arg-type]
    assert writers.prepare({ONE}, 0.0) == {ONE}
    assert writers.prepare({ONE}, 0.001) == {ONE}
    with pytest.raises(KeyError):
        writers[ONE]
    released.set()
    assert writers.prepare({ONE}, PATIENCE) == set()
    assert known.asked == [1]


def test_an_outage_is_told_once_per_failure_and_known_writers_go_on() -> None:
    known = Known({1: LONG, 2: LONG})
    writers = writers_of(known)
    writers.prepare({ONE}, PATIENCE)
    known.failure = AWAY
    for _ in range(3):
        with pytest.raises(TransientError):
            writers.prepare({ONE, TWO}, PATIENCE)
        assert writers.prepare({ONE}, 0.0) == set()
    known.failure = None
    assert writers.prepare({ONE, TWO}, PATIENCE) == set()


def test_between_two_tries_there_is_a_pause() -> None:
    now = [0.0]
    known = Known({})
    known.failure = AWAY
    policy = RetryPolicy(initial_seconds=10.0, max_wait_seconds=10.0)
    writers: Writers[PayloadDecoder] = Writers(
        known,  # type: ignore[arg-type]
        known.make,
        policy=policy,
        monotonic=lambda: now[0],
    )
    with pytest.raises(TransientError):
        writers.prepare({ONE}, PATIENCE)
    now[0] = 4.9
    for _ in range(5):
        assert writers.prepare({ONE}, 0.0) == {ONE}
    assert known.asked == [1]
    now[0] = 10.1
    with pytest.raises(TransientError):
        writers.prepare({ONE}, PATIENCE)
    assert known.asked == [1, 1]


@pytest.mark.parametrize("error", [ServiceError("refused"), ZeroDivisionError("a bug")])
def test_a_refusal_or_a_bug_is_raised_where_it_was_asked(error: Exception) -> None:
    known = Known({})
    known.failure = error
    with pytest.raises(type(error)):
        writers_of(known).prepare({ONE}, PATIENCE)


def test_not_known_is_believed_for_a_short_time_and_a_bad_schema_for_good() -> None:
    now = [0.0]
    known = Known({2: LONG})

    def make(schema: WriterSchema, path: tuple[int, ...]) -> PayloadDecoder:
        if schema.id == 2:
            raise DecodeError("schema.invalid", "Not usable.")
        return known.make(schema, path)

    writers: Writers[PayloadDecoder] = Writers(known, make, monotonic=lambda: now[0])  # type: ignore[arg-type]
    assert writers.prepare({ONE, TWO}, PATIENCE) == set()
    for writer, code in ((ONE, "registry.unknown_id"), (TWO, "schema.invalid")):
        found = writers[writer]
        assert isinstance(found, DecodeError)
        assert found.code == code
    known.schemas[1] = LONG
    now[0] = module.UNKNOWN_SECONDS_MAX - 1
    assert isinstance(writers[ONE], DecodeError)
    assert writers.prepare({ONE}, 0.0) == set()
    now[0] = module.UNKNOWN_SECONDS_MAX + 1
    assert writers.prepare({ONE, TWO}, PATIENCE) == set()
    assert isinstance(writers[ONE], RowsDecoder)
    assert known.asked == [1, 2, 1]


def test_what_is_kept_has_a_bound_and_the_batch_at_hand_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "KEPT_MAX", 2)
    known = Known(dict.fromkeys(range(1, 8), LONG))
    writers = writers_of(known)
    many = {Writer(n) for n in (1, 2, 3, 4)}
    assert writers.prepare(many, PATIENCE) == set()
    assert writers.prepare(many, 0.0) == set()
    assert all(isinstance(writers[writer], RowsDecoder) for writer in many)
    later = {Writer(6), Writer(7)}
    writers.prepare(later, PATIENCE)
    assert writers.prepare(later, 0.0) == set()
    with pytest.raises(KeyError):
        writers[ONE]


def test_the_records_before_the_first_unknown_schema_are_ready() -> None:
    known = Known({1: LONG})
    decoder = framed(known, policy=AT_ONCE)
    raw = batch_of([None, b"", row(1, a=1), row(2, a=2), row(1, a=3)])
    known.failure = AWAY
    # Nothing has to be waited for: a tombstone needs no schema.
    assert decoder.prepare(raw, PATIENCE) == 2
    known.failure = None
    first = batch_of([row(1, a=1)])
    assert until_ready(decoder, first) == 1
    known.failure = AWAY
    assert until_ready(decoder, batch_of([row(1, a=1), row(2, a=2)])) == 1
    known.failure = None
    known.schemas[2] = LONG
    assert until_ready(decoder, batch_of([row(2, a=2), row(1, a=1)])) == 2


def until_ready(decoder: object, raw: object) -> int:
    while True:
        try:
            return decoder.prepare(raw, PATIENCE)  # type: ignore[attr-defined, no-any-return]
        except TransientError:
            continue
