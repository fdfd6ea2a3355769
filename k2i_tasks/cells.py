"""Values of an Arrow table as text: for JSON, for CSV, and for a cell on a terminal."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa

from k2i_tasks.logs import one_line

ROWS_PER_STEP = 4_096


def plain(value: Any) -> Any:
    """`value` in terms of JSON: bytes as base64, decimals as text, times in ISO form."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode()
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(value)


def _rows(table: pa.Table) -> Iterator[list[Any]]:
    # By position, not by name: a result may have two columns of one name.
    for batch in table.to_batches(max_chunksize=ROWS_PER_STEP):
        columns = [column.to_pylist() for column in batch.columns]
        yield from (list(row) for row in zip(*columns, strict=True))


def json_lines(table: pa.Table) -> Iterator[str]:
    """The rows as a JSON array, one row a line."""
    yield "["
    start = "\n"
    for row in _rows(table):
        shown = dict(zip(table.column_names, map(plain, row), strict=True))
        yield start + json.dumps(shown, ensure_ascii=False)
        start = ",\n"
    yield "\n]\n"


def json_rows(table: pa.Table) -> Iterator[str]:
    """The rows as lines of JSON, some at a time."""
    names = table.column_names
    lines: list[str] = []
    for row in _rows(table):
        shown = dict(zip(names, map(plain, row), strict=True))
        lines.append(json.dumps(shown, ensure_ascii=False) + "\n")
        if len(lines) >= ROWS_PER_STEP:
            yield "".join(lines)
            lines.clear()
    yield "".join(lines)


def csv_lines(table: pa.Table) -> Iterator[str]:
    """The rows as CSV with a header; nested values as JSON text, null as nothing."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(table.column_names)
    for row in _rows(table):
        writer.writerow([_csv_cell(value) for value in row])
        if buffer.tell() > 65_536:
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue()


def _csv_cell(value: Any) -> Any:
    if isinstance(value, (dict, list, tuple)):
        return json.dumps(plain(value), ensure_ascii=False)
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else plain(value)


def cell(value: Any, chars_max: int = 48) -> str:
    """One value on one line of a terminal, cut to `chars_max` characters.

    Bytes that are readable text are shown as text, others in hexadecimal.
    """
    text = one_line(_cell(value, nested=False))
    return text if len(text) <= chars_max else text[: chars_max - 1] + "…"


def _cell(value: Any, *, nested: bool) -> str:
    if value is None:
        return "null" if nested else "∅"
    if isinstance(value, dict):
        inner = (f"{key}: {_cell(item, nested=True)}" for key, item in value.items())
        return "{" + ", ".join(inner) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_cell(item, nested=True) for item in value) + "]"
    if isinstance(value, bytes):
        return _text_of(value)
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (Decimal, date, time, timedelta)):
        return str(value)
    return (
        json.dumps(value, ensure_ascii=False) if nested and isinstance(value, str) else str(value)
    )


def _text_of(value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = ""
    if text and text.isprintable():
        return text
    return f"0x{value[:32].hex()}{'…' if len(value) > 32 else ''}"
