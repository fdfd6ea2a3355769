"""Parsed documents against the learned columns: each value fits its column or is refused.

A reader per column is built once per schema; `JsonDecoder` calls it per record.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal, InvalidOperation
from typing import Any

import pyarrow as pa

from k2i_tasks.codecs.conflicts import variant_name
from k2i_tasks.codecs.growth import ELEMENT, VALUE, Place, typed_field
from k2i_tasks.codecs.infer import is_json_text
from k2i_tasks.codecs.json_exact import ExactDouble, MinusZero, json_text, kind_of
from k2i_tasks.codecs.text_types import from_text, is_text_type
from k2i_tasks.codecs.wire import is_supported
from k2i_tasks.errors import ConflictError

_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
#: Nothing is rounded in it; Python's default context keeps 28 digits only.
_UNROUNDED = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN)
#: Most digits that a decimal column can have.
DECIMAL_DIGITS_MAX = 38


@dataclass(frozen=True, slots=True)
class Unlisted:
    """A value that no column exists for.

    Args:
        place: where it is; of a list's elements or a map's values all are one place.
        value: as parsed.
        known: whether the place was seen before, with nothing that tells a type.
    """

    place: Place
    value: Any
    known: bool

    @property
    def path(self) -> str:
        """The place, dotted."""
        return ".".join(self.place)

    @property
    def name(self) -> str:
        """The member that it is, or that holds it."""
        return next((each for each in reversed(self.place) if each != ELEMENT), self.place[0])


class MisfitError(Exception):
    """A value does not fit; `place` grows while the error leaves the nesting.

    Args:
        code, what: as of the dead letter that it makes.
        wider: the type that Iceberg could promote the column to, which would hold the value.
    """

    def __init__(self, code: str, what: str, wider: pa.DataType | None = None) -> None:
        super().__init__(what)
        self.code = code
        self.what = what
        self.wider = wider
        self.place: Place = ()
        #: Whether another field has the name of the column that it would go into.
        self.clashes = False

    def within(self, name: str) -> MisfitError:
        """This error, seen from the object that holds `name`."""
        self.place = (name, *self.place)
        return self

    def decode_error(self) -> ConflictError:
        """The reason for a dead letter: path and kinds, no value."""
        path = ".".join(self.place)
        return ConflictError(self.code, f"Field {path[:200]}: {self.what}.", path)


@dataclass(frozen=True, slots=True)
class Varied:
    """A value that goes into the column beside its own, and there is none yet.

    Args:
        parent: the struct that both are in.
        name: of the value's own column.
        value: as parsed.
        misfit: why it does not fit there; from the whole document's view.
    """

    parent: Place
    name: str
    value: Any
    misfit: MisfitError

    @property
    def place(self) -> Place:
        """Of the value's own column."""
        return (*self.parent, self.name)


@dataclass(slots=True)
class Notes:
    """What a reader finds no column for in one document."""

    unlisted: list[Unlisted] = field(default_factory=list)
    varied: list[Varied] = field(default_factory=list)


#: Reads one value; what has no column is noted.
Reader = Callable[[Any, Notes], Any]


@dataclass(frozen=True, slots=True)
class Choices:
    """What readers ask about a field, by its dotted path.

    Args:
        varies: whether what it cannot hold goes into the column beside it.
        widens: whether its type may be promoted.
        relaxes: whether any may become optional.
    """

    varies: Callable[[str], bool]
    widens: Callable[[str], bool]
    relaxes: bool = False


def row_reader(learned: pa.Schema, choices: Choices, overflow: str = "") -> Reader:
    """Reader of whole documents.

    It returns a dict of wire values by column name. The reader raises `MisfitError`.

    Args:
        learned: the columns.
        choices: what is done about values that do not fit.
        overflow: a column that no member is of.
    """
    fields = [each for each in learned if each.name != overflow]
    return _Readers(choices).struct(fields, ())


def _mismatch(expected: object, value: Any) -> MisfitError:
    return MisfitError("json.type_mismatch", f"expected {expected}, found {kind_of(value)}")


