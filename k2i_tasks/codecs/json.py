"""Typed JSON: a vectorised fast path, and an exact path for the records it refuses.

The exact path decides what is right; the fast path either gives the same values or refuses.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from k2i_tasks.codecs.base import assemble
from k2i_tasks.codecs.infer import is_json_text
from k2i_tasks.codecs.json_columns import LearnedColumns
from k2i_tasks.codecs.json_foresight import Foresight
from k2i_tasks.codecs.json_habit import Habit
from k2i_tasks.codecs.json_pace import Pace
from k2i_tasks.codecs.json_page import Page
from k2i_tasks.codecs.json_reading import Piece, Reading
from k2i_tasks.codecs.metadata import MetadataColumns
from k2i_tasks.codecs.rules import Rules
from k2i_tasks.codecs.wire import conform
from k2i_tasks.errors import DecodeError
from k2i_tasks.types import DecodedBatch, RawBatch

#: More pieces than this are copied into one: small chunks are slow to write.
CHUNKS_MAX = 8


class JsonDecoder:
    """One JSON object per message, one column per member.

    Args:
        columns: names of the metadata columns.
        table_schema: columns of the table, None when it does not exist.
        max_message_bytes: a longer payload is a dead letter.
        mode: "manual" adds no columns (but creates them once where there is no table).
        rules: bounds, hints and what is done about conflicts.

    Raises:
        SchemaConflictError: a required column of the table has a type that JSON has no form for,
            or a column has another type than is hinted.
    """

    def __init__(
        self,
        columns: MetadataColumns,
        table_schema: pa.Schema | None,
        *,
        max_message_bytes: int,
        mode: str,
        rules: Rules | None = None,
    ) -> None:
        self._metadata = columns
        self._max_message_bytes = max_message_bytes
        self._pace = Pace()
        self._foresight = Foresight()
        self._habit = Habit()
        self._columns = LearnedColumns(
            columns,
            table_schema,
            max_message_bytes=max_message_bytes,
            mode=mode,
            rules=rules or Rules(),
        )

    @property
    def schema(self) -> pa.Schema | None:
        """Payload columns known so far, in first-seen order; None before the first."""
        typed = self._columns.plan.typed
        return typed if len(typed) else None

    def prepare(self, raw: RawBatch, timeout_seconds: float) -> int:
        """All of it is ready: nothing but the records is needed."""
        return len(raw)

    def decode(self, raw: RawBatch) -> DecodedBatch:
        """One row or one dead letter per record; must not block; never raises for a bad record."""
        payload, errors = self.read(raw.values)
        return assemble(raw, payload, self._columns.plan.typed, errors, self._metadata)

    def read(
        self, values: Sequence[bytes | None]
    ) -> tuple[dict[str, pa.ChunkedArray], dict[int, DecodeError]]:
        """The columns that n payloads make, and why others make none; must not block.

        Returns:
            By name the columns as they are known after it, each of n less the errors; and index of
            a payload -> why it is refused.
        """
        page = Page(values, self._max_message_bytes)
        self._columns.create(page)
        reading = Reading(
            self._columns, page, pace=self._pace, foresight=self._foresight, habit=self._habit
        )
        pieces, errors = reading.run()
        payload = {field.name: _joined(pieces, field) for field in self._columns.plan.typed}
        return payload, errors

    def adopt(self, given: pa.Schema) -> None:
        """Takes columns in before a record has them, as far as the mode allows."""
        self._columns.adopt(given)


def _widened(array: pa.Array, wanted: pa.Field) -> pa.Array:
    """A column of an earlier schema as it is now."""
    if array.type == wanted.type:
        return array
    # Lists and structs cannot be rebuilt from a slice: copied first.
    whole = array.take(pa.array(range(len(array)))) if array.offset else array
    return conform(whole, wanted.type, text=is_json_text(wanted))


def _joined(pieces: list[Piece], field: pa.Field) -> pa.ChunkedArray:
    """One column over all pieces, those from before it was known filled with nulls."""
    parts = [
        _widened(piece.columns[field.name], field)
        if field.name in piece.columns
        else pa.nulls(piece.rows, field.type)
        for piece in pieces
    ]
    if len(parts) > CHUNKS_MAX:
        parts = [pa.concat_arrays(parts)]
    return pa.chunked_array(parts, type=field.type)
