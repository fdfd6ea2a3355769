"""Framed payloads whose every writer has a decoder of its own: Avro and Protobuf.

The values of a batch are grouped by writer, each group is decoded as a whole, and the groups are
put together in record order over columns that only grow.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from k2i_tasks.codecs.base import assemble
from k2i_tasks.codecs.beside import set_beside
from k2i_tasks.codecs.fitting import absences, fitted, misfits, solid, unfitting
from k2i_tasks.codecs.frames import Framing, Group, Writer, schema_id_of
from k2i_tasks.codecs.growth import relaxed
from k2i_tasks.codecs.metadata import MetadataColumns
from k2i_tasks.codecs.payloads import DecodedPayloads, PayloadDecoder
from k2i_tasks.codecs.rules import Rules
from k2i_tasks.codecs.unite import Union, unite
from k2i_tasks.codecs.wire import plain_field
from k2i_tasks.codecs.writers import Writers, ready_records
from k2i_tasks.errors import ConflictError, DecodeError
from k2i_tasks.types import DecodedBatch, RawBatch

#: Unions that are remembered; one is made for each writer and state of the columns.
UNIONS_MAX = 1_000
Indices = npt.NDArray[np.int64]


class FramedDecoder:
    """One row per message, by the schema that wrote it; a tombstone is a row of nulls.

    Args:
        format: "avro" or "protobuf".
        writers: makes decoders of writers' schemas.
        columns: names of the metadata columns.
        table_schema: columns of the table, None when it does not exist.
        max_message_bytes: a longer payload is a dead letter.
        mode: "manual" adds no columns (but creates them once where there is no table).
        rules: bounds, and what is done about conflicts.
    """

    def __init__(
        self,
        format: str,
        writers: Writers[PayloadDecoder],
        columns: MetadataColumns,
        table_schema: pa.Schema | None,
        *,
        max_message_bytes: int,
        mode: str,
        rules: Rules | None = None,
    ) -> None:
        self._writers = writers
        self._metadata = columns
        self._rules = rules or Rules()
        self._manual = mode == "manual"
        # Without a table even the manual mode has to create the columns, once.
        self._may_create = table_schema is None
        self._framing = Framing(
            format, paths=format == "protobuf", max_message_bytes=max_message_bytes
        )
        self._schema = pa.schema([])
        if table_schema is not None:
            present = columns.without(table_schema)
            self._schema = pa.schema([plain_field(field) for field in present])
        #: For each writer the union with the columns as they are now.
        self._unions: dict[Writer, tuple[pa.Schema, Union]] = {}

    @property
    def schema(self) -> pa.Schema | None:
        """Payload columns known so far, in first-seen order; None before the first."""
        return self._schema if len(self._schema) else None

    def adopt(self, given: pa.Schema) -> None:
        """Takes the columns of a schema in before its first record, as far as the mode allows."""
        self._schema = self._united(given).schema
        self._may_create = self._may_create and not len(self._schema)

    def prepare(self, raw: RawBatch, timeout_seconds: float) -> int:
        """Gets the schemas that `raw` needs; see `Decoder.prepare`."""
        return ready_records(self._writers, self._framing.of(raw), len(raw), timeout_seconds)

    def decode(self, raw: RawBatch) -> DecodedBatch:
        """One row or one dead letter per record; must not block; never raises for a bad record."""
        frames = self._framing.of(raw)
        errors = dict(frames.errors)
        parts: list[tuple[Writer, Indices, pa.Table]] = []
        for group in frames.groups:
            found = self._decoded(group, errors)
            if found is not None:
                parts.append((group.writer, *found))
                self._adopt_of(group.writer, found[1].schema)
        if self._rules.relaxes and self._additive:
            self._relax([table for _, _, table in parts], tombstones=len(frames.tombstones) > 0)
        # Only now: what the batch brings is known as a whole.
        self._may_create = self._may_create and not len(self._schema)
        tables: list[pa.Table] = []
        places: list[Indices] = []
        for writer, records, table in parts:
            kept, rows = self._fitted(writer, records, table, errors)
            tables.append(kept)
            places.append(rows)
        tables, places = self._with_tombstones(tables, places, frames.tombstones, errors)
        payload = _in_order(tables, places, self._schema)
        return assemble(raw, payload, self._schema, errors, self._metadata, schema_id_of)

    def _decoded(
        self, group: Group, errors: dict[int, DecodeError]
    ) -> tuple[Indices, pa.Table] | None:
        """Records and rows of one group; what is refused goes to `errors`."""
        decoder = self._writers[group.writer]
        if isinstance(decoder, DecodeError):
            errors.update(dict.fromkeys(group.records.tolist(), decoder))
            return None
        found: DecodedPayloads = decoder.decode(group.payloads)
        records = group.records
        if found.errors:
            refused = sorted(found.errors)
            for place in refused:
                errors[int(records[place])] = found.errors[place]
            records = np.delete(records, refused)
        return records, solid(found.columns)

    @property
    def _additive(self) -> bool:
        return not self._manual or self._may_create

    def _relax(self, tables: list[pa.Table], *, tombstones: bool) -> None:
        """Makes optional what these rows have no value for."""
        places = [place for table in tables for place, _ in absences(table, self._schema)]
        if tombstones:
            places += [(field.name,) for field in self._schema if not field.nullable]
        for place in places:
            self._schema = pa.schema(relaxed(self._schema, place))

    def _adopt_of(self, writer: Writer, given: pa.Schema) -> None:
        if self._known_union(writer, given) is None:
            self._schema = self._united(given).schema

    def _united(self, given: pa.Schema) -> Union:
        return unite(
            self._schema,
            given,
            additive=self._additive,
            reserved=self._metadata.reserved(),
            rules=self._rules,
            varies=True,
        )

    def _known_union(self, writer: Writer, given: pa.Schema) -> Union | None:
        """The union that was made before, if the columns and the writer's are as they were."""
        known = self._unions.get(writer)
        if known is None or known[0] != given or known[1].schema != self._schema:
            return None
        return known[1]

    def _union(self, writer: Writer, given: pa.Schema) -> Union:
        """The union of the columns, as they are after this batch, with a writer's."""
        known = self._known_union(writer, given)
        if known is not None:
            return known
        union = self._united(given)
        if len(self._unions) >= UNIONS_MAX:
            self._unions.clear()
        self._unions[writer] = (given, union)
        return union

    def _fitted(
        self,
        writer: Writer,
        records: Indices,
        table: pa.Table,
        errors: dict[int, DecodeError],
    ) -> tuple[pa.Table, Indices]:
        """The rows of one group in the table's columns, and their records."""
        union = self._union(writer, table.schema)
        table = set_beside(table, union.varied, union.spilled, self._rules.overflow)
        refused = misfits(table, union)
        table, records = _without(table, records, refused, errors)
        try:
            return fitted(table, union.schema), records
        except pa.ArrowInvalid:
            refused = unfitting(table, union.schema)
            table, records = _without(table, records, refused, errors)
            return fitted(table, union.schema), records

    def _with_tombstones(
        self,
        tables: list[pa.Table],
        places: list[Indices],
        tombstones: Indices,
        errors: dict[int, DecodeError],
    ) -> tuple[list[pa.Table], list[Indices]]:
        if not len(tombstones):
            return tables, places
        required = [field.name for field in self._schema if not field.nullable]
        if required:
            what = f"A tombstone has no value, and the table requires column {required[0]!r}."
            error = ConflictError("schema.missing_field", what, required[0])
            errors.update(dict.fromkeys(tombstones.tolist(), error))
            return tables, places
        nulls = [pa.nulls(len(tombstones), field.type) for field in self._schema]
        rows = pa.Table.from_arrays(nulls, schema=self._schema)
        return [*tables, rows], [*places, tombstones]


def _without(
    table: pa.Table,
    records: Indices,
    refused: dict[int, DecodeError],
    errors: dict[int, DecodeError],
) -> tuple[pa.Table, Indices]:
    """Rows and records without the refused rows, which are noted by their records."""
    if not refused:
        return table, records
    for row, error in refused.items():
        errors[int(records[row])] = error
    kept = np.delete(np.arange(len(records)), list(refused))
    return solid(table.take(pa.array(kept))), records[kept]


def _in_order(
    tables: Sequence[pa.Table], places: Sequence[Indices], schema: pa.Schema
) -> dict[str, pa.ChunkedArray]:
    """Columns over all tables, their rows in the order of `places`, which are record indices."""
    if not tables:
        return {field.name: pa.chunked_array([], type=field.type) for field in schema}
    if len(tables) == 1:
        return dict(zip(schema.names, tables[0].columns, strict=True))
    records = np.concatenate(places)
    order = pa.array(np.argsort(records, kind="stable"))
    return {
        field.name: pa.chunked_array(
            [pa.concat_arrays([t.column(n).chunk(0) for t in tables]).take(order)]
        )
        for n, field in enumerate(schema)
    }
