"""Where reading starts, given what the table records and what the broker holds."""

from __future__ import annotations

from typing import Literal

import pytest

from k2i_tasks.errors import Component, IntegrityError
from k2i_tasks.kafka.start import lost_ranges, start_offsets
from k2i_tasks.kafka.state import TopicState, Watermarks
from k2i_tasks.types import OffsetRange, TopicPartition

P0, P1, P2 = (TopicPartition("orders", n) for n in range(3))


def topic(*marks: tuple[int, int], topic_id: str | None = "id-1") -> TopicState:
    partitions = {n: Watermarks(*m) for n, m in enumerate(marks)}
    return TopicState("orders", topic_id, "cluster-1", partitions)


def start(
    state: TopicState,
    recorded: dict[TopicPartition, int],
    recorded_id: str | None = "id-1",
    reset: Literal["earliest", "latest"] = "earliest",
) -> dict[TopicPartition, int]:
    return start_offsets(state, recorded, recorded_id, reset)


def test_a_table_without_offsets_starts_where_the_reset_says() -> None:
    state = topic((3, 10), (0, 7))
    assert start(state, {}, None) == {P0: 3, P1: 0}
    assert start(state, {}, None, reset="latest") == {P0: 10, P1: 7}


@pytest.mark.parametrize("reset", ["earliest", "latest"])
def test_the_offsets_of_the_table_win(reset: Literal["earliest", "latest"]) -> None:
    assert start(topic((3, 10), (0, 7)), {P0: 5, P1: 7}, reset=reset) == {P0: 5, P1: 7}


def test_a_partition_new_to_a_known_topic_starts_at_zero_even_for_latest() -> None:
    assert start(topic((0, 10), (0, 7)), {P0: 5}, reset="latest") == {P0: 5, P1: 0}


def test_records_lost_before_they_were_read_halt_the_run() -> None:
    with pytest.raises(IntegrityError) as caught:
        lost_ranges(topic((8, 10), (0, 7)), {P0: 5, P1: 2}, "halt")
    assert "0:[5,8)" in str(caught.value)
    assert 'kafka.on_gap = "continue"' in caught.value.remedy
    assert caught.value.component is Component.KAFKA


def test_records_lost_from_a_partition_never_read_are_a_gap_too() -> None:
    state = topic((0, 10), (3, 7))
    with pytest.raises(IntegrityError, match=r"1:\[0,3\)"):
        lost_ranges(state, start(state, {P0: 5}), "halt")


def test_an_accepted_gap_is_named_and_the_offsets_are_still_those_of_the_table() -> None:
    state = topic((8, 10), (0, 7))
    assert start(state, {P0: 5, P1: 2}) == {P0: 5, P1: 2}
    assert lost_ranges(state, {P0: 5, P1: 2}, "continue") == {P0: OffsetRange(5, 8)}


def test_a_position_at_either_end_of_what_the_broker_holds_is_no_gap() -> None:
    assert lost_ranges(topic((5, 10), (5, 5)), {P0: 5, P1: 5}, "halt") == {}
    assert start(topic((5, 10)), {P0: 10}) == {P0: 10}


def test_a_position_beyond_the_end_is_never_accepted() -> None:
    with pytest.raises(IntegrityError, match=r"orders:0 up to 11, but Kafka holds \[0,10\)"):
        start(topic((0, 10)), {P0: 11})


def test_a_topic_created_again_is_told_by_its_id() -> None:
    with pytest.raises(IntegrityError, match="its id was id-1 and is id-2"):
        start(topic((0, 10), topic_id="id-2"), {P0: 5})


@pytest.mark.parametrize(("now", "before"), [(None, "id-1"), ("id-1", None), (None, None)])
def test_an_unknown_topic_id_proves_nothing(now: str | None, before: str | None) -> None:
    assert start(topic((0, 10), topic_id=now), {P0: 5}, before) == {P0: 5}


def test_a_partition_that_vanished_means_another_topic() -> None:
    with pytest.raises(IntegrityError, match=r"2 \(read up to 4\)"):
        start(topic((0, 10), (0, 10)), {P0: 5, P1: 5, P2: 4})


def test_offsets_of_other_topics_are_not_ours() -> None:
    other = TopicPartition("payments", 0)
    assert start(topic((2, 10)), {other: 99}, None) == {P0: 2}
