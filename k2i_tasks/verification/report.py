"""What a verification found: frozen values, as JSON too. No payload values unless asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, Literal

from k2i_tasks.errors import EXIT_DIFFERS, EXIT_INCOMPLETE

#: Which values are compared: none, windows of them, or all that Kafka still has.
Values = Literal["none", "sampled", "full"]


class Verdict(StrEnum):
    """Proven: equal as far as was asked. Incomplete: nothing differs, but something is open."""

    PROVEN = "proven"
    DIFFERS = "differs"
    INCOMPLETE = "incomplete"

    @property
    def exit_code(self) -> int:
        return {"proven": 0, "differs": EXIT_DIFFERS, "incomplete": EXIT_INCOMPLETE}[self.value]


class Kind(StrEnum):
    """What a finding is. All but the last are differences.

    Lost: Kafka has the record, the table does not. Doubled: it is there more than once. Surplus:
    the table has a row that is none of the topic's records up to the recorded offset. Value: a
    column, or the bytes of a dead letter, differ. Unexplained: missing in the table, and Kafka
    cannot say any more whether it was a record.
    """

    LOST = "lost"
    DOUBLED = "doubled"
    SURPLUS = "surplus"
    VALUE = "value"
    UNEXPLAINED = "unexplained"


@dataclass(frozen=True, slots=True)
class Finding:
    """One place. Offsets `[first, end)`; `partition` is -1 where a row does not tell its own.

    `kafka` and `table` are values as text, when they were to be shown.
    """

    kind: Kind
    partition: int
    first: int
    end: int
    column: str = ""
    kafka: str | None = None
    table: str | None = None

    def __str__(self) -> str:
        span = f"{self.first}" if self.end - self.first <= 1 else f"[{self.first},{self.end})"
        where = f"partition {self.partition} offset {span}" if self.partition >= 0 else "no place"
        column = f" column {self.column!r}" if self.column else ""
        shown = "" if self.kafka is None else f": {self.kafka} in Kafka, {self.table} in the table"
        return f"{self.kind}: {where}{column}{shown}"


@dataclass(frozen=True, slots=True)
class PartitionReport:
    """One partition, positions `[start, next)`.

    Args:
        partition: its number.
        start: first offset that the sink ever was to read.
        next: next offset as the table records it.
        rows: rows of the table, doubled and surplus ones too.
        dead_letters: dead letters.
        explained: missing positions where Kafka has no record: control records, aborted
            transactions, compacted records.
        accepted: missing positions in gaps that the write-ahead log holds as accepted.
        lost, doubled, surplus: see `Kind`.
        unexplained: see `Kind`, and what was not looked at for want of time.
        compared: records whose values were compared.
        different: those of them that differ.
        vanished: rows in compared windows that Kafka has no more, such as compacted ones.
    """

    partition: int
    start: int
    next: int
    rows: int = 0
    dead_letters: int = 0
    explained: int = 0
    accepted: int = 0
    lost: int = 0
    unexplained: int = 0
    doubled: int = 0
    surplus: int = 0
    compared: int = 0
    different: int = 0
    vanished: int = 0


#: What is summed up over partitions.
FIGURES = tuple(
    each.name for each in fields(PartitionReport) if each.name not in ("partition", "start", "next")
)


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """The whole result.

    Args:
        table, topic, sink, branch: what was compared.
        snapshot_id, committed_at_ms: as of which commit.
        values: which values were compared.
        sample_rows, seed: repeat the same sample with them.
        partitions: by number.
        findings: some of the places, worst kinds first.
        unplaced: rows without coordinates of Kafka, or of a topic that no sink has.
        notes: what a reader has to know to judge it.
        open: why it is incomplete, one sentence each.
        seconds: how long it took.
    """

    table: str
    topic: str
    sink: str
    branch: str
    snapshot_id: int | None
    committed_at_ms: int | None
    values: Values
    sample_rows: int
    seed: int
    partitions: tuple[PartitionReport, ...]
    findings: tuple[Finding, ...] = ()
    unplaced: int = 0
    notes: tuple[str, ...] = ()
    open: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def totals(self) -> Mapping[str, int]:
        """`FIGURES` over all partitions."""
        return {name: sum(getattr(one, name) for one in self.partitions) for name in FIGURES}

    @property
    def verdict(self) -> Verdict:
        totals = self.totals
        wrong = sum(totals[name] for name in ("lost", "doubled", "surplus", "different"))
        if wrong or self.unplaced:
            return Verdict.DIFFERS
        return Verdict.INCOMPLETE if self.open or totals["unexplained"] else Verdict.PROVEN

    @property
    def sentence(self) -> str:
        """The verdict for people."""
        totals = self.totals
        named = ("lost", "doubled", "surplus", "different", "unexplained")
        wrong = [f"{totals[name]:,} {name}" for name in named if totals[name]]
        if self.unplaced:
            wrong.append(f"{self.unplaced:,} rows of no known place")
        records = totals["rows"] + totals["dead_letters"]
        told = f"{self.verdict}: {self.topic} → {self.table}, {records:,} records"
        if self.values != "none":
            told += f", values of {totals['compared']:,} compared"
        return f"{told}; {', '.join(wrong)}" if wrong else told

    def to_json(self) -> dict[str, Any]:
        """For programs: everything, with verdict and totals."""
        return {"verdict": str(self.verdict), "totals": dict(self.totals), **asdict(self)}
