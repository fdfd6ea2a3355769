"""A query's result as a table on a terminal: as many columns as fit, the types under the names."""

from __future__ import annotations

import pyarrow as pa
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from k2i_tasks.cells import cell
from k2i_tasks.logs import one_line
from k2i_tasks.query import QueryResult

ROWS_SHOWN_MAX = 100
COLUMN_CHARS_MIN, COLUMN_CHARS_MAX = 6, 40
#: Blanks and the rule between two columns.
BETWEEN_CHARS = 3


def result_view(result: QueryResult, width_chars: int) -> RenderableType:
    """The first rows and the columns that fit, with a line that says what is left out.

    Args:
        result: the rows.
        width_chars: width of the terminal.
    """
    shown = result.table.slice(0, ROWS_SHOWN_MAX)
    texts = [[cell(v.as_py(), COLUMN_CHARS_MAX) for v in column] for column in shown.columns]
    heads = [(one_line(f.name), short_type(f.type)) for f in shown.schema]
    widths = [
        min(max(map(len, (*texts[at], *head))), COLUMN_CHARS_MAX) for at, head in enumerate(heads)
    ]
    chosen = fitting_columns(widths, width_chars)
    return Group(_table(shown, texts, heads, chosen), _footer(result, shown, chosen))


def fitting_columns(widths: list[int], width_chars: int) -> list[int]:
    """Indexes of the columns to show, from both ends inwards, at least the first.

    Args:
        widths: natural width of each column in characters.
        width_chars: width there is.
    """
    left_chars = width_chars - 1
    order = [at // 2 if at % 2 == 0 else len(widths) - 1 - at // 2 for at in range(len(widths))]
    chosen: list[int] = []
    for at in order:
        left_chars -= widths[at] + BETWEEN_CHARS
        # The mark in place of hidden columns needs room too, unless this is the last one.
        room_chars = 0 if len(chosen) == len(widths) - 1 else BETWEEN_CHARS + 1
        if chosen and left_chars < room_chars:
            break
        chosen.append(at)
    return sorted(chosen)


def _table(
    shown: pa.Table, texts: list[list[str]], heads: list[tuple[str, str]], chosen: list[int]
) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="")
    gap_at = next((n for n, at in enumerate(chosen) if at != n), None)
    if gap_at is None and len(chosen) < len(heads):
        gap_at = len(chosen)
    for number, at in enumerate(chosen):
        if number == gap_at:
            table.add_column(Text("…", style="dim"))
        name, kind = heads[at]
        head = Text.assemble((name, "bold"), "\n", (kind, "dim"))
        numeric = _is_number(shown.schema.field(at).type)
        table.add_column(head, justify="right" if numeric else "left", no_wrap=True)
    if gap_at == len(chosen):
        table.add_column(Text("…", style="dim"))
    for row in range(shown.num_rows):
        cells = [
            Text(texts[at][row], style="dim" if texts[at][row] == "∅" else "") for at in chosen
        ]
        if gap_at is not None:
            cells.insert(gap_at, Text("…", style="dim"))
        table.add_row(*cells)
    return table


def _footer(result: QueryResult, shown: pa.Table, chosen: list[int]) -> Text:
    rows, columns = result.table.num_rows, result.table.num_columns
    parts = [f"{rows:,} row{'' if rows == 1 else 's'}"]
    if shown.num_rows < rows:
        parts.append(f"the first {shown.num_rows} shown")
    if len(chosen) < columns:
        parts.append(f"{len(chosen)} of {columns} columns shown")
    if result.was_cut:
        parts.append("cut: more rows with --limit")
    parts.append(f"{result.seconds:.2f} s")
    return Text(", ".join(parts), style="dim")


def short_type(kind: pa.DataType) -> str:
    """A type in few letters: `int64`, `text`, `list<text>`, `struct(3)`."""
    if pa.types.is_struct(kind):
        return f"struct({kind.num_fields})"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return f"list<{short_type(kind.value_type)}>"
    if pa.types.is_map(kind):
        return "map"
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if text or pa.types.is_string_view(kind):
        return "text"
    if pa.types.is_timestamp(kind):
        return "timestamp" if kind.tz is None else f"timestamp {kind.tz}"
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return "bytes"
    return str(kind)


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    )
