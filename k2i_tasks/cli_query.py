"""`k2i query`: reads the committed table and its dead letters."""

from __future__ import annotations

import sys
from pathlib import Path

import polars as pl
from rich.console import Console

from k2i_tasks import logs
from k2i_tasks.committed import lazy_table
from k2i_tasks.config import Config
from k2i_tasks.errors import ConfigError
from k2i_tasks.figures import count, size
from k2i_tasks.iceberg.catalog import open_catalog
from k2i_tasks.iceberg.pinned import pinned_reader
from k2i_tasks.query import (
    BINARY_FORMATS,
    Format,
    QueryResult,
    Source,
    run_query,
    write_file,
    write_result,
)
from k2i_tasks.secrets import resolve_all
from k2i_tasks.table_view import result_view

#: Rows shown when nothing else is asked for; a file gets all.
ROWS_SHOWN = 1_000
#: Without a terminal no column is left out.
WIDTH_WITHOUT_TERMINAL = 100_000


def table_sources(config: Config) -> dict[str, Source]:
    """The tables of `config` by the names that a query may use. Opens none of them.

    Args:
        config: names the catalog, the table and the dead-letter table.

    Raises:
        ConfigError: a secret cannot be read.
    """
    resolved = resolve_all(config)
    for value in resolved.values():
        logs.register_secret(value)
    iceberg = config.iceberg
    namespace = tuple(iceberg.database_name.split("."))

    def source(name: str, branch: str) -> Source:
        def opened() -> pl.LazyFrame:
            catalog = open_catalog(iceberg, resolved)
            return lazy_table(pinned_reader(catalog, (*namespace, name), branch))

        return opened

    sources: dict[str, Source] = {}
    # Dead letters have no branches: they are to be seen whatever becomes of the rows.
    for name, branch in (
        (iceberg.dead_letter_table_name, "main"),
        (iceberg.table_name, iceberg.branch),
    ):
        sources[name] = sources[".".join((*namespace, name))] = source(name, branch)
    return sources


def query(
    config: Config, sql: str, *, format: str, output: Path | None, rows_max: int | None
) -> None:
    """Runs `sql` and prints its rows, or writes them to a file. May block.

    Args:
        config: names the table.
        sql: a single SELECT.
        format: `table`, or a `Format`.
        output: file to write; standard output when None.
        rows_max: rows at most; None for as many as fit the purpose, 0 for all.

    Raises:
        ConfigError: the query or the combination of options is wrong.
        K2IError: the table cannot be read, or the file not written.
    """
    _must_make_sense(format, output)
    if rows_max is None and output is None:
        rows_max = ROWS_SHOWN
    result = run_query(sql, table_sources(config), rows_max=rows_max or None)
    if output is not None:
        written_bytes = write_file(result.table, _file_format(format), output)
        rows = count(result.table.num_rows)
        print(f"{rows} rows, {size(written_bytes)} written to {output}", file=sys.stderr)
    elif format == "table":
        _print_table(result)
    else:
        write_result(result.table, _file_format(format), sys.stdout.buffer)
        sys.stdout.buffer.flush()
    if result.was_cut and format != "table":
        print(f"Cut after {rows_max} rows; ask for more with --limit.", file=sys.stderr)


def _must_make_sense(format: str, output: Path | None) -> None:
    if output is not None and format == "table":
        raise ConfigError(
            "A table is for a terminal.", field="format", remedy="Add --format csv, or parquet."
        )
    if output is None and format in BINARY_FORMATS and sys.stdout.isatty():
        raise ConfigError(
            f"{format} is not for a terminal.", field="format", remedy="Add --output FILE."
        )


def _file_format(format: str) -> Format:
    formats: tuple[Format, ...] = ("csv", "json", "arrow", "parquet")
    for known in formats:
        if known == format:
            return known
    raise ConfigError(f"There is no format {format}.", field="format")


def _print_table(result: QueryResult) -> None:
    console = Console()
    width = console.width if console.is_terminal else WIDTH_WITHOUT_TERMINAL
    console.print(result_view(result, width), width=width, soft_wrap=not console.is_terminal)
