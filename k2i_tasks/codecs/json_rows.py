"""Parsed documents against the learned columns: each value fits its column or is refused.

A reader per column is built once per schema; `JsonDecoder` calls it per record.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal, InvalidOperation
from typing import Any

import pyarrow as pa

from k2i_tasks.codecs.infer import is_json_text
from k2i_tasks.codecs.json_exact import ExactDouble, MinusZero, json_text, kind_of
from k2i_tasks.codecs.text_types import from_text, is_text_type
from k2i_tasks.codecs.wire import is_supported
from k2i_tasks.errors import ConflictError

_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
#: Nothing is rounded in it; Python's default context keeps 28 digits only.
_UNROUNDED = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN)


@dataclass(frozen=True, slots=True)
class Unlisted:
    """A value that no column exists for.

    Args:
        path: dotted path of its place.
        name: the member that it is, or that holds it.
        value: as parsed.
        known: whether the place was seen before, with nothing that tells a type.
    """

    path: str
    name: str
    value: Any
    known: bool


#: Reads one value; members without a column are noted in the list.
Reader = Callable[[Any, list[Unlisted]], Any]


class MisfitError(Exception):
    """A value does not fit; `path` grows while the error leaves the nesting."""

    def __init__(self, code: str, what: str) -> None:
        super().__init__(what)
        self.code = code
        self.what = what
        self.path: list[str] = []

    def within(self, name: str) -> MisfitError:
        """This error, seen from the object that holds `name`."""
        self.path.insert(0, name)
        return self

    def decode_error(self) -> ConflictError:
        """The reason for a dead letter: path and kinds, no value."""
        path = ".".join(self.path)
        return ConflictError(self.code, f"Field {path[:200]}: {self.what}.", path)


def row_reader(learned: pa.Schema) -> Reader:
    """Reader of whole documents.

    It returns a dict of wire values by column name. The reader raises `MisfitError`.
    """
    return _struct_reader(list(learned), "")


def _mismatch(expected: object, value: Any) -> MisfitError:
    return MisfitError("json.type_mismatch", f"expected {expected}, found {kind_of(value)}")


def _reader(field: pa.Field, path: str, name: str) -> Reader:
    """Reader of one place; `name` is the member that it is, or that holds it."""
    inner = _value_reader(field, path, name)
    nullable = field.nullable

    def read(value: Any, unlisted: list[Unlisted]) -> Any:
        if value is not None:
            return inner(value, unlisted)
        if nullable:
            return None
        raise MisfitError("json.missing_field", "a required column has no value")

    return read


def _value_reader(field: pa.Field, path: str, name: str) -> Reader:
    kind = field.type
    if pa.types.is_null(kind):
        return lambda value, unlisted: unlisted.append(Unlisted(path, name, value, known=True))
    if is_json_text(field):
        return lambda value, unlisted: json_text(value)
    if pa.types.is_struct(kind):
        return _struct_reader(list(kind), f"{path}.")
    if pa.types.is_list(kind):
        return _list_reader(kind.value_field, path, name)
    if pa.types.is_map(kind) and pa.types.is_string(kind.key_type):
        return _map_reader(kind.item_field, path, name)
    scalar = _scalar(kind)
    return lambda value, unlisted: scalar(value)


def _struct_reader(members: list[pa.Field], parent: str) -> Reader:
    readers = {field.name: _reader(field, f"{parent}{field.name}", field.name) for field in members}
    required = [field.name for field in members if not field.nullable]

    def read(value: Any, unlisted: list[Unlisted]) -> Any:
        if type(value) is not dict:
            raise _mismatch("object", value)
        row: dict[str, Any] = {}
        for name, member in value.items():
            reader = readers.get(name)
            if reader is None:
                unlisted.append(Unlisted(f"{parent}{name}", name, member, known=False))
                continue
            try:
                row[name] = reader(member, unlisted)
            except MisfitError as error:
                raise error.within(name) from None
        for name in required:
            if name not in row:
                missing = MisfitError("json.missing_field", "a required column has no value")
                raise missing.within(name)
        return row

    return read


def _list_reader(element: pa.Field, path: str, name: str) -> Reader:
    reader = _reader(element, f"{path}.element", name)

    def read(value: Any, unlisted: list[Unlisted]) -> Any:
        if type(value) is not list:
            raise _mismatch("array", value)
        try:
            return [reader(item, unlisted) for item in value]
        except MisfitError as error:
            raise error.within("element") from None

    return read


def _map_reader(item: pa.Field, path: str, name: str) -> Reader:
    reader = _reader(item, f"{path}.value", name)

    def read(value: Any, unlisted: list[Unlisted]) -> Any:
        if type(value) is not dict:
            raise _mismatch("object", value)
        try:
            return [(name, reader(member, unlisted)) for name, member in value.items()]
        except MisfitError as error:
            raise error.within("value") from None

    return read


def _scalar(kind: pa.DataType) -> Callable[[Any], Any]:
    if pa.types.is_integer(kind):
        return lambda value: _integer(value, kind)
    if pa.types.is_float64(kind) or pa.types.is_float32(kind):
        return lambda value: _double(value, kind)
    if pa.types.is_decimal128(kind):
        return lambda value: _decimal(value, kind)
    if is_text_type(kind):
        return lambda value: _text(value, kind)
    plain = {pa.bool_(): bool, pa.string(): str}.get(kind)

    def read(value: Any) -> Any:
        if type(value) is plain:
            return value
        if is_supported(kind):
            raise _mismatch(kind, value)
        raise MisfitError("json.unsupported_type", f"JSON has no form for a column of type {kind}")

    return read


def _integer(value: Any, kind: pa.DataType) -> int:
    if isinstance(value, ExactDouble):
        # 3.0 and 2e3 are integers; the text is looked at, since the double may be rounded.
        whole = _whole(value.text, 0) if abs(value) < 2.0**64 else None
        if whole is None:
            raise MisfitError("json.type_mismatch", f"expected {kind}, found a fraction")
        value = whole
    elif isinstance(value, bool) or not isinstance(value, int):
        raise _mismatch(kind, value)
    low = 0 if pa.types.is_unsigned_integer(kind) else -(2 ** (kind.bit_width - 1))
    if not low <= value < low + 2**kind.bit_width:
        raise MisfitError("json.out_of_range", f"an integer does not fit {kind}")
    return int(value)


def _double(value: Any, kind: pa.DataType) -> float:
    if isinstance(value, ExactDouble):
        number = float(value)
    elif isinstance(value, MinusZero):
        number = -0.0
    elif isinstance(value, bool) or not isinstance(value, int):
        raise _mismatch(kind, value)
    else:
        number = _exact_double(value)
    if pa.types.is_float32(kind) and not _fits_float32(number):
        raise MisfitError("json.out_of_range", "a number is too large for float")
    return number


def _exact_double(value: int) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if number == math.inf or int(number) != value:
        raise MisfitError("json.out_of_range", "a double cannot hold this integer exactly")
    return number


def _fits_float32(number: float) -> bool:
    try:
        struct.pack("<f", number)
    except OverflowError:
        return False
    return True


def _decimal(value: Any, kind: pa.DataType) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise _mismatch(kind, value)
    text = value.text if isinstance(value, ExactDouble) else str(value)
    if not _DECIMAL.fullmatch(text):
        raise MisfitError("json.type_mismatch", f"expected {kind}, found another text")
    whole = _whole(text, kind.scale, 10**kind.precision)
    if whole is None:
        raise MisfitError("json.out_of_range", f"a number does not fit {kind}")
    return Decimal(whole).scaleb(-kind.scale, _UNROUNDED)


def _whole(text: str, scale: int, end: int = 2**64) -> int | None:
    """The number times 10^scale if that is an integer below `end` in size."""
    try:
        scaled = Decimal(text).scaleb(scale, _UNROUNDED)
    except InvalidOperation:  # an exponent of more than 18 digits
        return None
    if scaled.is_zero():
        return 0
    # Compared before it is made an int: 1e999999 would take seconds.
    whole = scaled.to_integral_value()
    return int(whole) if whole == scaled and abs(whole) < end else None


def _text(value: Any, kind: pa.DataType) -> str:
    if type(value) is not str:
        raise _mismatch(f"{kind} as text", value)
    try:
        from_text(pa.array([value]), kind)
    except pa.ArrowInvalid:
        raise MisfitError("json.type_mismatch", f"a string is not a {kind}") from None
    return value
