"""Which snapshots of a table may go: pure, from its metadata, the rules and the time.

A commit's cost grows with the snapshots in the metadata, so their number is bounded however fast
commits come: the newest are kept, and of those before them about one per stretch of time, so that
time travel over the whole retention stays possible. Kept without regard to age are

- the head of each branch and tag. No branch and no tag is ever removed: a ref's `max-ref-age-ms`
  is for its owner to act on;
- the snapshots from a branch's head back to the newest that carries the state of each sink, and
  back to the branch's `min-snapshots-to-keep`.

Where several say how long, a branch's own setting wins over the table's property
(`history.expire.max-snapshot-age-ms`, `history.expire.min-snapshots-to-keep`), and that over the
configuration.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pyiceberg.table.refs import SnapshotRef, SnapshotRefType
from pyiceberg.table.snapshots import Snapshot

from k2i_tasks.errors import ConfigError
from k2i_tasks.iceberg.state import is_state

MAX_AGE = "history.expire.max-snapshot-age-ms"
MIN_KEPT = "history.expire.min-snapshots-to-keep"
#: Summary entry of a snapshot that was staged and is published later (write-audit-publish).
_STAGED = "wap.id"


@dataclass(frozen=True, slots=True)
class Rules:
    """How long snapshots are kept, and how many.

    Args:
        retention_seconds: age beyond which a snapshot goes.
        keep_newest: of each branch, so many of its newest snapshots are kept, if not too old.
        keep_history: of all others that are not too old, so many at most, spread over time.
        keep_always: of each branch, so many of its newest are kept whatever their age.
    """

    retention_seconds: float
    keep_newest: int = 50
    keep_history: int = 50
    keep_always: int = 1

    @property
    def retention_ms(self) -> int:
        return int(self.retention_seconds * 1000)

    def of_table(self, properties: Mapping[str, str]) -> Rules:
        """These rules with those that the table's own properties set.

        Raises:
            ConfigError: a property is no number from 1 on.
        """
        age, kept = _number(properties, MAX_AGE), _number(properties, MIN_KEPT)
        return replace(
            self,
            retention_seconds=self.retention_seconds if age is None else age / 1000,
            keep_always=self.keep_always if kept is None else kept,
        )


def _number(properties: Mapping[str, str], name: str) -> int | None:
    text = properties.get(name)
    if text is None:
        return None
    if not text.strip().isdecimal() or int(text) < 1:
        raise ConfigError(
            f"The table's property {name} is {text!r}, which is no number from 1 on.",
            remedy="Correct or remove the property; nothing is expired meanwhile.",
        )
    return int(text)


def which_to_expire(
    snapshots: Sequence[Snapshot], refs: Mapping[str, SnapshotRef], now_ms: int, rules: Rules
) -> set[int]:
    """The ids of the snapshots that go.

    Those that stay are at most `keep_newest` of each branch, `keep_history`, and the protected
    ones. The same call on what is left gives nothing; and one that was kept as history stays
    until it is too old, since each stretch of time keeps the first snapshot that it has.

    Args:
        snapshots: all of the table.
        refs: its branches and tags.
        now_ms: Unix time in milliseconds.
        rules: with the table's own properties (`Rules.of_table`).
    """
    oldest = now_ms - rules.retention_ms
    newest: set[int] = set()
    #: Of those in the history of a branch: from when on the branch wants them.
    wanted: dict[int, int] = {}
    for ref in refs.values():
        if ref.snapshot_ref_type is not SnapshotRefType.BRANCH:
            continue
        history = list(_history(snapshots, ref.snapshot_id))
        own = now_ms - ref.max_snapshot_age_ms if ref.max_snapshot_age_ms else oldest
        newest |= _newest(history, own, ref.min_snapshots_to_keep or rules.keep_always, rules)
        for snapshot in history:
            known = wanted.get(snapshot.snapshot_id, own)
            wanted[snapshot.snapshot_id] = min(known, own)
    kept = newest | {ref.snapshot_id for ref in refs.values()}
    past = [
        snapshot
        for snapshot in snapshots
        if snapshot.snapshot_id not in newest
        and snapshot.timestamp_ms >= max(oldest, wanted.get(snapshot.snapshot_id, oldest))
    ]
    kept |= _thinned(past, now_ms, rules)
    # What waits to be published is in the history of no branch yet.
    alone = [snapshot for snapshot in past if snapshot.snapshot_id not in wanted]
    kept |= {snapshot.snapshot_id for snapshot in alone if _STAGED in _summary(snapshot)}
    return {snapshot.snapshot_id for snapshot in snapshots} - kept


def _history(snapshots: Sequence[Snapshot], head: int) -> Iterator[Snapshot]:
    by_id = {snapshot.snapshot_id: snapshot for snapshot in snapshots}
    current: int | None = head
    while current is not None and (snapshot := by_id.pop(current, None)) is not None:
        yield snapshot
        current = snapshot.parent_snapshot_id


def _newest(history: Sequence[Snapshot], oldest: int, always: int, rules: Rules) -> set[int]:
    """The unbroken run of snapshots at the branch's head that stays."""
    protected = max(always, _states_reach(history))
    found: set[int] = set()
    for number, snapshot in enumerate(history):
        young = number < rules.keep_newest and snapshot.timestamp_ms >= oldest
        if number >= protected and not young:
            break
        found.add(snapshot.snapshot_id)
    return found


def _states_reach(history: Sequence[Snapshot]) -> int:
    """How many snapshots from the head on hold the newest state of every sink."""
    seen: set[str] = set()
    reach = 0
    for number, snapshot in enumerate(history, 1):
        mine = {key for key in _summary(snapshot) if is_state(key)}
        if mine - seen:
            seen |= mine
            reach = number
    return reach


def _thinned(past: Iterable[Snapshot], now_ms: int, rules: Rules) -> set[int]:
    """Of each stretch of time the first snapshot; the stretches are fixed, whatever the time."""
    if rules.keep_history < 1:
        return set()
    # A window of the retention's length touches one stretch more than fit into it.
    width = -(-rules.retention_ms // (rules.keep_history - 1)) if rules.keep_history > 1 else 0
    first: dict[int, Snapshot] = {}
    for snapshot in sorted(past, key=_order):
        at = min(snapshot.timestamp_ms, now_ms)  # a writer's clock may be ahead
        first.setdefault(at // width if width else 0, snapshot)
    return {snapshot.snapshot_id for snapshot in first.values()}


def _order(snapshot: Snapshot) -> tuple[int, int, int]:
    return snapshot.sequence_number or 0, snapshot.timestamp_ms, snapshot.snapshot_id


def _summary(snapshot: Snapshot) -> Mapping[str, str]:
    return snapshot.summary.additional_properties if snapshot.summary is not None else {}
