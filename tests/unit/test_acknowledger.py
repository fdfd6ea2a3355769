"""Offsets reach Kafka beside the data path: late, merged, tried again, never blocking."""

from __future__ import annotations

import threading

import pytest

from k2i_tasks import acknowledger
from k2i_tasks.acknowledger import Acknowledger
from k2i_tasks.errors import TransientError
from k2i_tasks.types import Offsets, TopicPartition

P0 = TopicPartition("t", 0)
P1 = TopicPartition("t", 1)


def test_a_slow_coordinator_gets_the_newest_offsets_only() -> None:
    entered, go_on, seen = threading.Event(), threading.Event(), []

    def publish(offsets: Offsets) -> None:
        entered.set()
        assert go_on.wait(10)
        seen.append(dict(offsets))

    by = Acknowledger(publish, lambda _offsets: None)
    by.submit({P0: 1})
    assert entered.wait(10)
    for offset in (2, 3, 4):
        by.submit({P0: offset})
    by.submit({P1: 7})
    go_on.set()
    by.close(10)
    assert seen == [{P0: 1}, {P0: 4, P1: 7}]


def test_what_kafka_refused_is_offered_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acknowledger, "RETRY_SECONDS", 0.01)
    tries: list[Offsets] = []
    landed = threading.Event()

    def publish(offsets: Offsets) -> None:
        tries.append(dict(offsets))
        if len(tries) < 3:
            raise TransientError("the coordinator is loading")

    by = Acknowledger(publish, lambda _offsets: landed.set())
    by.submit({P0: 5})
    assert landed.wait(10)
    by.close(10)
    assert tries == [{P0: 5}] * 3


def test_the_end_waits_no_longer_than_it_is_told() -> None:
    never = threading.Event()

    def publish(_offsets: Offsets) -> None:
        never.wait(30)

    by = Acknowledger(publish, lambda _offsets: None)
    by.submit({P0: 1})
    by.close(0.05)
    never.set()