class _Readers:
    """Makes readers of places."""

    def __init__(self, choices: Choices, *, in_map: bool = False) -> None:
        self._choices = choices
        self._in_map = in_map

    def struct(self, members: list[pa.Field], parent: Place) -> Reader:
        """Of objects at `parent`."""
        readers = {each.name: self._place(each, (*parent, each.name)) for each in members}
        required = [each.name for each in members if not each.nullable]
        # What these cannot hold goes beside them; no members are added to structs in maps.
        optional = {each.name for each in members if each.nullable and not self._in_map}
        texts = {each.name for each in members if is_json_text(each)}

        def varied(value: Any, row: dict[str, Any], misfit: MisfitError, notes: Notes) -> bool:
            """Whether what does not fit has another place; the error is seen from here."""
            path = ".".join((*parent, *misfit.place))
            if misfit.wider is not None and self._choices.widens(path):
                return False
            if misfit.code == "json.missing_field" and self._choices.relaxes:
                return False
            name = misfit.place[0]
            if misfit.clashes or name not in optional or not self._choices.varies(path):
                return False
            beside = variant_name(name)
            if beside in value or (beside in readers and beside not in texts):
                misfit.what += f"; and {beside!r} is another field"
                misfit.clashes = True
                return False
            row[name] = None
            if beside in texts:
                row[beside] = json_text(value[name])
            else:
                misfit.place = (*parent, *misfit.place)
                notes.varied.append(Varied(parent, name, value[name], misfit))
            return True

        def read(value: Any, notes: Notes) -> Any:
            if type(value) is not dict:
                raise _mismatch("object", value)
            row: dict[str, Any] = {}
            for name, member in value.items():
                reader = readers.get(name)
                if reader is None:
                    notes.unlisted.append(Unlisted((*parent, name), member, known=False))
                    continue
                try:
                    row[name] = reader(member, notes)
                except MisfitError as misfit:
                    if not varied(value, row, misfit.within(name), notes):
                        raise
            for name in required:
                if name not in row:
                    missing = MisfitError("json.missing_field", "a required column has no value")
                    raise missing.within(name)
            return row

        return read

    def _place(self, field: pa.Field, place: Place) -> Reader:
        inner = self._value(field, place)
        nullable = field.nullable

        def read(value: Any, notes: Notes) -> Any:
            if value is not None:
                return inner(value, notes)
            if nullable:
                return None
            raise MisfitError("json.missing_field", "a required column has no value")

        return read

    def _value(self, field: pa.Field, place: Place) -> Reader:
        kind = field.type
        if pa.types.is_null(kind):
            return lambda value, notes: notes.unlisted.append(Unlisted(place, value, known=True))
        if is_json_text(field):
            return lambda value, notes: json_text(value)
        if pa.types.is_struct(kind):
            return self.struct(list(kind), place)
        if pa.types.is_list(kind):
            untyped = typed_field(field) is None
            return self._list(kind.value_field, (*place, ELEMENT), untyped=untyped)
        if pa.types.is_map(kind) and pa.types.is_string(kind.key_type):
            return self._map(kind.item_field, (*place, VALUE))
        if pa.types.is_float32(kind) and self._choices.widens(".".join(place)):
            return lambda value, notes: _exact_float(value, kind)
        scalar = _scalar(kind)
        return lambda value, notes: scalar(value)

    def _list(self, element: pa.Field, place: Place, *, untyped: bool) -> Reader:
        reader = self._place(element, place)

        def read(value: Any, notes: Notes) -> Any:
            if type(value) is not list:
                if not untyped:
                    raise _mismatch("array", value)
                # Lists of nothing are no column yet: it becomes what this value is.
                return notes.unlisted.append(Unlisted(place[:-1], value, known=True))
            try:
                return [reader(item, notes) for item in value]
            except MisfitError as misfit:
                raise misfit.within(ELEMENT) from None

        return read

    def _map(self, item: pa.Field, place: Place) -> Reader:
        reader = _Readers(self._choices, in_map=True)._place(item, place)

        def read(value: Any, notes: Notes) -> Any:
            if type(value) is not dict:
                raise _mismatch("object", value)
            try:
                return [(name, reader(member, notes)) for name, member in value.items()]
            except MisfitError as misfit:
                raise misfit.within(VALUE) from None

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
        wider = pa.int64() if -(2**63) <= value < 2**63 and kind == pa.int32() else None
        raise MisfitError("json.out_of_range", f"an integer does not fit {kind}", wider)
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
        raise MisfitError("json.out_of_range", "a number is too large for float", pa.float64())
    return number


def _exact_float(value: Any, kind: pa.DataType) -> float:
    """A number that a float holds as it is; for others the column is to be widened."""
    number = _double(value, kind)
    if struct.unpack("<f", struct.pack("<f", number))[0] != number:
        what = "a float cannot hold this number exactly"
        raise MisfitError("json.out_of_range", what, pa.float64())
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
    whole = _whole(text, kind.scale, 10**DECIMAL_DIGITS_MAX)
    if whole is None or abs(whole) >= 10**kind.precision:
        digits = 0 if whole is None else len(str(abs(whole)))
        wider = pa.decimal128(digits, kind.scale) if digits else None
        raise MisfitError("json.out_of_range", f"a number does not fit {kind}", wider)
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
