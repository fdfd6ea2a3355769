"""Hints of types against the columns that are there."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from k2i_tasks.codecs.growth import column_places, find_field, replaced
from k2i_tasks.codecs.infer import is_json_text
from k2i_tasks.codecs.unite import wider
from k2i_tasks.errors import SchemaConflictError


def suited(learned: pa.Schema, hints: Mapping[str, pa.Field], *, additive: bool) -> pa.Schema:
    """The columns with those widened that a hint wants wider.

    Args:
        learned: the table's columns.
        hints: by lower-case dotted path.
        additive: whether columns may be widened.

    Raises:
        SchemaConflictError: a column can be neither what is hinted nor hold all of it.
    """
    if not hints:
        return learned
    for place in column_places(learned):
        hint = hints.get(".".join(place).lower())
        field = find_field(learned, place)
        if hint is None or field is None:
            continue
        same = is_json_text(hint) == is_json_text(field)
        kind = wider(field.type, hint.type) if same else None
        if kind is None or (kind != field.type and not additive):
            told = "json" if is_json_text(hint) else str(hint.type)
            found = "JSON text" if is_json_text(field) else str(field.type)
            raise SchemaConflictError(
                f"kafka.format.fields wants {'.'.join(place)!r} to be {told}, the table has "
                f"{found} there.",
                remedy="Change the hint, or the column.",
            )
        learned = pa.schema(replaced(learned, place, kind))
    return learned
