"""The two calls that a batch goes through, flush, then commit, and those of the start."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from k2i_tasks.calls import Call, RetryPolicy, racing
from k2i_tasks.errors import component_of, health_component_of
from k2i_tasks.operations import Operations
from k2i_tasks.ports import Meter
from k2i_tasks.progress import Progress
from k2i_tasks.types import SealedBatch, TableCommit, describe_ranges

#: The kind of the calls that write files.
FLUSH = "flush"
#: Of what is tried once: if it fails, the flush does it.
ONCE = RetryPolicy(budget_seconds=0.0)


class BatchCalls:
    """Makes the calls; the attempts of a batch's run on the lanes' threads.

    Args:
        operations: what the attempts do.
        meter, progress: told of each attempt's result and error.
        confirm: raises if what was read may not be of the topic that the run began with; asked
            before a batch is written, on the thread that writes it.
        policy: when an attempt is followed by another.
        stop: set when no further attempt may begin.
    """

    def __init__(
        self,
        operations: Operations,
        meter: Meter,
        progress: Progress,
        confirm: Callable[[], None],
        policy: RetryPolicy,
        stop: threading.Event,
    ) -> None:
        self._operations = operations
        self._meter = meter
        self._progress = progress
        self._confirm = confirm
        self._policy = policy
        self._stop = stop
        self._flushes: dict[str, Call] = {}
        self._commits: dict[str, TableCommit] = {}

    def start(self, doing: str, step: Callable[[], None], stop: threading.Event) -> Call:
        """A step before the first batch; `stop` ends it between two attempts."""
        attempt = racing(doing, self._noted(step), stop.wait)
        return Call("start", doing, attempt, self._policy, stop=stop)

    def encode(self, batch_id: str, tables: Sequence[pa.Table]) -> Call:
        """Encodes the next rows of a batch that is still filled; on the flushes' lane, tried once.

        It may fail: the flush writes what is not encoded.
        """
        rows = sum(table.num_rows for table in tables)
        return Call(
            FLUSH,
            f"encoding {rows} rows of {batch_id}",
            lambda: self._operations.encode(batch_id, tables),
            ONCE,
            stop=self._stop,
        )

    def forget_encoded(self) -> Call:
        """Removes what was encoded of a batch that will not be flushed."""
        return Call(FLUSH, "removing what was encoded", self._operations.forget, ONCE)

    def flush(self, batch: SealedBatch) -> Call:
        """Writes the batch to durable files."""
        label = f"flush {batch.rows} rows {describe_ranges(batch.ranges)}"
        summary: dict[str, Any] = {"reason": batch.reason.value, "rows": batch.rows}

        def attempt() -> None:
            self._confirm()
            began = time.monotonic()
            staged = self._operations.flush(batch)
            seconds = time.monotonic() - began
            summary.update(bytes=staged.size_bytes, files=len(staged.files))
            summary["seconds"] = round(seconds, 4)
            self._meter.on_flush(batch.reason.value, batch.rows, staged.size_bytes, seconds)

        call = self._call(FLUSH, label, attempt, summary, after=None)
        self._flushes[batch.batch_id] = call
        return call

    def commit(self, batch: SealedBatch) -> Call:
        """Commits the files of a batch that was flushed."""
        label = f"commit events {describe_ranges(batch.ranges)}"
        summary: dict[str, Any] = {"rows": batch.rows}

        def attempt() -> None:
            commit = self._operations.commit(batch)
            self._commits[batch.batch_id] = commit
            summary.update(snapshot=commit.snapshot_id, files=commit.files)
            summary.update(bytes=commit.size_bytes, seconds=round(commit.seconds, 4))

        return self._call(
            "commit", label, attempt, summary, after=self._flushes.pop(batch.batch_id)
        )

    def forget(self) -> None:
        """No further call of the batches made so far will follow."""
        self._flushes.clear()
        self._commits.clear()

    def landed(self, batch_id: str) -> TableCommit:
        """What the batch's commit came to; once."""
        return self._commits.pop(batch_id)

    def _call(
        self,
        kind: str,
        label: str,
        attempt: Callable[[], None],
        summary: dict[str, Any],
        after: Call | None,
    ) -> Call:
        raced = racing(label, self._noted(attempt), self._stop.wait)
        return Call(kind, label, raced, self._policy, after=after, summary=summary, stop=self._stop)

    def _noted(self, attempt: Callable[[], None]) -> Callable[[], None]:
        def noted() -> None:
            try:
                attempt()
            except Exception as error:
                self._meter.on_error(component_of(error))
                self._progress.note(health_component_of(error), str(error))
                raise

        return noted
