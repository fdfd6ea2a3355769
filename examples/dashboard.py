"""A dashboard in a terminal: sums over a running flow, ten times a second.

    python examples/dashboard.py FOLDER [TABLE] [GROUP_COLUMN] [VALUE_COLUMN]

FOLDER is that of a run on this machine, `k2i-data` after `make demo`. Rows are in the sums as soon
as they are consumed, and each once, whether or not they are committed yet. Ctrl-C ends it.
"""

from __future__ import annotations

import sys
import time

import polars as pl
from rich.console import Console
from rich.live import Live
from rich.table import Table

from k2i_tasks import client
from k2i_tasks.errors import K2IError

EVERY_SECONDS = 0.1


def quoted(name: str) -> str:
    return ".".join(f'"{part}"' for part in name.split("."))


def shown(frame: pl.DataFrame, rows_before: int, took_seconds: float) -> Table:
    """The groups as a table, with what came since the last look."""
    rows = int(frame["rows"].sum())
    new = rows - rows_before if rows_before else 0
    title = f"{rows:,} rows, {new:+,} since the last look, asked in {took_seconds * 1000:.0f} ms"
    table = Table(title=title, title_justify="left", min_width=70)
    table.add_column(frame.columns[0])
    for column in frame.columns[1:]:
        table.add_column(column, justify="right")
    for group, *figures in frame.iter_rows():
        cells = [
            f"{figure:,.2f}" if isinstance(figure, float) else f"{figure:,}" for figure in figures
        ]
        table.add_row(str(group), *cells)
    return table


def main(folder: str, table: str, group: str, value: str) -> int:
    by, of = quoted(group), quoted(value)
    sql = (
        f"SELECT {by}, count(*) AS rows, sum({of}) AS total, max({of}) AS largest "
        f"FROM {quoted(table)} GROUP BY {by} ORDER BY {by}"
    )
    rows = 0
    try:
        with client.connect(folder) as flow, Live(console=Console(), auto_refresh=False) as live:
            while True:
                began = time.monotonic()
                frame = flow.sql(sql)
                took = time.monotonic() - began
                live.update(shown(frame, rows, took), refresh=True)
                rows = int(frame["rows"].sum())
                time.sleep(max(0.0, EVERY_SECONDS - took))
    except KeyboardInterrupt:
        return 0
    except K2IError as error:
        print(f"dashboard: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    defaults = ["k2i-data", "demo.orders", "event_type", "amount"]
    given = sys.argv[1:]
    raise SystemExit(main(*[*given, *defaults[len(given) :]][:4]))
