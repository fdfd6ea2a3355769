"""What errors in place of records do to a run, and records that the client cannot show whole."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator
from typing import cast

import pytest
from confluent_kafka import Consumer, KafkaError

from k2i_tasks.errors import IntegrityError, ServiceError
from k2i_tasks.kafka.columns import UNREADABLE_HEADERS
from k2i_tasks.kafka.embedded import EmbeddedBroker, _library
from k2i_tasks.kafka.errors import ErrorLog
from k2i_tasks.kafka.faults import UNREADABLE_TRIES_MAX, PartitionFaults
from k2i_tasks.kafka.source import KafkaSource
from k2i_tasks.kafka.start import recreated
from k2i_tasks.types import OffsetRange, TopicPartition


class Watermarked:
    """A consumer that knows watermarks only."""

    def __init__(self, low: int, high: int) -> None:
        self.marks = (low, high)

    def get_watermark_offsets(self, partition: object, timeout: float) -> tuple[int, int]:
        return self.marks


@pytest.fixture
def log() -> ErrorLog:
    return ErrorLog()


def same_topic() -> None:
    """The broker says that the topic is still the same."""


def faults(
    log: ErrorLog,
    low: int = 0,
    high: int = 10,
    *,
    confirm: Callable[[], None] = same_topic,
    accept_gaps: bool = False,
) -> PartitionFaults:
    consumer = cast("Consumer", Watermarked(low, high))
    return PartitionFaults(
        consumer, "orders", "host:9092", 1_000, log, confirm=confirm, accept_gaps=accept_gaps
    )


def test_what_passes_by_itself_is_counted_and_the_run_goes_on(log: ErrorLog) -> None:
    here = faults(log)
    for _ in range(3 * UNREADABLE_TRIES_MAX):
        here.report(0, 5, KafkaError(KafkaError._TRANSPORT, "broker down"))
    assert log.counts == {"_TRANSPORT": 3 * UNREADABLE_TRIES_MAX}
    assert [note.message for note in log.recent()] == ["broker down"]


def test_bytes_that_stay_unreadable_stop_the_run_and_say_where(log: ErrorLog) -> None:
    here, error = faults(log), KafkaError(KafkaError._BAD_COMPRESSION, "bad zstd")
    for _ in range(UNREADABLE_TRIES_MAX - 1):
        here.report(3, 5, error)
    with pytest.raises(IntegrityError, match=r"orders:3 at host:9092 from offset 5.*bad zstd"):
        here.report(3, 5, error)


def test_a_partition_that_gives_records_again_starts_counting_anew(log: ErrorLog) -> None:
    here, error = faults(log), KafkaError(KafkaError._BAD_MSG, "bad crc")
    for _ in range(5):
        for _ in range(UNREADABLE_TRIES_MAX - 1):
            here.report(3, 5, error)
        here.cleared([3])
    assert log.counts["_BAD_MSG"] == 5 * (UNREADABLE_TRIES_MAX - 1)


def test_lost_records_are_named_as_a_range(log: ErrorLog) -> None:
    with pytest.raises(IntegrityError, match=r"0:\[5,8\)"):
        faults(log, low=8).report(0, 5, KafkaError(KafkaError._AUTO_OFFSET_RESET, "gone"))


def test_lost_records_are_a_range_to_pass_where_that_is_accepted(log: ErrorLog) -> None:
    here = faults(log, low=8, accept_gaps=True)
    gone = KafkaError(KafkaError._AUTO_OFFSET_RESET, "gone")
    assert here.report(0, 5, gone) == OffsetRange(5, 8)
    with pytest.raises(IntegrityError, match=r"offset 50 of orders:0; it holds \[8,10\)"):
        here.report(0, 50, gone)


@pytest.mark.parametrize("accept_gaps", [False, True])
def test_a_position_out_of_range_in_another_topic_is_no_gap(
    log: ErrorLog, accept_gaps: bool
) -> None:
    def another() -> None:
        raise recreated("orders", "id-1", "id-2")

    here = faults(log, low=8, confirm=another, accept_gaps=accept_gaps)
    with pytest.raises(IntegrityError, match="its id was id-1 and is id-2"):
        here.report(0, 5, KafkaError(KafkaError._AUTO_OFFSET_RESET, "gone"))


def test_a_position_past_the_end_names_what_the_broker_holds(log: ErrorLog) -> None:
    with pytest.raises(IntegrityError, match=r"offset 50 of orders:0; it holds \[0,10\)"):
        faults(log).report(0, 50, KafkaError(KafkaError._AUTO_OFFSET_RESET, "out of range"))


def test_a_batch_over_the_limit_names_the_setting(log: ErrorLog) -> None:
    with pytest.raises(IntegrityError, match=r"kafka\.max_message_bytes = 1000"):
        faults(log).report(0, 5, KafkaError(KafkaError.MSG_SIZE_TOO_LARGE, "too large"))


def test_a_lost_right_stops_the_run(log: ErrorLog) -> None:
    with pytest.raises(ServiceError, match="orders:0"):
        faults(log).report(0, 5, KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED, "denied"))


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker({"orders": 1}) as broker:
        yield broker


def produce_with_header(bootstrap: str, value: bytes, name: bytes) -> None:
    """Through librdkafka itself, since the Python client makes text headers only."""
    library, text, number = _library(), ctypes.c_char_p, ctypes.c_int
    size, reason = ctypes.c_size_t, ctypes.create_string_buffer(512)
    settings = library.rd_kafka_conf_new()
    library.rd_kafka_conf_set(settings, b"bootstrap.servers", bootstrap.encode(), reason, 512)
    client = ctypes.c_void_p(library.rd_kafka_new(0, settings, reason, 512))
    topic, copy = (number(1), text(b"orders")), (number(7), number(2))
    partition = (number(3), ctypes.c_int32(0))
    payload = (number(4), text(value), size(len(value)))
    header = (number(9), text(name), text(b"x"), size(1))
    code = library.rd_kafka_producev(
        client, *topic, *copy, *partition, *payload, *header, number(0)
    )
    assert code == 0
    assert library.rd_kafka_flush(client, number(10_000)) == 0
    library.rd_kafka_destroy(client)


def test_a_header_name_that_is_no_text_stops_neither_its_record_nor_the_others(
    broker: EmbeddedBroker,
) -> None:
    names = [b"good", b"bad\xff", b"fine", b"\xfe", b"last"]
    for number, name in enumerate(names):
        produce_with_header(broker.bootstrap, b"v%d" % number, name)
    settings = {"bootstrap.servers": broker.bootstrap, "group.id": "g"}
    source = KafkaSource({**settings, "auto.offset.reset": "error"}, "orders")
    source.assign({TopicPartition("orders", 0): 0})
    values: list[bytes | None] = []
    headers: list[object] = []
    deadline = time.monotonic() + 10
    while len(values) < len(names):
        assert time.monotonic() < deadline
        batch = source.poll(10, 0.2)
        if batch is not None:
            values += batch.values
            headers += batch.headers or []
    source.close()
    assert values == [b"v0", b"v1", b"v2", b"v3", b"v4"]
    assert headers == [
        [("good", b"x")],
        UNREADABLE_HEADERS,
        [("fine", b"x")],
        UNREADABLE_HEADERS,
        [("last", b"x")],
    ]
