"""Between what JSON says and what the table holds: wire types, and columns conformed to them.

A wire type is what a value is read as before it becomes the column's type: text for times, double
for float. Both reading paths go through the same conversion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from k2i_tasks.codecs.infer import EXACT_DOUBLE_MAX, is_json_text
from k2i_tasks.codecs.json_exact import json_text
from k2i_tasks.codecs.text_types import from_text, is_text_type

Rows = npt.NDArray[np.int64]

#: Largest double that is not rounded to infinity by float (halfway to the next power is).
_FLOAT32_MAX = float(np.finfo(np.float32).max)


class RefusedError(Exception):
    """The fast path does not answer for these records.

    Args:
        row: the record it is about, counted from the start of what was read; None if not known.
        literal: a piece of the payload that was refused, None if not known.
        drift: name of the member that was refused, and the kind of its value; None if not known.
    """

    def __init__(
        self,
        row: int | None = None,
        literal: bytes | None = None,
        drift: tuple[str, str] | None = None,
    ) -> None:
        super().__init__(f"row {row}")
        self.row = row
        self.literal = literal
        self.drift = drift


def plain_type(kind: pa.DataType) -> pa.DataType:
    """`kind` with the large and view variants of string, binary and list replaced, nested too."""
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(plain_field(kind.value_field))
    if pa.types.is_struct(kind):
        return pa.struct([plain_field(member) for member in kind])
    if pa.types.is_map(kind):
        return pa.map_(plain_field(kind.key_field), plain_field(kind.item_field))
    return kind


def plain_field(field: pa.Field) -> pa.Field:
    """`field` with its type made plain."""
    return field.with_type(plain_type(field.type))


def is_supported(kind: pa.DataType) -> bool:
    """Whether JSON has an obvious form for values of this type (containers count as supported)."""
    types = pa.types
    scalar = types.is_boolean(kind) or types.is_integer(kind) or types.is_string(kind)
    number = types.is_float32(kind) or types.is_float64(kind) or types.is_decimal128(kind)
    nested = types.is_list(kind) or types.is_struct(kind) or types.is_map(kind)
    return bool(scalar or number or nested or is_text_type(kind) or types.is_null(kind))


def wire_type(field: pa.Field, *, exact: bool) -> pa.DataType:
    """What values of `field` are read as.

    The fast reader is told to expect nothing but null where it cannot do as the exact one does
    (maps, JSON text, unsupported types): it then refuses any value there.
    """
    kind = field.type
    if pa.types.is_struct(kind):
        return pa.struct([(member.name, wire_type(member, exact=exact)) for member in kind])
    if pa.types.is_list(kind):
        return pa.list_(pa.field("element", wire_type(kind.value_field, exact=exact)))
    if pa.types.is_map(kind):
        if not exact or not pa.types.is_string(kind.key_type):
            return pa.null()
        return pa.map_(pa.string(), wire_type(kind.item_field, exact=exact))
    if is_text_type(kind):
        return pa.string()
    if pa.types.is_float32(kind):
        return pa.float64()
    if is_json_text(field):
        return pa.string() if exact else pa.null()
    return kind if is_supported(kind) else pa.null()


def wire_schema(learned: pa.Schema, *, exact: bool) -> pa.Schema:
    """Wire types of all columns."""
    return pa.schema([(field.name, wire_type(field, exact=exact)) for field in learned])


def conform(array: pa.Array, wanted: pa.DataType, *, text: bool = False) -> pa.Array:
    """`array` as `wanted`: text parsed, members by name, missing members as nulls.

    Args:
        array: not a slice, if it is a list or struct whose type changes.
        wanted: the type to reach.
        text: whether that is of JSON text.

    Raises:
        RefusedError: a text has not the form of its type.
    """
    if array.type == wanted:
        return array
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), wanted)
    if pa.types.is_list(array.type) and not pa.types.is_list(wanted):
        # Lists of nothing, whose column has got its type in the same batch.
        if not text:
            return pa.nulls(len(array), wanted)
        texts = [None if value is None else json_text(value) for value in array.to_pylist()]
        return pa.array(texts, type=wanted)
    if pa.types.is_struct(wanted):
        members = [_conformed_member(array, field) for field in wanted]
        mask = array.is_null() if array.null_count else None
        return pa.StructArray.from_arrays(members, fields=list(wanted), mask=mask)
    if pa.types.is_list(wanted):
        values = conform(array.values, wanted.value_type)
        mask = array.is_null() if array.null_count else None
        return pa.ListArray.from_arrays(array.offsets, values, type=wanted, mask=mask)
    if pa.types.is_map(wanted):
        items = conform(array.items, wanted.item_type)
        mask = array.is_null() if array.null_count else None
        return pa.MapArray.from_arrays(array.offsets, array.keys, items, type=wanted, mask=mask)
    if is_text_type(wanted):
        try:
            return from_text(array, wanted)
        except pa.ArrowInvalid:
            raise RefusedError from None
    return array.cast(wanted, safe=False)


def doubtful_rows(
    wires: Mapping[str, pa.Array],
    fields: Iterable[pa.Field],
    *,
    texts: bool,
    widens: Callable[[str], bool],
) -> Rows:
    """Rows that only the exact path may judge, rising; perhaps more than need be.

    Doubles of 2^53 and more may have been integers that were rounded, infinities come from
    integers of hundreds of digits, NaN is no JSON; decimals with too many digits; numbers for
    which a float is to be widened; nulls where the column is required; with `texts`, text that is
    not of its column's type.

    Args:
        wires: wire columns by name, not sliced.
        fields: the learned columns.
        texts: whether to look at texts too.
        widens: whether the column at a dotted path may be widened.
    """
    doubts = _Doubts(texts, widens)
    for field in fields:
        doubts.look(wires[field.name], field, None, field.name)
    found = doubts.found
    return np.unique(np.concatenate(found)) if found else np.empty(0, np.int64)


class _Doubts:
    """One look at a table of wires; collects rows."""

    def __init__(self, texts: bool, widens: Callable[[str], bool]) -> None:
        self._texts = texts
        self._widens = widens
        self.found: list[Rows] = []

    def look(self, array: pa.Array, field: pa.Field, parents: Rows | None, path: str) -> None:
        """Looks at the values of a place; `parents` are their rows, None for one in each row."""
        kind = field.type

        def suspect(mask: npt.NDArray[np.bool_]) -> None:
            places = np.flatnonzero(mask)
            if len(places):
                self.found.append(places if parents is None else parents[places])

        if not field.nullable and array.null_count:
            suspect(array.is_null().to_numpy(zero_copy_only=False))
        if pa.types.is_null(array.type):
            return
        if pa.types.is_float64(array.type):
            numbers = (array.fill_null(0.0) if array.null_count else array).to_numpy()
            suspect(~(np.abs(numbers) < EXACT_DOUBLE_MAX))
            if pa.types.is_float32(kind):
                suspect(np.abs(numbers) > _FLOAT32_MAX)
                if self._widens(path):
                    with np.errstate(over="ignore"):
                        suspect(numbers.astype(np.float32) != numbers)
        elif pa.types.is_decimal128(array.type):
            suspect(_too_long(array))
        elif self._texts and is_text_type(kind):
            suspect(_unreadable(array, kind))
        elif pa.types.is_struct(kind):
            for member in kind:
                inner = f"{path}.{member.name}"
                self.look(_member(array, member.name), member, parents, inner)
        elif pa.types.is_list(kind) and (self._texts or _has_doubt(kind.value_field)):
            owners = pc.list_parent_indices(array).to_numpy().astype(np.int64)
            owners = owners if parents is None else parents[owners]
            self.look(array.flatten(), kind.value_field, owners, f"{path}.element")


def _too_long(decimals: pa.Array) -> npt.NDArray[np.bool_]:
    """Marks what has more digits than its type: Arrow's reader counts them before it scales."""
    if not len(decimals):
        return np.zeros(0, np.bool_)
    words = np.frombuffer(decimals.buffers()[1], np.uint64)
    first, count = 2 * decimals.offset, 2 * len(decimals)
    low, high = words[first : first + count].reshape(-1, 2).T
    negative = high.view(np.int64) < 0
    # The size of a negative number is that of its complement and one, which a carry may lift.
    size_low = np.where(negative, ~low + np.uint64(1), low)
    size_high = np.where(negative, ~high + (low == 0), high)
    end_high, end_low = divmod(10**decimals.type.precision, 2**64)
    same = size_high == np.uint64(end_high)
    long: npt.NDArray[np.bool_] = size_high > np.uint64(end_high)
    long |= same & (size_low >= np.uint64(end_low))
    return long


