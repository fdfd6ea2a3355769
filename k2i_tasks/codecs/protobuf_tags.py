"""Tags, which stand before each value on the wire: a field's number and a wire type.

Source: "Encoding" in the Protocol Buffers documentation, and what Google's parsers accept.
"""

from __future__ import annotations

#: Wire types.
NUMBER, BYTES8, LENGTH, GROUP, GROUP_END, BYTES4 = range(6)
WIRE_BITS = 7
#: Field numbers begin with 1.
LEAST_TAG = 8
#: Tags are below this: it has 32 bits, and a wire type that does not exist.
NO_TAG = 0xFFFFFFFF
#: Most bytes of a tag, and of a length.
TAG_BYTES = 5
#: Groups in groups.
MAX_DEPTH = 100
#: Code of an error, without its prefix, -> what is told of a field.
REASONS = {
    "truncated": "Field {!r} runs past the end of its message.",
    "number": "Field {!r} holds no valid number.",
    "tag": "A field has no valid number and wire type.",
    "wire_type": "Field {!r} has a wire type that none can have there.",
    "group": "Field {!r} is a group without an end of its own, or with too many in it.",
}


def tag_of(number: int, wire: int) -> int:
    """The tag of a field."""
    return number << 3 | wire
