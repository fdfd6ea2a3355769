"""Keys decoded beside the values, by a decoder of their own, into one column more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from k2i_tasks.codecs.base import Decoder, dead_letter, dead_letter_bytes
from k2i_tasks.codecs.metadata import MetadataColumns
from k2i_tasks.codecs.raw import VALUE, PlainDecoder
from k2i_tasks.errors import ConflictError, DecodeError, SchemaConflictError
from k2i_tasks.types import DeadLetter, DecodedBatch, RawBatch

#: What a key's decoder is given; of the record's coordinates only those that it cannot do without.
KEY_COLUMNS = MetadataColumns(
    topic="", partition="\0partition", offset="\0offset", timestamp="", key="", headers=""
)
Mask = npt.NDArray[np.bool_]


def key_table_schema(
    table_schema: pa.Schema | None, column: str, *, plain: bool
) -> pa.Schema | None:
    """The columns that a key's decoder finds in the table; None when there is no table.

    Args:
        table_schema: the table's columns, None when it does not exist.
        column: the one that holds decoded keys.
        plain: whether keys become text; else they become a struct.

    Raises:
        SchemaConflictError: the table's column is of the other kind.
    """
    if table_schema is None:
        return None
    if column not in table_schema.names:
        return pa.schema([])
    field = table_schema.field(column)
    if pa.types.is_struct(field.type) is plain:
        raise SchemaConflictError(
            f"Column {column!r} of the table is {field.type}; keys are to become "
            f"{'text' if plain else 'a struct'}.",
            remedy="Choose another kafka.key_format.column or type.",
        )
    return pa.schema([field.with_name(VALUE)] if plain else list(field.type))


class KeyedDecoder:
    """Values by one decoder, keys by another. A record without a key has null in the key's column.

    A record whose key is refused is a dead letter, its code behind `key.`.

    Args:
        value: of the values; its metadata columns reserve `column`.
        key: of the keys, with `KEY_COLUMNS`.
        column: the column for decoded keys: a struct of the key's columns, or plain text.
    """

    def __init__(self, value: Decoder, key: Decoder, column: str) -> None:
        self._value = value
        self._key = key
        self._column = column
        self._last: tuple[RawBatch, RawBatch] | None = None

    @property
    def schema(self) -> pa.Schema | None:
        """Columns of the values, and the keys' if it is known; None before the first of values."""
        value, key = self._value.schema, self._key.schema
        if value is None or key is None:
            return value
        return value.append(self._field(key))

    def prepare(self, raw: RawBatch, timeout_seconds: float) -> int:
        """Gets what values and keys need; see `Decoder.prepare`."""
        ready = self._value.prepare(raw, timeout_seconds)
        return min(ready, self._key.prepare(self._keys(raw), timeout_seconds)) if ready else 0

    def decode(self, raw: RawBatch) -> DecodedBatch:
        """One row or one dead letter per record; must not block; never raises for a bad record."""
        values, keys = self._value.decode(raw), self._key.decode(self._keys(raw))
        rows, letters = values.table, list(values.dead_letters)
        column = self._array(raw, keys)
        if values.dead_letters or keys.dead_letters:
            place = _places(raw)
            bad_values = {place[one.partition, one.offset] for one in values.dead_letters}
            bad_keys = {place[one.partition, one.offset]: one for one in keys.dead_letters}
            sound_values, sound_keys = _without(len(raw), bad_values), _without(len(raw), bad_keys)
            rows = rows.filter(pa.array(sound_keys[sound_values]))
            column = None if column is None else column.filter(pa.array(sound_values[sound_keys]))
            for index in sorted(bad_keys.keys() - bad_values):
                letter = bad_keys[index]
                letters.append(dead_letter(raw, index, self._of_key(letter), letter.schema_id))
            letters.sort(key=lambda one: place[one.partition, one.offset])
        if column is not None:
            rows = rows.append_column(self._field(self._key.schema), column)
        return replace(
            values,
            table=rows,
            dead_letters=tuple(letters),
            nbytes=int(rows.nbytes) + sum(map(dead_letter_bytes, letters)),
        )

    def _of_key(self, letter: DeadLetter) -> DecodeError:
        code, what = f"key.{letter.code}", f"The key: {letter.reason}"
        if letter.conflict is None:
            return DecodeError(code, what)
        return ConflictError(code, what, f"{self._column}.{letter.conflict}")

    def _keys(self, raw: RawBatch) -> RawBatch:
        """The same records with their keys as values."""
        if self._last is None or self._last[0] is not raw:
            self._last = raw, replace(raw, values=raw.keys)
        return self._last[1]

    @property
    def _plain(self) -> bool:
        return isinstance(self._key, PlainDecoder)

    def _field(self, schema: pa.Schema | None) -> pa.Field:
        assert schema is not None
        if self._plain:
            return schema.field(VALUE).with_name(self._column)
        return pa.field(self._column, pa.struct(list(schema)))

    def _array(self, raw: RawBatch, keys: DecodedBatch) -> pa.Array | None:
        """The key's column for the records whose key was decoded; None while it has no type."""
        schema = self._key.schema
        if schema is None:
            return None
        columns = [_whole(keys.table.column(name)) for name in schema.names]
        if self._plain:
            return columns[0]
        bad = {(one.partition, one.offset) for one in keys.dead_letters}
        absent = np.fromiter((key is None for key in raw.keys), bool, len(raw))
        if bad:
            place = _places(raw)
            absent = absent[_without(len(raw), {place[one] for one in bad})]
        mask = pa.array(absent) if absent.any() else None
        return pa.StructArray.from_arrays(columns, fields=list(schema), mask=mask)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays([*column.chunks, pa.array([], type=column.type)])


def _places(raw: RawBatch) -> Mapping[tuple[int, int], int]:
    """Record index by partition and offset."""
    at = zip(raw.partitions.tolist(), raw.offsets.tolist(), strict=True)
    return {position: index for index, position in enumerate(at)}


def _without(count: int, bad: Mapping[int, object] | set[int]) -> Mask:
    mask = np.ones(count, dtype=bool)
    mask[list(bad)] = False
    return mask
