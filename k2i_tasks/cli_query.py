"""`k2i query`: asks a running flow, or reads the committed table and its dead letters itself."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import polars as pl
from rich.console import Console

from k2i_tasks import cli_follow, logs
from k2i_tasks.client import Client, local
from k2i_tasks.cold_frame import lazy_batches
from k2i_tasks.config import Config
from k2i_tasks.discovery import Found, running
from k2i_tasks.errors import Component, ConfigError, ServiceError
from k2i_tasks.figures import count, size
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
from k2i_tasks.sql_guard import check_query
from k2i_tasks.table_view import result_view
from k2i_tasks.tickets import Sql
from k2i_tasks.views import Part
from k2i_tasks.wiring_query import run_folder

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
            # A flow that answers makes them needless, and they take a second to load.
            from k2i_tasks.iceberg.arrow import arrow_schema
            from k2i_tasks.iceberg.catalog import open_catalog
            from k2i_tasks.iceberg.pinned import pinned

            catalog = open_catalog(iceberg, resolved)
            now = pinned(catalog, (*namespace, name), branch)
            return lazy_batches(arrow_schema(now.schema), partial(now.read, now.schema))

        return opened

    sources: dict[str, Source] = {}
    # Dead letters have no branches: they are to be seen whatever becomes of the rows.
    for name, branch in (
        (iceberg.dead_letter_table_name, "main"),
        (iceberg.table_name, iceberg.branch),
    ):
        sources[name] = sources[".".join((*namespace, name))] = source(name, branch)
    return sources


def flow_of(config: Config) -> Found | None:
    """The flow that runs with this configuration; None if none does. May block on the disk.

    One table of several has its log below the folder of the run.
    """
    folder = run_folder(config).absolute()
    for one in (folder, *folder.parents[:3]):
        if (found := running(one)) is not None:
            return found
    return None


def query(
    config: Config,
    sql: str,
    *,
    format: str,
    output: Path | None,
    rows_max: int | None,
    part: Part = "all",
    follow: bool = False,
) -> None:
    """Runs `sql` and prints its rows, or writes them to a file. May block.

    Args:
        config: names the table.
        sql: a single SELECT.
        format: `table`, or a `Format`.
        output: file to write; standard output when None.
        rows_max: rows at most; None for as many as fit the purpose, 0 for all.
        part: `hot` for rows in memory of the running flow alone, `cold` for committed ones.
        follow: print rows as they come, until Ctrl-C.

    Raises:
        ConfigError: the query or the combination of options is wrong.
        K2IError: the table cannot be read, or the file not written.
    """
    _must_make_sense(format, output)
    if follow:
        if output is not None or part == "cold":
            raise ConfigError(
                "--follow prints rows that come into memory.",
                field="follow",
                remedy="Leave --output and --cold-only out.",
            )
        with local(_needed(flow_of(config))) as flow:
            cli_follow.follow(flow, sql, format=format, rows_max=rows_max or None)
        return
    if rows_max is None and output is None:
        rows_max = ROWS_SHOWN
    result = _result(config, sql, part, rows_max or None)
    if output is not None:
        written_bytes = write_file(result.table, _file_format(format), output)
        rows = count(result.table.num_rows)
        print(f"{rows} rows, {size(written_bytes)} written to {output}", file=sys.stderr)
    elif format == "table":
        _print_table(result)
    else:
        write_result(result.table, _file_format(format), sys.stdout.buffer)
        sys.stdout.buffer.flush()
    if result.was_cut and not rows_max:
        print(
            f"Cut after {count(result.table.num_rows)} rows, by query.max_rows or max_result_mb of "
            "the flow; --cold-only reads all committed ones.",
            file=sys.stderr,
        )
    elif result.was_cut and format != "table":
        print(f"Cut after {rows_max} rows; ask for more with --limit.", file=sys.stderr)


def _result(config: Config, sql: str, part: Part, rows_max: int | None) -> QueryResult:
    """From the running flow where there is one that knows the tables, else from the table itself.

    Raises:
        ServiceError: rows in memory are asked for, and no flow runs.
    """
    found = None if part == "cold" else flow_of(config)
    if part == "hot":
        found = _needed(found)
    if found is not None:
        with local(found) as flow:
            result = _of_flow(flow, sql, part, rows_max, set(table_sources(config)))
        if result is not None:
            return result
    committed = run_query(sql, table_sources(config), rows_max=rows_max)
    if part != "cold":
        print("The committed table alone was read.", file=sys.stderr)
    return committed


def _of_flow(
    flow: Client, sql: str, part: Part, rows_max: int | None, names: set[str]
) -> QueryResult | None:
    """The flow's answer; None where it has not all of the tables (those of dead letters)."""
    there = {name.lower() for name in flow.tables()}
    there |= {name.rpartition(".")[2] for name in there}
    asked = check_query(sql, names | there).tables
    if part != "hot" and not {name.lower() for name in asked} <= there:
        return None
    rows = flow.answer(Sql(sql, part, rows_max))
    return QueryResult(rows.table, rows.was_cut, rows.seconds)


def _needed(found: Found | None) -> Found:
    if found is None:
        raise ServiceError(
            "No flow runs with this configuration, or it answers no queries.",
            component=Component.HEALTH,
            remedy="Start it with query.enabled = true, and ask as its user on its machine.",
        )
    return found


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
