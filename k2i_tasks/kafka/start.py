"""Where to start reading. Pure: the table's offsets win, and nothing is skipped in silence."""

from __future__ import annotations

from typing import Literal

from k2i_tasks.errors import Component, IntegrityError
from k2i_tasks.kafka.state import TopicState, Watermarks
from k2i_tasks.types import OffsetRange, Offsets, Ranges, TopicPartition, describe_ranges


def start_offsets(
    state: TopicState,
    recorded: Offsets,
    recorded_topic_id: str | None,
    reset: Literal["earliest", "latest"],
) -> dict[TopicPartition, int]:
    """The next offset to read of each partition of the topic, whether Kafka still has it or not.

    Args:
        state: the topic as the broker describes it now.
        recorded: next offsets that the table records for this topic.
        recorded_topic_id: the topic's id that the table records, None if it records none.
        reset: where to start a topic that the table knows nothing of. A partition that is new to a
            known topic starts at 0 in any case: all its records came after our start.

    Raises:
        IntegrityError: the table's offsets and the broker contradict each other.
    """
    _refuse_another_topic(state, recorded_topic_id)
    known = {tp.partition: offset for tp, offset in recorded.items() if tp.topic == state.topic}
    _refuse_missing_partitions(state, known)
    offsets: dict[TopicPartition, int] = {}
    for partition, marks in sorted(state.partitions.items()):
        tp = TopicPartition(state.topic, partition)
        if not known:
            offsets[tp] = marks.high if reset == "latest" else marks.low
            continue
        offsets[tp] = known.get(partition, 0)
        _refuse_beyond_the_end(tp, offsets[tp], marks)
    return offsets


def lost_ranges(
    state: TopicState, offsets: Offsets, on_gap: Literal["halt", "continue"]
) -> dict[TopicPartition, OffsetRange]:
    """What the broker deleted from `offsets` on, per partition, if the operator accepts that.

    Args:
        state: the topic as the broker describes it now.
        offsets: next offsets to read.
        on_gap: what to do where the broker no longer has records that were not read.

    Raises:
        IntegrityError: there is such a range, and `on_gap` is "halt".
    """
    lost = {
        tp: OffsetRange(offset, state.partitions[tp.partition].low)
        for tp, offset in sorted(offsets.items())
        if offset < state.partitions[tp.partition].low
    }
    if lost and on_gap == "halt":
        raise lost_records(state.topic, lost)
    return lost


def lost_records(topic: str, gaps: Ranges) -> IntegrityError:
    """The error for records that the broker deleted before they were read."""
    return IntegrityError(
        f"Records of topic {topic} are gone from Kafka before they were read: "
        f"{describe_ranges(gaps)} (partition:[first lost,first left)).",
        component=Component.KAFKA,
        remedy='Restore them from elsewhere, or set kafka.on_gap = "continue" to go on after the '
        "gap, which is then reported; raise the topic's retention so that it does not recur.",
    )


def _refuse_another_topic(state: TopicState, recorded_topic_id: str | None) -> None:
    if None in (recorded_topic_id, state.topic_id) or recorded_topic_id == state.topic_id:
        return
    raise recreated(state.topic, recorded_topic_id, state.topic_id)


def recreated(topic: str, before: str | None, now: str | None) -> IntegrityError:
    """The error for a topic that was deleted and made again under its old name."""
    return IntegrityError(
        f"Topic {topic} is not the one that the table was filled from: its id was {before} and "
        f"is {now}. It was deleted and created again, or the cluster is another one.",
        component=Component.KAFKA,
        remedy="Point kafka.bootstrap_servers at the old cluster, or ingest the new topic into "
        "another table or under another iceberg.sink name.",
    )


def _refuse_missing_partitions(state: TopicState, known: dict[int, int]) -> None:
    missing = sorted(set(known) - set(state.partitions))
    if not missing:
        return
    read = ", ".join(f"{p} (read up to {known[p]})" for p in missing[:8])
    more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
    raise IntegrityError(
        f"Topic {state.topic} has {len(state.partitions)} partitions and lacks some that the "
        f"table records: {read}{more}. It was deleted and created again, or the cluster is "
        "another one.",
        component=Component.KAFKA,
        remedy="Point kafka.bootstrap_servers at the old cluster, or ingest the new topic into "
        "another table or under another iceberg.sink name.",
    )


def _refuse_beyond_the_end(tp: TopicPartition, position: int, marks: Watermarks) -> None:
    if position <= marks.high:
        return
    raise IntegrityError(
        f"The table has read {tp} up to {position}, but Kafka holds [{marks.low},{marks.high}) "
        f"only: [{marks.high},{position}) was truncated, or the topic was created again.",
        component=Component.KAFKA,
        remedy="If a broker lost data by an unclean election, wait until it is repaired; if the "
        "topic is a new one, ingest it into another table or under another iceberg.sink name.",
    )
