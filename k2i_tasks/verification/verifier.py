"""One verification: positions, gaps, values, report."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from k2i_tasks.codecs.base import Decoder
from k2i_tasks.kafka.ranges import RangeReader
from k2i_tasks.types import OffsetRange
from k2i_tasks.verification.coverage import Coverage
from k2i_tasks.verification.findings import Result, report_of
from k2i_tasks.verification.gaps import Explained, explain
from k2i_tasks.verification.report import VerifyReport
from k2i_tasks.verification.sampling import Round, sample_rounds
from k2i_tasks.verification.subject import Subject, VerifyOptions
from k2i_tasks.verification.values import Checked, Sides, ValueCheck

#: (what is done, how far, of how much); what is done changes three times at most.
Progress = Callable[[str, int, int], None]


class Verifier:
    """Compares a table with its topic. For one thread; changes nothing anywhere.

    Args:
        subject: what is verified.
        connect: opens a reader of the topic.
        decoder: for the table's columns.
        options: how much.
    """

    def __init__(
        self,
        subject: Subject,
        connect: Callable[[], RangeReader],
        decoder: Decoder,
        options: VerifyOptions,
    ) -> None:
        self._subject = subject
        self._connect = connect
        self._decoder = decoder
        self._options = options
        topic = subject.topic.topic
        offsets = subject.record.state.offsets
        self._ends = {tp.partition: at for tp, at in offsets.items() if tp.topic == topic}

    def run(self, progress: Progress = lambda _step, _done, _total: None) -> VerifyReport:
        """The comparison. May block for as long as it takes.

        Raises:
            K2IError: Kafka, the catalog or the store cannot be read.
        """
        began = time.monotonic()
        coverage, others, unplaced = self._cover(progress)
        starts = {number: self._start(number, coverage) for number in self._ends}
        gaps = self._gaps(coverage, starts, progress)
        checked = self._values(starts, progress)
        seconds = time.monotonic() - began
        result = Result(self._ends, starts, coverage, gaps, checked, others, unplaced, seconds)
        return report_of(self._subject, self._options, result)

    def _cover(self, progress: Progress) -> tuple[Coverage, Counter[str], int]:
        coverage = Coverage(self._ends)
        others: Counter[str] = Counter()
        unplaced = 0
        rows, batches = self._subject.rows.positions()
        done = 0
        for batch in batches:
            coverage.add_rows(batch.partitions, batch.offsets)
            others.update(batch.others)
            unplaced += batch.unplaced
            done += len(batch.offsets)
            progress("positions", done, rows)
        if self._subject.letters is not None:
            for batch in self._subject.letters.positions()[1]:
                coverage.add_letters(batch.partitions, batch.offsets)
        if self._subject.sent is not None:
            coverage.add_letters(*self._subject.sent)
        return coverage, others, unplaced

    def _start(self, number: int, coverage: Coverage) -> int:
        """First offset that was ever to be read.

        Tables of older versions do not tell. From "earliest" all that Kafka has now was there to be
        read; where it began with "latest", nothing tells what was there before the first row.
        """
        subject, end = self._subject, self._ends[number]
        if subject.record.starts is not None:
            return min(end, subject.record.starts.get(number, 0))
        lowest = coverage.lowest(number)
        first = end if lowest is None else lowest
        if subject.reset == "latest":
            return first
        return min(first, subject.topic.partitions[number].low)

    def _gaps(
        self, coverage: Coverage, starts: Mapping[int, int], progress: Progress
    ) -> dict[int, Explained]:
        missing = {number: coverage.missing(number, start) for number, start in starts.items()}
        missing = {number: ranges for number, ranges in missing.items() if len(ranges)}
        if not missing:
            return {}
        total = sum(int((ranges[:, 1] - ranges[:, 0]).sum()) for ranges in missing.values())
        step = _Step("gaps", total, progress)
        with self._reader() as reader:
            return explain(
                missing,
                self._lows(),
                self._subject.accepted,
                reader,
                seconds_max=self._options.gap_seconds,
                on_read=step.more,
            )

    def _values(self, starts: Mapping[int, int], progress: Progress) -> Checked:
        lows = self._lows()
        spans = {
            number: OffsetRange(min(end, max(starts[number], lows[number])), end)
            for number, end in self._ends.items()
        }
        rounds: list[Round] = []
        if self._options.values == "full":
            rounds = [spans]
        elif self._options.values == "sampled":
            rounds = sample_rounds(spans, self._options.sample_rows, self._options.seed)
        total = sum(span.end - span.start for turn in rounds for span in turn.values())
        if not total:
            return Checked()
        step = _Step("values", total, progress)
        subject = self._subject
        with self._reader() as reader:
            sides = Sides(reader, self._decoder, subject.rows, subject.letters, subject.keys)
            check = ValueCheck(sides, show_values=self._options.show_values, on_read=step.more)
            return check.run(rounds)

    def _lows(self) -> dict[int, int]:
        return {number: marks.low for number, marks in self._subject.topic.partitions.items()}

    @contextmanager
    def _reader(self) -> Iterator[RangeReader]:
        reader = self._connect()
        try:
            yield reader
        finally:
            reader.close()


class _Step:
    """How far one step is."""

    def __init__(self, name: str, total: int, progress: Progress) -> None:
        self._name = name
        self._total = total
        self._progress = progress
        self._done = 0

    def more(self, positions: int) -> None:
        self._done += positions
        self._progress(self._name, min(self._done, self._total), self._total)
