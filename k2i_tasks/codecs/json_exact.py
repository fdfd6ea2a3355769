"""The exact path: one JSON document at a time, every rule checked. It is the reference.

Rules that plain `json` does not have: no duplicate names, no NaN or Infinity, bounded depth,
numbers keep their value or are refused.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from k2i_tasks.errors import DecodeError

#: Levels of nesting in one document.
DEPTH_MAX: Final = 100
#: Digits of an integer; Python's own bound is 4,300 and its cost grows with the square.
INTEGER_DIGITS_MAX: Final = 400

WHITESPACE: Final = b" \t\r\n"
SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89abAB]|\\u[dD][c-fC-F]")


class ExactDouble(float):
    """A double that remembers how it was written."""

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str) -> ExactDouble:
        number = super().__new__(cls, text)
        number.text = text
        return number


class MinusZero(int):
    """The integer literal `-0`: zero, and minus zero where the column is double."""

    def __new__(cls) -> MinusZero:
        return super().__new__(cls, 0)


def parse_document(payload: bytes, max_message_bytes: int) -> dict[str, Any]:
    """The object that a payload holds.

    Raises:
        DecodeError: the payload is not exactly one JSON object; the code says how.
    """
    if len(payload) > max_message_bytes:
        what = f"The payload has {len(payload)} bytes, the limit is {max_message_bytes}."
        raise DecodeError("json.too_large", what)
    try:
        text = payload.decode("utf-8")
    except UnicodeDecodeError as error:
        what = f"The payload is not UTF-8 at byte {error.start}."
        raise DecodeError("json.encoding", what) from None
    if not payload.strip(WHITESPACE):
        raise DecodeError("json.empty", "The payload is empty.")
    document = _load(text)
    if not isinstance(document, dict):
        what = f"The payload is a JSON {kind_of(document)}, not an object."
        raise DecodeError("json.not_object", what)
    if payload.count(b"[") + payload.count(b"{") > DEPTH_MAX:
        _bound_depth(document)
    if SURROGATE_ESCAPE.search(payload):
        _refuse_surrogates(document)
    return document


def kind_of(value: Any) -> str:
    """JSON's word for the kind of a parsed value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, (int, float)):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def json_text(value: Any) -> str:
    """JSON text of a parsed value: compact, numbers exactly as they were written."""
    if isinstance(value, dict):
        members = (f"{json_text(name)}:{json_text(member)}" for name, member in value.items())
        return "{" + ",".join(members) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(json_text, value)) + "]"
    if isinstance(value, ExactDouble):
        return value.text
    if isinstance(value, MinusZero):
        return "-0"
    return json.dumps(value, ensure_ascii=False)


def _load(text: str) -> Any:
    try:
        return json.loads(
            text,
            object_pairs_hook=_members,
            parse_float=_double,
            parse_int=_integer,
            parse_constant=_constant,
        )
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            what = f"A second value follows the first at character {error.pos}."
            raise DecodeError("json.extra_data", what) from None
        # What stands after a colon in the decoder's message may be a piece of the payload.
        reason = error.msg.partition(":")[0]
        raise DecodeError("json.syntax", f"{reason} at character {error.pos}.") from None
    except RecursionError:
        raise _too_deep() from None


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise DecodeError("json.duplicate_key", "An object has the same name twice.")
    return members


def _double(text: str) -> ExactDouble:
    number = ExactDouble(text)
    if number in (float("inf"), float("-inf")):
        raise DecodeError("json.out_of_range", "A number is too large for a double.")
    return number


def _integer(text: str) -> int:
    if len(text) > INTEGER_DIGITS_MAX:
        what = f"An integer has more than {INTEGER_DIGITS_MAX} digits."
        raise DecodeError("json.out_of_range", what)
    return MinusZero() if text == "-0" else int(text)


def _constant(text: str) -> Any:
    raise DecodeError("json.not_a_number", f"{text} is not JSON.")


def _too_deep() -> DecodeError:
    return DecodeError("json.too_deep", f"The document is nested deeper than {DEPTH_MAX} levels.")


def _bound_depth(document: Any) -> None:
    level: list[Any] = [document]
    for _ in range(DEPTH_MAX):
        below: list[Any] = []
        for value in level:
            members = value.values() if isinstance(value, dict) else value
            below.extend(member for member in members if isinstance(member, (dict, list)))
        if not below:
            return
        level = below
    raise _too_deep()


def _refuse_surrogates(document: Any) -> None:
    try:
        json_text(document).encode("utf-8")
    except UnicodeEncodeError:
        what = "A string holds half of a surrogate pair, which UTF-8 cannot hold."
        raise DecodeError("json.lone_surrogate", what) from None
