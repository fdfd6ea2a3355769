"""What a broker says of a topic at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Watermarks:
    """Readable positions `[low, high)` of one partition; `high` is the last stable offset."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic as the broker describes it.

    Args:
        topic: its name.
        topic_id: the broker's id of this creation of the topic; None where it has none to give.
        cluster_id: the broker's id of the cluster; None where it has none to give.
        partitions: partition number to watermarks.
        leaders: partition number to the id of the broker that leads it, as of now.
    """

    topic: str
    topic_id: str | None
    cluster_id: str | None
    partitions: Mapping[int, Watermarks]
    leaders: Mapping[int, int] = field(default_factory=dict)
