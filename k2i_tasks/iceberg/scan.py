"""Reads of the committed table."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.expressions import AlwaysTrue, BooleanExpression
from pyiceberg.expressions.parser import parse
from pyiceberg.expressions.visitors import bind
from pyiceberg.table import DataScan, Table
from pyparsing import ParseBaseException

from k2i_tasks.errors import ConfigError
from k2i_tasks.iceberg.errors import translated


def read_table(
    catalog: Catalog,
    identifier: tuple[str, ...],
    *,
    columns: Sequence[str] = (),
    where: str | BooleanExpression = "",
    limit: int | None = None,
    snapshot_id: int | None = None,
) -> pa.Table:
    """Committed rows of a table, all in memory. May block.

    Args:
        catalog: catalog of this thread's.
        identifier: namespace parts and table name.
        columns: which columns; all when empty.
        where: which rows, as `amount > 10 and city = 'Bern'`; all when empty.
        limit: at most that many rows.
        snapshot_id: as of this snapshot; the newest when not given.

    Raises:
        ConfigError: there is no such column or snapshot, or `where` cannot be read.
        ServiceError: no such table, or no right to read it.
        TransientError: catalog or store is away.
    """
    scan = _scan(catalog, identifier, columns, where, limit, snapshot_id)
    with translated(_doing(identifier)):
        return scan.to_arrow()


def read_batches(
    catalog: Catalog,
    identifier: tuple[str, ...],
    *,
    columns: Sequence[str] = (),
    where: str | BooleanExpression = "",
    limit: int | None = None,
    snapshot_id: int | None = None,
) -> pa.RecordBatchReader:
    """As `read_table`, read file by file while the reader is consumed.

    Failures while it is consumed leave as Arrow's and PyIceberg's own exceptions.
    """
    scan = _scan(catalog, identifier, columns, where, limit, snapshot_id)
    with translated(_doing(identifier)):
        return scan.to_arrow_batch_reader()


def _scan(
    catalog: Catalog,
    identifier: tuple[str, ...],
    columns: Sequence[str],
    where: str | BooleanExpression,
    limit: int | None,
    snapshot_id: int | None,
) -> DataScan:
    with translated(_doing(identifier)):
        table = catalog.load_table(identifier)
    name = ".".join(identifier)
    known = [field.name for field in table.schema().fields]
    unknown = [column for column in columns if column not in known]
    if unknown:
        raise ConfigError(
            f"Table {name} has no column {', '.join(map(repr, unknown))}.",
            remedy=f"There are {', '.join(known)}.",
        )
    if snapshot_id is not None and table.snapshot_by_id(snapshot_id) is None:
        raise ConfigError(f"Table {name} has no snapshot {snapshot_id}.")
    return table.scan(
        row_filter=condition(where, table, name),
        selected_fields=tuple(columns) or ("*",),
        limit=limit,
        snapshot_id=snapshot_id,
    )


def condition(where: str | BooleanExpression, table: Table, name: str) -> BooleanExpression:
    """The condition, known to fit the table's columns and their types.

    Raises:
        ConfigError: it cannot be read, or does not fit.
    """
    if not where:
        return AlwaysTrue()
    try:
        parsed = parse(where) if isinstance(where, str) else where
        bind(table.schema(), parsed, case_sensitive=True)
    except (ParseBaseException, ValueError, TypeError) as error:
        # The grammar in full, which the parser tells, says less than the place.
        why = f"{where!r} is none" if isinstance(error, ParseBaseException) else str(error)
        raise ConfigError(
            f"The condition on {name} cannot be used: {why.rstrip('.')}.",
            field="where",
            remedy="Write it as column = 'value', with >, <, in (...), is null, and, or, not.",
        ) from error
    return parsed


def _doing(identifier: tuple[str, ...]) -> str:
    return "reading table " + ".".join(identifier)
