"""Membership in a consumer group: which partitions this run reads, as the group changes.

The group only says who reads what. Where a partition is read from, and whether its rows may be
committed, the table decides: a member that missed a rebalance is refused there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from confluent_kafka import Consumer
from confluent_kafka import TopicPartition as ClientPartition

from k2i_tasks.kafka.errors import kafka_errors
from k2i_tasks.types import TopicPartition

log = logging.getLogger(__name__)


class Membership:
    """What the group gives this member. Used by the thread that polls: the group speaks there.

    Args:
        consumer: the member.
        topic: the topic that is shared.
        let_go: called when partitions are taken away, before others may have them; must not block.
    """

    def __init__(self, consumer: Consumer, topic: str, let_go: Callable[[], None]) -> None:
        self._consumer = consumer
        self._topic = topic
        self._let_go = let_go
        self._joined = False
        self._given: frozenset[TopicPartition] | None = None
        #: Whether the group has decided anew since `given` was last answered.
        self.changed = False

    def join(self) -> None:
        """Becomes a member; the group answers inside later polls. Idempotent; does not block."""
        if self._joined:
            return
        self._joined = True
        with kafka_errors(f"Joining the consumer group to read {self._topic}"):
            self._consumer.subscribe(
                [self._topic],
                on_assign=self._on_assign,
                on_revoke=self._on_revoke,
                on_lost=self._on_lost,
            )

    def given(self) -> frozenset[TopicPartition] | None:
        """The partitions that are ours now; None while the group has not decided."""
        if self._given is not None:
            self.changed = False
        return self._given

    # Called by the client inside a poll.

    def _on_assign(self, consumer: Consumer, partitions: Sequence[ClientPartition]) -> None:
        # Nothing is fetched yet: the offsets come from the table, once these are claimed there.
        consumer.assign([])
        self._given = frozenset(TopicPartition(p.topic, p.partition) for p in partitions)
        self.changed = True
        log.info("the group gives us %s", _numbers(partitions))

    def _on_revoke(self, consumer: Consumer, partitions: Sequence[ClientPartition]) -> None:
        self._forget(consumer)
        log.info("the group takes back %s", _numbers(partitions))

    def _on_lost(self, consumer: Consumer, partitions: Sequence[ClientPartition]) -> None:
        self._forget(consumer)
        log.warning("the group has dropped us and given away %s", _numbers(partitions))

    def _forget(self, consumer: Consumer) -> None:
        self._let_go()
        consumer.unassign()
        self._given = None
        self.changed = True


def _numbers(partitions: Sequence[ClientPartition]) -> str:
    numbers = sorted(p.partition for p in partitions)
    return f"partitions {', '.join(map(str, numbers))}" if numbers else "no partition"
