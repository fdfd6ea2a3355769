"""From what was counted to the report: figures by partition, places, notes, what is open. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from k2i_tasks.types import OffsetRange
from k2i_tasks.verification.coverage import Coverage, Tally
from k2i_tasks.verification.gaps import Explained
from k2i_tasks.verification.report import Finding, Kind, PartitionReport, VerifyReport
from k2i_tasks.verification.subject import Subject, VerifyOptions
from k2i_tasks.verification.values import Checked

#: Places that a report names at most.
FINDINGS_MAX = 200


@dataclass(frozen=True, slots=True)
class Result:
    """What the steps counted.

    Args:
        ends: next offset of each partition.
        starts: first offset that was ever to be read.
        coverage: of the positions.
        gaps: what became of missing positions, for the partitions that have some.
        checked: what came of comparing values.
        others: rows of other topics, by topic.
        unplaced: rows without a position.
        seconds: how long it took.
    """

    ends: Mapping[int, int]
    starts: Mapping[int, int]
    coverage: Coverage
    gaps: Mapping[int, Explained]
    checked: Checked
    others: Counter[str]
    unplaced: int
    seconds: float


def report_of(subject: Subject, options: VerifyOptions, result: Result) -> VerifyReport:
    """The report of one verification."""
    foreign = {t: n for t, n in result.others.items() if t not in subject.record.other_topics}
    numbers = sorted(result.coverage.tallies)
    findings = [each for number in numbers for each in _findings(subject, result, number)]
    findings += _cells(result.checked)
    order = list(Kind)
    return VerifyReport(
        table=subject.rows.name,
        topic=subject.topic.topic,
        sink=subject.sink,
        branch=subject.branch,
        snapshot_id=subject.rows.snapshot_id,
        committed_at_ms=subject.rows.committed_at_ms,
        values=options.values,
        sample_rows=options.sample_rows,
        seed=options.seed,
        partitions=tuple(_partition(subject, result, number) for number in numbers),
        findings=tuple(sorted(findings, key=lambda f: order.index(f.kind))[:FINDINGS_MAX]),
        unplaced=result.unplaced + sum(foreign.values()),
        notes=tuple(_notes(subject, options, result)),
        open=tuple(_open(result)),
        seconds=round(result.seconds, 2),
    )


def _surplus_below(subject: Subject, result: Result, number: int) -> int:
    """Rows before the first offset that was ever to be read, where that is known."""
    if subject.record.starts is None or number not in result.starts:
        return 0
    return result.coverage.below(number, result.starts[number])


def _partition(subject: Subject, result: Result, number: int) -> PartitionReport:
    tally = result.coverage.tallies[number]
    gap = result.gaps.get(number, Explained())
    checked = result.checked
    strangers = checked.strangers[number]
    return PartitionReport(
        partition=number,
        start=result.starts.get(number, 0),
        next=result.ends.get(number, 0),
        rows=tally.rows,
        dead_letters=tally.letters,
        explained=gap.explained,
        accepted=gap.accepted,
        lost=gap.lost,
        unexplained=gap.gone + gap.unread,
        doubled=tally.doubled,
        surplus=tally.surplus
        + _surplus_below(subject, result, number)
        + (0 if subject.compacted else strangers),
        compared=checked.compared[number],
        different=checked.different[number],
        vanished=strangers if subject.compacted else 0,
    )


def _findings(subject: Subject, result: Result, number: int) -> list[Finding]:
    tally: Tally = result.coverage.tallies[number]
    gap = result.gaps.get(number, Explained())
    strangers = [offset for p, offset in result.checked.strangers_at if p == number]
    surplus = tally.surplus_at + ([] if subject.compacted else strangers)
    found = [
        *_places(Kind.LOST, number, gap.lost_at),
        *_places(Kind.DOUBLED, number, _single(tally.doubled_at)),
        *_places(Kind.SURPLUS, number, _single(surplus)),
        *_places(Kind.UNEXPLAINED, number, gap.gone_at),
    ]
    if _surplus_below(subject, result, number):
        lowest = result.coverage.lowest(number)
        assert lowest is not None
        found += _places(Kind.SURPLUS, number, _single([lowest]))
    return found


def _single(offsets: Sequence[int]) -> list[OffsetRange]:
    return [OffsetRange(offset, offset + 1) for offset in offsets if offset >= 0]


def _places(kind: Kind, number: int, ranges: Sequence[OffsetRange]) -> list[Finding]:
    return [Finding(kind, number, span.start, span.end) for span in ranges]


def _cells(checked: Checked) -> list[Finding]:
    return [
        Finding(
            Kind.VALUE,
            cell.partition,
            cell.offset,
            cell.offset + 1,
            cell.column,
            cell.kafka,
            cell.table,
        )
        for cell in checked.cells
    ]


def _notes(subject: Subject, options: VerifyOptions, result: Result) -> list[str]:
    notes: list[str] = []
    if subject.record.starts is None:
        notes.append(
            "The table does not tell where reading began: an older version claimed it. Records "
            "before the first row are looked up only as far as Kafka has them and "
            "kafka.auto_offset_reset is earliest."
        )
    if None in (subject.topic.topic_id, subject.record.state.topic_ids.get(subject.topic.topic)):
        notes.append("The topic's id is not known on both sides, so only its name was compared.")
    lows = {number: marks.low for number, marks in subject.topic.partitions.items()}
    cut = [n for n in result.starts if lows[n] > result.starts[n]]
    if cut and options.values != "none":
        shown = ", ".join(f"{number} before {lows[number]}" for number in cut[:8])
        notes.append(f"Values that Kafka no longer has are not compared: partition {shown}.")
    known = {t: n for t, n in result.others.items() if t in subject.record.other_topics}
    if known:
        told = ", ".join(f"{count:,} of {topic}" for topic, count in sorted(known.items()))
        notes.append(f"Rows of other topics in the table: {told}.")
    return notes


def _open(result: Result) -> list[str]:
    found: list[str] = []
    gone = sum(gap.gone for gap in result.gaps.values())
    unread = sum(gap.unread for gap in result.gaps.values())
    if gone:
        found.append(
            f"{gone:,} positions are missing in the table and gone from Kafka: it cannot say "
            "whether they were records."
        )
    if unread:
        found.append(f"{unread:,} missing positions were not looked up for want of time.")
    for column, why in sorted(result.checked.unfit.items()):
        found.append(f"Column {column!r} could not be compared: {why}")
    for code, count in sorted(result.checked.undecodable.items()):
        found.append(
            f"{count:,} rows could not be compared: their records are not decoded now ({code})."
        )
    return found