def _unreadable(texts: pa.Array, wanted: pa.DataType) -> npt.NDArray[np.bool_]:
    """Marks the texts that cannot be read, by halving what cannot be read as a whole."""
    bad = np.zeros(len(texts), dtype=bool)
    waiting = [(0, len(texts))]
    while waiting:
        start, end = waiting.pop()
        try:
            from_text(texts.slice(start, end - start), wanted)
        except pa.ArrowInvalid:
            if end - start == 1:
                bad[start] = True
            else:
                middle = (start + end) // 2
                waiting += [(start, middle), (middle, end)]
    return bad


def _has_doubt(field: pa.Field) -> bool:
    kind = field.type
    if pa.types.is_struct(kind):
        return not field.nullable or any(_has_doubt(member) for member in kind)
    if pa.types.is_list(kind):
        return not field.nullable or _has_doubt(kind.value_field)
    return not field.nullable or pa.types.is_floating(kind) or pa.types.is_decimal128(kind)


def _conformed_member(array: pa.StructArray, field: pa.Field) -> pa.Array:
    if array.type.get_field_index(field.name) < 0:
        return pa.nulls(len(array), field.type)
    return conform(_member(array, field.name), field.type, text=is_json_text(field))


def _member(array: pa.StructArray, name: str) -> pa.Array:
    # Not `array.field`: where the struct is null, what lies in its members is no value.
    return pc.struct_field(array, [name])
