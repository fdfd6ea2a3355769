"""An intake with JSON before it, and an operator behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from k2i_tasks.codecs.conflicts import Conflicts, Policy
from k2i_tasks.codecs.rules import Rules
from k2i_tasks.errors import Component, TransientError
from k2i_tasks.intake import Intake
from k2i_tasks.metrics import Metrics
from k2i_tasks.progress import Progress
from k2i_tasks.resumption import Order, send_order
from k2i_tasks.standstill import Gate
from k2i_tasks.status import RunState
from k2i_tasks.types import DecodedBatch, RawBatch
from tests.unit.codec_batches import codes, decoder_of, payload

TABLE = (("n", pa.int64()),)


class Hands:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def unix(self) -> float:
        return self.now


class Source:
    """Gives batches one after the other; gives none while it is paused."""

    def __init__(self, batches: Sequence[RawBatch]) -> None:
        self.batches = list(batches)
        self.paused = False
        self.polls = 0

    def poll(self, _max_records: int, _timeout: float) -> RawBatch | None:
        self.polls += 1
        return None if self.paused or not self.batches else self.batches.pop(0)

    def gaps(self) -> dict[Any, Any]:
        return {}

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False


class Rig:
    """An intake of JSON for a table with a column `n` of integers, or another."""

    def __init__(
        self,
        folder: Path,
        policy: Policy,
        *batches: RawBatch,
        per_minute: int = 0,
        table: Sequence[pa.Field | tuple[str, pa.DataType]] | None = TABLE,
        rules: Rules | None = None,
    ) -> None:
        self.folder = folder
        self.clock = Hands()
        self.source = Source(batches)
        self.progress = Progress("t", "t", 1 << 30, self.clock)
        self.progress.state = RunState.RUNNING
        self.table = None if table is None else list(table)
        self.conflicts = Conflicts(policy)
        self.rules = replace(rules or Rules(), conflicts=self.conflicts)
        self.away = False
        gate = Gate(Conflicts(policy), self.clock, letters_per_minute_max=per_minute, orders=folder)
        source: Any = self.source
        nothing: Any = None
        self.intake = Intake(source, nothing, gate, self.decoder, Metrics(), self.progress)
        self.intake.decoder = self.decoder()

    def decoder(self) -> Any:
        if self.away:
            raise TransientError("The catalog is away.", component=Component.ICEBERG)
        return decoder_of(self.table, rules=self.rules)

    def poll(self, *, empty: bool = True) -> list[DecodedBatch]:
        self.clock.now += 1.0
        return self.intake.poll(100, 0.0, room_bytes=1 << 20, empty=empty)

    def taken(self, polls: int = 4) -> tuple[list[Any], list[str]]:
        """Values of `n`, and codes of letters, of some polls."""
        found = [decoded for _ in range(polls) for decoded in self.poll()]
        values = [row["n"] for decoded in found for row in payload(decoded)]
        return values, [code for decoded in found for code in codes(decoded)]

    def order(self, policy: str | None = None, *, offset: int | None = None) -> None:
        stand = self.progress.standstill
        assert stand is not None
        place = stand.offset if offset is None else offset
        send_order(self.folder, Order(stand.topic, stand.partition, place, policy))
