"""What every commit of ours records in the table: who committed, up to which offsets.

The same JSON stands in two places, written by one atomic commit: in the snapshot's summary (it
follows a rollback and goes when the snapshot is expired) and in a table property (it stays whatever
is expired and does not follow a rollback). Where they disagree the table was rolled back.

    k2i.<sink>.state = {"v": 1, "epoch": 3, "owner": "6f0c...", "seq": 17,
                        "batches": ["6f0c-16", "6f0c-17"], "cluster": "c3RhY2s",
                        "topics": {"orders": {"id": "Zk3...", "next": {"0": 4711, "1": 388}}}}

Where the members of a consumer group share the table, each owns the partitions that it claimed, and
the state says whose they are; `owner` is then the last of them to claim:

    "group": "k2i-orders", "holders": {"6f0c...": {"epoch": 3, "topics": {"orders": [0, 1]}}}
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Snapshot

from k2i_tasks.errors import Component, IntegrityError
from k2i_tasks.types import Offsets, TopicPartition

VERSION = 1
#: Who owns each partition: id of the process run, and the epoch of its claim.
Holders = Mapping[TopicPartition, tuple[str, int]]
#: Ids of the last batches that are kept in the state, so that "did it land" needs no history.
BATCHES_KEPT = 16


@dataclass(frozen=True, slots=True)
class SinkState:
    """State of one sink in one table after one commit.

    Args:
        epoch: rises by one with each claim; the highest owns the table.
        owner: id of the process run that made the last claim.
        group: consumer group whose members share the table; None when one run owns all of it.
        holders: in a group, who owns each partition: run and epoch of its claim.
        seq: commits of this sink so far.
        batches: ids of its last batches, oldest first.
        offsets: next offset to read, per partition.
        topic_ids: Kafka's id of each topic, None where the broker gave none.
        cluster_id: Kafka's id of the cluster, None where the broker gave none.
    """

    epoch: int = 0
    owner: str = ""
    seq: int = 0
    batches: tuple[str, ...] = ()
    offsets: Offsets = field(default_factory=dict)
    topic_ids: Mapping[str, str | None] = field(default_factory=dict)
    cluster_id: str | None = None
    group: str | None = None
    holders: Holders = field(default_factory=dict)

    def claimed_by(
        self, owner: str, group: str | None = None, partitions: Iterable[TopicPartition] = ()
    ) -> SinkState:
        """The state that a claim by `owner` records.

        Args:
            owner: id of the process run.
            group: the consumer group that it is a member of; None to own the whole table.
            partitions: what it claims as a member. It gives up all others; those of other
                members of the same group stay theirs.
        """
        epoch = self.epoch + 1
        holders: dict[TopicPartition, tuple[str, int]] = {}
        if group is not None:
            kept = self.holders if group == self.group else {}
            holders = {tp: held for tp, held in kept.items() if held[0] != owner}
            holders.update(dict.fromkeys(partitions, (owner, epoch)))
        return replace(
            self, epoch=epoch, owner=owner, seq=self.seq + 1, group=group, holders=holders
        )

    def after(self, batch_id: str, end: Offsets) -> SinkState:
        """The state that the commit of a batch ending at `end` records."""
        batches = (*self.batches, batch_id)[-BATCHES_KEPT:]
        offsets = {**self.offsets, **end}
        return replace(self, seq=self.seq + 1, batches=batches, offsets=offsets)

    def to_json(self) -> str:
        topics: dict[str, dict[str, object]] = {}
        for tp, offset in sorted(self.offsets.items()):
            entry = topics.setdefault(tp.topic, {"id": self.topic_ids.get(tp.topic), "next": {}})
            entry["next"][str(tp.partition)] = offset  # type: ignore[index]
        body: dict[str, Any] = {
            "v": VERSION,
            "epoch": self.epoch,
            "owner": self.owner,
            "seq": self.seq,
            "batches": list(self.batches),
            "cluster": self.cluster_id,
            "topics": topics,
        }
        if self.group is not None:
            body |= {"group": self.group, "holders": _holders_to_json(self.holders)}
        return json.dumps(body, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str, where: str) -> SinkState:
        """Reads the state recorded at `where`.

        Raises:
            IntegrityError: it cannot be read, or a newer version of K2I wrote it.
        """
        try:
            body = json.loads(text)
            if body["v"] != VERSION:
                raise ValueError(f"version {body['v']}, this program reads {VERSION}")
            offsets = {
                TopicPartition(topic, int(partition)): int(offset)
                for topic, entry in body["topics"].items()
                for partition, offset in entry["next"].items()
            }
            return cls(
                epoch=int(body["epoch"]),
                owner=str(body["owner"]),
                seq=int(body["seq"]),
                batches=tuple(body["batches"]),
                offsets=offsets,
                topic_ids={topic: entry["id"] for topic, entry in body["topics"].items()},
                cluster_id=body["cluster"],
                group=body.get("group"),
                holders=_holders_from_json(body.get("holders", {})),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(
                f"The offsets recorded in {where} cannot be read: {error}.",
                component=Component.ICEBERG,
                remedy="Restore the property from an older metadata file, or upgrade K2I.",
            ) from error


def _holders_to_json(holders: Holders) -> dict[str, dict[str, Any]]:
    body: dict[str, dict[str, Any]] = {}
    for tp, (owner, epoch) in sorted(holders.items()):
        entry = body.setdefault(owner, {"epoch": epoch, "topics": {}})
        entry["topics"].setdefault(tp.topic, []).append(tp.partition)
    return body


def _holders_from_json(body: Mapping[str, Any]) -> dict[TopicPartition, tuple[str, int]]:
    return {
        TopicPartition(topic, int(number)): (owner, int(entry["epoch"]))
        for owner, entry in body.items()
        for topic, numbers in entry["topics"].items()
        for number in numbers
    }


def state_key(sink: str) -> str:
    """Name of the table property and the summary entry of `sink`."""
    return f"k2i.{sink}.state"


def replay_sink(sink: str) -> str:
    """Name of the sink of replayed letters beside `sink`; no configured one can have it."""
    return f"{sink}+replay"


def sink_properties(metadata: TableMetadata, branch: str) -> dict[str, str]:
    """The states of all sinks at the head of `branch`, to be carried forward by any commit."""
    found = {k: v for k, v in metadata.properties.items() if is_state(k)}
    for snapshot in ancestors(metadata, branch):
        if snapshot.summary is not None:
            entries = snapshot.summary.additional_properties
            mine = {k: v for k, v in entries.items() if is_state(k)}
            if mine:
                return {**found, **mine}
    return found


def is_state(key: str) -> bool:
    """Whether this table property or summary entry is the state of some sink."""
    return key.startswith("k2i.") and key.endswith(".state")


def ancestors(metadata: TableMetadata, branch: str) -> Iterator[Snapshot]:
    """Snapshots from the head of `branch` back, as far as they are kept."""
    by_id = {snapshot.snapshot_id: snapshot for snapshot in metadata.snapshots}
    ref = metadata.refs.get(branch)
    current = ref.snapshot_id if ref is not None else None
    while current is not None and (snapshot := by_id.get(current)) is not None:
        yield snapshot
        current = snapshot.parent_snapshot_id


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the table says: at the branch's head (summaries) and in its property."""

    summary: SinkState | None
    summary_snapshot_id: int | None
    in_property: SinkState | None

    @property
    def rolled_back(self) -> bool:
        """Whether the head is older than the newest commit of ours that the property knows."""
        if self.summary is None or self.in_property is None:
            return False
        return self.in_property.seq > self.summary.seq

    @property
    def newest(self) -> SinkState | None:
        """The state to go on from when the table was not rolled back."""
        if self.summary is None:
            return self.in_property
        if self.in_property is None or self.summary.seq >= self.in_property.seq:
            return self.summary
        return self.in_property


def recorded(metadata: TableMetadata, sink: str, branch: str) -> Recorded:
    """Reads both records of `sink`; cheap where the head is ours.

    Raises:
        IntegrityError: a record cannot be read.
    """
    key = state_key(sink)
    text = metadata.properties.get(key)
    in_property = SinkState.from_json(text, f"table property {key}") if text else None
    for snapshot in ancestors(metadata, branch):
        entries = snapshot.summary.additional_properties if snapshot.summary else {}
        if key in entries:
            where = f"the summary of snapshot {snapshot.snapshot_id} ({key})"
            return Recorded(
                SinkState.from_json(entries[key], where), snapshot.snapshot_id, in_property
            )
    return Recorded(None, None, in_property)
