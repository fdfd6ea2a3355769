"""Who may commit: the claim of a run, and the guard that every commit passes.

A run owns the whole table, or, as a member of a consumer group, the partitions that it claimed. In
either case a commit is admitted only for what the table, just read, says is ours, and only from
exactly the offsets that it records. The commit is then built on that very head, so nothing can come
in between.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from k2i_tasks.errors import FencedError, PartitionsLostError
from k2i_tasks.iceberg.state import SinkState
from k2i_tasks.types import Offsets, Ranges, TopicPartition


@dataclass(frozen=True, slots=True)
class Claim:
    """What a run has claimed.

    Args:
        owner: id of the process run.
        epoch: of the claim.
        group: consumer group that it shares the table with; None when it owns all of it.
    """

    owner: str
    epoch: int
    group: str | None = None

    def __str__(self) -> str:
        member = f", group {self.group}" if self.group is not None else ""
        return f"{self.owner} (epoch {self.epoch}{member})"


def holder(state: SinkState | None) -> str:
    """Who made the last claim, for people."""
    if state is None:
        return "nobody"
    return str(Claim(state.owner, state.epoch, state.group))


def must_own(
    table: str, state: SinkState | None, me: Claim, partitions: Iterable[TopicPartition]
) -> None:
    """Checks that the newest claim of `partitions` is ours.

    Args:
        table: name, for the error.
        state: the newest state that the table records.
        me: the claim of the run that asks.
        partitions: what it is about.

    Raises:
        FencedError: another run owns the table.
        PartitionsLostError: another member of our group has claimed some of the partitions.
    """
    shared = me.group is not None and state is not None and state.group == me.group
    if shared:
        assert state is not None
        mine = (me.owner, me.epoch)
        lost = sorted(tp for tp in partitions if state.holders.get(tp) != mine)
        if lost:
            theirs = state.holders.get(lost[0], ("nobody", 0))
            raise PartitionsLostError(
                f"{len(lost)} partitions of table {table} are owned by other members of group "
                f"{me.group} (first {lost[0]} by {theirs[0]}, epoch {theirs[1]}); this run is {me}."
            )
        return
    if state is None or (state.owner, state.epoch, state.group) != (me.owner, me.epoch, me.group):
        raise FencedError(
            f"Table {table} is owned by {holder(state)}, this run is {me}: fenced.",
            remedy="Another run writes for the same sink and goes on from the table's offsets; "
            "this one stops and has committed nothing since.",
        )


def admits(
    table: str, state: SinkState | None, me: Claim, *, batch_id: str, ranges: Ranges
) -> bool:
    """The guard of every commit, on the state just read: may this batch be sent?

    Args:
        table: name, for the error.
        state: the newest state that the table records.
        me: the claim of the run that asks.
        batch_id: the batch, over all its attempts.
        ranges: what the batch covers; it takes the starts for granted.

    Returns:
        False when an earlier attempt has landed, so that there is nothing to do.

    Raises:
        FencedError: another run owns the table; or its offsets are not exactly the batch's start
            ("not above" would let a rival's prefix in).
        PartitionsLostError: another member of our group owns some of its partitions.
    """
    if state is not None and batch_id in state.batches:
        return False
    must_own(table, state, me, ranges)
    assert state is not None
    # A partition that was added while the owner ran is not recorded yet; it is read from 0.
    at: Offsets = {tp: state.offsets.get(tp, 0) for tp in ranges}
    if ranges and all(at[tp] == span.end > span.start for tp, span in ranges.items()):
        # Nobody but us can have moved them: it has landed, and so many commits of other members
        # came since that its id is no longer kept.
        return False
    wrong = [tp for tp, span in ranges.items() if span.start != at[tp]]
    if wrong:
        tp = min(wrong)
        raise FencedError(
            f"Table {table} records next offset {state.offsets.get(tp)} for {tp}, the batch starts "
            f"at {ranges[tp].start} ({len(wrong)} of {len(ranges)} partitions differ).",
            remedy="Another run has committed; this one stops, restart it to go on from the table.",
        )
    return True
